;; Keeps every instance, and a MiB of memory per call.
;; The host: recycles it before, or at the latest when, it reaches its limit; no instance is lost.
(func (export "cabi_post_landfall:policy/instances@0.1.0#decide") (param $result i32)
  ;; Nothing is freed.
  (drop (call $new (i32.const 0x100000))))
