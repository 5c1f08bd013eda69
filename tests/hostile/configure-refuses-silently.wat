;; Refuses any settings with no problem at all, as an exception in some engines for JavaScript does.
;; The host: refuses the settings; it must not take an empty list for success.
(func (export "landfall:policy/plugin@0.1.0#configure") (param $settings i32) (param $len i32) (result i32)
  (local $result i32)
  (local.set $result (call $new (i32.const 12)))
  (i32.store8 (local.get $result) (i32.const 1))
  (local.get $result))
