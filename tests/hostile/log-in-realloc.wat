;; Writes a line from within `cabi_realloc`, while the host is still passing the arguments of a call.
;; The host: fails the call, for a guest may not leave its component then.
(func (export "cabi_realloc") (param i32 i32 i32 i32) (result i32)
  (call $log (i32.const 2) (i32.const 0) (i32.const 7))
  (call $alloc (local.get 0) (local.get 1) (local.get 2) (local.get 3)))
