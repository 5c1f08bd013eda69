//! Text: strings that are shared, for facts of 100,000 instances repeat the same few words, and what
//! is told of what others say.

use std::collections::HashSet;
use std::error::Error;
use std::fmt::{self, Write};
use std::sync::Arc;

/// An immutable string that is cheap to clone.
pub type Text = Arc<str>;

/// Gives equal strings one allocation. Meant to live as long as one piece of work (one registry
/// answer, one batch), so that it needs no bound of its own.
#[derive(Debug, Default)]
pub struct Interner {
    seen: HashSet<Text>,
}

/// Text of anybody's, for a person to read on one line. What would end the line, speak to a terminal
/// or turn the order of what is shown around stands as an escape, such as `\n`.
#[derive(Clone, Copy, Debug)]
pub struct OneLine<'a>(pub &'a str);

impl fmt::Display for OneLine<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for c in self.0.chars() {
            // Separators of lines and paragraphs, and the controls of bidirectional text.
            let misleads = matches!(c, '\u{2028}'..='\u{202e}' | '\u{2066}'..='\u{2069}');
            if c.is_control() || misleads {
                write!(f, "{}", c.escape_default())?;
            } else {
                f.write_char(c)?;
            }
        }
        Ok(())
    }
}

/// What `error` says, and all its causes as far as they say something else.
#[must_use]
pub fn with_causes(error: &dyn Error) -> String {
    let mut told = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        let text = error.to_string();
        if !told.contains(&text) {
            told.push_str(": ");
            told.push_str(&text);
        }
        cause = error.source();
    }
    told
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

#[cfg(test)]
mod tests {
    use std::io;

    use super::*;

    #[derive(Debug)]
    struct Failed(&'static str, io::Error);

    impl fmt::Display for Failed {
        fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
            f.write_str(self.0)
        }
    }

    impl Error for Failed {
        fn source(&self) -> Option<&(dyn Error + 'static)> {
            Some(&self.1)
        }
    }

    #[test]
    fn each_cause_is_told_once() {
        let gone = || io::Error::other(Failed("no folder", io::Error::other("unplugged")));
        assert_eq!(
            with_causes(&Failed("failed to read a", gone())),
            "failed to read a: no folder: unplugged"
        );
        assert_eq!(with_causes(&Failed("no folder: unplugged", gone())), "no folder: unplugged");
    }

    #[test]
    fn one_line_is_one_line() {
        let shown = |raw: &str| OneLine(raw).to_string();
        assert_eq!(shown("größe \\ \"a\" 中"), "größe \\ \"a\" 中");
        assert_eq!(shown("a\nb\r\t\u{1b}[2J\0"), r"a\nb\r\t\u{1b}[2J\u{0}");
        assert_eq!(shown("\u{85}\u{2028}\u{202e}\u{2067}"), r"\u{85}\u{2028}\u{202e}\u{2067}");
    }
}
