;; Answers well, and then traps when it is told that the answer has been read.
;; The host: fails the call like any other trap.
(func (export "cabi_post_landfall:policy/instances@0.1.0#decide") (param $result i32)
  (unreachable))
