;; Made for a contract in which `descriptor` has a field less, `ext`.
;; The host: refuses the policy before it calls anything, for the component model takes it for another type.
