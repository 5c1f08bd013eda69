;; Answers with one verdict more than there are instances.
;; The host: fails the call.
(func (export "landfall:policy/instances@0.1.0#decide") (param $call i32) (result i32)
  (local $count i32)
  (local.set $count (i32.add (call $count (local.get $call)) (i32.const 1)))
  (call $ok (call $new (i32.mul (local.get $count) (i32.const 20))) (local.get $count)))
