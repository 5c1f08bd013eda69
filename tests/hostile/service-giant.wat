;; Gives a service a million settings, 20 MB of zeros: as many aliases without a name.
;; The host: stops reading at the output limit and fails the call.
(func (export "landfall:policy/services@0.1.0#decide")
  (param i32 i32 i32 i32 i32 i32 i32 i32 i32 i32 i32 i32 i32) (result i32)
  (call $ok (call $new (i32.const 20000000)) (i32.const 1000000)))
