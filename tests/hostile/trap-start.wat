;; Traps in its start function, which runs while it is being instantiated.
;; The host: refuses the policy.
(func $start (unreachable))
(start $start)
