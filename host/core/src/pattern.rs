//! Patterns for names: `*` stands for any text, everything else for itself.

use crate::registry::ServiceId;

/// A pattern such as `pay-*`.
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
        let Some(last) = parts.next_back() else { return rest.is_empty() };
        // Taking the earliest place for each inner part is enough: it leaves the most text.
        for part in parts {
            match rest.find(part) {
                Some(at) => rest = &rest[at + part.len()..],
                None => return false,
            }
        }
        rest.ends_with(last)
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
        let in_sources = self.sources.is_empty() || fits(&self.sources, id.source.as_str());
        in_sources
            && (self.services.is_empty()
                || fits(&self.services, &id.key.name)
                || !id.key.group.is_empty()
                    && fits(&self.services, &format!("{}/{}", id.key.group, id.key.name)))
    }
}

/// Whether one of `patterns` fits `text`.
#[must_use]
pub fn fits(patterns: &[Pattern], text: &str) -> bool {
    patterns.iter().any(|pattern| pattern.matches(text))
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
