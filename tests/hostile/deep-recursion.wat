;; Calls itself until the stack is used up.
;; The host: reports a stack overflow, and lives.
(func $deeper (param $depth i64) (result i64)
  (i64.add (call $deeper (i64.add (local.get $depth) (i64.const 1))) (local.get $depth)))
(func (export "landfall:policy/instances@0.1.0#decide") (param $call i32) (result i32)
  (i32.wrap_i64 (call $deeper (i64.const 0))))
