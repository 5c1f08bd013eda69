;; Made for a contract in which `instance` has a field less, `mapping`. The prelude's offsets would be wrong.
;; The host: refuses the policy before it calls anything, for the component model takes it for another type.
