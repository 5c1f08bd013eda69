;; Never comes back from `configure`.
;; The host: stops it at its time limit, and refuses the policy.
(func (export "landfall:policy/plugin@0.1.0#configure") (param $settings i32) (param $len i32) (result i32)
  (loop $for_ever (br $for_ever))
  (unreachable))
