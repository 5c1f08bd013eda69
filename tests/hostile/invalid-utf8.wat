;; Drops every instance for a reason that is not UTF-8.
;; The host: fails the call.
(data (i32.const 1024) "\ff\fe\80")
(func (export "landfall:policy/instances@0.1.0#decide") (param $call i32) (result i32)
  (call $all (local.get $call) (i32.const 1) (i32.const 1024) (i32.const 3)))
