;; Answers `services.decide` with an error that has a text.
;; The host: shows the text, and the service keeps the settings that it has.
(data (i32.const 1024) "the moon is in the wrong phase")
(func (export "landfall:policy/services@0.1.0#decide")
  (param i32 i32 i32 i32 i32 i32 i32 i32 i32 i32 i32 i32 i32) (result i32)
  (local $result i32)
  (local.set $result (call $ok (i32.const 1024) (i32.const 30)))
  (i32.store8 (local.get $result) (i32.const 1))
  (local.get $result))
