//! What is found while a service is decided: as much of it as is listed, and how much more there is.
//!
//! Invariant: what is listed and what is not belongs to instances whose decisions stand, so neither
//! outlives its reason.

use std::collections::BTreeMap;

use landfall_core::decision::{DecidedService, Decision, Fault};
use landfall_core::finding::{Finding, FindingCode};
use landfall_core::registry::{Service, ServiceId};
use landfall_core::text::Text;

use crate::fault::is_unasked;

/// The findings of a service, or of some of its instances.
#[derive(Debug, Default)]
pub(crate) struct Findings {
    pub(crate) listed: Vec<Finding>,
    /// How many more there are about each instance; `None` is the service.
    unlisted: BTreeMap<Option<Text>, usize>,
}

/// Of one service that are listed, and of some of its instances that are decided together.
const LISTED_MAX: usize = 100;

/// How the finding ends that stands for those that are not listed.
const MORE: &str = "more findings of this service are not listed";

// === impl Findings ===

impl Findings {
    /// Leaves out what is over the bound of what was just found about an instance, or the service.
    pub(crate) fn bound(&mut self, instance: Option<&Text>) {
        let over = self.listed.len().saturating_sub(LISTED_MAX);
        if over > 0 {
            *self.unlisted.entry(instance.cloned()).or_default() += over;
            self.listed.truncate(LISTED_MAX);
        }
    }

    /// Adds what was found about other instances of the service.
    pub(crate) fn extend(&mut self, other: Self) {
        self.listed.extend(other.listed);
        for (instance, count) in other.unlisted {
            *self.unlisted.entry(instance).or_default() += count;
        }
    }

    /// Takes over what was found of the instances whose decisions stand. What is about the service
    /// is found again when `any` of it is decided.
    pub(crate) fn carry(
        &mut self,
        before: &DecidedService,
        stands: impl Fn(&str) -> bool,
        any: bool,
    ) {
        let subject = before.id.to_string();
        for finding in &before.findings {
            // Those of faults are made from the decisions, and the one for the others from them.
            let is_made =
                finding.code == FindingCode::PolicyFault || finding.message.ends_with(MORE);
            if !is_made && instance_of(finding, &subject).map_or(!any, &stands) {
                self.listed.push(finding.clone());
            }
        }
        for (instance, count) in &before.unlisted {
            if instance.as_deref().map_or(!any, &stands) {
                *self.unlisted.entry(instance.clone()).or_default() += count;
            }
        }
    }

    /// One for each way in which each policy fails.
    pub(crate) fn add_faults(&mut self, id: &ServiceId, service: &Service, decisions: &[Decision]) {
        let mut faults: BTreeMap<(&str, &str, &str), (usize, &str)> = BTreeMap::new();
        for (instance, decision) in service.instances().iter().zip(decisions) {
            if let Some(fault) = &decision.fault {
                let Fault { policy, code, message } = &**fault;
                faults.entry((policy, code, message)).or_insert((0, &instance.id)).0 += 1;
            }
        }
        for ((policy, code, message), (count, first)) in faults {
            let verb = if is_unasked(code) { "was not asked about" } else { "failed on" };
            self.listed.push(Finding::new(
                FindingCode::PolicyFault,
                id,
                format!(
                    "policy {policy} {verb} {count} instances ({code}), the first of them {first}: \
                     {message}. They stay as they were last decided"
                ),
            ));
        }
    }

    /// In order, each once, with a last one for those that are not listed; and how many those are
    /// about each instance.
    pub(crate) fn bounded(
        mut self,
        id: &ServiceId,
    ) -> (Vec<Finding>, BTreeMap<Option<Text>, usize>) {
        self.listed.sort();
        self.listed.dedup();
        let mut faults = 0;
        if self.listed.len() > LISTED_MAX {
            // Nothing else says that instances are not as the policies would have them.
            self.listed.sort_by_key(|finding| finding.code != FindingCode::PolicyFault);
            let subject = id.to_string();
            for finding in self.listed.split_off(LISTED_MAX) {
                if finding.code == FindingCode::PolicyFault {
                    faults += 1;
                } else {
                    let instance = instance_of(&finding, &subject).map(Text::from);
                    *self.unlisted.entry(instance).or_default() += 1;
                }
            }
            self.listed.sort();
        }
        let more = faults + self.unlisted.values().sum::<usize>();
        if more > 0 {
            let code = self.listed.first().map_or(FindingCode::Refused, |first| first.code);
            self.listed.push(Finding::new(code, id, format!("{more} {MORE}")));
        }
        (self.listed, self.unlisted)
    }
}

/// The identifier of the instance that a finding is about, if it is not about `service` as a whole.
fn instance_of<'a>(finding: &'a Finding, service: &str) -> Option<&'a str> {
    finding.subject.strip_prefix(service).and_then(|rest| rest.strip_prefix('/'))
}
