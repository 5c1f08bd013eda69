;; Exports `plugin` and nothing else.
;; The host: refuses the policy, and names the export that is missing.
(module
  (memory (export "memory") 1)
  (func (export "cabi_realloc") (param i32 i32 i32 i32) (result i32) (unreachable))
  (func (export "landfall:policy/plugin@0.1.0#describe") (result i32) (unreachable))
  (func (export "landfall:policy/plugin@0.1.0#configure") (param i32 i32) (result i32) (unreachable)))
