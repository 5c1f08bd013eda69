;; Grows a table for ever in `decide`, a million entries at a time: memory that no linear memory shows.
;; The host: gives no more than the policy's limit.
(table $table 1 funcref)
(func (export "landfall:policy/instances@0.1.0#decide") (param $call i32) (result i32)
  (loop $more
    (br_if $more (i32.ne (table.grow $table (ref.null func) (i32.const 1000000)) (i32.const -1))))
  (unreachable))
