;; Writes a line with a level that does not exist.
;; The host: fails the call.
(func (export "landfall:policy/instances@0.1.0#decide") (param $call i32) (result i32)
  (call $log (i32.const 9) (i32.const 0) (i32.const 7))
  (call $decide (local.get $call)))
