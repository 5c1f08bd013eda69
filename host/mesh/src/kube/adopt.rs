//! Takes over objects of somebody else that a person selected.
//!
//! Invariant: what is taken over is what was shown. Each write names the `uid` and the
//! `resourceVersion` of that, so it is refused where anything changed since; nothing is deleted.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;

use kube::Api;
use kube::Resource as _;
use kube::api::{ListParams, Patch, PatchParams};
use kube::core::Request;
use landfall_core::mesh::{Kind, ObjectId};
use landfall_core::text::{Interner, Text};
use serde_json::json;

use super::KubeSink;
use super::apply::REQUEST_TIMEOUT;
use super::error::{Verdict, condition, verdict};
use super::observe::PAGE_LEN;
use super::store::Version;
use super::wire::{Sighting, sight};
use crate::api::{
    ApiVersion, FIELD_MANAGER, GROUP, MeshObject, Metadata, OWNER_LABEL, ServiceEntryWire, SpecOf,
    Wire, WireSpec, WorkloadEntryWire, object_of, plural,
};
use crate::sink::{Condition, Outcome};

/// Which objects a person selected, of both kinds.
#[derive(Clone, Debug)]
pub enum Selection {
    /// One in this namespace of this name.
    Name(Text, Text),
    /// All that carry these labels, in one namespace or in all.
    Labels(Vec<(Text, Text)>, Option<Text>),
}

/// An object that was selected.
#[derive(Clone, Debug)]
pub struct Found {
    /// The object; labels and annotations of others are among its own.
    pub object: Arc<MeshObject>,
    /// Whose it is.
    pub whose: Whose,
    /// Whether its spec has a form that we know.
    pub is_readable: bool,
    /// The objects with which it would be garbage-collected, as `kind name`.
    pub owner_references: Vec<String>,
    version: Version,
}

/// Whose an object is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Whose {
    /// Ours already.
    Ours,
    /// That of the Landfall with this owner.
    OtherLandfall(Text),
    /// Somebody else's.
    Foreign,
}

// A few times what bridges are known to write; a selector that finds more is told to be narrower.
const FOUND_MAX: usize = 20_000;
/// The code of a selection that finds more than that.
const TOO_MANY: &str = "kube_selection";

impl KubeSink {
    /// The objects that `selection` finds, in order. Needs the version of Istio's API, which is known
    /// once everything was observed.
    ///
    /// # Errors
    /// They cannot be listed, or are too many.
    pub async fn find(&self, selection: &Selection) -> Result<Vec<Found>, Condition> {
        let version = self.state.borrow().api_version();
        let mut found = BTreeMap::new();
        self.list::<ServiceEntryWire>(version, selection, &mut found).await?;
        self.list::<WorkloadEntryWire>(version, selection, &mut found).await?;
        Ok(found.into_values().collect())
    }

    async fn list<S: WireSpec>(
        &self,
        version: ApiVersion,
        selection: &Selection,
        found: &mut BTreeMap<ObjectId, Found>,
    ) -> Result<(), Condition> {
        let (namespace, params) = match selection {
            Selection::Name(namespace, name) => {
                (Some(namespace), ListParams::default().fields(&format!("metadata.name={name}")))
            }
            Selection::Labels(labels, namespace) => {
                let labels: Vec<String> =
                    labels.iter().map(|(key, value)| format!("{key}={value}")).collect();
                (namespace.as_ref(), ListParams::default().labels(&labels.join(",")))
            }
        };
        let api: Api<Wire<S>> = match namespace {
            Some(namespace) => Api::namespaced_with(self.client.clone(), namespace, &version),
            None => Api::all_with(self.client.clone(), &version),
        };
        let what = || match namespace {
            Some(namespace) => format!("{} of {GROUP} in namespace {namespace}", plural(S::KIND)),
            None => format!("{} of {GROUP}", plural(S::KIND)),
        };
        let mut params = params.limit(PAGE_LEN);
        let mut interner = Interner::default();
        loop {
            let page = api.list(&params).await.map_err(|error| condition(&error, &what()))?;
            for wire in page.items {
                let object = self.found(wire, &mut interner);
                found.insert(object.object.id.clone(), object);
            }
            if found.len() > FOUND_MAX {
                let message = format!("more than {FOUND_MAX} objects are selected; select fewer");
                return Err(Condition { code: TOO_MANY, message });
            }
            match page.metadata.continue_.filter(|token| !token.is_empty()) {
                Some(token) => params = params.continue_token(&token),
                None => return Ok(()),
            }
        }
    }

    fn found<S: WireSpec>(&self, wire: Wire<S>, interner: &mut Interner) -> Found {
        let owner = &self.options.owner;
        let metadata = &wire.metadata;
        let labels = metadata.labels.clone().unwrap_or_default();
        let known = Metadata {
            name: metadata.name.clone().unwrap_or_default(),
            namespace: metadata.namespace.clone().unwrap_or_default(),
            annotations: metadata.annotations.clone().unwrap_or_default(),
            labels: labels.clone(),
            creation_timestamp: None,
        };
        let references = metadata.owner_references.iter().flatten();
        let owner_references =
            references.map(|owner| format!("{} {}", owner.kind, owner.name)).collect();
        let version = Version::of(metadata);
        let is_readable = matches!(wire.spec, SpecOf::Read(_));
        let spec = wire.spec.clone().into_spec(interner);
        let object = Arc::new(object_of(S::KIND, &known, spec, interner, |_| true));
        let other = labels.get(OWNER_LABEL).filter(|other| *other != owner.as_str());
        let whose = match (sight(wire, owner, interner), other) {
            (Sighting::Ours(..), _) => Whose::Ours,
            (Sighting::Foreign { .. }, Some(other)) => {
                Whose::OtherLandfall(Text::from(other.as_str()))
            }
            (Sighting::Foreign { .. }, None) => Whose::Foreign,
        };
        Found { object, whose, is_readable, owner_references, version }
    }

    /// Makes an object of somebody else, as it was found, `to`, which is ours. Its owners are taken
    /// from it first, for by what is not there it would be garbage-collected.
    pub async fn adopt(&self, found: &Found, to: &Arc<MeshObject>) -> Outcome {
        // Without it, nothing would say what was shown.
        if found.version.resource_version == 0 {
            return Outcome::Conflict("its resourceVersion cannot be read".to_owned());
        }
        let adopted = async {
            match to.body.kind() {
                Kind::ServiceEntry => self.take_over::<ServiceEntryWire>(found, to).await,
                Kind::WorkloadEntry => self.take_over::<WorkloadEntryWire>(found, to).await,
            }
        };
        match tokio::time::timeout(2 * REQUEST_TIMEOUT, adopted).await {
            Ok(Ok(outcome)) => outcome,
            Ok(Err(error)) => match verdict(&error) {
                Verdict::Final(outcome) => outcome,
                Verdict::Again { message, .. } => Outcome::Unavailable(message),
            },
            Err(_) => Outcome::Unavailable("the API server did not answer in time".to_owned()),
        }
    }

    async fn take_over<S: WireSpec>(
        &self,
        found: &Found,
        to: &Arc<MeshObject>,
    ) -> Result<Outcome, kube::Error> {
        let version = self.state.borrow().api_version();
        if found.owner_references.is_empty() {
            return self.update::<S>(version, to, &found.version).await;
        }
        let known = self.without_owners::<S>(version, &to.id, &found.version).await?;
        self.update::<S>(version, to, &known).await
    }

    /// Takes the owner references from an object, and returns its version after that.
    async fn without_owners<S: WireSpec>(
        &self,
        version: ApiVersion,
        id: &ObjectId,
        known: &Version,
    ) -> Result<Version, kube::Error> {
        let patch = json!({"metadata": {
            "uid": known.uid,
            "resourceVersion": known.resource_version.to_string(),
            "ownerReferences": null,
        }});
        let params =
            PatchParams { field_manager: Some(FIELD_MANAGER.to_owned()), ..PatchParams::default() };
        let path = Wire::<S>::url_path(&version, Some(&id.namespace));
        let request = Request::new(path)
            .patch(&id.name, &params, &Patch::Merge(patch))
            .map_err(kube::Error::BuildRequest)?;
        let answer: Wire<S> = self.send(request).await?;
        Ok(Version::of(&answer.metadata))
    }
}

impl fmt::Display for Selection {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Name(namespace, name) => write!(f, "{namespace}/{name}"),
            Self::Labels(labels, _) => {
                let labels: Vec<String> =
                    labels.iter().map(|(key, value)| format!("{key}={value}")).collect();
                f.write_str(&labels.join(","))
            }
        }
    }
}
