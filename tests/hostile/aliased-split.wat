;; Splits every instance a thousand times, each time with the same thousand edits: 28 KB in the guest are 28 MB for an
;; instance once the host has read them. Nothing in the canonical ABI keeps lists from sharing memory.
;; The host: counts what it reads, not what lies in the guest, and fails the call.
(func (export "landfall:policy/instances@0.1.0#decide") (param $call i32) (result i32)
  (local $edits i32) (local $branches i32) (local $at i32)
  ;; A thousand times `host` with an empty text, which is zeros.
  (local.set $edits (call $new (i32.const 28000)))
  (local.set $branches (call $new (i32.const 8000)))
  (loop $next
    (i32.store (i32.add (local.get $branches) (local.get $at)) (local.get $edits))
    (i32.store offset=4 (i32.add (local.get $branches) (local.get $at)) (i32.const 1000))
    (local.set $at (i32.add (local.get $at) (i32.const 8)))
    (br_if $next (i32.lt_u (local.get $at) (i32.const 8000))))
  (call $all (local.get $call) (i32.const 3) (local.get $branches) (i32.const 1000)))
