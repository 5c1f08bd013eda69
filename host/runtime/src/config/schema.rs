//! The JSON Schema of the configuration, and the check of a document against it: every problem at
//! once, each for a person.

use jsonschema::error::{TypeKind, ValidationErrorKind};
use jsonschema::{ValidationError, Validator};
use schemars::generate::SchemaSettings;
use serde_json::Value;

use super::tree::{Document, Mend, child};
use super::wire::Config;
use super::{Problem, nearest};

/// The JSON Schema of the configuration file.
#[must_use]
pub fn json_schema() -> Value {
    let generator = SchemaSettings::draft2020_12().into_generator();
    let mut schema = generator.into_root_schema_for::<Config>().to_value();
    without_null(&mut schema);
    schema
}

/// One round takes out what is refused, a second puts in what must be there, and what is put in
/// fits; one more for what nobody thought of.
const MEND_ROUNDS_MAX: usize = 3;

/// What of `document` fits the schema, and what is wrong with the rest.
pub(super) fn checked(mut document: Document) -> (Document, Vec<Problem>) {
    let schema = json_schema();
    let validator = match Validator::new(&schema) {
        Ok(validator) => validator,
        Err(error) => {
            let problem = document.problem("", format!("the schema is broken: {error}"));
            return (document, vec![problem]);
        }
    };
    let mut problems = Vec::new();
    for round in 0..MEND_ROUNDS_MAX {
        let mut mends = Vec::new();
        for error in validator.iter_errors(&document.value) {
            // What is wrong later follows from what was taken out and is nobody's fault.
            if round == 0 {
                problems.extend(explained(&document, &schema, &error));
            }
            mends.extend(mend(&schema, &error));
        }
        if mends.is_empty() {
            break;
        }
        document = document.mended(&mends);
    }
    (document, problems)
}

/// What makes the rest of the document legal.
fn mend(schema: &Value, error: &ValidationError<'_>) -> Vec<Mend> {
    let pointer = error.instance_path().as_str();
    match error.kind() {
        ValidationErrorKind::AdditionalProperties { unexpected } => {
            unexpected.iter().map(|key| Mend::Remove(child(pointer, key))).collect()
        }
        ValidationErrorKind::Required { property } => {
            let key = property.as_str().unwrap_or_default().to_owned();
            let value = stand_in(schema, error.schema_path().as_str(), &key);
            vec![Mend::Fill(pointer.to_owned(), key, value)]
        }
        _ => vec![Mend::Remove(pointer.to_owned())],
    }
}

/// A value of the type that the missing property `key` is to have. Required are texts, and objects
/// of which nothing is required.
fn stand_in(schema: &Value, schema_path: &str, key: &str) -> Value {
    let object = schema_path.strip_suffix("/required").unwrap_or(schema_path);
    let path = child(&format!("{object}/properties"), key);
    let is_text = |schema: &Value| schema.get("type").is_some_and(|kind| kind == "string");
    match schema.pointer(&resolved(schema, &path)) {
        Some(schema) if is_text(schema) && schema.get("minLength").is_some() => Value::from("-"),
        Some(schema) if is_text(schema) => Value::from(""),
        Some(_) | None => Value::Object(serde_json::Map::new()),
    }
}

/// What a message calls the value at `pointer`.
fn called(pointer: &str) -> String {
    let unescaped = |part: &str| part.replace("~1", "/").replace("~0", "~");
    let Some((parent, last)) = pointer.rsplit_once('/') else {
        return "the configuration".to_owned();
    };
    match (last.parse::<usize>(), parent.rsplit_once('/')) {
        (Ok(index), Some((_, list))) => format!("entry {} of {:?}", index + 1, unescaped(list)),
        (Ok(_), None) | (Err(_), _) => format!("{:?}", unescaped(last)),
    }
}

fn explained(document: &Document, schema: &Value, error: &ValidationError<'_>) -> Vec<Problem> {
    let pointer = error.instance_path().as_str();
    let name = called(pointer);
    let message = match error.kind() {
        ValidationErrorKind::AdditionalProperties { unexpected } => {
            let known = known_keys(schema, error.schema_path().as_str());
            return unexpected
                .iter()
                .map(|key| {
                    let hint = nearest(key, known.iter().map(String::as_str)).map_or_else(
                        || format!("known are {}", known.join(", ")),
                        |near| format!("did you mean {near:?}?"),
                    );
                    document.problem(&child(pointer, key), format!("unknown key {key:?}; {hint}"))
                })
                .collect();
        }
        ValidationErrorKind::Required { property } => {
            format!("key {property} is missing")
        }
        ValidationErrorKind::Type { kind } => {
            let wanted = match kind {
                TypeKind::Single(kind) => kind.to_string(),
                TypeKind::Multiple(kinds) => {
                    kinds.iter().map(|kind| kind.to_string()).collect::<Vec<_>>().join(" or ")
                }
            };
            format!("{name} must be of type {wanted}, but is {}", shown(error.instance()))
        }
        ValidationErrorKind::Enum { options } => {
            let options: Vec<&str> =
                options.as_array().into_iter().flatten().filter_map(Value::as_str).collect();
            let hint = error
                .instance()
                .as_str()
                .and_then(|word| nearest(word, options.iter().copied()))
                .map_or_else(String::new, |near| format!("; did you mean {near:?}?"));
            format!(
                "{name} is {}, but must be one of {}{hint}",
                shown(error.instance()),
                options.join(", ")
            )
        }
        ValidationErrorKind::Pattern { .. } => {
            let schema_path = error.schema_path().as_str();
            let described = schema_path
                .rsplit_once('/')
                .and_then(|(parent, _)| schema.pointer(&resolved(schema, parent)))
                .and_then(|schema| schema.get("description"))
                .and_then(Value::as_str)
                .unwrap_or("see the schema");
            format!("{name} is {}, which does not fit: {described}", shown(error.instance()))
        }
        ValidationErrorKind::OneOfNotValid { .. } => {
            let options = one_of_words(schema, error.schema_path().as_str());
            let hint = error
                .instance()
                .as_str()
                .and_then(|word| nearest(word, options.iter().map(String::as_str)))
                .map_or_else(String::new, |near| format!("; did you mean {near:?}?"));
            format!(
                "{name} is {}, but must be one of {}{hint}",
                shown(error.instance()),
                options.join(", ")
            )
        }
        // Paths alone have a least length.
        ValidationErrorKind::MinLength { .. } => {
            format!("{name} is empty, but must name a file or a folder")
        }
        ValidationErrorKind::Minimum { limit } => {
            format!("{name} is {}, but must be {limit} or more", shown(error.instance()))
        }
        ValidationErrorKind::Maximum { limit } => {
            format!("{name} is {}, but must be {limit} or less", shown(error.instance()))
        }
        _ => format!("{name}: {error}"),
    };
    vec![document.problem(pointer, message)]
}

fn shown(value: &Value) -> String {
    let text = value.to_string();
    if text.chars().count() > 60 {
        format!("{}…", text.chars().take(60).collect::<String>())
    } else {
        text
    }
}

/// The keys of the object whose `additionalProperties` refused something.
fn known_keys(schema: &Value, schema_path: &str) -> Vec<String> {
    let object = schema_path.strip_suffix("/additionalProperties").unwrap_or(schema_path);
    schema
        .pointer(&format!("{}/properties", resolved(schema, object)))
        .and_then(Value::as_object)
        .map(|properties| properties.keys().cloned().collect())
        .unwrap_or_default()
}

/// The words of an enumeration whose cases have comments of their own.
fn one_of_words(schema: &Value, schema_path: &str) -> Vec<String> {
    schema
        .pointer(&resolved(schema, schema_path))
        .and_then(Value::as_array)
        .into_iter()
        .flatten()
        .filter_map(|case| case.get("const").and_then(Value::as_str))
        .map(str::to_owned)
        .collect()
}

/// A schema path with every `$ref` on the way followed, as a pointer into the schema itself.
fn resolved(schema: &Value, path: &str) -> String {
    let mut at = String::new();
    for step in path.split('/').skip(1) {
        if step == "$ref" {
            let target = schema
                .pointer(&format!("{at}/$ref"))
                .and_then(Value::as_str)
                .and_then(|target| target.strip_prefix('#'));
            if let Some(target) = target {
                at = target.to_owned();
                continue;
            }
        }
        at.push('/');
        at.push_str(step);
    }
    at
}

/// Takes `null` out of what optional fields may be: whoever wants a field unset leaves it out,
/// and every message about it is about the one type it has.
fn without_null(schema: &mut Value) {
    match schema {
        Value::Object(object) => {
            if let Some(Value::Array(types)) = object.get_mut("type") {
                types.retain(|kind| kind != "null");
                if let [kind] = types.as_slice() {
                    let kind = kind.clone();
                    object.insert("type".to_owned(), kind);
                }
            }
            if let Some(Value::Array(cases)) = object.get_mut("anyOf") {
                cases.retain(|case| case.get("type").is_none_or(|kind| kind != "null"));
                if let [Value::Object(case)] = cases.as_slice() {
                    let case = case.clone();
                    object.remove("anyOf");
                    for (key, value) in case {
                        object.entry(key).or_insert(value);
                    }
                }
            }
            if object.get("default").is_some_and(Value::is_null) {
                object.remove("default");
            }
            object.values_mut().for_each(without_null);
        }
        Value::Array(items) => items.iter_mut().for_each(without_null),
        Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) => {}
    }
}
