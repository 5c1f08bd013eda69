;; Writes one line of 32 MiB, and then keeps every instance.
;; The host: stops reading at the output limit and fails the call.
(func (export "landfall:policy/instances@0.1.0#decide") (param $call i32) (result i32)
  (call $log (i32.const 2) (call $new (i32.const 0x2000000)) (i32.const 0x2000000))
  (call $decide (local.get $call)))
