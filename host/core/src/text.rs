//! Shared strings. Facts of 100,000 instances repeat the same few words, so they are shared.

use std::collections::HashSet;
use std::sync::Arc;

/// An immutable string that is cheap to clone.
pub type Text = Arc<str>;

/// Gives equal strings one allocation. Meant to live as long as one piece of work (one registry
/// answer, one batch), so that it needs no bound of its own.
#[derive(Debug, Default)]
pub struct Interner {
    seen: HashSet<Text>,
}

impl Interner {
    /// The shared form of `raw`.
    pub fn text(&mut self, raw: &str) -> Text {
        match self.seen.get(raw) {
            Some(text) => Text::clone(text),
            None => {
                let text = Text::from(raw);
                self.seen.insert(Text::clone(&text));
                text
            }
        }
    }
}
