//! Sorted keys and values: metadata and labels.

use std::fmt;
use std::sync::Arc;

use crate::text::Text;

/// Keys with their values; keys are unique and in order. Much smaller than a map of its own for
/// each of 100,000 instances, and cheap to clone.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Pairs(Arc<[(Text, Text)]>);

impl Pairs {
    /// The value of `key`.
    #[must_use]
    pub fn get(&self, key: &str) -> Option<&Text> {
        let index = self.0.binary_search_by(|(k, _)| (**k).cmp(key)).ok()?;
        Some(&self.0[index].1)
    }

    /// Keys and values in the order of keys.
    pub fn iter(&self) -> impl ExactSizeIterator<Item = (&Text, &Text)> {
        self.0.iter().map(|(k, v)| (k, v))
    }

    /// The pairs as a slice, in the order of keys.
    #[must_use]
    pub fn as_slice(&self) -> &[(Text, Text)] {
        &self.0
    }

    /// Whether there is no pair.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// The number of pairs.
    #[must_use]
    pub fn len(&self) -> usize {
        self.0.len()
    }
}

// === impl Pairs ===

impl Default for Pairs {
    fn default() -> Self {
        // One empty slice for all: most instances have some list empty.
        static EMPTY: std::sync::OnceLock<Pairs> = std::sync::OnceLock::new();
        EMPTY.get_or_init(|| Self(Arc::from([]))).clone()
    }
}

impl fmt::Debug for Pairs {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_map().entries(self.iter()).finish()
    }
}

/// Of several pairs with one key the last holds.
impl FromIterator<(Text, Text)> for Pairs {
    fn from_iter<I: IntoIterator<Item = (Text, Text)>>(pairs: I) -> Self {
        let mut sorted: Vec<(Text, Text)> = pairs.into_iter().collect();
        if sorted.is_empty() {
            return Self::default();
        }
        // Stable, so that the last of equal keys stays the last.
        sorted.sort_by(|a, b| a.0.cmp(&b.0));
        sorted.reverse();
        sorted.dedup_by(|next, kept| next.0 == kept.0);
        sorted.reverse();
        Self(sorted.into())
    }
}

impl<'a> FromIterator<(&'a str, &'a str)> for Pairs {
    fn from_iter<I: IntoIterator<Item = (&'a str, &'a str)>>(pairs: I) -> Self {
        pairs.into_iter().map(|(k, v)| (Text::from(k), Text::from(v))).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_last_of_equal_keys_holds_and_keys_are_in_order() {
        let pairs: Pairs = [("b", "1"), ("a", "2"), ("b", "3")].into_iter().collect();
        assert_eq!(format!("{pairs:?}"), r#"{"a": "2", "b": "3"}"#);
        assert_eq!(pairs.get("b").map(|v| &**v), Some("3"));
        assert_eq!(pairs.get("c"), None);
    }
}
