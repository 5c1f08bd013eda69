//! Makes of a legal input one that is nearly legal: what refuses an input deep inside is only
//! reached by those.

use serde_json::{Map, Value, json};

use super::draw::Draw;

/// The deepest nesting in a text; more than any reader here should take.
const DEPTH_MAX: usize = 3000;
/// How deep a value is put into lists. JSON's reader takes 128.
const VALUE_DEPTHS: [usize; 6] = [1, 2, 10, 40, 100, 150];
/// Values in an input, at most: repeating what was repeated makes gigabytes, which no reader here
/// is ever given, and which take the time of a thousand other cases.
const VALUES_MAX: usize = 5000;
/// How often an input is mutated: mostly so little that it stays legal, or nearly.
const TIMES: [usize; 8] = [0, 0, 1, 1, 1, 2, 3, 6];

/// What has a meaning of its own in YAML or JSON, and what ends up where it must not.
const PIECES: [&str; 44] = [
    "&a ",
    "*a",
    "<<: *a",
    "<<: {a: b}",
    "!!str ",
    "!!int ",
    "!!binary ",
    "!x ",
    "|\n",
    ">-\n",
    "|9\n",
    "---\n",
    "...\n",
    "%YAML 1.2\n",
    "? ",
    ": ",
    "- ",
    "#",
    "\t",
    "\r",
    "\r\n",
    "\n",
    "\u{feff}",
    "\u{85}",
    "\u{2028}",
    "\0",
    "\u{1b}",
    "[",
    "]",
    "{",
    "}",
    ",",
    "\"",
    "'",
    "\\",
    "\\u0000",
    "\\ud800",
    "\\x",
    "~",
    "null",
    "1e999",
    "-0",
    ".nan",
    "9223372036854775808",
];

/// Changes a few things in `value`.
pub fn value(value: &mut Value, draw: &mut Draw<'_>) {
    for _ in 0..*draw.one_of(&TIMES) {
        if count(value) > VALUES_MAX {
            return;
        }
        change(value, draw);
    }
}

/// How many values there are in `value`, itself included.
fn count(value: &Value) -> usize {
    let inner: usize = match value {
        Value::Array(items) => items.iter().map(count).sum(),
        Value::Object(map) => map.values().map(count).sum(),
        Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) => 0,
    };
    1 + inner
}

/// Changes a few things in a text, which then may be no text any more.
pub fn bytes(bytes: &mut Vec<u8>, draw: &mut Draw<'_>) {
    for _ in 0..*draw.one_of(&TIMES) {
        let at = draw.below(bytes.len() + 1);
        let end = at + draw.below(bytes.len() - at + 1).min(64);
        match draw.below(10) {
            0 => bytes.truncate(at),
            1 => drop(bytes.drain(at..end)),
            2 => {
                let again = bytes[at..end].to_vec();
                insert(bytes, end, &again);
            }
            3..6 => insert(bytes, at, draw.one_of(&PIECES).as_bytes()),
            6 => insert(bytes, at, draw.word().as_bytes()),
            7 => insert(bytes, at, &[draw.byte()]),
            8 => {
                let piece = *draw.one_of(&["[", "{a: ", "- ", "{\"a\":", "? ", "[["]);
                insert(bytes, at, piece.repeat(draw.below(DEPTH_MAX)).as_bytes());
            }
            _ => {
                let line = bytes[..at].iter().rposition(|byte| *byte == b'\n').map_or(0, |n| n + 1);
                let rest = bytes[line..].iter().position(|byte| *byte == b'\n');
                let again = bytes[line..rest.map_or(bytes.len(), |n| line + n + 1)].to_vec();
                insert(bytes, line, &again);
            }
        }
    }
}

/// Changes a few bytes of what is no text.
pub fn binary(bytes: &mut Vec<u8>, draw: &mut Draw<'_>) {
    for _ in 0..*draw.one_of(&TIMES) {
        let at = draw.below(bytes.len() + 1);
        let end = at + draw.below(bytes.len() - at + 1).min(64);
        match draw.below(8) {
            0 => bytes.truncate(at),
            1 => drop(bytes.drain(at..end)),
            2 => {
                let again = bytes[at..end].to_vec();
                insert(bytes, end, &again);
            }
            3 => insert(bytes, at, &[0xff, 0xff, 0xff, 0xff, 0x0f]),
            _ => {
                if let Some(byte) = bytes.get_mut(at) {
                    *byte ^= draw.byte();
                }
            }
        }
    }
}

/// `value` as YAML or JSON, mostly as the former.
pub fn printed(value: &Value, draw: &mut Draw<'_>) -> String {
    let yaml = || serde_saphyr::to_string(value).ok();
    match draw.below(4) {
        0..2 => yaml().unwrap_or_else(|| value.to_string()),
        2 => value.to_string(),
        _ => serde_json::to_string_pretty(value).unwrap_or_default(),
    }
}

fn insert(bytes: &mut Vec<u8>, at: usize, piece: &[u8]) {
    drop(bytes.splice(at..at, piece.iter().copied()));
}

/// Goes down to some place in `value` and changes what stands there.
fn change(value: &mut Value, draw: &mut Draw<'_>) {
    let here = draw.once_in(5);
    match value {
        Value::Object(map) if !map.is_empty() && !here => {
            let at = draw.below(map.len());
            if let Some(child) = map.values_mut().nth(at) {
                change(child, draw);
            }
        }
        Value::Array(items) if !items.is_empty() && !here => {
            let at = draw.below(items.len());
            change(&mut items[at], draw);
        }
        Value::Object(map) if !map.is_empty() && !draw.once_in(3) => change_keys(map, draw),
        Value::Array(items) if !items.is_empty() && !draw.once_in(3) => change_items(items, draw),
        Value::String(_) if !draw.once_in(4) => *value = Value::String(draw.word()),
        Value::Number(_) if !draw.once_in(4) => *value = number(draw),
        _ => *value = replaced(value, draw),
    }
}

fn change_keys(map: &mut Map<String, Value>, draw: &mut Draw<'_>) {
    let keys: Vec<String> = map.keys().cloned().collect();
    let (one, other) = (draw.one_of(&keys).clone(), draw.one_of(&keys).clone());
    let taken = map.remove(&one).unwrap_or_default();
    match draw.below(5) {
        0 => {}
        1 => drop(map.insert(draw.word(), taken)),
        2 => {
            let mut near = one;
            near.pop();
            map.insert(near, taken);
        }
        3 => {
            map.insert(draw.word(), taken.clone());
            map.insert(one, taken);
        }
        _ => {
            let swapped = map.insert(other, taken).unwrap_or_default();
            map.insert(one, swapped);
        }
    }
}

fn change_items(items: &mut Vec<Value>, draw: &mut Draw<'_>) {
    let (one, other) = (draw.below(items.len()), draw.below(items.len()));
    match draw.below(4) {
        0 => drop(items.remove(one)),
        1 => items.swap(one, other),
        2 => items.insert(other, items[one].clone()),
        _ => {
            let again = items[one].clone();
            let times = draw.below(300).min(VALUES_MAX / count(&again));
            items.extend(std::iter::repeat_n(again, times));
        }
    }
}

/// Something else in the place of `value`.
fn replaced(value: &Value, draw: &mut Draw<'_>) -> Value {
    match draw.below(12) {
        0..4 => Value::String(draw.word()),
        4 => Value::Null,
        5 => json!({}),
        6 => json!([]),
        7 => json!([value]),
        8..10 => number(draw),
        10 => Value::String(value.to_string()),
        _ => (0..*draw.one_of(&VALUE_DEPTHS)).fold(value.clone(), |inner, _| json!([inner])),
    }
}

fn number(draw: &mut Draw<'_>) -> Value {
    let bounds = [
        json!(0),
        json!(-1),
        json!(1),
        json!(65535),
        json!(65536),
        json!(u32::MAX),
        json!(i64::MIN),
        json!(u64::MAX),
        json!(1.0),
        json!(0.5),
        json!(-0.0),
        json!(1e300),
    ];
    match draw.below(3) {
        0 => json!(draw.number()),
        1 => json!(draw.byte()),
        _ => draw.one_of(&bounds).clone(),
    }
}
