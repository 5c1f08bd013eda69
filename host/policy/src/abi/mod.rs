//! What is asked of a policy and what it answers, whatever version of the contract it speaks. Each
//! version has a module of its own that translates.

pub(crate) mod v0_1;

use landfall_core::mapping::{Mapping, Verdict};
use landfall_core::mesh::{MeshService, Setting};
use landfall_core::pairs::Pairs;
use landfall_core::registry::{Instance, Service, ServiceId};

use crate::fault::{Failure, FaultCode};

/// What is wrong with a policy's settings, in the policy's words.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Problem {
    /// Where in the settings, as a JSON Pointer.
    pub path: String,
    /// What is wrong there.
    pub message: String,
}

/// What a policy says of itself.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Descriptor {
    /// Its name, which need not be what the configuration calls it.
    pub name: String,
    /// Its version.
    pub version: String,
    /// The fields of an instance that it reads; `None` for all.
    pub reads: Option<Vec<String>>,
    /// JSON Schema of its settings.
    pub schema: Option<String>,
}

/// A service, as far as a call tells about it.
#[derive(Clone, Copy, Debug)]
pub(crate) struct ServiceFacts<'a> {
    pub(crate) id: &'a ServiceId,
    /// Which kind of registry it is in.
    pub(crate) registry: &'a str,
    /// `None` when nothing but its name is known any more.
    pub(crate) service: Option<&'a Service>,
}

/// An instance, and how it is published so far.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Item<'a> {
    pub(crate) instance: &'a Instance,
    pub(crate) mapping: &'a Mapping,
}

/// What is asked about a service of the mesh.
#[derive(Clone, Copy, Debug)]
pub(crate) struct MeshFacts<'a> {
    pub(crate) service: &'a MeshService,
    pub(crate) origins: &'a [ServiceFacts<'a>],
}

/// What a policy answers about instances.
#[derive(Debug)]
pub(crate) struct Verdicts {
    /// One per item.
    pub(crate) values: Vec<Result<Verdict, UnknownVerdict>>,
    /// Names of edits that only a later version of the contract knows, with the index of their
    /// verdict. They were left out.
    pub(crate) unknown: Vec<(usize, String)>,
}

/// What a policy answers about a service of the mesh.
#[derive(Debug)]
pub(crate) struct Settings {
    pub(crate) values: Vec<Setting>,
    /// Names of settings that only a later version of the contract knows. They were left out.
    pub(crate) unknown: Vec<String>,
}

/// A verdict that only a later version of the contract knows, by its name.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct UnknownVerdict(pub(crate) String);

/// Of a name that is shown.
const NAME_LEN_MAX: usize = 80;

// === impl ServiceFacts ===

impl<'a> ServiceFacts<'a> {
    fn pairs(&self) -> (Option<&'a Pairs>, Option<&'a Pairs>) {
        (self.service.map(|s| &s.meta), self.service.map(|s| &s.ext))
    }
}

// === impl UnknownVerdict ===

impl UnknownVerdict {
    fn new(mut name: String) -> Self {
        crate::fault::cut(&mut name, NAME_LEN_MAX);
        Self(name)
    }
}

impl From<UnknownVerdict> for Failure {
    fn from(UnknownVerdict(name): UnknownVerdict) -> Self {
        let message = format!(
            "the verdict is {name:?}, which this version of Landfall does not know; there are keep, \
             drop, edit and split"
        );
        Self::new(FaultCode::VerdictIllegal, message)
    }
}
