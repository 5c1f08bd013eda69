;; Needs 4 GiB of memory before anything runs: 65536 pages are the most that 32 bits address.
;; The host: refuses to instantiate it because of the policy's memory limit, and reserves nothing of it.
(module
  (import "landfall:policy/log@0.1.0" "write" (func $log (param i32 i32 i32)))
  (memory (export "memory") 65536)
  (func (export "cabi_realloc") (param i32 i32 i32 i32) (result i32) (unreachable))
  (func (export "landfall:policy/plugin@0.1.0#describe") (result i32) (unreachable))
  (func (export "landfall:policy/plugin@0.1.0#configure") (param i32 i32) (result i32) (unreachable))
  (func (export "landfall:policy/instances@0.1.0#decide") (param i32) (result i32) (unreachable)))
