//! A policy's settings: from JSON to a type, or to problems that say where they are.

use std::fmt::Write;

use serde::Deserialize;
use serde::de::DeserializeOwned;
use serde_path_to_error::{Path, Segment};

use crate::Problem;

/// The settings of a policy that has none; any key is refused.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct NoSettings {}

/// A problem with the settings at a JSON Pointer such as `/rules/0/host`; empty for the settings as a whole.
pub fn problem(path: impl Into<String>, message: impl Into<String>) -> Problem {
    Problem { path: path.into(), message: message.into() }
}

/// Reads settings from JSON.
///
/// # Errors
///
/// The first problem that serde meets, with its place.
pub fn parse<T: DeserializeOwned>(json: &str) -> Result<T, Vec<Problem>> {
    // serde would take a list too, as a struct's fields in order.
    if !json.trim_start().starts_with('{') {
        return Err(vec![problem("", "settings must be an object")]);
    }
    let mut reader = serde_json::Deserializer::from_str(json);
    let settings = serde_path_to_error::deserialize(&mut reader)
        .map_err(|error| vec![problem(pointer(error.path()), message(error.inner()))])?;
    reader.end().map_err(|error| vec![problem("", message(&error))])?;
    Ok(settings)
}

fn pointer(path: &Path) -> String {
    let mut pointer = String::new();
    for segment in path {
        pointer.push('/');
        match segment {
            Segment::Seq { index } => {
                // Writing to a string cannot fail.
                let _ = write!(pointer, "{index}");
            }
            // The name of an enum's case is a key in the JSON of an externally tagged enum.
            Segment::Map { key } | Segment::Enum { variant: key } => pointer.push_str(&escape(key)),
            Segment::Unknown => pointer.push('?'),
        }
    }
    pointer
}

/// A key as one part of a JSON Pointer (RFC 6901, section 3).
#[must_use]
pub fn escape(key: &str) -> String {
    key.replace('~', "~0").replace('/', "~1")
}

/// Without the line and column: operators write YAML, and the JSON that is read here is not theirs.
fn message(error: &serde_json::Error) -> String {
    let text = error.to_string();
    let place = format!(" at line {} column {}", error.line(), error.column());
    text.strip_suffix(&place).unwrap_or(&text).to_owned()
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;

    #[derive(Debug, Deserialize)]
    #[serde(deny_unknown_fields)]
    struct Settings {
        #[serde(default)]
        rules: Vec<Rule>,
        #[serde(default)]
        teams: BTreeMap<String, Vec<u8>>,
    }

    #[derive(Debug, Deserialize)]
    #[serde(deny_unknown_fields, rename_all = "camelCase")]
    enum Rule {
        Drop {
            #[allow(dead_code, reason = "only its type matters")]
            reason: String,
        },
    }

    #[track_caller]
    fn check(json: &str, want: &str) {
        let problems = parse::<Settings>(json).unwrap_err();
        let got: Vec<_> = problems.iter().map(|p| format!("{}: {}", p.path, p.message)).collect();
        assert_eq!(got, [want]);
    }

    #[test]
    fn good_settings_are_read() {
        let settings: Settings =
            parse(r#"{"rules": [{"drop": {"reason": "x"}}], "teams": {"a": [1]}}"#).unwrap();
        assert_eq!((settings.rules.len(), &settings.teams["a"]), (1, &vec![1]));
        parse::<NoSettings>("{}").unwrap();
    }

    #[test]
    fn a_problem_says_where_it_is() {
        check(r#"{"rulez": []}"#, "/rulez: unknown field `rulez`, expected `rules` or `teams`");
        check(
            r#"{"rules": [{"drop": {"reason": 1}}]}"#,
            "/rules/0/drop/reason: invalid type: integer `1`, expected a string",
        );
        check(r#"{"rules": [{"drop": {}}]}"#, "/rules/0/drop: missing field `reason`");
        check(
            r#"{"teams": {"a/b~c": [1, 256]}}"#,
            "/teams/a~1b~0c/1: invalid value: integer `256`, expected u8",
        );
        check(r#"{"rules": ["#, "/rules: EOF while parsing a list");
        check("{} {}", ": trailing characters");
        check("[]", ": settings must be an object");
        check("", ": settings must be an object");
    }
}
