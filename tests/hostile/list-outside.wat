;; Answers with a list that begins inside of its memory and ends outside.
;; The host: fails the call.
(func (export "landfall:policy/instances@0.1.0#decide") (param $call i32) (result i32)
  (call $ok (i32.const 65536) (i32.const 0x0fffffff)))
