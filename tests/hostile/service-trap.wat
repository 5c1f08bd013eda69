;; Traps in `services.decide`.
;; The host: the service keeps the settings that it has.
(func (export "landfall:policy/services@0.1.0#decide")
  (param i32 i32 i32 i32 i32 i32 i32 i32 i32 i32 i32 i32 i32) (result i32)
  (unreachable))
