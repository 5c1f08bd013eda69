//! Which fields of an instance a policy reads. Each string that crosses the boundary costs time.

use landfall_core::text::Text;

/// The fields to send.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Projection {
    pub(crate) tags: bool,
    pub(crate) meta: Keys,
    pub(crate) ext: Keys,
    pub(crate) mapping: bool,
}

/// Which pairs of a list to send.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Keys {
    None,
    /// In order, each once.
    Some(Vec<Text>),
    All,
}

// === impl Projection ===

impl Projection {
    /// What `descriptor.reads` names, everything if it is `None`; and the words that name no field,
    /// which a later contract may know.
    pub(crate) fn parse(reads: Option<&[String]>) -> (Self, Vec<&str>) {
        let Some(reads) = reads else {
            let all = Self { tags: true, meta: Keys::All, ext: Keys::All, mapping: true };
            return (all, Vec::new());
        };
        let mut unknown = Vec::new();
        let mut projection =
            Self { tags: false, meta: Keys::None, ext: Keys::None, mapping: false };
        for word in reads {
            match (word.as_str(), word.split_once('/')) {
                ("tags", _) => projection.tags = true,
                ("mapping", _) => projection.mapping = true,
                ("meta", _) => projection.meta = Keys::All,
                ("ext", _) => projection.ext = Keys::All,
                (_, Some(("meta", key))) => projection.meta.add(key),
                (_, Some(("ext", key))) => projection.ext.add(key),
                _ => unknown.push(word.as_str()),
            }
        }
        (projection, unknown)
    }
}

// === impl Keys ===

impl Keys {
    fn add(&mut self, key: &str) {
        match self {
            Self::All => (),
            Self::None => *self = Self::Some(vec![Text::from(key)]),
            Self::Some(keys) => {
                if let Err(at) = keys.binary_search_by(|known| (**known).cmp(key)) {
                    keys.insert(at, Text::from(key));
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(reads: &[&str]) -> (Projection, Vec<String>) {
        let reads: Vec<String> = reads.iter().map(|&word| word.to_owned()).collect();
        let (projection, unknown) = Projection::parse(Some(&reads));
        (projection, unknown.into_iter().map(str::to_owned).collect())
    }

    #[test]
    fn no_list_is_everything_and_an_empty_list_nothing() {
        let all = Projection { tags: true, meta: Keys::All, ext: Keys::All, mapping: true };
        assert_eq!(Projection::parse(None), (all, vec![]));
        let nothing = Projection { tags: false, meta: Keys::None, ext: Keys::None, mapping: false };
        assert_eq!(parse(&[]), (nothing, vec![]));
    }

    #[test]
    fn single_keys_join_and_give_way_to_the_whole() {
        let keys = |reads: &[&str]| parse(reads).0.meta;
        assert_eq!(keys(&["meta/b", "meta/a", "meta/b"]), Keys::Some(vec!["a".into(), "b".into()]));
        assert_eq!(keys(&["meta/b", "meta"]), Keys::All);
        assert_eq!(keys(&["meta", "meta/b"]), Keys::All);
        assert_eq!(keys(&["tags"]), Keys::None);
        assert_eq!(keys(&["meta/a/b"]), Keys::Some(vec!["a/b".into()]));
    }

    #[test]
    fn nothing_is_sent_for_an_unknown_field() {
        let (projection, unknown) = parse(&["tags", "mappings", "tags/x"]);
        assert!(projection.tags && !projection.mapping);
        assert_eq!(unknown, ["mappings", "tags/x"]);
    }
}
