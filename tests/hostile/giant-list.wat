;; Answers with two million verdicts, 40 MB of zeros, whatever it was asked.
;; The host: stops reading at the output limit and fails the call.
(func (export "landfall:policy/instances@0.1.0#decide") (param $call i32) (result i32)
  (call $ok (call $new (i32.const 40000000)) (i32.const 2000000)))
