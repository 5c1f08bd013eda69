;; Asks to be sent a field that the contract does not have.
;; The host: sends nothing for it and names it in its log; it never sends everything instead. The guest traps if it does.
(data (i32.const 1024) "password")
(data (i32.const 1040) "\00\04\00\00" "\08\00\00\00")
(func (export "landfall:policy/plugin@0.1.0#describe") (result i32)
  (i32.store8 (i32.const 48) (i32.const 1))
  (i32.store (i32.const 52) (i32.const 1040))
  (i32.store (i32.const 56) (i32.const 1))
  (i32.const 32))
;; Of each optional field of the first instance, whether it is there.
(func (export "landfall:policy/instances@0.1.0#decide") (param $call i32) (result i32)
  (local $instance i32)
  (local.set $instance (call $instance (local.get $call) (i32.const 0)))
  (if
    (i32.or
      (i32.or (i32.load8_u offset=16 (local.get $instance)) (i32.load8_u offset=28 (local.get $instance)))
      (i32.or (i32.load8_u offset=40 (local.get $instance)) (i32.load8_u offset=52 (local.get $instance))))
    (then (unreachable)))
  (call $decide (local.get $call)))
