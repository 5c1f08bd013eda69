;; Fills 60 MiB again and again in `decide`, for ever. Each turn is one instruction, and no interrupt is looked at within one.
;; The host: stops it at its time limit and one instruction more, and every instance keeps its last good output.
(func (export "landfall:policy/instances@0.1.0#decide") (param $call i32) (result i32)
  (drop (memory.grow (i32.const 960)))
  (loop $for_ever
    (memory.fill (i32.const 0x10000) (i32.const 1) (i32.const 0x3c00000))
    (br $for_ever))
  (unreachable))
