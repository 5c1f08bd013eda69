//! What proves that something is gone.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;

use imbl::{OrdMap, OrdSet};

use crate::mesh::{Body, Object, Tie};
use crate::plan::Step;
use crate::registry::SourceName;
use crate::sharing::Ranks;
use crate::text::{OneLine, Text};

/// How far a configured source can be trusted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Trust {
    /// Nothing was heard of it in this process's life yet.
    Unheard,
    /// It failed, and delivered no complete listing in this process's life yet.
    Silent,
    /// Its listing may be out of date, or lack what could not be read since it began.
    Doubtful,
    /// Its listing is current.
    Current,
}

/// What proves that something is gone.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Evidence {
    /// What each configured source is worth.
    pub sources: BTreeMap<SourceName, Trust>,
    /// Services that are listed but not wholly decided in this process's life, as
    /// [`crate::registry::ServiceId`] prints them. What an earlier process published of them is
    /// not in what is desired.
    pub undecided: OrdSet<Text>,
    /// Services of the mesh of which a service policy has not answered for the host in this
    /// process's life, and which that is. They are not in what is desired.
    pub unanswered: OrdMap<Tie, Text>,
    /// Services of the mesh that one source has alone, and who goes before and after it.
    pub ranks: OrdMap<Tie, Ranks>,
}

/// What is missing to prove that something is gone.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Lack {
    /// The first complete listing of a source that fed the object, or may have.
    FirstListing(SourceName),
    /// The end of a source's doubt.
    EndOfDoubt(SourceName),
    /// A decision on a service that feeds the object.
    Decision(Text),
    /// What a service policy says of the host.
    Answer(Text),
}

impl Trust {
    /// Whether the source delivered a complete listing in this process's life.
    #[must_use]
    pub const fn has_listed(self) -> bool {
        matches!(self, Self::Doubtful | Self::Current)
    }
}

/// Services of the mesh that one source has alone, by what is listed now, and that another may have
/// of which that is not known, and what for they wait. Nothing of the one is put beside what is
/// there of the other.
pub(crate) fn standing<B: Body>(steps: &[Step<B>], evidence: &Evidence) -> BTreeMap<Tie, Lack> {
    if evidence.ranks.is_empty() {
        return BTreeMap::new();
    }
    let mut standing = BTreeMap::new();
    for step in steps {
        let (Some(from), Some(ranks)) = (step.from(), evidence.ranks.get(&step.tie())) else {
            continue;
        };
        let has_no_say = |name: &&SourceName| **name == ranks.winner || ranks.below.contains(name);
        if !from.sources.is_empty() && from.sources.iter().all(|name| has_no_say(&name)) {
            continue;
        }
        // Of one that is not configured it may be under an earlier name.
        let proof = Proof::of(step, evidence);
        let others = from.sources.iter().filter(|name| !has_no_say(name));
        let mut lacks = others.map(|name| proof.lack_for(Some(&format!("{name}/"))));
        let lack =
            if from.sources.is_empty() { proof.lack_for(None) } else { lacks.find_map(|l| l) };
        if let Some(why) = lack.or_else(|| undecided(from, evidence, true).map(Lack::Decision)) {
            standing.insert(step.tie(), why);
        }
    }
    standing
}

/// A source that takes a service of the mesh over as soon as it lists it, and was not heard yet: what
/// another one would publish until then would have to go again.
pub(crate) fn expected(tie: &Tie, evidence: &Evidence) -> Option<Lack> {
    let above = evidence.ranks.get(tie)?.above.iter();
    let mut unheard = above.filter(|source| evidence.sources.get(*source) == Some(&Trust::Unheard));
    unheard.next().map(|source| Lack::FirstListing(source.clone()))
}

/// Whether a step gives a service of the mesh that one source has alone from another to it: what the
/// other had is replaced, whatever that was.
pub(crate) fn is_handed_over<B: Body>(step: &Step<B>, evidence: &Evidence) -> bool {
    let (Some(from), Some(ranks)) = (step.from(), evidence.ranks.get(&step.tie())) else {
        return false;
    };
    !from.sources.is_empty() && !from.sources.contains(&ranks.winner)
}

/// What evidence there is that what an object loses is gone.
//
//  source or service     create   keeps all of it   loses some of it, empties, deletes
//  silent or doubtful    pass     pass              held
//  undecided             pass     pass              held
//  current and decided   pass     pass              pass
//  outranked             pass     pass              pass
//
// An object that names no source, or one that is not configured, may be of any source under an
// earlier name. So it waits until all are current.
pub(crate) struct Proof<'a, B> {
    evidence: &'a Evidence,
    from: Option<Arc<Object<B>>>,
    /// Whether each source that it names has a service among those that it names.
    names_all: bool,
    /// That another source has the host alone is proof enough for these.
    outranked: Arc<[SourceName]>,
}

impl<'a, B: Body> Proof<'a, B> {
    pub(crate) fn of(step: &Step<B>, evidence: &'a Evidence) -> Self {
        let ranks = evidence.ranks.get(&step.loser());
        let outranked = ranks.map_or_else(|| Arc::from([]), |ranks| Arc::clone(&ranks.below));
        let from = step.from().map(Arc::clone);
        let names_all = from.as_ref().is_some_and(|from| names_all(from));
        Self { evidence, from, names_all, outranked }
    }

    /// What is missing for all that `step` takes away, but for services of registries that keep all
    /// that they have of it: in the other shape.
    pub(crate) fn lack(&self, step: &Step<B>, keeps: &dyn Fn(&str) -> bool) -> Option<Lack> {
        match step {
            Step::Create(_) => None,
            Step::Update { from, to } if from.tie() != to.tie() => self.lack_for(None),
            Step::Update { from, to } => {
                let lessened = from.body.lessened_in(&to.body);
                let mut unnamed = from.sources.iter().filter(|name| !to.sources.contains(name));
                lessened
                    .into_iter()
                    .filter(|origin| !origin.is_some_and(keeps))
                    .find_map(|origin| self.lack_for(origin))
                    .or_else(|| unnamed.find_map(|source| self.lack_of(source)))
            }
            Step::Empty { .. } | Step::Delete(_) => self.lack_for(None),
        }
    }

    /// What is missing for what a service feeds it with; for anything in it where none is given.
    pub(crate) fn lack_for(&self, origin: Option<&str>) -> Option<Lack> {
        let from = self.from.as_ref()?;
        // Of a list that somebody cut nothing is proven by who is in it.
        let origin = origin.filter(|_| self.names_all);
        let source = origin.and_then(|origin| origin.split_once('/')).map(|(source, _)| source);
        let sources = from.sources.iter().filter(|name| source.is_none_or(|s| name.as_str() == s));
        let mut is_known = false;
        for source in sources {
            is_known =
                self.outranked.contains(source) || self.evidence.sources.contains_key(source);
            if let Some(why) = self.lack_of(source) {
                return Some(why);
            }
            if !is_known {
                break;
            }
        }
        if !is_known {
            let mut all = self.evidence.sources.iter();
            if let Some(why) = all.find_map(|(source, trust)| unsure(source, *trust)) {
                return Some(why);
            }
        }
        let undecided = match origin.filter(|_| is_known) {
            Some(origin) => self.evidence.undecided.get(origin).map(Text::clone),
            None => undecided(from, self.evidence, is_known),
        };
        undecided.map(Lack::Decision)
    }

    /// What is missing for all that a source fed it with, as far as that is configured.
    fn lack_of(&self, source: &SourceName) -> Option<Lack> {
        if self.outranked.contains(source) {
            return None;
        }
        unsure(source, *self.evidence.sources.get(source)?)
    }
}

fn names_all<B: Body>(object: &Object<B>) -> bool {
    let Some(origins) = object.body.origins() else { return false };
    object.sources.iter().all(|source| origins.iter().any(|origin| is_of(origin, source)))
}

/// Whether a service is of a source, as [`crate::registry::ServiceId`] prints it.
fn is_of(service: &str, source: &SourceName) -> bool {
    service.strip_prefix(source.as_str()).is_some_and(|rest| rest.starts_with('/'))
}

/// What a source lacks to prove that something is gone.
fn unsure(source: &SourceName, trust: Trust) -> Option<Lack> {
    match trust {
        Trust::Unheard | Trust::Silent => Some(Lack::FirstListing(source.clone())),
        Trust::Doubtful => Some(Lack::EndOfDoubt(source.clone())),
        Trust::Current => None,
    }
}

/// A service that feeds `object`, or may, and is not decided.
fn undecided<B: Body>(object: &Object<B>, evidence: &Evidence, is_known: bool) -> Option<Text> {
    let all = &evidence.undecided;
    if all.is_empty() {
        return None;
    }
    match object.body.origins() {
        Some(origins) if is_known => {
            origins.into_iter().find_map(|origin| all.get(origin).map(Text::clone))
        }
        // It is not known which services feed it.
        Some(_) | None => {
            let may_feed = |service: &&Text| {
                !is_known || object.sources.iter().any(|source| is_of(service, source))
            };
            all.iter().find(may_feed).map(Text::clone)
        }
    }
}

impl Lack {
    /// The word for logs and metrics.
    #[must_use]
    pub const fn as_str(&self) -> &'static str {
        match self {
            Self::FirstListing(_) => "first_listing",
            Self::EndOfDoubt(_) => "end_of_doubt",
            Self::Decision(_) | Self::Answer(_) => "decision",
        }
    }
}

impl fmt::Display for Lack {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::FirstListing(source) => {
                write!(f, "source {source} has not delivered a complete listing yet")
            }
            Self::EndOfDoubt(source) => {
                write!(f, "source {source} is in doubt, it may have more than it lists")
            }
            Self::Decision(service) => write!(
                f,
                "a policy has not decided every instance of {} yet, so what is published of it \
                 stays",
                OneLine(service)
            ),
            Self::Answer(host) => write!(
                f,
                "a service policy has not answered for {} yet, so what is published there stays",
                OneLine(host)
            ),
        }
    }
}
