;; Writes one line of 100 KiB that begins with line breaks and terminal escapes, and then keeps every instance.
;; The host: cuts the line, and takes the rest for an answer; its log stays as many lines as were written, and nothing in
;; it speaks to a terminal.
(data (i32.const 1024) "\1b[2J\1b[31mlandfall stopped.\n{\"level\":\"ERROR\"}\r\n")
(func (export "landfall:policy/instances@0.1.0#decide") (param $call i32) (result i32)
  (local $text i32)
  (local.set $text (call $new (i32.const 102400)))
  (memory.fill (local.get $text) (i32.const 0x0a) (i32.const 102400))
  (memory.copy (local.get $text) (i32.const 1024) (i32.const 46))
  (call $log (i32.const 2) (local.get $text) (i32.const 102400))
  (call $decide (local.get $call)))
