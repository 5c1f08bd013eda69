;; Takes more and more memory in `decide`, page by page, and writes to each page; traps when it gets no more.
;; The host: gives no more than the policy's limit, names that limit as the reason, and its own memory stays small.
(func (export "landfall:policy/instances@0.1.0#decide") (param $call i32) (result i32)
  (local $page i32)
  (loop $more
    (local.set $page (memory.grow (i32.const 1)))
    (if (i32.eq (local.get $page) (i32.const -1)) (then (unreachable)))
    (i32.store (i32.shl (local.get $page) (i32.const 16)) (i32.const 1))
    (br $more))
  (unreachable))
