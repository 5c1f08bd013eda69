;; Imports from `landfall:policy/log` a function that it does not have.
;; The host: refuses the policy, and names the function.
(module
  (import "landfall:policy/log@0.1.0" "erase" (func $wanted (param i32 i32)))
  (memory (export "memory") 1)
  (func (export "cabi_realloc") (param i32 i32 i32 i32) (result i32) (unreachable))
  (func (export "landfall:policy/plugin@0.1.0#describe") (result i32) (unreachable))
  (func (export "landfall:policy/plugin@0.1.0#configure") (param i32 i32) (result i32) (unreachable))
  (func (export "landfall:policy/instances@0.1.0#decide") (param i32) (result i32) (unreachable))
  (func (call $wanted (i32.const 0) (i32.const 0))))
