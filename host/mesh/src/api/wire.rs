//! Objects as the API server sends them.

use std::borrow::Cow;
use std::fmt::Debug;

use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use kube::Resource;
use kube::core::DynamicResourceScope;
use landfall_core::mesh::Kind;
use landfall_core::text::{Interner, Text};
use serde::Deserialize;
use serde::de::{DeserializeOwned, Deserializer};
use serde_json::Value;

use super::spec::{ServiceEntryWire, WorkloadEntryWire};
use super::{ApiVersion, GROUP, Spec};

/// An object with its spec still in the form of the wire.
#[derive(Clone, Debug, Deserialize)]
#[serde(bound(deserialize = "S: WireSpec"))]
pub(crate) struct Wire<S> {
    #[serde(default)]
    pub(crate) metadata: ObjectMeta,
    #[serde(default)]
    pub(crate) spec: SpecOf<S>,
}

/// The spec of an object, as far as it can be read. A later Istio has values that we do not know,
/// and an object of somebody else that has one must not keep the others of its list from us.
#[derive(Clone, Debug)]
pub(crate) enum SpecOf<S> {
    Read(S),
    /// It has another form than we know.
    Unreadable {
        /// What it has for hosts, where those can be read.
        hosts: Box<[Text]>,
    },
}

/// A spec of one of our kinds.
pub(crate) trait WireSpec:
    Clone + Debug + Default + DeserializeOwned + Send + Sync + 'static
{
    const KIND: Kind;
    fn into_spec(self, interner: &mut Interner) -> Spec;
    /// The hosts that a foreign object claims.
    fn into_hosts(self) -> Box<[Text]>;
}

impl WireSpec for ServiceEntryWire {
    const KIND: Kind = Kind::ServiceEntry;

    fn into_spec(self, interner: &mut Interner) -> Spec {
        Spec::ServiceEntry(Self::into_spec(self, interner))
    }

    fn into_hosts(self) -> Box<[Text]> {
        Self::into_hosts(self)
    }
}

impl WireSpec for WorkloadEntryWire {
    const KIND: Kind = Kind::WorkloadEntry;

    fn into_spec(self, interner: &mut Interner) -> Spec {
        Spec::WorkloadEntry(Self::into_spec(self, interner))
    }

    fn into_hosts(self) -> Box<[Text]> {
        Box::default()
    }
}

// === impl SpecOf ===

impl<S: WireSpec> SpecOf<S> {
    /// The spec. One that cannot be read becomes the empty one, which has neither hosts nor an
    /// address: `validate` refuses it, so it differs from whatever is desired in its place.
    pub(crate) fn into_spec(self, interner: &mut Interner) -> Spec {
        match self {
            Self::Read(spec) => spec.into_spec(interner),
            Self::Unreadable { .. } => S::default().into_spec(interner),
        }
    }

    /// The hosts that a foreign object claims.
    pub(crate) fn into_hosts(self) -> Box<[Text]> {
        match self {
            Self::Read(spec) => spec.into_hosts(),
            Self::Unreadable { hosts } => hosts,
        }
    }
}

impl<S: WireSpec> Default for SpecOf<S> {
    fn default() -> Self {
        Self::Read(S::default())
    }
}

impl<'de, S: WireSpec> Deserialize<'de> for SpecOf<S> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        // Any JSON first: what fails after it fails for this object alone.
        let value = Value::deserialize(deserializer)?;
        Ok(match S::deserialize(&value) {
            Ok(spec) => Self::Read(spec),
            Err(_) => Self::Unreadable { hosts: hosts_of(&value) },
        })
    }
}

fn hosts_of(spec: &Value) -> Box<[Text]> {
    let hosts = spec.get("hosts").and_then(Value::as_array).map(Vec::as_slice).unwrap_or_default();
    hosts.iter().filter_map(Value::as_str).map(Text::from).collect()
}

impl<S: WireSpec> Resource for Wire<S> {
    type DynamicType = ApiVersion;
    type Scope = DynamicResourceScope;

    fn kind(_: &ApiVersion) -> Cow<'_, str> {
        S::KIND.as_str().into()
    }

    fn group(_: &ApiVersion) -> Cow<'_, str> {
        GROUP.into()
    }

    fn version(version: &ApiVersion) -> Cow<'_, str> {
        version.as_str().into()
    }

    fn plural(_: &ApiVersion) -> Cow<'_, str> {
        plural(S::KIND).into()
    }

    fn meta(&self) -> &ObjectMeta {
        &self.metadata
    }

    fn meta_mut(&mut self) -> &mut ObjectMeta {
        &mut self.metadata
    }
}

/// The kind's name in paths of the API.
pub(crate) const fn plural(kind: Kind) -> &'static str {
    match kind {
        Kind::ServiceEntry => "serviceentries",
        Kind::WorkloadEntry => "workloadentries",
    }
}
