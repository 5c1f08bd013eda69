;; Describes itself with a name of 16 MiB.
;; The host: stops reading at the output limit, and refuses the policy.
(func (export "landfall:policy/plugin@0.1.0#describe") (result i32)
  (local $name i32)
  (local.set $name (call $new (i32.const 0x1000000)))
  (memory.fill (local.get $name) (i32.const 0x61) (i32.const 0x1000000))
  (i32.store (i32.const 32) (local.get $name))
  (i32.store (i32.const 36) (i32.const 0x1000000))
  (i32.const 32))
