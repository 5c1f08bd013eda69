;; Publishes every instance at 64 places, and gives it four labels of 63 characters at each: 64 times the same list in the
;; guest, and 40 KB for an instance once the host has made mappings of it.
;; The host: fails each instance by itself, so that 100,000 of them cannot come to gigabytes.
(data (i32.const 1024) "abcd")
(data (i32.const 1088) "vvvvvvvvvvvvvvvvvvvvvvvvvvvvvvvvvvvvvvvvvvvvvvvvvvvvvvvvvvvvvvv")
;; Four edits, `label`.
(data (i32.const 1200)
  "\04\00\00\00\00\04\00\00\01\00\00\00\40\04\00\00\3f\00\00\00\00\00\00\00\00\00\00\00"
  "\04\00\00\00\01\04\00\00\01\00\00\00\40\04\00\00\3f\00\00\00\00\00\00\00\00\00\00\00"
  "\04\00\00\00\02\04\00\00\01\00\00\00\40\04\00\00\3f\00\00\00\00\00\00\00\00\00\00\00"
  "\04\00\00\00\03\04\00\00\01\00\00\00\40\04\00\00\3f\00\00\00\00\00\00\00\00\00\00\00")
(func (export "landfall:policy/instances@0.1.0#decide") (param $call i32) (result i32)
  (local $lists i32) (local $at i32)
  (local.set $lists (call $new (i32.const 512)))
  (loop $next
    (i32.store (i32.add (local.get $lists) (local.get $at)) (i32.const 1200))
    (i32.store offset=4 (i32.add (local.get $lists) (local.get $at)) (i32.const 4))
    (local.set $at (i32.add (local.get $at) (i32.const 8)))
    (br_if $next (i32.lt_u (local.get $at) (i32.const 512))))
  (call $all (local.get $call) (i32.const 3) (local.get $lists) (i32.const 64)))
