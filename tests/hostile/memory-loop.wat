;; Asks for more memory for ever, and does not mind being refused.
;; The host: stops it at its time limit.
(func (export "landfall:policy/instances@0.1.0#decide") (param $call i32) (result i32)
  (loop $more
    (drop (memory.grow (i32.const 1)))
    (br $more))
  (unreachable))
