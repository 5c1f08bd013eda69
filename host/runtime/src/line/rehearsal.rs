//! Decides everything by other rules beside the line, which need not wait for it.
//!
//! A candidate answers for everything that is listed before it is taken. A slow one takes its time,
//! on threads of its own, while the line goes on with the rules at work. What it decided is kept:
//! when the line takes the rules, only what changed since is decided there.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use landfall_core::mesh::{HostKey, MeshService};
use landfall_core::pattern::Selector;
use landfall_core::registry::{Service, ServiceId};
use landfall_core::text::Text;
use landfall_policy_host::{Rules, Workers};

use super::draft::{Answer, Asked, DecidedServices, Draft, Known, RulesRefused, judge};

/// Rules, and everything that they are to decide.
#[derive(Debug)]
pub struct Rehearsal {
    pub(super) rules: Arc<Rules>,
    pub(super) judged: BTreeSet<Text>,
    pub(super) known: Known,
    pub(super) listed: Vec<(Arc<ServiceId>, Option<Arc<Service>>)>,
}

/// What rules decided.
#[derive(Debug)]
pub struct Rehearsed {
    pub(super) rules: Arc<Rules>,
    pub(super) judged: BTreeSet<Text>,
    pub(super) waiting: Vec<Selector>,
    pub(super) decided: DecidedServices,
    /// Services of the mesh as service policies were asked about them, and what they said.
    answers: BTreeMap<HostKey, (Arc<MeshService>, Answer)>,
}

impl Rehearsal {
    /// Decides everything, on `workers`. Blocks until done, which takes as long as policies do.
    ///
    /// # Errors
    /// One of the policies that are judged failed on something.
    pub fn run(mut self, workers: Arc<Workers>) -> Result<Rehearsed, RulesRefused> {
        self.known.workers = workers;
        let redecided = self.known.decide(self.listed, &self.rules, None);
        let draft = self.known.draft(redecided, &self.rules, Asked::All(None));
        judge(&draft, &self.judged)?;
        let Draft { decided, services, answers, .. } = draft;
        let answers = answers
            .into_iter()
            .filter_map(|(host, answer)| {
                let service = Arc::clone(services.get(&host)?);
                Some((host, (service, answer)))
            })
            .collect();
        let Self { rules, judged, known, .. } = self;
        Ok(Rehearsed { rules, judged, waiting: known.waiting, decided, answers })
    }
}

impl Rehearsed {
    /// What service policies said of `service`, if everything that they saw is the same in `draft`.
    pub(super) fn answer(&self, service: &MeshService, draft: &Draft) -> Option<Answer> {
        let (seen, answer) = self.answers.get(&service.key)?;
        let same_facts = |id: &ServiceId| {
            let (then, now) = (self.decided.get(id)?, draft.decided.get(id)?);
            Some(then.service.same_facts(&now.service))
        };
        let is_same = seen.parts == service.parts
            && service.parts.iter().all(|part| same_facts(&part.origin) == Some(true));
        is_same.then(|| answer.clone())
    }
}
