//! A YAML document as a value that knows where everything stands.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;

use serde::Deserialize;
use serde::de::{Deserializer, MapAccess, SeqAccess, Visitor};
use serde_json::{Map, Number, Value};
use serde_saphyr::Spanned;

/// A line and a column, both from 1.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Position {
    /// From 1; 0 when unknown.
    pub(crate) line: u64,
    /// From 1; 0 when unknown.
    pub(crate) column: u64,
}

/// A document, and where its keys and values stand, by JSON Pointer.
#[derive(Clone, Debug, Default)]
pub(crate) struct Document {
    /// What it says.
    pub(crate) value: Value,
    positions: BTreeMap<String, Position>,
    /// What lost something by [`Document::mended`].
    lessened: BTreeSet<String>,
    /// What was put in by [`Document::mended`].
    filled: BTreeSet<String>,
}

/// A change to a document with something illegal in it, so that the rest can be looked at.
#[derive(Clone, Debug)]
pub(crate) enum Mend {
    /// Takes the value at a pointer out.
    Remove(String),
    /// Puts a value below a pointer under a key that is missing.
    Fill(String, String, Value),
}

/// The text is not YAML.
#[derive(Clone, Debug)]
pub(crate) struct SyntaxError {
    /// Where.
    pub(crate) position: Position,
    /// What is wrong.
    pub(crate) message: String,
}

// A configuration is 6 levels deep, and the rest is for the settings of policies. Each level takes
// up to 40 kB of stack where the compiler does not optimize, and a thread has 2 MiB; what is deeper
// is refused.
const DEPTH_MAX: usize = 32;

enum Node {
    Scalar(Value),
    Sequence(Vec<Spanned<Node>>),
    Mapping(Vec<(Spanned<String>, Spanned<Node>)>),
}

impl Document {
    /// Reads one YAML document; an empty one is an empty mapping.
    ///
    /// # Errors
    /// The text is not YAML, or a key stands twice.
    pub(crate) fn parse(text: &str) -> Result<Self, SyntaxError> {
        let options = serde_saphyr::options! {
            budget: serde_saphyr::budget! { max_depth: DEPTH_MAX },
        };
        let read = serde_saphyr::from_str_with_options(text, options);
        let root: Spanned<Node> = read.map_err(|error| SyntaxError::of(&error))?;
        let mut document = Self::default();
        document.value = document.placed(String::new(), root);
        if document.value.is_null() {
            document.value = Value::Object(Map::new());
        }
        Ok(document)
    }

    /// Where the value at `pointer` stands, or else the nearest thing around it.
    #[must_use]
    pub(crate) fn position(&self, pointer: &str) -> Position {
        let mut pointer = pointer;
        loop {
            if let Some(position) = self.positions.get(pointer) {
                return *position;
            }
            match pointer.rsplit_once('/') {
                Some((parent, _)) => pointer = parent,
                None => return Position { line: 1, column: 1 },
            }
        }
    }

    /// The document after `mends`. What is left keeps its place in the text, though it may have
    /// another pointer.
    #[must_use]
    pub(crate) fn mended(&self, mends: &[Mend]) -> Self {
        let mut removed = BTreeSet::new();
        let mut filled: BTreeMap<&str, Vec<(&str, &Value)>> = BTreeMap::new();
        for mend in mends {
            match mend {
                Mend::Remove(pointer) => {
                    removed.insert(pointer.as_str());
                }
                Mend::Fill(pointer, key, value) => {
                    filled.entry(pointer).or_default().push((key, value));
                }
            }
        }
        let mut mending = Mending { document: self, removed, filled, after: Self::default() };
        let value = mending.copied("", "", &self.value);
        mending.after.value = value.unwrap_or_else(|| {
            mending.after.lessened.insert(String::new());
            Value::Object(Map::new())
        });
        mending.after
    }

    /// Whether nothing was taken out at `pointer` or below, so that what is absent there was never
    /// there.
    #[must_use]
    pub(crate) fn is_whole(&self, pointer: &str) -> bool {
        let below = |other: &String| {
            other.strip_prefix(pointer).is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
        };
        !self.lessened.iter().chain(&self.filled).any(below)
    }

    /// Whether the value at `pointer` stands in for one that is missing in the text.
    #[must_use]
    pub(crate) fn is_filled(&self, pointer: &str) -> bool {
        self.filled.contains(pointer)
    }

    fn placed(&mut self, pointer: String, node: Spanned<Node>) -> Value {
        let value = match node.value {
            Node::Scalar(value) => value,
            Node::Sequence(items) => Value::Array(
                items
                    .into_iter()
                    .enumerate()
                    .map(|(index, item)| self.placed(format!("{pointer}/{index}"), item))
                    .collect(),
            ),
            Node::Mapping(entries) => {
                let mut map = Map::new();
                for (key, node) in entries {
                    let at = position(key.referenced);
                    let child = child(&pointer, &key.value);
                    let value = self.placed(child.clone(), node);
                    // A key is a better place to point at than what stands below it.
                    self.positions.insert(child, at);
                    map.insert(key.value, value);
                }
                Value::Object(map)
            }
        };
        self.positions.entry(pointer).or_insert_with(|| position(node.referenced));
        value
    }
}

/// A document on its way from before some mends to after them.
struct Mending<'a> {
    document: &'a Document,
    removed: BTreeSet<&'a str>,
    filled: BTreeMap<&'a str, Vec<(&'a str, &'a Value)>>,
    after: Document,
}

impl Mending<'_> {
    /// What becomes of `value`, which stood at `from` and is to stand at `to`.
    fn copied(&mut self, from: &str, to: &str, value: &Value) -> Option<Value> {
        if self.removed.contains(from) {
            return None;
        }
        let before = self.document;
        if let Some(position) = before.positions.get(from) {
            self.after.positions.insert(to.to_owned(), *position);
        }
        if before.lessened.contains(from) {
            self.after.lessened.insert(to.to_owned());
        }
        if before.filled.contains(from) {
            self.after.filled.insert(to.to_owned());
        }
        Some(match value {
            Value::Array(items) => {
                let mut kept = Vec::with_capacity(items.len());
                for (index, item) in items.iter().enumerate() {
                    let target = format!("{to}/{}", kept.len());
                    match self.copied(&format!("{from}/{index}"), &target, item) {
                        Some(item) => kept.push(item),
                        None => {
                            self.after.lessened.insert(to.to_owned());
                        }
                    }
                }
                Value::Array(kept)
            }
            Value::Object(entries) => {
                let mut kept = Map::new();
                for (key, value) in entries {
                    match self.copied(&child(from, key), &child(to, key), value) {
                        Some(value) => {
                            kept.insert(key.clone(), value);
                        }
                        None => {
                            self.after.lessened.insert(to.to_owned());
                        }
                    }
                }
                for (key, value) in self.filled.get(from).into_iter().flatten() {
                    kept.insert((*key).to_owned(), (*value).clone());
                    self.after.filled.insert(child(to, key));
                }
                Value::Object(kept)
            }
            Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) => value.clone(),
        })
    }
}

/// The JSON Pointer of `key` below `pointer`.
#[must_use]
pub(crate) fn child(pointer: &str, key: &str) -> String {
    format!("{pointer}/{}", key.replace('~', "~0").replace('/', "~1"))
}

fn position(location: serde_saphyr::Location) -> Position {
    Position { line: location.line(), column: location.column() }
}

impl SyntaxError {
    fn of(error: &serde_saphyr::Error) -> Self {
        use serde_saphyr::DeserializeError as Error;
        let error = error.without_snippet();
        // The reader's own words are those of its programmers.
        let message = match error {
            Error::DuplicateMappingKey { key, .. } => {
                format!("the key {:?} stands twice", key.as_deref().unwrap_or_default())
            }
            Error::MultipleDocuments { .. } => {
                "a second document begins; a configuration is one".to_owned()
            }
            _ => error.to_string().lines().next().unwrap_or_default().to_owned(),
        };
        let position = error.location().map_or_else(Position::default, position);
        // The place is told before it.
        let Position { line, column } = position;
        let message = message.replace(&format!(" at line {line}, column {column}"), "");
        Self { position, message }
    }
}

impl<'de> Deserialize<'de> for Node {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(NodeVisitor)
    }
}

struct NodeVisitor;

impl<'de> Visitor<'de> for NodeVisitor {
    type Value = Node;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a YAML value")
    }

    fn visit_bool<E>(self, value: bool) -> Result<Node, E> {
        Ok(Node::Scalar(Value::Bool(value)))
    }

    fn visit_i64<E>(self, value: i64) -> Result<Node, E> {
        Ok(Node::Scalar(Value::Number(value.into())))
    }

    fn visit_u64<E>(self, value: u64) -> Result<Node, E> {
        Ok(Node::Scalar(Value::Number(value.into())))
    }

    fn visit_f64<E>(self, value: f64) -> Result<Node, E> {
        // JSON has no infinities; as a text they are refused where a number is asked for.
        Ok(Node::Scalar(
            Number::from_f64(value).map_or_else(|| Value::String(value.to_string()), Value::Number),
        ))
    }

    fn visit_str<E>(self, value: &str) -> Result<Node, E> {
        Ok(Node::Scalar(Value::String(value.to_owned())))
    }

    fn visit_unit<E>(self) -> Result<Node, E> {
        Ok(Node::Scalar(Value::Null))
    }

    fn visit_none<E>(self) -> Result<Node, E> {
        Ok(Node::Scalar(Value::Null))
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut items: A) -> Result<Node, A::Error> {
        let mut sequence = Vec::new();
        while let Some(item) = items.next_element()? {
            sequence.push(item);
        }
        Ok(Node::Sequence(sequence))
    }

    fn visit_map<A: MapAccess<'de>>(self, mut entries: A) -> Result<Node, A::Error> {
        let mut mapping = Vec::new();
        while let Some(entry) = entries.next_entry()? {
            mapping.push(entry);
        }
        Ok(Node::Mapping(mapping))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn everything_knows_its_place() {
        let document = Document::parse("a: 1\nb:\n  - c: {d: x}\n  - ~\n").unwrap();
        assert_eq!(document.value, serde_json::json!({"a": 1, "b": [{"c": {"d": "x"}}, null]}));
        assert_eq!(document.position("/a"), Position { line: 1, column: 1 });
        assert_eq!(document.position("/b/0/c/d"), Position { line: 3, column: 9 });
        assert_eq!(document.position("/b/0/c/e"), Position { line: 3, column: 5 });
        assert_eq!(document.position("/b/1"), Position { line: 4, column: 5 });
    }

    #[test]
    fn what_is_left_after_a_mend_keeps_its_place() {
        let document = Document::parse("a:\n  - 1\n  - {b: 2, c: 3}\nd: {}\n").unwrap();
        let mended = document.mended(&[
            Mend::Remove("/a/0".to_owned()),
            Mend::Remove("/a/1/b".to_owned()),
            Mend::Fill("/d".to_owned(), "e".to_owned(), Value::from("x")),
        ]);
        assert_eq!(mended.value, serde_json::json!({"a": [{"c": 3}], "d": {"e": "x"}}));
        assert_eq!(mended.position("/a/0/c"), Position { line: 3, column: 12 });
        assert_eq!(mended.position("/d/e"), Position { line: 4, column: 1 });
        assert!(!mended.is_whole("/a") && !mended.is_whole("/a/0") && !mended.is_whole("/d"));
        assert!(mended.is_whole("/a/0/c") && mended.is_filled("/d/e"));
        let nothing = mended.mended(&[Mend::Remove(String::new())]);
        assert_eq!(nothing.value, serde_json::json!({}));
        assert!(!nothing.is_whole(""));
    }

    #[test]
    fn what_is_not_yaml_is_refused_with_its_place() {
        let error = Document::parse("a: 1\nb: [1, 2\nc: 3\n").unwrap_err();
        assert!(error.position.line >= 2, "{error:?}");
        assert!(Document::parse("a: 1\na: 2\n").is_err());
    }

    #[test]
    fn what_is_deep_is_refused_before_the_stack_ends() {
        let nested = |depth: usize, inner: &str| {
            format!("{}{inner}{}", "[".repeat(depth), "]".repeat(depth))
        };
        assert!(Document::parse(&nested(DEPTH_MAX, "")).is_ok());
        for depth in [DEPTH_MAX + 1, 64, 3000] {
            assert!(Document::parse(&nested(depth, "")).is_err(), "{depth}");
        }
        // The same by aliases, each of which stands for what is nearly as deep as may be.
        let mut aliased = format!("a0: &a0 {}\n", nested(30, ""));
        for n in 1..100 {
            let inner = nested(28, &format!("*a{}", n - 1));
            aliased.push_str(&format!("a{n}: &a{n} {inner}\n"));
        }
        assert!(Document::parse(&aliased).is_err());
    }
}
