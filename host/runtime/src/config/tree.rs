//! A YAML document as a value that knows where everything stands.

use std::collections::BTreeMap;
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
        let root: Spanned<Node> = read.map_err(|error| SyntaxError {
            position: error.location().map_or_else(Position::default, position),
            message: first_line(&error.without_snippet().to_string()),
        })?;
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

/// The JSON Pointer of `key` below `pointer`.
#[must_use]
pub(crate) fn child(pointer: &str, key: &str) -> String {
    format!("{pointer}/{}", key.replace('~', "~0").replace('/', "~1"))
}

fn position(location: serde_saphyr::Location) -> Position {
    Position { line: location.line(), column: location.column() }
}

fn first_line(text: &str) -> String {
    text.lines().next().unwrap_or_default().to_owned()
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
