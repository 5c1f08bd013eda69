;; Traps in the second call of `decide` that one instance of it gets, whatever it is asked; the first one it answers.
;; The host: asks once more, on a fresh instance, before it holds a failure against what it asked about.
(global $calls (mut i32) (i32.const 0))
(func (export "landfall:policy/instances@0.1.0#decide") (param $call i32) (result i32)
  (if (global.get $calls) (then (unreachable)))
  (global.set $calls (i32.const 1))
  (call $decide (local.get $call)))
