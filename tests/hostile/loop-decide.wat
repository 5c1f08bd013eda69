;; Never comes back from `decide`.
;; The host: stops it at its time limit, and every instance keeps its last good output.
(func (export "landfall:policy/instances@0.1.0#decide") (param $call i32) (result i32)
  (loop $for_ever (br $for_ever))
  (unreachable))
