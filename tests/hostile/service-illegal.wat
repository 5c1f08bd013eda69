;; Gives a service settings of every kind that have no legal form, and one that has: the last.
;; The host: takes them for an answer; what renders them leaves out each that is illegal, or alters it, and says so.
(data (i32.const 2000) "not a host!" "nowhere" "outer space" "by magic" "Bad Name" "" "not a key!" "v" "not a key!" "v" "later" "v" "fine.example.com")
;; Settings, 20 bytes: case, then one text or two, each by address and length.
(data (i32.const 1024) "\00\00\00\00" "\d0\07\00\00" "\0b\00\00\00" "\00\00\00\00" "\00\00\00\00") ;; alias
(data (i32.const 1044) "\01\00\00\00" "\db\07\00\00" "\07\00\00\00" "\00\00\00\00" "\00\00\00\00") ;; address
(data (i32.const 1064) "\02\00\00\00" "\e2\07\00\00" "\0b\00\00\00" "\00\00\00\00" "\00\00\00\00") ;; location
(data (i32.const 1084) "\03\00\00\00" "\ed\07\00\00" "\08\00\00\00" "\00\00\00\00" "\00\00\00\00") ;; resolution
(data (i32.const 1104) "\04\00\00\00" "\f5\07\00\00" "\08\00\00\00" "\00\00\00\00" "\00\00\00\00") ;; export-to
(data (i32.const 1124) "\05\00\00\00" "\fd\07\00\00" "\00\00\00\00" "\00\00\00\00" "\00\00\00\00") ;; subject-alt-name
(data (i32.const 1144) "\06\00\00\00" "\fd\07\00\00" "\0a\00\00\00" "\07\08\00\00" "\01\00\00\00") ;; label
(data (i32.const 1164) "\07\00\00\00" "\08\08\00\00" "\0a\00\00\00" "\12\08\00\00" "\01\00\00\00") ;; annotation
(data (i32.const 1184) "\08\00\00\00" "\f5\07\00\00" "\08\00\00\00" "\00\00\00\00" "\00\00\00\00") ;; name
(data (i32.const 1204) "\09\00\00\00" "\13\08\00\00" "\05\00\00\00" "\18\08\00\00" "\01\00\00\00") ;; other
(data (i32.const 1224) "\00\00\00\00" "\19\08\00\00" "\10\00\00\00" "\00\00\00\00" "\00\00\00\00") ;; alias
(func (export "landfall:policy/services@0.1.0#decide")
  (param i32 i32 i32 i32 i32 i32 i32 i32 i32 i32 i32 i32 i32) (result i32)
  (call $ok (i32.const 1024) (i32.const 11)))
