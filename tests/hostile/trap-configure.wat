;; Traps in `configure`.
;; The host: refuses the policy.
(func (export "landfall:policy/plugin@0.1.0#configure") (param $settings i32) (param $len i32) (result i32)
  (unreachable))
