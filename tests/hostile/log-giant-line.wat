;; Writes one line of 32 MiB, with line breaks and terminal escapes in it, and then keeps every instance.
;; The host: cuts the line and escapes it, or fails the call; it never writes the escapes to its log as they are.
(data (i32.const 1024) "\1b[2J\1b[31mlandfall stopped.\n{\"level\":\"ERROR\"}\r\n")
(func (export "landfall:policy/instances@0.1.0#decide") (param $call i32) (result i32)
  (local $text i32)
  (local.set $text (call $new (i32.const 0x2000000)))
  (memory.fill (local.get $text) (i32.const 0x0a) (i32.const 0x2000000))
  (memory.copy (local.get $text) (i32.const 1024) (i32.const 46))
  (call $log (i32.const 2) (local.get $text) (i32.const 0x2000000))
  (call $decide (local.get $call)))
