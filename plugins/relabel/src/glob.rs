//! Patterns in which `*` stands for any text and `?` for one character.

use serde::Deserialize;

/// A pattern. The whole text has to fit; upper and lower case differ.
#[derive(Clone, Debug, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
#[serde(transparent)]
pub(crate) struct Glob(String);

/// Patterns of which one has to fit.
#[derive(Clone, Debug, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
#[serde(try_from = "Vec<Glob>")]
pub(crate) struct OneOf(#[cfg_attr(test, schemars(length(min = 1)))] Vec<Glob>);

// === impl Glob ===

impl Glob {
    /// Whether the text fits. Takes time in proportion to pattern times text at worst.
    pub(crate) fn fits(&self, text: &str) -> bool {
        let (pattern, text) = (self.0.as_bytes(), text.as_bytes());
        let (mut p, mut t) = (0, 0);
        // After the last star: where the pattern goes on, and how much text the star has taken.
        let mut star: Option<(usize, usize)> = None;
        while t < text.len() {
            match pattern.get(p) {
                Some(b'*') => {
                    star = Some((p + 1, t));
                    p += 1;
                }
                Some(b'?') => {
                    p += 1;
                    t += character_len(text[t]);
                }
                Some(byte) if *byte == text[t] => {
                    p += 1;
                    t += 1;
                }
                // Does not fit like this: let the last star take one character more, or give up.
                Some(_) | None => match star {
                    Some((after, taken)) => {
                        p = after;
                        t = taken + character_len(text[taken]);
                        star = Some((after, t));
                    }
                    None => return false,
                },
            }
        }
        pattern[p..].iter().all(|byte| *byte == b'*')
    }
}

/// The bytes of the UTF-8 character that begins with this one.
fn character_len(first: u8) -> usize {
    match first {
        0xc0..=0xdf => 2,
        0xe0..=0xef => 3,
        0xf0..=0xff => 4,
        _ => 1,
    }
}

// === impl OneOf ===

impl OneOf {
    /// Whether the text fits one of the patterns.
    pub(crate) fn fits(&self, text: &str) -> bool {
        self.0.iter().any(|glob| glob.fits(text))
    }
}

impl TryFrom<Vec<Glob>> for OneOf {
    type Error = &'static str;

    fn try_from(globs: Vec<Glob>) -> Result<Self, Self::Error> {
        if globs.is_empty() {
            Err("must not be empty; leave it out to match anything")
        } else {
            Ok(Self(globs))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn globs_fit_whole_texts() {
        let fits = |pattern: &str, text: &str| Glob(pattern.to_owned()).fits(text);
        for (pattern, text) in [
            ("", ""),
            ("*", ""),
            ("**", "abc"),
            ("pay", "pay"),
            ("pay-*", "pay-"),
            ("pay-*", "pay-eu"),
            ("*-eu", "pay-eu-eu"),
            ("*a*b*", "xxaxxbxx"),
            ("v?", "v2"),
            ("v?", "v\u{e4}"),
            ("?*", "\u{1f600}"),
            ("*?", "\u{e4}\u{1f600}"),
            ("*\u{e4}?", "\u{e4}\u{e4}\u{e4}b"),
        ] {
            assert!(fits(pattern, text), "{pattern} {text}");
        }
        for (pattern, text) in [
            ("", "a"),
            ("pay", "pays"),
            ("pay", "Pay"),
            ("pay-*", "pay"),
            ("*-eu", "pay-eu-us"),
            ("*a*b*", "ba"),
            ("v?", "v"),
            ("v?", "v22"),
            ("?", ""),
            // Two characters for one that is of four bytes, or of two.
            ("*??", "\u{1f600}"),
            ("a*??", "a\u{e4}"),
        ] {
            assert!(!fits(pattern, text), "{pattern} {text}");
        }
    }

    #[test]
    fn many_stars_do_not_take_for_ever() {
        let pattern = Glob("*a".repeat(30) + "b");
        assert!(!pattern.fits(&"a".repeat(5000)));
    }
}
