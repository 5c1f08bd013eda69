;; Keeps every instance: the prelude alone, to show that what the other guests do is their own.
;; The host: takes it.
