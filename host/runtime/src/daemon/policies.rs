//! Policies between what their origins offer and what is at work.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use landfall_core::text::{Text, with_causes};
use landfall_mesh::kube::configmap::ConfigMap;
use landfall_mesh::kube::events::Note;
use landfall_policy_host::{AdmissionError, Revision, is_transient};
use tokio_util::task::AbortOnDropHandle;

use super::{Daemon, forward};
use crate::candidate::Candidate;
use crate::clock;
use crate::config::ComponentOrigin;
use crate::event::Event;
use crate::line::{Faulted, Rehearsed, RulesRefused};
use crate::pause::grown;
use crate::policies::{Offer, Offered};
use crate::slots::PolicySlot;
use crate::status::{PolicyState, SettingsState};
use crate::telemetry::{PolicyFaulted, PolicyReadable, PolicyRefused, PolicyTaken};

/// How long a candidate waits that was refused for what may pass, such as a machine too busy to
/// answer in time: the first time, and at most.
const ADMIT_AGAIN_MIN: Duration = Duration::from_secs(30);
const ADMIT_AGAIN_MAX: Duration = Duration::from_secs(600);

impl Daemon {
    /// Has an event sent for what a slot is offered now and for whatever it is from now on.
    pub(super) fn listen(&self, slot: &PolicySlot) {
        let serial = slot.serial;
        forward(slot.feed.offer.clone(), self.events.clone(), move || Event::Offer {
            slot: serial,
        });
    }

    fn slot(&mut self, serial: u64) -> Option<&mut PolicySlot> {
        self.policies.iter_mut().find(|slot| slot.serial == serial)
    }

    /// Compiles what a policy's origin offers, unless it was tried before.
    pub(super) fn consider(&mut self, serial: u64) {
        // A reload may have put another in its place.
        let Some(slot) = self.slot(serial) else { return };
        let offer = slot.feed.offer.borrow().clone();
        let offered = match offer {
            Offer::Pending => return,
            Offer::Nothing { why, .. } if slot.unreadable.as_ref() == Some(&why) => return,
            Offer::Nothing { why, config_map } => {
                slot.unreadable = Some(why.clone());
                return self.tell_refused(serial, config_map.as_deref(), "not_readable", &why);
            }
            Offer::Component(offered) => offered,
        };
        let was_unreadable = slot.unreadable.take().is_some();
        if slot.candidate.is_some() {
            return;
        }
        if slot.tried.as_ref() == Some(&offered) {
            if was_unreadable {
                PolicyReadable { policy: slot.name() }.emit();
            }
            return;
        }
        slot.refusals = 0;
        self.try_offered(serial, offered);
    }

    fn try_offered(&mut self, serial: u64, offered: Arc<Offered>) {
        let Some(slot) = self.slot(serial) else { return };
        slot.retry = None;
        slot.candidate = Some(Arc::clone(&offered));
        slot.tried = Some(Arc::clone(&offered));
        let config = slot.feed.config.clone();
        let (compiler, events) = (self.compiler.clone(), self.events.clone());
        tokio::spawn(async move {
            // The log of the panic says how it ended early.
            if let Ok(outcome) = compiler.compile(config, Arc::clone(&offered)).await {
                // Closed only when the daemon stops.
                let _ = events.send(Event::Admitted { slot: serial, offered, outcome }).await;
            }
        });
    }

    /// Goes on with a revision that was made of what a slot is offered.
    pub(super) fn admitted(
        &mut self,
        serial: u64,
        offered: Arc<Offered>,
        outcome: Result<Arc<Revision>, AdmissionError>,
    ) {
        match outcome {
            Ok(revision) => self.propose(Candidate::Policy { slot: serial, offered, revision }),
            Err(error) => {
                let message = with_causes(&error);
                self.refuse_candidate(serial, &offered, error.code(), &message);
            }
        }
    }

    /// Puts a revision to work that answered for everything that is listed.
    pub(super) fn take_revision(
        &mut self,
        serial: u64,
        offered: &Offered,
        revision: Arc<Revision>,
        outcome: Result<Rehearsed, RulesRefused>,
    ) {
        let now = clock::now();
        let taken = outcome.and_then(|rehearsed| {
            tokio::task::block_in_place(|| self.line.take_rules(rehearsed, now))
        });
        match taken {
            Ok(round) => {
                let Some(slot) = self.slot(serial) else { return };
                slot.revision = Some(Arc::clone(&revision));
                slot.candidate = None;
                slot.refused = None;
                let name = Text::clone(slot.name());
                self.spread(&round, now);
                PolicyTaken { policy: &name, revision: &revision }.emit(&self.metrics);
                let message = format!("revision {} is at work", revision.digest());
                let note = Note { warning: false, reason: "PolicyTaken", message };
                self.tell(serial, offered.config_map.as_deref(), note);
                self.consider(serial);
            }
            Err(refused) => {
                let message = with_causes(&refused);
                self.refuse_candidate(serial, offered, refused.code(), &message);
            }
        }
    }

    /// Says that a candidate is not taken, and tries it again later where that may help.
    fn refuse_candidate(
        &mut self,
        serial: u64,
        offered: &Offered,
        code: &'static str,
        message: &str,
    ) {
        self.tell_refused(serial, offered.config_map.as_deref(), code, message);
        let events = self.events.clone();
        let Some(slot) = self.slot(serial) else { return };
        slot.candidate = None;
        slot.refused = Some(message.to_owned());
        if is_transient(code) {
            let pause = grown(ADMIT_AGAIN_MIN, slot.refusals, ADMIT_AGAIN_MAX);
            slot.refusals = slot.refusals.saturating_add(1);
            slot.retry = Some(AbortOnDropHandle::new(tokio::spawn(async move {
                tokio::time::sleep(pause).await;
                // Closed only when the daemon stops.
                let _ = events.send(Event::AdmitAgain { slot: serial }).await;
            })));
        }
        self.consider(serial);
    }

    /// Tries once more what was refused.
    pub(super) fn admit_again(&mut self, serial: u64) {
        let Some(slot) = self.slot(serial) else { return };
        // Something else was offered meanwhile.
        if slot.retry.take().is_none() {
            return;
        }
        if let Some(offered) = slot.tried.clone() {
            self.try_offered(serial, offered);
        }
    }

    /// Tells whom it concerns that what a policy's origin offers is not taken.
    fn tell_refused(
        &self,
        serial: u64,
        config_map: Option<&ConfigMap>,
        code: &'static str,
        message: &str,
    ) {
        if let Some(slot) = self.policies.iter().find(|slot| slot.serial == serial) {
            let is_at_work = slot.revision.is_some();
            PolicyRefused { policy: slot.name(), is_at_work, code, message }.emit(&self.metrics);
        }
        let note = Note { warning: true, reason: "PolicyRefused", message: message.to_owned() };
        self.tell(serial, config_map, note);
    }

    /// Tells who owns a policy how it failed.
    pub(super) fn tell_faults(&self, faults: &BTreeMap<Text, Faulted>) {
        for (name, faulted) in faults {
            PolicyFaulted { policy: name, faulted }.emit(&self.metrics);
            let Some(slot) = self.policies.iter().find(|slot| slot.name() == name) else {
                continue;
            };
            let Offer::Component(offered) = slot.feed.offer.borrow().clone() else { continue };
            let Faulted { count, first, fault } = faulted;
            let message = format!(
                "failed on {count} instances or hosts, which stay as they were; the first is \
                 {first}: {} ({})",
                fault.message, fault.code
            );
            let note = Note { warning: true, reason: "PolicyFault", message };
            self.tell(slot.serial, offered.config_map.as_deref(), note);
        }
    }

    /// Tells the owner of a ConfigMap what became of it.
    fn tell(&self, serial: u64, config_map: Option<&ConfigMap>, note: Note) {
        let slot = self.policies.iter().find(|slot| slot.serial == serial);
        if let Some(map) = config_map
            && let Some(ComponentOrigin::ConfigMap(origin)) = slot.map(|s| &s.feed.config.origin)
        {
            self.clients.post(&origin.access, map, note);
        }
    }

    /// Each policy, and whether it is at work.
    pub(super) fn settings_state(&self) -> SettingsState<'_> {
        let policies = self.policies.iter().map(|slot| {
            let state = PolicyState {
                is_loaded: slot.revision.is_some(),
                // What was tried last may be at work, or not be what is offered.
                refused: slot.unreadable.as_deref().or(slot.refused.as_deref()),
            };
            (slot.name(), state)
        });
        let configuration_refused = self.reloading.refused.as_deref();
        SettingsState { configuration_refused, policies: policies.collect() }
    }
}
