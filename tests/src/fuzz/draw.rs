//! Choices made by arbitrary bytes.
//!
//! A byte more or less moves few of the choices behind it, so that a fuzzer which mutates bytes
//! mutates inputs. When the bytes are at an end every choice is the first one: inputs are finite.

use landfall_mesh::testing::HOSTILE;

/// The bytes that are left.
#[derive(Clone, Debug)]
pub struct Draw<'a>(&'a [u8]);

// === impl Draw ===

impl<'a> Draw<'a> {
    /// Choices by these bytes.
    #[must_use]
    pub fn new(bytes: &'a [u8]) -> Self {
        Self(bytes)
    }

    /// Whether every further choice is the first one.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// One byte; 0 at the end.
    pub fn byte(&mut self) -> u8 {
        let Some((first, rest)) = self.0.split_first() else { return 0 };
        self.0 = rest;
        *first
    }

    /// Eight bytes as a number.
    pub fn number(&mut self) -> u64 {
        (0..8).fold(0, |number, _| number << 8 | u64::from(self.byte()))
    }

    /// A number below `end`; 0 where `end` is 0.
    pub fn below(&mut self, end: usize) -> usize {
        let mut number = usize::from(self.byte());
        if end > 256 {
            number = number << 8 | usize::from(self.byte());
        }
        if end > 1 << 16 {
            number = number << 8 | usize::from(self.byte());
        }
        number.checked_rem(end).unwrap_or(0)
    }

    /// True once in `of` times, and never at the end.
    pub fn once_in(&mut self, of: usize) -> bool {
        self.below(of) == of - 1 && of > 1
    }

    /// One of `list`, which is not empty.
    pub fn one_of<'b, T>(&mut self, list: &'b [T]) -> &'b T {
        &list[self.below(list.len())]
    }

    /// A text: plain, hostile, of any characters, or long.
    pub fn word(&mut self) -> String {
        match self.below(8) {
            0..2 => format!("svc-{}", self.below(8)),
            2..5 => (*self.one_of(&HOSTILE)).to_owned(),
            5 => format!("{}{}", self.one_of(&HOSTILE), self.one_of(&HOSTILE)),
            6 => (0..self.below(8)).map(|_| self.char()).collect(),
            _ => {
                let pattern = *self.one_of(&["x", "x.", "x-", "é", "_", "9", "a.", " ", "\n"]);
                pattern.repeat(1 + self.below(400))
            }
        }
    }

    /// Any character.
    pub fn char(&mut self) -> char {
        let plane = *self.one_of(&[0, 0, 0, 0x20_00, 0xd7_00, 0xfe_00, 0x1_f6_00, 0x10_ff_00]);
        char::from_u32(plane | u32::from(self.byte())).unwrap_or('\u{fffd}')
    }
}
