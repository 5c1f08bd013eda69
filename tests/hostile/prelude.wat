;; What hostile guests share: memory, an allocator, harmless answers and readers of what the host sends.
;;
;; A guest is this text and its own in one module of world `instance-policy`, or of `service-policy` if its name says so.
;; The loader exports each function of that world whose name as an export the guest does not use itself:
;;
;;   cabi_realloc                                      $alloc
;;   landfall:policy/plugin@0.1.0#describe             $describe
;;   landfall:policy/plugin@0.1.0#configure            $configure
;;   landfall:policy/instances@0.1.0#decide            $decide       keeps every instance
;;   cabi_post_landfall:policy/instances@0.1.0#decide  $forget       frees everything
;;   landfall:policy/services@0.1.0#decide             $settings     sets nothing
;;   cabi_post_landfall:policy/services@0.1.0#decide   $forget
;;
;; Sizes and offsets are those of the canonical ABI (component model, "Canonical ABI explainer"), of records as
;; wit/landfall.wit has them:
;;
;;   decide's parameters: 16 flat values of `service` and 2 of the list are too many, so a pointer to
;;     0 service (8 strings and lists of 8 bytes), 64 instances, 68 how many
;;   instance, 152 bytes: 0 id, 8 health, 16 tags, 28 meta, 40 ext, 52 mapping
;;   verdict, 20 bytes: 0 case (keep, drop, edit, split, other), 4 pointer, 8 length, 12 and 16 those of a second text
;;   edit, 28 bytes: 0 case (host, namespace, address, ports, label, remove-label, locality, weight, ...), 4 what it holds
;;   port, 20 bytes: 0 name, 8 number, 10 target, 12 protocol
;;   results, 12 bytes: 0 case (ok, err), 4 pointer, 8 length

(import "landfall:policy/log@0.1.0" "write" (func $log (param $level i32) (param $text i32) (param $len i32)))

;; Up to 1024 for the prelude, up to 65536 for the guest, above for the allocator.
(memory $memory (export "memory") 2)
(global $next (mut i32) (i32.const 65536))

(data (i32.const 0) "hostile" "0.0.0")
;; The descriptor: name, version, none of reads (which asks for everything), of schema and of ext.
(data (i32.const 32) "\00\00\00\00" "\07\00\00\00" "\07\00\00\00" "\05\00\00\00")

;; Gives memory away and takes none back.
(func $alloc (param $old i32) (param $old_len i32) (param $align i32) (param $len i32) (result i32)
  (local $at i32)
  (local.set $at
    (i32.and
      (i32.add (global.get $next) (i32.sub (local.get $align) (i32.const 1)))
      (i32.sub (i32.const 0) (local.get $align))))
  (global.set $next (i32.add (local.get $at) (local.get $len)))
  (block $enough
    (br_if $enough (i32.le_u (global.get $next) (i32.shl (memory.size) (i32.const 16))))
    (br_if $enough
      (i32.ne
        (memory.grow (i32.add (i32.shr_u (local.get $len) (i32.const 16)) (i32.const 1)))
        (i32.const -1)))
    (unreachable))
  (memory.fill (local.get $at) (i32.const 0) (local.get $len))
  (local.get $at))

(func $new (param $len i32) (result i32)
  (call $alloc (i32.const 0) (i32.const 0) (i32.const 4) (local.get $len)))

(func $forget (param $result i32)
  (global.set $next (i32.const 65536)))

(func $describe (result i32)
  (i32.const 32))

;; Twelve zeros: ok.
(func $configure (param $settings i32) (param $len i32) (result i32)
  (call $new (i32.const 12)))

(func $decide (param $call i32) (result i32)
  (call $ok (call $keep_all (local.get $call)) (call $count (local.get $call))))

;; The parameters are the 13 flat values of `mesh-service`.
(func $settings
  (param i32 i32 i32 i32 i32 i32 i32 i32 i32 i32 i32 i32 i32) (result i32)
  (call $new (i32.const 12)))

;; Takes the time of ten million turns, which is some 10 ms.
(func $work
  (local $left i32)
  (local.set $left (i32.const 10000000))
  (loop $next
    (br_if $next (local.tee $left (i32.sub (local.get $left) (i32.const 1))))))

;; How many instances a call holds.
(func $count (param $call i32) (result i32)
  (i32.load offset=68 (local.get $call)))

;; One of the call's instances.
(func $instance (param $call i32) (param $index i32) (result i32)
  (i32.add (i32.load offset=64 (local.get $call)) (i32.mul (local.get $index) (i32.const 152))))

;; A verdict `keep`, which is zeros, for each instance of the call.
(func $keep_all (param $call i32) (result i32)
  (call $new (i32.mul (call $count (local.get $call)) (i32.const 20))))

;; The result of `decide` that holds these verdicts.
(func $ok (param $verdicts i32) (param $count i32) (result i32)
  (local $result i32)
  (local.set $result (call $new (i32.const 12)))
  (i32.store offset=4 (local.get $result) (local.get $verdicts))
  (i32.store offset=8 (local.get $result) (local.get $count))
  (local.get $result))

;; The result of `decide` with one verdict for every instance of the call.
(func $all (param $call i32) (param $case i32) (param $pointer i32) (param $len i32) (result i32)
  (local $verdicts i32) (local $verdict i32) (local $end i32)
  (local.set $verdicts (call $keep_all (local.get $call)))
  (local.set $verdict (local.get $verdicts))
  (local.set $end (i32.add (local.get $verdict) (i32.mul (call $count (local.get $call)) (i32.const 20))))
  (block $done
    (loop $next
      (br_if $done (i32.eq (local.get $verdict) (local.get $end)))
      (i32.store8 (local.get $verdict) (local.get $case))
      (i32.store offset=4 (local.get $verdict) (local.get $pointer))
      (i32.store offset=8 (local.get $verdict) (local.get $len))
      (local.set $verdict (i32.add (local.get $verdict) (i32.const 20)))
      (br $next)))
  (call $ok (local.get $verdicts) (call $count (local.get $call))))

;; Whether one of the call's instances has the id "poison".
(func $poisoned (param $call i32) (result i32)
  (local $index i32) (local $instance i32) (local $id i32)
  (block $none
    (loop $next
      (br_if $none (i32.ge_u (local.get $index) (call $count (local.get $call))))
      (local.set $instance (call $instance (local.get $call) (local.get $index)))
      (local.set $index (i32.add (local.get $index) (i32.const 1)))
      (br_if $next (i32.ne (i32.load offset=4 (local.get $instance)) (i32.const 6)))
      (local.set $id (i32.load (local.get $instance)))
      (br_if $next (i32.ne (i32.load align=1 (local.get $id)) (i32.const 0x73696f70)))
      (br_if $next (i32.ne (i32.load16_u offset=4 align=1 (local.get $id)) (i32.const 0x6e6f)))
      (return (i32.const 1))))
  (i32.const 0))
