//! Patterns for names: `*` stands for any text, everything else for itself.

use std::fmt;

use crate::registry::ServiceId;

/// A pattern such as `pay-*` or `dc1/*`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Pattern(String);

impl Pattern {
    /// The pattern that `raw` describes; there are no illegal ones.
    #[must_use]
    pub fn new(raw: impl Into<String>) -> Self {
        Self(raw.into())
    }

    /// Whether all of `text` fits.
    #[must_use]
    pub fn matches(&self, text: &str) -> bool {
        let mut parts = self.0.split('*');
        let first = parts.next().unwrap_or_default();
        let Some(mut rest) = text.strip_prefix(first) else { return false };
        let mut parts = parts.peekable();
        if parts.peek().is_none() {
            return rest.is_empty();
        }
        // Taking the earliest place for each inner part is enough: it leaves the most text.
        while let Some(part) = parts.next() {
            if parts.peek().is_none() {
                return rest.ends_with(part);
            }
            match rest.find(part) {
                Some(at) => rest = &rest[at + part.len()..],
                None => return false,
            }
        }
        true
    }
}

/// Picks services of registries.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Selector {
    /// Patterns for source names; all when empty.
    pub sources: Vec<Pattern>,
    /// Patterns for service names, or for `group/name`; all when empty.
    pub services: Vec<Pattern>,
}

impl Selector {
    /// Whether it picks the service.
    #[must_use]
    pub fn matches(&self, id: &ServiceId) -> bool {
        let source = id.source.as_str();
        let in_sources =
            self.sources.is_empty() || self.sources.iter().any(|pattern| pattern.matches(source));
        in_sources
            && (self.services.is_empty()
                || self.services.iter().any(|pattern| pattern.matches(&id.key.name))
                || {
                    let grouped = format!("{}/{}", id.key.group, id.key.name);
                    self.services.iter().any(|pattern| pattern.matches(&grouped))
                })
    }
}

impl fmt::Display for Pattern {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn patterns() {
        for (pattern, text, want) in [
            ("pay-*", "pay-eu", true),
            ("pay-*", "repay-eu", false),
            ("*", "", true),
            ("", "", true),
            ("", "a", false),
            ("a*b*c", "a1b2c", true),
            ("a*b*c", "acb", false),
            ("*ab", "aab", true),
            ("a*a", "a", false),
        ] {
            assert_eq!(Pattern::new(pattern).matches(text), want, "{pattern} {text}");
        }
    }
}
