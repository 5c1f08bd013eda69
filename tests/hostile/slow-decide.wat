;; Keeps every instance, and takes a while for each call, far less than it may.
;; The host: stops asking when all calls together have used up the policy's time; the rest waits for another time.
(func (export "landfall:policy/instances@0.1.0#decide") (param $call i32) (result i32)
  (call $work)
  (call $decide (local.get $call)))
