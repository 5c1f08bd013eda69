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
    /// What `descriptor.reads` names; nothing named is everything.
    ///
    /// # Errors
    /// The first word that names no field.
    pub(crate) fn parse(reads: &[String]) -> Result<Self, String> {
        if reads.is_empty() {
            return Ok(Self { tags: true, meta: Keys::All, ext: Keys::All, mapping: true });
        }
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
                _ => return Err(word.clone()),
            }
        }
        Ok(projection)
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

    fn parse(reads: &[&str]) -> Result<Projection, String> {
        Projection::parse(&reads.iter().map(|&word| word.to_owned()).collect::<Vec<_>>())
    }

    #[test]
    fn nothing_named_is_everything() {
        let all = Projection { tags: true, meta: Keys::All, ext: Keys::All, mapping: true };
        assert_eq!(parse(&[]), Ok(all));
    }

    #[test]
    fn single_keys_join_and_give_way_to_the_whole() {
        let keys = |reads: &[&str]| parse(reads).map(|projection| projection.meta);
        assert_eq!(
            keys(&["meta/b", "meta/a", "meta/b"]),
            Ok(Keys::Some(vec!["a".into(), "b".into()]))
        );
        assert_eq!(keys(&["meta/b", "meta"]), Ok(Keys::All));
        assert_eq!(keys(&["meta", "meta/b"]), Ok(Keys::All));
        assert_eq!(keys(&["tags"]), Ok(Keys::None));
        assert_eq!(keys(&["meta/a/b"]), Ok(Keys::Some(vec!["a/b".into()])));
    }

    #[test]
    fn an_unknown_field_is_refused() {
        assert_eq!(parse(&["tags", "mappings"]), Err("mappings".to_owned()));
        assert_eq!(parse(&["tags/x"]), Err("tags/x".to_owned()));
    }
}
