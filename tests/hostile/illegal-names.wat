;; Answers with edits that the ABI allows and Istio does not. The first letter of an instance's id says which:
;;
;;   a  host with an underscore            i  address that is none
;;   b  host in upper case                 j  namespace with a space
;;   c  host of 300 characters             k  value of a label of 300 characters
;;   d  empty host                         l  two ports of one name
;;   e  weight 0                           m  port of a protocol that does not exist
;;   f  weight 70000                       n  edit that no version of the contract names
;;   g  port 0                             o  host that is a wildcard
;;   h  key of a label with spaces         p  host with a line break and YAML in it
;;
;; Any other instance is kept.
;; The host: alters each name that has a legal form nearby, and adds a finding that names the instance and the name. An
;; edit of which there is no such form (e, f, g, i, m) fails its instance, which keeps its last good output. No other
;; instance of the call is touched.
(data (i32.const 1024) "a_b.mesh" "UPPER.mesh" "a key of spaces" "not an address" "*.mesh" "http" "carrier-pigeon")
(data (i32.const 1100) "a.mesh\nkind: Secret")
;; Ports: the first with number 0, two that share a name, one with a protocol that does not exist.
(data (i32.const 1200)
  "\35\04\00\00" "\04\00\00\00" "\00\00\00\00" "\35\04\00\00" "\04\00\00\00"
  "\35\04\00\00" "\04\00\00\00" "\50\00\50\00" "\35\04\00\00" "\04\00\00\00"
  "\35\04\00\00" "\04\00\00\00" "\51\00\51\00" "\35\04\00\00" "\04\00\00\00"
  "\35\04\00\00" "\04\00\00\00" "\50\00\50\00" "\39\04\00\00" "\0e\00\00\00")
;; A text of 300 times `a`.
(data (i32.const 2048) "aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa")

;; Makes a verdict of one edit, whose case is followed by up to four values.
(func $edit (param $verdict i32) (param $case i32) (param $a i32) (param $b i32) (param $c i32) (param $d i32)
  (local $edit i32)
  (local.set $edit (call $new (i32.const 28)))
  (i32.store8 (local.get $edit) (local.get $case))
  (i32.store offset=4 (local.get $edit) (local.get $a))
  (i32.store offset=8 (local.get $edit) (local.get $b))
  (i32.store offset=12 (local.get $edit) (local.get $c))
  (i32.store offset=16 (local.get $edit) (local.get $d))
  (i32.store8 (local.get $verdict) (i32.const 2))
  (i32.store offset=4 (local.get $verdict) (local.get $edit))
  (i32.store offset=8 (local.get $verdict) (i32.const 1)))

(func $judge (param $verdict i32) (param $letter i32)
  (if (i32.eq (local.get $letter) (i32.const 97)) (then  ;; a
    (call $edit (local.get $verdict) (i32.const 0) (i32.const 1024) (i32.const 8) (i32.const 0) (i32.const 0))))
  (if (i32.eq (local.get $letter) (i32.const 98)) (then  ;; b
    (call $edit (local.get $verdict) (i32.const 0) (i32.const 1032) (i32.const 10) (i32.const 0) (i32.const 0))))
  (if (i32.eq (local.get $letter) (i32.const 99)) (then  ;; c
    (call $edit (local.get $verdict) (i32.const 0) (i32.const 2048) (i32.const 300) (i32.const 0) (i32.const 0))))
  (if (i32.eq (local.get $letter) (i32.const 100)) (then  ;; d
    (call $edit (local.get $verdict) (i32.const 0) (i32.const 0) (i32.const 0) (i32.const 0) (i32.const 0))))
  (if (i32.eq (local.get $letter) (i32.const 101)) (then  ;; e
    (call $edit (local.get $verdict) (i32.const 7) (i32.const 0) (i32.const 0) (i32.const 0) (i32.const 0))))
  (if (i32.eq (local.get $letter) (i32.const 102)) (then  ;; f
    (call $edit (local.get $verdict) (i32.const 7) (i32.const 70000) (i32.const 0) (i32.const 0) (i32.const 0))))
  (if (i32.eq (local.get $letter) (i32.const 103)) (then  ;; g
    (call $edit (local.get $verdict) (i32.const 3) (i32.const 1200) (i32.const 1) (i32.const 0) (i32.const 0))))
  (if (i32.eq (local.get $letter) (i32.const 104)) (then  ;; h
    (call $edit (local.get $verdict) (i32.const 4) (i32.const 1042) (i32.const 15) (i32.const 1077) (i32.const 4))))
  (if (i32.eq (local.get $letter) (i32.const 105)) (then  ;; i
    (call $edit (local.get $verdict) (i32.const 2) (i32.const 1057) (i32.const 14) (i32.const 0) (i32.const 0))))
  (if (i32.eq (local.get $letter) (i32.const 106)) (then  ;; j
    (call $edit (local.get $verdict) (i32.const 1) (i32.const 1057) (i32.const 14) (i32.const 0) (i32.const 0))))
  (if (i32.eq (local.get $letter) (i32.const 107)) (then  ;; k
    (call $edit (local.get $verdict) (i32.const 4) (i32.const 1077) (i32.const 4) (i32.const 2048) (i32.const 300))))
  (if (i32.eq (local.get $letter) (i32.const 108)) (then  ;; l
    (call $edit (local.get $verdict) (i32.const 3) (i32.const 1220) (i32.const 2) (i32.const 0) (i32.const 0))))
  (if (i32.eq (local.get $letter) (i32.const 109)) (then  ;; m
    (call $edit (local.get $verdict) (i32.const 3) (i32.const 1260) (i32.const 1) (i32.const 0) (i32.const 0))))
  (if (i32.eq (local.get $letter) (i32.const 110)) (then  ;; n
    (call $edit (local.get $verdict) (i32.const 10) (i32.const 1081) (i32.const 14) (i32.const 1077) (i32.const 4))))
  (if (i32.eq (local.get $letter) (i32.const 111)) (then  ;; o
    (call $edit (local.get $verdict) (i32.const 0) (i32.const 1071) (i32.const 6) (i32.const 0) (i32.const 0))))
  (if (i32.eq (local.get $letter) (i32.const 112)) (then  ;; p
    (call $edit (local.get $verdict) (i32.const 0) (i32.const 1100) (i32.const 19) (i32.const 0) (i32.const 0))))
)

(func (export "landfall:policy/instances@0.1.0#decide") (param $call i32) (result i32)
  (local $verdicts i32) (local $index i32)
  (local.set $verdicts (call $keep_all (local.get $call)))
  (block $done
    (loop $next
      (br_if $done (i32.eq (local.get $index) (call $count (local.get $call))))
      (call $judge
        (i32.add (local.get $verdicts) (i32.mul (local.get $index) (i32.const 20)))
        (i32.load8_u (i32.load (call $instance (local.get $call) (local.get $index)))))
      (local.set $index (i32.add (local.get $index) (i32.const 1)))
      (br $next)))
  (call $ok (local.get $verdicts) (call $count (local.get $call))))
