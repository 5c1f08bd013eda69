;; Publishes every instance at 64 places, each with an address of its own: as many as an instance may have.
;; The host: takes them while all together stay below what a policy's answers may take, and leaves the rest as it was.
(func (export "landfall:policy/instances@0.1.0#decide") (param $call i32) (result i32)
  (local $lists i32) (local $edits i32) (local $text i32) (local $place i32)
  (local.set $lists (call $new (i32.const 512)))
  (local.set $edits (call $new (i32.const 1792)))
  (local.set $text (call $new (i32.const 512)))
  (loop $next
    ;; `aa.mesh`, `ab.mesh` and so on to `hh.mesh`.
    (i64.store (local.get $text)
      (i64.add
        (i64.const 0x00687365_6d2e6161)
        (i64.extend_i32_u
          (i32.add
            (i32.and (local.get $place) (i32.const 7))
            (i32.shl (i32.shr_u (local.get $place) (i32.const 3)) (i32.const 8))))))
    (i32.store8 (local.get $edits) (i32.const 2))
    (i32.store offset=4 (local.get $edits) (local.get $text))
    (i32.store offset=8 (local.get $edits) (i32.const 7))
    (i32.store (local.get $lists) (local.get $edits))
    (i32.store offset=4 (local.get $lists) (i32.const 1))
    (local.set $text (i32.add (local.get $text) (i32.const 8)))
    (local.set $edits (i32.add (local.get $edits) (i32.const 28)))
    (local.set $lists (i32.add (local.get $lists) (i32.const 8)))
    (local.set $place (i32.add (local.get $place) (i32.const 1)))
    (br_if $next (i32.lt_u (local.get $place) (i32.const 64))))
  (call $all (local.get $call) (i32.const 3)
    (i32.sub (local.get $lists) (i32.const 512)) (i32.const 64)))
