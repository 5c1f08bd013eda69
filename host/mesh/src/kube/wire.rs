//! Whose an object is that the API server sends, and what it says to us.

use k8s_openapi::apimachinery::pkg::apis::meta::v1::{ManagedFieldsEntry, ObjectMeta};
use landfall_core::mesh::ObjectId;
use landfall_core::text::{Interner, Text};

use super::store::Version;
use crate::api::{
    FIELD_MANAGER, MANAGED_BY, MANAGED_BY_LABEL, MeshObject, Metadata, OWNER_LABEL, Owner, Wire,
    WireSpec, object_of,
};

/// An object that was read, and whose it is.
#[derive(Debug)]
pub(super) enum Sighting {
    Ours(MeshObject, Version),
    Foreign { id: ObjectId, hosts: Box<[Text]>, version: Version },
}

/// Whether somebody besides us has set fields, other than the status.
pub(super) fn has_other_managers<S>(wire: &Wire<S>) -> bool {
    let managers = wire.metadata.managed_fields.iter().flatten();
    managers
        .filter(|entry| entry.subresource.as_deref().unwrap_or_default().is_empty())
        .any(|entry| entry.manager.as_deref() != Some(FIELD_MANAGER))
}

/// Reads `wire` as `owner` sees it.
pub(super) fn sight<S: WireSpec>(
    wire: Wire<S>,
    owner: &Owner,
    interner: &mut Interner,
) -> Sighting {
    let Wire { metadata, spec } = wire;
    let id = ObjectId {
        kind: S::KIND,
        namespace: interner.text(metadata.namespace.as_deref().unwrap_or_default()),
        name: interner.text(metadata.name.as_deref().unwrap_or_default()),
    };
    let version = Version::of(&metadata);
    let labels = metadata.labels.unwrap_or_default();
    let fields = metadata.managed_fields.unwrap_or_default();
    let written = written_by_us(&fields);
    let marked = labels.get(OWNER_LABEL).is_some_and(|value| value == owner.as_str())
        && labels.get(MANAGED_BY_LABEL).is_some_and(|value| value == MANAGED_BY);
    if !marked || written.is_empty() {
        return Sighting::Foreign { id, hosts: spec.into_hosts(), version };
    }
    // Labels and annotations of others are theirs to keep.
    let is_ours = |(label, key): (bool, &str)| is_ours(&written, label, key);
    let known = Metadata {
        name: id.name.to_string(),
        namespace: id.namespace.to_string(),
        labels,
        annotations: metadata.annotations.unwrap_or_default(),
        creation_timestamp: None,
    };
    let spec = spec.into_spec(interner);
    Sighting::Ours(object_of(S::KIND, &known, spec, interner, is_ours), version)
}

/// The metadata of an object of ours without the labels and annotations that we wrote.
pub(super) fn without_ours(mut metadata: ObjectMeta) -> ObjectMeta {
    let fields = metadata.managed_fields.as_deref().unwrap_or_default();
    let written = written_by_us(fields);
    for (label, pairs) in [(true, &mut metadata.labels), (false, &mut metadata.annotations)] {
        if let Some(pairs) = pairs {
            pairs.retain(|key, _| !is_ours(&written, label, key));
        }
    }
    metadata
}

fn written_by_us(fields: &[ManagedFieldsEntry]) -> Vec<&ManagedFieldsEntry> {
    fields.iter().filter(|entry| entry.manager.as_deref() == Some(FIELD_MANAGER)).collect()
}

/// Whether a label or annotation is among what was `written` by us.
fn is_ours(written: &[&ManagedFieldsEntry], label: bool, key: &str) -> bool {
    let field = if label { "f:labels" } else { "f:annotations" };
    written.iter().any(|entry| {
        let fields = entry.fields_v1.as_ref().and_then(|fields| fields.0.get("f:metadata"));
        let keys = fields.and_then(|metadata| metadata.get(field));
        keys.is_some_and(|keys| keys.get(format!("f:{key}")).is_some())
    })
}

impl Sighting {
    pub(super) fn id(&self) -> &ObjectId {
        match self {
            Self::Ours(object, _) => &object.id,
            Self::Foreign { id, .. } => id,
        }
    }
    pub(super) fn version(&self) -> &Version {
        match self {
            Self::Ours(_, version) | Self::Foreign { version, .. } => version,
        }
    }
}
