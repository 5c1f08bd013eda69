;; Answers with a result that lies outside of its memory.
;; The host: fails the call.
(func (export "landfall:policy/instances@0.1.0#decide") (param $call i32) (result i32)
  (i32.const 0x7ffffff0))
