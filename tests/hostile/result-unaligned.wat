;; Answers with a result at an odd address.
;; The host: fails the call.
(func (export "landfall:policy/instances@0.1.0#decide") (param $call i32) (result i32)
  (i32.const 1025))
