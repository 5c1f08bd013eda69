//! Text for people, line by line.

use std::fmt::{self, Write as _};

use landfall_core::text::OneLine;

/// Text for people. What is written as one line is one line: names in registries are anybody's, and
/// must neither begin lines of their own nor speak to the terminal.
#[derive(Debug, Default)]
pub(super) struct Report {
    text: String,
    /// Characters of a line, beyond which an ellipsis stands for the rest.
    line_chars_max: Option<usize>,
}

/// Writes one line of a [`Report`], as `format!` would.
macro_rules! tell {
    ($report:expr, $($format:tt)*) => {
        $report.line(::std::format_args!($($format)*))
    };
}
pub(super) use tell;

impl Report {
    /// One with lines of so many characters at most.
    pub(super) fn bounded(line_chars_max: usize) -> Self {
        Self { line_chars_max: Some(line_chars_max), ..Self::default() }
    }

    /// Writes one line; `tell!` is the way to call it.
    pub(super) fn line(&mut self, line: fmt::Arguments<'_>) {
        let begin = self.text.len();
        // Writing to a string does not fail.
        let _ = write!(self.text, "{}", OneLine(&line.to_string()));
        let mut ends = self.text[begin..].char_indices();
        if let Some(max) = self.line_chars_max
            && let Some((end, _)) = ends.nth(max.saturating_sub(1))
            && ends.next().is_some()
        {
            self.text.truncate(begin + end);
            self.text.push('…');
        }
        self.text.push('\n');
    }

    /// Writes an object as a YAML document, which has its own way to quote.
    pub(super) fn document(&mut self, yaml: &str) {
        self.text.push_str("---\n");
        self.text.push_str(yaml);
    }

    /// What was written.
    pub(super) fn into_text(self) -> String {
        self.text
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_long_line_ends_in_an_ellipsis() {
        let mut report = Report::bounded(4);
        for name in ["", "üü", "abcd", "abcde", "ü\nüü"] {
            tell!(report, "{name}");
        }
        report.document("a: abcdefgh\n");
        assert_eq!(report.into_text(), "\nüü\nabcd\nabc…\nü\\n…\n---\na: abcdefgh\n");
    }

    #[test]
    fn a_line_stays_a_line() {
        let mut report = Report::default();
        tell!(report, "{}: ü", "a\nfinding: b\x1b[2J\u{9b}\u{202e}");
        assert_eq!(report.into_text(), "a\\nfinding: b\\u{1b}[2J\\u{9b}\\u{202e}: ü\n");
    }
}
