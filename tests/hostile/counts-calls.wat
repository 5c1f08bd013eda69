;; Answers every second call with `drop` and the others with `keep`, though equal input must give equal output.
;; The host: cannot prove it, and must not flap because of it: it asks again only when something has changed.
(global $calls (mut i32) (i32.const 0))
(func (export "landfall:policy/instances@0.1.0#decide") (param $call i32) (result i32)
  (global.set $calls (i32.add (global.get $calls) (i32.const 1)))
  (call $all (local.get $call) (i32.and (global.get $calls) (i32.const 1)) (i32.const 0) (i32.const 7)))
