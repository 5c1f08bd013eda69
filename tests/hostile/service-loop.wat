;; Never comes back from `services.decide`.
;; The host: stops it at its time limit, and the service keeps the settings that it has.
(func (export "landfall:policy/services@0.1.0#decide")
  (param i32 i32 i32 i32 i32 i32 i32 i32 i32 i32 i32 i32 i32) (result i32)
  (loop $for_ever (br $for_ever))
  (unreachable))
