//! Prints objects as manifests: JSON for the API server, YAML for files and people.
//!
//! Invariant: what is printed reads back as the same object.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::net::IpAddr;

use landfall_core::pairs::Pairs;
use landfall_core::text::Text;
use landfall_core::time::Time;
use serde::ser::{Serialize, SerializeMap, Serializer};

use super::{
    ApiVersion, Body, EndpointAddress, Endpoints, MANAGED_BY, MANAGED_BY_LABEL, MeshObject,
    OWNER_LABEL, Owner, REMOVED_AT_ANNOTATION, SOURCES_ANNOTATION, ServiceEntry, Spec,
    WorkloadEntry, yaml,
};

/// A manifest could not be printed. Does not happen with the types of this crate.
#[derive(Debug, thiserror::Error)]
#[error("failed to print the manifest of {object}")]
pub struct PrintError {
    object: String,
    #[source]
    source: serde_json::Error,
}

/// An object as it is sent.
#[derive(Clone, Copy, Debug)]
pub struct Manifest<'a> {
    object: &'a MeshObject,
    owner: &'a Owner,
    version: ApiVersion,
    extra: Extra<'a>,
}

/// Metadata that only some manifests carry; empty ones are left out.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Extra<'a> {
    pub(crate) uid: &'a str,
    pub(crate) resource_version: &'a str,
    pub(crate) creation_timestamp: &'a str,
}

/// The manifest of `object` as JSON.
///
/// # Errors
/// Never in practice, see [`PrintError`].
pub fn to_json(
    object: &MeshObject,
    owner: &Owner,
    version: ApiVersion,
) -> Result<serde_json::Value, PrintError> {
    Manifest::new(object, owner, version).to_value()
}

/// The manifest of `object` as YAML.
///
/// # Errors
/// Never in practice, see [`PrintError`].
pub fn to_yaml(
    object: &MeshObject,
    owner: &Owner,
    version: ApiVersion,
) -> Result<String, PrintError> {
    Manifest::new(object, owner, version).to_yaml()
}

// === impl Manifest ===

impl<'a> Manifest<'a> {
    /// The manifest of `object`.
    #[must_use]
    pub fn new(object: &'a MeshObject, owner: &'a Owner, version: ApiVersion) -> Self {
        Self { object, owner, version, extra: Extra::default() }
    }

    pub(crate) fn with(self, extra: Extra<'a>) -> Self {
        Self { extra, ..self }
    }

    pub(crate) fn to_value(self) -> Result<serde_json::Value, PrintError> {
        serde_json::to_value(self)
            .map_err(|source| PrintError { object: self.object.id.to_string(), source })
    }

    /// The manifest as JSON that is the same when it is read as YAML, which is what API servers
    /// do with an apply: their reader refuses some characters and takes others for line breaks,
    /// even within quotes. All of those have an escape of four digits.
    pub(crate) fn to_apply(self) -> Result<Vec<u8>, PrintError> {
        let json = serde_json::to_string(&self)
            .map_err(|source| PrintError { object: self.object.id.to_string(), source })?;
        let is_refused = |c: char| {
            matches!(
                c,
                '\u{7f}'
                    ..='\u{9f}' | '\u{2028}' | '\u{2029}' | '\u{feff}' | '\u{fffe}' | '\u{ffff}'
            )
        };
        if !json.contains(is_refused) {
            return Ok(json.into_bytes());
        }
        let mut escaped = String::with_capacity(json.len() + 64);
        for c in json.chars() {
            if is_refused(c) {
                // Writing to a string never fails.
                let _ = write!(escaped, "\\u{:04x}", u32::from(c));
            } else {
                escaped.push(c);
            }
        }
        Ok(escaped.into_bytes())
    }

    pub(crate) fn to_yaml(self) -> Result<String, PrintError> {
        Ok(yaml::print(&self.to_value()?))
    }
}

impl Serialize for Manifest<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut map = serializer.serialize_map(Some(4))?;
        map.serialize_entry("apiVersion", self.version.with_group())?;
        map.serialize_entry("kind", self.object.id.kind.as_str())?;
        map.serialize_entry("metadata", &MetadataOf(self))?;
        match &self.object.body.spec {
            Spec::ServiceEntry(spec) => map.serialize_entry("spec", spec)?,
            Spec::WorkloadEntry(spec) => map.serialize_entry("spec", spec)?,
        }
        map.end()
    }
}

struct MetadataOf<'a>(&'a Manifest<'a>);

impl Serialize for MetadataOf<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let Manifest { object, owner, extra, .. } = self.0;
        let mut map = serializer.serialize_map(None)?;
        map.serialize_entry("name", &object.id.name)?;
        map.serialize_entry("namespace", &object.id.namespace)?;
        for (key, value) in [
            ("uid", extra.uid),
            ("resourceVersion", extra.resource_version),
            ("creationTimestamp", extra.creation_timestamp),
        ] {
            if !value.is_empty() {
                map.serialize_entry(key, value)?;
            }
        }
        let mut labels: BTreeMap<&str, &str> = pairs(&object.body.labels);
        labels.insert(OWNER_LABEL, owner.as_str());
        labels.insert(MANAGED_BY_LABEL, MANAGED_BY);
        map.serialize_entry("labels", &labels)?;
        let mut annotations: BTreeMap<&str, &str> = pairs(&object.body.annotations);
        let sources =
            object.sources.iter().map(|source| source.as_str()).collect::<Vec<_>>().join(",");
        if !sources.is_empty() {
            annotations.insert(SOURCES_ANNOTATION, &sources);
        }
        let removed_at = object.removal.map(rfc3339);
        if let Some(removed_at) = &removed_at {
            annotations.insert(REMOVED_AT_ANNOTATION, removed_at);
        }
        if !annotations.is_empty() {
            map.serialize_entry("annotations", &annotations)?;
        }
        map.end()
    }
}

fn pairs(pairs: &Pairs) -> BTreeMap<&str, &str> {
    pairs.iter().map(|(key, value)| (&**key, &**value)).collect()
}

/// `time` in RFC 3339 with milliseconds. Times beyond the year 9999 become its end.
pub(crate) fn rfc3339(time: Time) -> String {
    let timestamp = i64::try_from(time.millis())
        .ok()
        .and_then(|millis| jiff::Timestamp::from_millisecond(millis).ok())
        .unwrap_or(jiff::Timestamp::MAX);
    format!("{timestamp:.3}")
}

// === size ===

/// How many bytes the object's labels, annotations and spec are as compact JSON: worked out
/// without printing, for it is asked of every object.
pub(crate) fn json_len(body: &Body) -> usize {
    pairs_len(&body.labels)
        + pairs_len(&body.annotations)
        + match &body.spec {
            Spec::ServiceEntry(spec) => service_entry_len(spec),
            Spec::WorkloadEntry(spec) => endpoint_len(spec),
        }
}

/// How many bytes a ServiceEntry's spec is as compact JSON.
pub(crate) fn service_entry_len(spec: &ServiceEntry) -> usize {
    let list = |name: &str, list: &[Text]| {
        if list.is_empty() { 0 } else { field(name) + seq(list.iter().map(|text| string(text))) }
    };
    let ports = spec.ports.iter().map(|port| {
        2 + field("name")
            + string(&port.name)
            + field("number")
            + digits(port.number)
            + optional("protocol", &port.protocol)
            + if port.target_port == 0 { 0 } else { field("targetPort") + digits(port.target_port) }
    });
    // Braces, less the comma that the first field does not have.
    1 + list("hosts", &spec.hosts)
        + list("addresses", &spec.addresses)
        + if spec.ports.is_empty() { 0 } else { field("ports") + seq(ports.map(|len| len - 1)) }
        + optional("location", spec.location.as_str())
        + optional("resolution", spec.resolution.as_str())
        + match &spec.endpoints {
            Endpoints::Inline(list) if list.is_empty() => 0,
            Endpoints::Inline(list) => field("endpoints") + seq(list.iter().map(endpoint_len)),
            Endpoints::Selected(labels) if labels.is_empty() => field("workloadSelector") + 2,
            Endpoints::Selected(labels) => {
                field("workloadSelector") + 2 + field("labels") - 1 + pairs_len(labels)
            }
        }
        + list("exportTo", &spec.export_to)
        + list("subjectAltNames", &spec.subject_alt_names)
}

/// How many bytes an endpoint is as compact JSON.
pub(crate) fn endpoint_len(endpoint: &WorkloadEntry) -> usize {
    let mut len = 0;
    if !endpoint.address.is_empty() {
        len += field("address") + address_len(&endpoint.address);
    }
    if !endpoint.ports.is_empty() {
        let ports = endpoint.ports.iter().map(|(name, number)| string(name) + 1 + digits(*number));
        len += field("ports") + seq(ports);
    }
    if !endpoint.labels.is_empty() {
        len += field("labels") + pairs_len(&endpoint.labels);
    }
    len += optional("network", &endpoint.network) + optional("locality", &endpoint.locality);
    if endpoint.weight != 0 {
        len += field("weight") + digits(endpoint.weight);
    }
    len += optional("serviceAccount", &endpoint.service_account);
    // Braces, less the comma that the first field does not have.
    (len + 1).max(2)
}

fn address_len(address: &EndpointAddress) -> usize {
    match address {
        // By far the most frequent, so not by printing it: four numbers and three dots.
        EndpointAddress::Ip(IpAddr::V4(ip)) => {
            ip.octets().iter().map(|octet| digits(u32::from(*octet))).sum::<usize>() + 5
        }
        EndpointAddress::Ip(ip @ IpAddr::V6(_)) => ip.to_string().len() + 2,
        EndpointAddress::Other(text) => string(text),
    }
}

/// A field's name with quotes, colon and the comma before it.
const fn field(name: &str) -> usize {
    name.len() + 4
}

fn optional(name: &str, value: &str) -> usize {
    if value.is_empty() { 0 } else { field(name) + string(value) }
}

fn string(text: &str) -> usize {
    2 + escaped(text)
}

fn escaped(text: &str) -> usize {
    text.bytes()
        .map(|byte| match byte {
            b'"' | b'\\' | b'\n' | b'\r' | b'\t' | 0x08 | 0x0c => 2,
            0..0x20 => 6,
            _ => 1,
        })
        .sum()
}

fn digits(number: u32) -> usize {
    number.checked_ilog10().map_or(1, |log| log as usize + 1)
}

/// Brackets or braces around items with commas between.
fn seq(items: impl Iterator<Item = usize>) -> usize {
    let (count, sum) = items.fold((0, 0), |(count, sum), len| (count + 1, sum + len));
    2 + sum + if count == 0 { 0 } else { count - 1 }
}

/// How many bytes pairs are as a map of compact JSON.
pub(crate) fn pairs_len(pairs: &Pairs) -> usize {
    seq(pairs.iter().map(|(key, value)| string(key) + 1 + string(value)))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing;

    #[test]
    fn sizes_are_those_of_the_json() {
        for body in testing::bodies(7, 300) {
            let (spec, len) = match &body.spec {
                Spec::ServiceEntry(spec) => {
                    (serde_json::to_string(spec).unwrap(), service_entry_len(spec))
                }
                Spec::WorkloadEntry(spec) => {
                    (serde_json::to_string(spec).unwrap(), endpoint_len(spec))
                }
            };
            assert_eq!(spec.len(), len, "{spec}");
        }
    }

    #[test]
    fn what_is_applied_is_the_same_as_json_and_as_yaml() {
        let owner = Owner::parse("home").unwrap();
        for object in testing::objects(5, 300) {
            let manifest = Manifest::new(&object, &owner, ApiVersion::V1);
            let text = String::from_utf8(manifest.to_apply().unwrap()).unwrap();
            assert!(!text.contains(['\u{7f}', '\u{85}', '\u{2028}', '\u{fffe}']), "{text}");
            let json: serde_json::Value = serde_json::from_str(&text).unwrap();
            assert_eq!(json, manifest.to_value().unwrap());
            assert_eq!(yaml::read(&text).unwrap(), json);
        }
    }

    #[test]
    fn times_have_milliseconds() {
        assert_eq!(rfc3339(Time::from_millis(1_795_367_523_120)), "2026-11-22T17:12:03.120Z");
        assert_eq!(rfc3339(Time::from_millis(0)), "1970-01-01T00:00:00.000Z");
        assert!(rfc3339(Time::from_millis(u64::MAX)).starts_with("9999-12-30T"));
    }
}
