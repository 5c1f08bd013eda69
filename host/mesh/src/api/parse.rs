//! Reads objects as a sink has them.

use std::collections::BTreeMap;
use std::sync::Arc;

use landfall_core::mesh::{Kind, Object, ObjectId};
use landfall_core::pairs::Pairs;
use landfall_core::registry::SourceName;
use landfall_core::text::{Interner, Text};
use landfall_core::time::Time;
use serde_json::Value;

use super::spec::{ServiceEntryWire, WorkloadEntryWire};
use super::{
    Body, GROUP, MANAGED_BY, MANAGED_BY_LABEL, MeshObject, OWNER_LABEL, Owner,
    REMOVED_AT_ANNOTATION, SOURCES_ANNOTATION, Spec, yaml,
};

/// A manifest cannot be read.
#[derive(Debug, thiserror::Error)]
pub enum ParseError {
    /// It is not YAML.
    #[error("failed to read the manifest as YAML: {0}")]
    Yaml(String),
    /// It is not one of our kinds.
    #[error(
        "the manifest is of kind {kind:?} in {api_version:?}, not a ServiceEntry or WorkloadEntry of Istio"
    )]
    Kind {
        /// Its kind.
        kind: String,
        /// Its group and version.
        api_version: String,
    },
    /// It has no such form.
    #[error("failed to read the fields of the {kind} manifest")]
    Fields {
        /// Its kind.
        kind: &'static str,
        /// Which field, and why.
        #[source]
        source: serde_json::Error,
    },
}

/// An object that was read, and whose it says it is.
#[derive(Clone, Debug)]
pub struct Read {
    /// The object; labels and annotations of others are among its own.
    pub object: MeshObject,
    /// The value of its owner label, if it has the whole mark.
    pub owner: Option<Text>,
    /// When it was made, as written; `None` where it does not say, or says no time.
    pub created: Option<String>,
    /// Group and version, as written.
    pub api_version: String,
}

/// What of an object's metadata says something to us.
#[derive(Debug, Default, serde::Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub(crate) struct Metadata {
    pub(crate) name: String,
    pub(crate) namespace: String,
    pub(crate) labels: BTreeMap<String, String>,
    pub(crate) annotations: BTreeMap<String, String>,
    pub(crate) creation_timestamp: Option<String>,
}

#[derive(serde::Deserialize)]
#[serde(rename_all = "camelCase")]
struct Document {
    #[serde(default)]
    api_version: String,
    #[serde(default)]
    kind: String,
    #[serde(default)]
    metadata: Value,
    #[serde(default)]
    spec: Value,
}

// === impl ParseError ===

impl ParseError {
    /// One of a closed set; fit for a metric label.
    #[must_use]
    pub const fn code(&self) -> &'static str {
        match self {
            Self::Yaml(_) => "manifest_yaml",
            Self::Kind { .. } => "manifest_kind",
            Self::Fields { .. } => "manifest_fields",
        }
    }
}

// === impl Read ===

impl Read {
    /// Whether it carries the mark of `owner`.
    #[must_use]
    pub fn is_owned_by(&self, owner: &Owner) -> bool {
        self.owner.as_deref() == Some(owner.as_str())
    }
}

/// Reads the manifest of a ServiceEntry or WorkloadEntry.
///
/// # Errors
/// Another kind, or fields of another form.
pub fn from_json(value: Value) -> Result<Read, ParseError> {
    let document: Document = serde_json::from_value(value)
        .map_err(|source| ParseError::Fields { kind: "unknown", source })?;
    let kind = [Kind::ServiceEntry, Kind::WorkloadEntry]
        .into_iter()
        .find(|kind| kind.as_str() == document.kind);
    let group = document.api_version.split_once('/').map(|(group, _)| group);
    let (Some(kind), Some(GROUP)) = (kind, group) else {
        return Err(ParseError::Kind { kind: document.kind, api_version: document.api_version });
    };
    let fields = |source| ParseError::Fields { kind: kind.as_str(), source };
    let mut interner = Interner::default();
    let metadata: Metadata = serde_json::from_value(document.metadata).map_err(fields)?;
    let spec = spec_of(kind, document.spec, &mut interner).map_err(fields)?;
    let owner = owner_of(&metadata.labels).map(|owner| interner.text(owner));
    let created = metadata.creation_timestamp.clone().filter(|created| time_of(created).is_some());
    let object = object_of(kind, &metadata, spec, &mut interner, |_| true);
    Ok(Read { object, owner, created, api_version: document.api_version })
}

/// Reads the manifest of a ServiceEntry or WorkloadEntry in YAML.
///
/// # Errors
/// As [`from_json`], and what is not YAML.
pub fn from_yaml(text: &str) -> Result<Read, ParseError> {
    from_json(yaml::read(text).map_err(ParseError::Yaml)?)
}

/// The owner of an object with these labels, if it has the whole mark.
fn owner_of(labels: &BTreeMap<String, String>) -> Option<&str> {
    let managed = labels.get(MANAGED_BY_LABEL).is_some_and(|value| value == MANAGED_BY);
    labels.get(OWNER_LABEL).filter(|_| managed).map(String::as_str)
}

fn spec_of(kind: Kind, spec: Value, interner: &mut Interner) -> Result<Spec, serde_json::Error> {
    Ok(match kind {
        Kind::ServiceEntry => Spec::ServiceEntry(
            serde_json::from_value::<ServiceEntryWire>(spec)?.into_spec(interner),
        ),
        Kind::WorkloadEntry => Spec::WorkloadEntry(
            serde_json::from_value::<WorkloadEntryWire>(spec)?.into_spec(interner),
        ),
    })
}

/// Puts an object together. Of labels and annotations only those are kept for which `is_ours`
/// holds, as `(whether a label, key)`.
pub(crate) fn object_of(
    kind: Kind,
    metadata: &Metadata,
    spec: Spec,
    interner: &mut Interner,
    is_ours: impl Fn((bool, &str)) -> bool,
) -> MeshObject {
    let mut kept = |map: &BTreeMap<String, String>, label: bool, apart: [&str; 2]| -> Pairs {
        map.iter()
            .filter(|(key, _)| !apart.contains(&key.as_str()) && is_ours((label, key)))
            .map(|(key, value)| (interner.text(key), interner.text(value)))
            .collect()
    };
    let labels = kept(&metadata.labels, true, [OWNER_LABEL, MANAGED_BY_LABEL]);
    let annotations =
        kept(&metadata.annotations, false, [SOURCES_ANNOTATION, REMOVED_AT_ANNOTATION]);
    let note = |key: &str| {
        metadata.annotations.get(key).filter(|_| is_ours((false, key))).map(String::as_str)
    };
    // A source that cannot be read is left out, so that the object differs from what it should
    // be and is written again.
    let sources: Vec<SourceName> = note(SOURCES_ANNOTATION)
        .into_iter()
        .flat_map(|sources| sources.split(','))
        .filter_map(|source| SourceName::parse(source).ok())
        .collect();
    let removal = note(REMOVED_AT_ANNOTATION).and_then(time_of);
    Object {
        id: ObjectId {
            kind,
            namespace: interner.text(&metadata.namespace),
            name: interner.text(&metadata.name),
        },
        sources: sources.into(),
        removal,
        body: Arc::new(Body { labels, annotations, spec }),
    }
}

fn time_of(text: &str) -> Option<Time> {
    let timestamp: jiff::Timestamp = text.parse().ok()?;
    Some(Time::from_millis(u64::try_from(timestamp.as_millisecond()).ok()?))
}

#[cfg(test)]
mod tests {
    use super::super::{ApiVersion, to_json, to_yaml};
    use super::*;
    use crate::testing;

    #[test]
    fn what_is_printed_reads_back_as_it_was() {
        let owner = Owner::parse("home").unwrap();
        for object in testing::objects(11, 300) {
            let json = to_json(&object, &owner, ApiVersion::V1).unwrap();
            let read = from_json(json.clone()).unwrap();
            assert_eq!(read.object, object);
            assert!(read.is_owned_by(&owner));
            let yaml = to_yaml(&object, &owner, ApiVersion::V1).unwrap();
            assert_eq!(from_yaml(&yaml).unwrap().object, object, "{yaml}");
            assert_eq!(to_json(&read.object, &owner, ApiVersion::V1).unwrap(), json);
        }
    }

    #[test]
    fn other_kinds_are_refused() {
        let code = |text: &str| from_yaml(text).map(|_| ()).unwrap_err().code();
        assert_eq!(code("kind: ServiceEntry\napiVersion: v1"), "manifest_kind");
        assert_eq!(code("kind: Gateway\napiVersion: networking.istio.io/v1"), "manifest_kind");
        assert_eq!(
            code(
                "kind: ServiceEntry\napiVersion: networking.istio.io/v1\nmetadata: {name: a}\nspec: {hosts: 1}"
            ),
            "manifest_fields"
        );
        assert_eq!(code("{"), "manifest_yaml");
    }

    #[test]
    fn half_a_mark_is_none() {
        let read = from_yaml(
            "kind: ServiceEntry\napiVersion: networking.istio.io/v1\nmetadata:\n  name: a\n  \
             labels: {landfall.dev/owner: home}\nspec: {hosts: [a.b]}",
        );
        assert_eq!(read.unwrap().owner, None);
    }
}
