;; Answers well, and then never comes back from being told that the answer has been read.
;; The host: stops it at its time limit, and does not use the answer for it has to drop the store.
(func (export "cabi_post_landfall:policy/instances@0.1.0#decide") (param $result i32)
  (loop $for_ever (br $for_ever)))
