;; Never comes back from its start function, which runs while it is being instantiated.
;; The host: stops it at its time limit, and refuses the policy.
(func $start (loop $for_ever (br $for_ever)))
(start $start)
