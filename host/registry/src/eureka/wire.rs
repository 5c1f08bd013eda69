//! Eureka's answers, as far as they are read. `convert` checks what they say.
//!
//! The JSON was once made from XML, and servers differ in how well: a list of one element may
//! stand without its brackets, a number may be text and text a number, and what is empty may be
//! `null`, an empty text or missing.

use std::collections::BTreeMap;

use serde::de::Error;
use serde::{Deserialize, Deserializer};
use serde_json::Value;
use serde_json::value::RawValue;

/// The answer to `/apps` and to `/apps/delta`.
#[derive(Debug, Deserialize)]
pub(super) struct Answer<'a> {
    // Required: any other object would be an empty registry.
    #[serde(borrow)]
    pub(super) applications: Applications<'a>,
}

#[derive(Debug, Deserialize)]
pub(super) struct Applications<'a> {
    #[serde(rename = "apps__hashcode", default)]
    pub(super) hash: Option<String>,
    #[serde(borrow, default)]
    application: Option<&'a RawValue>,
}

#[derive(Debug, Deserialize)]
pub(super) struct Application<'a> {
    pub(super) name: String,
    #[serde(borrow, default)]
    instance: Option<&'a RawValue>,
}

/// An instance, as it was registered.
#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub(super) struct Instance {
    #[serde(deserialize_with = "text")]
    pub(super) instance_id: String,
    #[serde(deserialize_with = "text")]
    pub(super) host_name: String,
    #[serde(deserialize_with = "text")]
    pub(super) ip_addr: String,
    #[serde(deserialize_with = "text")]
    pub(super) status: String,
    // Servers of before 2016 have no capital in the middle.
    #[serde(alias = "overriddenstatus", deserialize_with = "text")]
    pub(super) overridden_status: String,
    pub(super) port: Port,
    pub(super) secure_port: Port,
    #[serde(deserialize_with = "text")]
    pub(super) vip_address: String,
    #[serde(deserialize_with = "text")]
    pub(super) secure_vip_address: String,
    #[serde(deserialize_with = "text")]
    pub(super) app_group_name: String,
    pub(super) data_center_info: DataCenter,
    pub(super) lease_info: Lease,
    #[serde(deserialize_with = "pairs")]
    pub(super) metadata: BTreeMap<String, String>,
    #[serde(deserialize_with = "millis")]
    pub(super) last_updated_timestamp: u64,
    #[serde(deserialize_with = "millis")]
    pub(super) last_dirty_timestamp: u64,
    #[serde(deserialize_with = "text")]
    pub(super) action_type: String,
}

/// As little of an instance as is needed to know of it, for one that cannot be read in full.
#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub(super) struct InstanceName {
    #[serde(deserialize_with = "lenient")]
    pub(super) instance_id: String,
    #[serde(deserialize_with = "lenient")]
    pub(super) host_name: String,
    #[serde(deserialize_with = "lenient")]
    pub(super) status: String,
    #[serde(deserialize_with = "lenient")]
    pub(super) action_type: String,
    #[serde(deserialize_with = "lenient_millis")]
    pub(super) last_updated_timestamp: u64,
    #[serde(deserialize_with = "lenient_millis")]
    pub(super) last_dirty_timestamp: u64,
    pub(super) lease_info: Lease,
}

/// `{"$": 8080, "@enabled": "true"}`, or the number alone.
#[derive(Debug, Default)]
pub(super) struct Port {
    pub(super) number: Option<i64>,
    pub(super) enabled: Option<bool>,
}

#[derive(Debug, Default)]
pub(super) struct DataCenter {
    /// What Amazon calls the place.
    pub(super) availability_zone: String,
}

#[derive(Debug, Default)]
pub(super) struct Lease {
    /// In milliseconds since the Unix epoch.
    pub(super) last_renewal: Option<u64>,
    /// In milliseconds since the Unix epoch.
    pub(super) registered: Option<u64>,
    pub(super) duration_secs: Option<u64>,
}

// === Lists ===

impl<'a> Applications<'a> {
    pub(super) fn list(&self) -> Result<Vec<Application<'a>>, serde_json::Error> {
        let all = items(self.application)?;
        all.into_iter().map(|one| serde_json::from_str(one.get())).collect()
    }
}

impl<'a> Application<'a> {
    /// Its instances, each still to be parsed: one that is malformed harms no other.
    pub(super) fn instances(&self) -> Result<Vec<&'a RawValue>, serde_json::Error> {
        items(self.instance)
    }
}

/// The elements of a list, or the only one without its brackets.
fn items(raw: Option<&RawValue>) -> Result<Vec<&RawValue>, serde_json::Error> {
    let Some(raw) = raw else { return Ok(Vec::new()) };
    match raw.get().as_bytes().first() {
        Some(b'[') => serde_json::from_str(raw.get()),
        Some(b'{') => Ok(vec![raw]),
        _ if matches!(raw.get(), "null" | r#""""#) => Ok(Vec::new()),
        _ => Err(serde_json::Error::custom("neither a list nor an object stands for a list")),
    }
}

// === Values ===

fn text<'de, D: Deserializer<'de>>(de: D) -> Result<String, D::Error> {
    match scalar(&Value::deserialize(de)?) {
        Some(text) => Ok(text),
        None => Err(D::Error::custom("a list or an object stands for text")),
    }
}

fn lenient<'de, D: Deserializer<'de>>(de: D) -> Result<String, D::Error> {
    Ok(scalar(&Value::deserialize(de)?).unwrap_or_default())
}

fn millis<'de, D: Deserializer<'de>>(de: D) -> Result<u64, D::Error> {
    match &Value::deserialize(de)? {
        value if is_empty(value) => Ok(0),
        value => unsigned(value).ok_or_else(|| D::Error::custom("a time is not a whole number")),
    }
}

fn lenient_millis<'de, D: Deserializer<'de>>(de: D) -> Result<u64, D::Error> {
    Ok(unsigned(&Value::deserialize(de)?).unwrap_or_default())
}

/// Keys with their values. What is no text, number or truth value is left out, and so is what
/// Java says of itself.
fn pairs<'de, D: Deserializer<'de>>(de: D) -> Result<BTreeMap<String, String>, D::Error> {
    match Value::deserialize(de)? {
        Value::Object(fields) => Ok(fields
            .into_iter()
            .filter(|(key, value)| key != "@class" && !value.is_null())
            .filter_map(|(key, value)| Some((key, scalar(&value)?)))
            .collect()),
        value if is_empty(&value) => Ok(BTreeMap::new()),
        _ => Err(D::Error::custom("metadata is not an object")),
    }
}

impl<'de> Deserialize<'de> for Port {
    fn deserialize<D: Deserializer<'de>>(de: D) -> Result<Self, D::Error> {
        let value = Value::deserialize(de)?;
        let number = |value: &Value| {
            if is_empty(value) {
                return Ok(None);
            }
            let number = signed(value);
            number.map(Some).ok_or_else(|| D::Error::custom("a port is not a whole number"))
        };
        let Value::Object(fields) = &value else {
            return Ok(Self { number: number(&value)?, enabled: None });
        };
        let enabled = match fields.get("@enabled").and_then(scalar) {
            Some(word) if word.eq_ignore_ascii_case("true") => Some(true),
            Some(word) if word.eq_ignore_ascii_case("false") => Some(false),
            _ => None,
        };
        Ok(Self { number: number(fields.get("$").unwrap_or(&Value::Null))?, enabled })
    }
}

impl<'de> Deserialize<'de> for DataCenter {
    fn deserialize<D: Deserializer<'de>>(de: D) -> Result<Self, D::Error> {
        let value = Value::deserialize(de)?;
        let zone = value.pointer("/metadata/availability-zone").and_then(scalar);
        Ok(Self { availability_zone: zone.unwrap_or_default() })
    }
}

impl<'de> Deserialize<'de> for Lease {
    fn deserialize<D: Deserializer<'de>>(de: D) -> Result<Self, D::Error> {
        let value = Value::deserialize(de)?;
        let number = |key| value.get(key).and_then(unsigned);
        Ok(Self {
            last_renewal: number("lastRenewalTimestamp"),
            registered: number("registrationTimestamp"),
            duration_secs: number("durationInSecs"),
        })
    }
}

fn scalar(value: &Value) -> Option<String> {
    match value {
        Value::Null => Some(String::new()),
        Value::String(text) => Some(text.clone()),
        Value::Number(number) => Some(number.to_string()),
        Value::Bool(truth) => Some(truth.to_string()),
        Value::Array(_) | Value::Object(_) => None,
    }
}

fn is_empty(value: &Value) -> bool {
    value.is_null() || value.as_str().is_some_and(|text| text.trim().is_empty())
}

fn signed(value: &Value) -> Option<i64> {
    value.as_i64().or_else(|| value.as_str()?.trim().parse().ok())
}

fn unsigned(value: &Value) -> Option<u64> {
    value.as_u64().or_else(|| value.as_str()?.trim().parse().ok())
}
