;; Drops every instance, for a reason of 32 MiB.
;; The host: stops reading at the output limit and fails the call.
(func (export "landfall:policy/instances@0.1.0#decide") (param $call i32) (result i32)
  (local $reason i32)
  (local.set $reason (call $new (i32.const 0x2000000)))
  (memory.fill (local.get $reason) (i32.const 0x61) (i32.const 0x2000000))
  (call $all (local.get $call) (i32.const 1) (local.get $reason) (i32.const 0x2000000)))
