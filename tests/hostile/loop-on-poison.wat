;; Never comes back from `decide` if an instance with the id "poison" is in the call; keeps all others.
;; The host: finds that instance by halving the call and keeps its last good output; all others are decided.
(func (export "landfall:policy/instances@0.1.0#decide") (param $call i32) (result i32)
  (if (call $poisoned (local.get $call)) (then (loop $for_ever (br $for_ever))))
  (call $decide (local.get $call)))
