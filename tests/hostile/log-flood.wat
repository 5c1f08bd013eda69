;; Writes a million lines in `decide` and then keeps every instance.
;; The host: drops and counts what is over the limit of lines; the call may still run into its time limit.
(data (i32.const 1024) "All work and no play makes a policy a dull one.")
(func (export "landfall:policy/instances@0.1.0#decide") (param $call i32) (result i32)
  (local $left i32)
  (local.set $left (i32.const 1000000))
  (loop $next
    (call $log (i32.const 4) (i32.const 1024) (i32.const 47))
    (local.set $left (i32.sub (local.get $left) (i32.const 1)))
    (br_if $next (local.get $left)))
  (call $decide (local.get $call)))
