//! Numbers with units, as a configuration writes them.

use std::borrow::Cow;
use std::fmt;
use std::str::FromStr;

use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::{Deserialize, Deserializer, Serialize, Serializer, de};

/// A length of time, such as `50ms`, `30s`, `10m` or `1h`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Duration(pub std::time::Duration);

/// A number of bytes, such as `512Ki`, `64Mi` or `1Gi`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Size(pub u64);

/// A share of a hundred, such as `20%`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Percent(pub u8);

const DURATION_PATTERN: &str = "^[0-9]{1,9}(ms|s|m|h)$";
const SIZE_PATTERN: &str = "^[0-9]{1,9}(Ki|Mi|Gi)$";
const PERCENT_PATTERN: &str = "^([0-9]|[1-9][0-9]|100)%$";

impl FromStr for Duration {
    type Err = String;

    fn from_str(raw: &str) -> Result<Self, String> {
        let (number, unit) = split(raw);
        let millis_each: u64 = match unit {
            "ms" => 1,
            "s" => 1_000,
            "m" => 60_000,
            "h" => 3_600_000,
            _ => return Err(format!("{raw:?} is not a duration, such as 50ms, 30s, 10m or 1h")),
        };
        let number: u64 = number.parse().map_err(|_| format!("{raw:?} has no number"))?;
        Ok(Self(std::time::Duration::from_millis(number.saturating_mul(millis_each))))
    }
}

impl FromStr for Size {
    type Err = String;

    fn from_str(raw: &str) -> Result<Self, String> {
        let (number, unit) = split(raw);
        let bytes_each: u64 = match unit {
            "Ki" => 1 << 10,
            "Mi" => 1 << 20,
            "Gi" => 1 << 30,
            _ => return Err(format!("{raw:?} is not a size, such as 512Ki, 64Mi or 1Gi")),
        };
        let number: u64 = number.parse().map_err(|_| format!("{raw:?} has no number"))?;
        Ok(Self(number.saturating_mul(bytes_each)))
    }
}

impl FromStr for Percent {
    type Err = String;

    fn from_str(raw: &str) -> Result<Self, String> {
        let share = raw.strip_suffix('%').and_then(|number| number.parse().ok());
        match share {
            Some(share @ 0..=100) => Ok(Self(share)),
            Some(_) | None => Err(format!("{raw:?} is not a share, such as 20%")),
        }
    }
}

fn split(raw: &str) -> (&str, &str) {
    raw.split_at(raw.find(|c: char| !c.is_ascii_digit()).unwrap_or(raw.len()))
}

impl fmt::Display for Duration {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0.as_millis() {
            0 => f.write_str("0s"),
            millis if millis % 3_600_000 == 0 => write!(f, "{}h", millis / 3_600_000),
            millis if millis % 60_000 == 0 => write!(f, "{}m", millis / 60_000),
            millis if millis % 1_000 == 0 => write!(f, "{}s", millis / 1_000),
            millis => write!(f, "{millis}ms"),
        }
    }
}

impl fmt::Display for Size {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0 {
            bytes if bytes % (1 << 30) == 0 => write!(f, "{}Gi", bytes >> 30),
            bytes if bytes % (1 << 20) == 0 => write!(f, "{}Mi", bytes >> 20),
            bytes => write!(f, "{}Ki", bytes >> 10),
        }
    }
}

impl fmt::Display for Percent {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}%", self.0)
    }
}

/// What the three have in common: they are written as a text of a pattern.
macro_rules! written_as_text {
    ($type:ident, $name:literal, $pattern:expr, $description:literal) => {
        impl Serialize for $type {
            fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
                serializer.collect_str(self)
            }
        }

        impl<'de> Deserialize<'de> for $type {
            fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
                let raw = String::deserialize(deserializer)?;
                raw.parse().map_err(de::Error::custom)
            }
        }

        impl JsonSchema for $type {
            fn schema_name() -> Cow<'static, str> {
                $name.into()
            }

            fn json_schema(_: &mut SchemaGenerator) -> Schema {
                json_schema!({
                    "type": "string",
                    "pattern": $pattern,
                    "description": $description,
                })
            }
        }
    };
}

written_as_text!(
    Duration,
    "Duration",
    DURATION_PATTERN,
    "A length of time, such as `50ms`, `30s`, `10m` or `1h`."
);
written_as_text!(Size, "Size", SIZE_PATTERN, "A size, such as `512Ki`, `64Mi` or `1Gi`.");
written_as_text!(Percent, "Percent", PERCENT_PATTERN, "A share of a hundred, such as `20%`.");

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn units_round_trip() {
        for raw in ["50ms", "30s", "10m", "1h", "0s", "1500ms"] {
            assert_eq!(raw.parse::<Duration>().map(|d| d.to_string()), Ok(raw.to_owned()));
        }
        for raw in ["512Ki", "64Mi", "1Gi"] {
            assert_eq!(raw.parse::<Size>().map(|d| d.to_string()), Ok(raw.to_owned()));
        }
        for raw in ["0%", "20%", "100%"] {
            assert_eq!(raw.parse::<Percent>().map(|d| d.to_string()), Ok(raw.to_owned()));
        }
    }

    #[test]
    fn numbers_without_units_are_refused() {
        assert!("30".parse::<Duration>().is_err());
        assert!("64M".parse::<Size>().is_err());
        assert!("101%".parse::<Percent>().is_err());
        assert!("s".parse::<Duration>().is_err());
    }
}
