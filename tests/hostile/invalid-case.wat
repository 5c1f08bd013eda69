;; Answers with a verdict that is none of the four.
;; The host: fails the call.
(func (export "landfall:policy/instances@0.1.0#decide") (param $call i32) (result i32)
  (call $all (local.get $call) (i32.const 200) (i32.const 0) (i32.const 0)))
