;; Gives a service 2000 settings, which the host can read.
;; The host: fails the call, for no service has so many.
(func (export "landfall:policy/services@0.1.0#decide")
  (param i32 i32 i32 i32 i32 i32 i32 i32 i32 i32 i32 i32 i32) (result i32)
  (call $ok (call $new (i32.const 40000)) (i32.const 2000)))
