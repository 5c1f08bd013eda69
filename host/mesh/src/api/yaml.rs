//! Reads YAML, and prints JSON values as YAML that every reader takes the same way.
//!
//! istiod's reader follows YAML 1.1, where `yes`, `1_000` and `12:30` are no strings, and refuses
//! some characters even within quotes. So only plain words go without quotes, and within quotes
//! everything but printable ASCII is escaped.

use std::fmt::Write as _;

use serde_json::{Map, Value};

/// What a reader wants to see first; all other keys follow in the order of their names.
const ORDER: [&str; 14] = [
    "apiVersion",
    "kind",
    "metadata",
    "spec",
    "name",
    "namespace",
    "address",
    "hosts",
    "addresses",
    "ports",
    "location",
    "resolution",
    "workloadSelector",
    "endpoints",
];

/// Plain words that some reader takes for something else than a string.
const AMBIGUOUS: [&str; 10] = ["true", "false", "null", "yes", "no", "on", "off", "y", "n", "nan"];

// An object of the largest size has fewer; what is larger is not ours.
const NODES_MAX: usize = 2_000_000;
const EVENTS_MAX: usize = 3 * NODES_MAX;

/// The value of one YAML document.
pub(super) fn read(text: &str) -> Result<Value, String> {
    let options = serde_saphyr::options! {
        budget: serde_saphyr::budget! { max_nodes: NODES_MAX, max_events: EVENTS_MAX },
    };
    serde_saphyr::from_str_with_options(text, options).map_err(|error| error.to_string())
}

/// `value` as one YAML document, without a marker before or after it.
pub(super) fn print(value: &Value) -> String {
    let mut out = String::new();
    match value {
        Value::Object(map) if !map.is_empty() => mapping(map, 0, &mut out),
        other => {
            scalar(other, &mut out);
            out.push('\n');
        }
    }
    out
}

fn mapping(map: &Map<String, Value>, indent: usize, out: &mut String) {
    let mut keys: Vec<&String> = map.keys().collect();
    let rank = |key: &str| ORDER.iter().position(|k| *k == key).unwrap_or(ORDER.len());
    keys.sort_by(|a, b| (rank(a), a).cmp(&(rank(b), b)));
    for (index, key) in keys.into_iter().enumerate() {
        // The first key of an item stands behind the item's dash.
        if index > 0 || !out.ends_with("- ") {
            pad(indent, out);
        }
        string(key, out);
        out.push(':');
        match &map[key] {
            Value::Object(inner) if !inner.is_empty() => {
                out.push('\n');
                mapping(inner, indent + 1, out);
            }
            Value::Array(items) if !items.is_empty() => {
                out.push('\n');
                sequence(items, indent, out);
            }
            other => {
                out.push(' ');
                scalar(other, out);
                out.push('\n');
            }
        }
    }
}

fn sequence(items: &[Value], indent: usize, out: &mut String) {
    for item in items {
        pad(indent, out);
        out.push_str("- ");
        match item {
            Value::Object(map) if !map.is_empty() => mapping(map, indent + 1, out),
            other => {
                scalar(other, out);
                out.push('\n');
            }
        }
    }
}

fn scalar(value: &Value, out: &mut String) {
    match value {
        Value::String(text) => string(text, out),
        // Numbers, words, and collections that are empty or nested in a list: JSON is YAML.
        other => {
            let _ = write!(out, "{other}");
        }
    }
}

fn string(text: &str, out: &mut String) {
    if is_plain(text) {
        out.push_str(text);
        return;
    }
    out.push('"');
    for c in text.chars() {
        let _ = match c {
            '"' => out.write_str("\\\""),
            '\\' => out.write_str("\\\\"),
            ' '..='~' => out.write_char(c),
            _ if u32::from(c) <= 0xff => write!(out, "\\x{:02X}", u32::from(c)),
            _ if u32::from(c) <= 0xffff => write!(out, "\\u{:04X}", u32::from(c)),
            _ => write!(out, "\\U{:08X}", u32::from(c)),
        };
    }
    out.push('"');
}

fn is_plain(text: &str) -> bool {
    text.starts_with(|c: char| c.is_ascii_alphabetic())
        && text.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'.' | b'/' | b'-' | b'_'))
        && !AMBIGUOUS.iter().any(|word| text.eq_ignore_ascii_case(word))
}

fn pad(indent: usize, out: &mut String) {
    for _ in 0..indent {
        out.push_str("  ");
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn strings_stay_strings() {
        for text in [
            "",
            "yes",
            "No",
            "null",
            "~",
            "1",
            "1.0",
            "0x1f",
            "1e3",
            "12:30",
            "1_000",
            "- a",
            "a: b",
            "# c",
            "*a",
            "&a",
            "!a",
            "a\nb",
            "ü",
            "\u{7f}",
            "\u{85}",
            "\u{2028}",
            "\u{feff}",
            "\u{fffe}",
            "🦀",
            "\"",
            "\\",
            "'",
            "%a",
            "@a",
            "`a",
            "{",
            "[",
            " a",
            "a ",
            "=",
            "<<",
            ".inf",
            "nan",
            "2001-01-01",
            "\u{0}",
        ] {
            let value = json!({ text: text, "list": [text, {"k": text}] });
            let printed = print(&value);
            assert_eq!(read(&printed).expect(&printed), value, "{printed}");
            assert!(printed.bytes().all(|b| b == b'\n' || (0x20..0x7f).contains(&b)), "{printed}");
        }
    }

    #[test]
    fn layout() {
        let value = json!({"spec": {"ports": [{"number": 80, "name": "http"}], "hosts": ["a.b"]},
            "apiVersion": "v1", "kind": "K", "empty": {}, "none": []});
        expect_test::expect![[r#"
            apiVersion: v1
            kind: K
            spec:
              hosts:
              - a.b
              ports:
              - name: http
                number: 80
            empty: {}
            none: []
        "#]]
        .assert_eq(&print(&value));
    }
}
