//! Decides everything by other rules beside the line, which need not wait for it.
//!
//! A candidate answers for everything that is listed before it is taken. A slow one takes its time,
//! on threads of its own, while the line goes on with the rules at work. What it decided is kept:
//! when the line takes the rules, only what changed since is decided there.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use imbl::ordmap::DiffItem;
use landfall_core::group::{MeshServices, Redecided, group};
use landfall_core::mesh::{HostKey, MeshService};
use landfall_core::pattern::Selector;
use landfall_core::registry::{Service, ServiceId, SourceName};
use landfall_core::sharing::Sharing;
use landfall_core::text::Text;
use landfall_policy_host::{Rules, Workers};

use super::LineOptions;
use super::draft::{Answer, Asked, DecidedServices, Draft, Known, RulesRefused, judge};

/// Rules, and everything that they are to decide.
#[derive(Debug)]
pub struct Rehearsal {
    pub(super) rules: Arc<Rules>,
    pub(super) judged: BTreeSet<Text>,
    pub(super) known: Known,
    pub(super) options: Option<LineOptions>,
    pub(super) listed: Vec<(Arc<ServiceId>, Option<Arc<Service>>)>,
}

/// What rules decided.
#[derive(Debug)]
pub struct Rehearsed {
    pub(super) rules: Arc<Rules>,
    pub(super) judged: BTreeSet<Text>,
    pub(super) waiting: Vec<Selector>,
    pub(super) decided: DecidedServices,
    /// How sources shared hosts.
    pub(super) sharing: Arc<Sharing>,
    /// What is to go to work with the rules, where it is not as the line has it.
    pub(super) options: Option<LineOptions>,
    /// The services of the mesh as they were, as the rules make them, and which differ.
    before: MeshServices,
    services: MeshServices,
    touched: BTreeSet<HostKey>,
    /// What service policies said of them.
    answers: BTreeMap<HostKey, Answer>,
    /// Sources of which the rules are to publish nothing, for they go with the rules before.
    pub(super) removed: BTreeSet<SourceName>,
}

impl Rehearsal {
    /// The same where these options go to work with the rules.
    #[must_use]
    pub fn by(mut self, options: LineOptions) -> Self {
        if self.known.sharing != options.sharing {
            self.known.sharing = Arc::clone(&options.sharing);
        }
        self.options = Some(options);
        self
    }

    /// Decides everything, on `workers`. Blocks until done, which takes as long as policies do.
    ///
    /// # Errors
    /// One of the policies that are judged failed on something.
    pub fn run(mut self, workers: Arc<Workers>) -> Result<Rehearsed, RulesRefused> {
        self.known.workers = workers;
        let redecided = self.known.decide(self.listed, &self.rules, None);
        let draft = self.known.draft(redecided, &self.rules, Asked::All(None));
        judge(&draft, &self.judged)?;
        let Draft { decided, services, touched, answers, .. } = draft;
        let Self { rules, judged, known, options, .. } = self;
        Ok(Rehearsed {
            rules,
            judged,
            waiting: known.waiting,
            decided,
            sharing: known.sharing,
            options,
            before: known.services,
            services,
            touched,
            answers: answers.into_iter().collect(),
            removed: BTreeSet::new(),
        })
    }
}

impl Rehearsed {
    /// The same where these sources go with the rules before. What was published of them stays as long
    /// as others may have it.
    #[must_use]
    pub fn without(self, removed: BTreeSet<SourceName>) -> Self {
        Self { removed, ..self }
    }

    /// The services of the mesh that `decided` make, which differs a little from what was rehearsed,
    /// and the hosts that differ from `services` as they are by now.
    pub(super) fn grouped(
        &self,
        decided: &DecidedServices,
        services: &MeshServices,
    ) -> (MeshServices, BTreeSet<HostKey>) {
        let since = decided.iter().filter_map(|(id, now)| {
            let before = self.decided.get(id);
            let is_same = before.is_some_and(|before| Arc::ptr_eq(before, now));
            (!is_same).then(|| Redecided { before: before.map(|b| &**b), now: Some(now) })
        });
        let gone = self.decided.iter().filter(|(id, _)| !decided.contains_key(*id));
        let gone = gone.map(|(_, before)| Redecided { before: Some(before), now: None });
        let changes: Vec<Redecided<'_>> = since.chain(gone).collect();
        let (mut grouped, mut touched) = group(self.services.clone(), &changes, &self.sharing);
        touched.extend(self.touched.iter().cloned());
        for differs in self.before.diff(services) {
            let (DiffItem::Add(host, _)
            | DiffItem::Update { new: (host, _), .. }
            | DiffItem::Remove(host, _)) = differs;
            touched.insert(host.clone());
            // Service policies may have said something else since.
            if let (Some(new), Some(now)) = (grouped.get_mut(host), services.get(host))
                && new.settings != now.settings
            {
                Arc::make_mut(new).settings = Arc::clone(&now.settings);
            }
        }
        (grouped, touched)
    }

    /// What service policies said of `service`, if everything that they saw is the same in `draft`.
    pub(super) fn answer(&self, service: &MeshService, draft: &Draft) -> Option<Answer> {
        let (seen, answer) = (self.services.get(&service.key)?, self.answers.get(&service.key)?);
        let same_facts = |id: &ServiceId| {
            let (then, now) = (self.decided.get(id)?, draft.decided.get(id)?);
            Some(then.service.same_facts(&now.service))
        };
        let is_same = seen.parts == service.parts
            && service.parts.iter().all(|part| same_facts(&part.origin) == Some(true));
        is_same.then(|| answer.clone())
    }
}
