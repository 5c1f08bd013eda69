;; Works for a while in `decide`, far less than it may, and then traps.
;; The host: counts what a failure took, and gives up as soon as it would over a policy that runs into its time limit.
(func (export "landfall:policy/instances@0.1.0#decide") (param $call i32) (result i32)
  (call $work)
  (unreachable))
