//! Candidates on their way to work, one after the other: each is rehearsed beside the line, under
//! the rules that the one before left.

use std::collections::{BTreeSet, VecDeque};
use std::sync::Arc;

use landfall_core::pattern::Selector;
use landfall_core::text::Text;
use landfall_policy_host::{Rules, Workers};

use super::Daemon;
use crate::candidate::Candidate;
use crate::event::Event;
use crate::line::{LineOptions, Rehearsed, RulesRefused};
use crate::once::{line_options, worker_count};
use crate::slots::{Cast, rules, waiting};

/// Candidates that wait for their rehearsal.
#[derive(Debug, Default)]
pub(super) struct Candidates {
    queue: VecDeque<Candidate>,
    is_rehearsing: bool,
}

/// What would be at work with a candidate.
struct Scenario {
    rules: Arc<Rules>,
    /// Policies that must not fail.
    judged: BTreeSet<Text>,
    /// Services that wait for a policy.
    waiting: Vec<Selector>,
    /// What else the line would go by, if it is something else.
    options: Option<LineOptions>,
}

impl Daemon {
    /// Has a candidate rehearsed and, if it passes, put to work.
    pub(super) fn propose(&mut self, candidate: Candidate) {
        self.candidates.queue.push_back(candidate);
        self.rehearse_next();
    }

    fn rehearse_next(&mut self) {
        while !self.candidates.is_rehearsing
            && let Some(candidate) = self.candidates.queue.pop_front()
        {
            let Some(Scenario { rules, judged, waiting, options }) = self.scenario(&candidate)
            else {
                // Something took its place.
                continue;
            };
            self.candidates.is_rehearsing = true;
            let mut rehearsal = self.line.rehearsal(rules, judged, waiting);
            if let Some(options) = options {
                rehearsal = rehearsal.by(options);
            }
            let (shared, events) = (Arc::clone(&self.workers), self.events.clone());
            tokio::spawn(async move {
                let run = tokio::task::spawn_blocking(move || {
                    // Threads of its own share the machine with the line's; where there are no
                    // more, the line waits.
                    rehearsal.run(Workers::start(worker_count()).unwrap_or(shared))
                });
                let outcome = Box::new(run.await.unwrap_or(Err(RulesRefused::Panicked)));
                // Closed only when the daemon stops.
                let _ = events.send(Event::Rehearsed { candidate, outcome }).await;
            });
        }
    }

    /// Puts a candidate to work that answered for everything, and turns to the next one.
    pub(super) fn rehearsed(
        &mut self,
        candidate: Candidate,
        outcome: Result<Rehearsed, RulesRefused>,
    ) {
        self.candidates.is_rehearsing = false;
        if self.scenario(&candidate).is_some() {
            match candidate {
                Candidate::Policy { slot, offered, revision } => {
                    self.take_revision(slot, &offered, revision, outcome);
                }
                Candidate::Configuration { prepared, .. } => {
                    let switched = outcome.and_then(|rehearsed| self.switch(*prepared, rehearsed));
                    self.reloaded(switched.map_err(Into::into));
                }
            }
        }
        self.rehearse_next();
    }

    /// What would be at work with `candidate`; `None` when it is out of date.
    fn scenario(&self, candidate: &Candidate) -> Option<Scenario> {
        match candidate {
            Candidate::Policy { slot, revision, .. } => {
                let known = self.policies.iter().find(|known| known.serial == *slot)?;
                // The first one is not judged: nothing stands that would be better.
                let judged = known.revision.iter().map(|_| Text::clone(known.name())).collect();
                let cast: Vec<Cast<'_>> = self
                    .policies
                    .iter()
                    .map(|known| match known.serial == *slot {
                        true => (known, Some(revision)),
                        false => (known, known.revision.as_ref()),
                    })
                    .collect();
                let rules = rules(&self.config, &cast);
                Some(Scenario { rules, judged, waiting: waiting(&cast), options: None })
            }
            Candidate::Configuration { reload, prepared } => {
                self.reloading.is_latest(*reload).then(|| {
                    let (config, new) = (&prepared.config, &prepared.policies);
                    let judged = new.iter().map(|slot| Text::clone(slot.name())).collect();
                    let cast: Vec<Cast<'_>> = config
                        .policies
                        .iter()
                        .filter_map(|policy| {
                            let mut slots = new.iter().chain(&self.policies);
                            slots.find(|slot| slot.feed.config == *policy)
                        })
                        .map(|slot| (slot, slot.revision.as_ref()))
                        .collect();
                    Scenario {
                        rules: rules(config, &cast),
                        judged,
                        waiting: waiting(&cast),
                        options: Some(line_options(config)),
                    }
                })
            }
        }
    }
}
