;; Never comes back from `describe`.
;; The host: stops it at its time limit, and refuses the policy.
(func (export "landfall:policy/plugin@0.1.0#describe") (result i32)
  (loop $for_ever (br $for_ever))
  (unreachable))
