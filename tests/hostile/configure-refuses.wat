;; Refuses any settings with one problem.
;; The host: refuses the settings, and shows the problem with its path.
(data (i32.const 1024) "/answer" "must be 42")
;; The problem: path, message.
(data (i32.const 1056) "\00\04\00\00" "\07\00\00\00" "\07\04\00\00" "\0a\00\00\00")
(func (export "landfall:policy/plugin@0.1.0#configure") (param $settings i32) (param $len i32) (result i32)
  (local $result i32)
  (local.set $result (call $ok (i32.const 1056) (i32.const 1)))
  (i32.store8 (local.get $result) (i32.const 1))
  (local.get $result))
