//! Objects as the API server sends them.

use std::borrow::Cow;
use std::fmt::Debug;

use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use kube::Resource;
use kube::core::DynamicResourceScope;
use landfall_core::mesh::Kind;
use landfall_core::text::{Interner, Text};
use serde::Deserialize;
use serde::de::DeserializeOwned;

use super::spec::{ServiceEntryWire, WorkloadEntryWire};
use super::{ApiVersion, GROUP, Spec};

/// An object with its spec still in the form of the wire.
#[derive(Clone, Debug, Deserialize)]
pub(crate) struct Wire<S> {
    #[serde(default)]
    pub(crate) metadata: ObjectMeta,
    #[serde(default)]
    pub(crate) spec: S,
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
