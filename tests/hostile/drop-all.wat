;; Drops every instance.
;; The host: takes it for what it is, an answer; it is the guard that holds deletions on this scale back.
(data (i32.const 1024) "because")
(func (export "landfall:policy/instances@0.1.0#decide") (param $call i32) (result i32)
  (call $all (local.get $call) (i32.const 1) (i32.const 1024) (i32.const 7)))
