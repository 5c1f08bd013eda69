;; Asks to be sent a field that the contract does not have.
;; The host: refuses the policy and names the field, or sends nothing for it; it never sends everything instead.
(data (i32.const 1024) "password")
(data (i32.const 1040) "\00\04\00\00" "\08\00\00\00")
(func (export "landfall:policy/plugin@0.1.0#describe") (result i32)
  (i32.store (i32.const 48) (i32.const 1040))
  (i32.store (i32.const 52) (i32.const 1))
  (i32.const 32))
