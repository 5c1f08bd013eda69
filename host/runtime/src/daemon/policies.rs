//! Policies between what their origins offer and what is at work.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use landfall_core::text::Text;
use landfall_mesh::kube::configmap::ConfigMap;
use landfall_mesh::kube::events::Note;
use landfall_policy_host::{AdmissionError, Revision, Rules, is_transient};

use super::{Daemon, forward};
use crate::clock;
use crate::config::ComponentOrigin;
use crate::event::Event;
use crate::line::{Faulted, RulesRefused};
use crate::policies::{Offer, Offered, admit};
use crate::slots::{PolicySlot, rules, waiting};
use crate::telemetry::{PolicyFaulted, PolicyRefused, PolicyTaken};

/// How long a candidate waits that was refused for what may pass, such as a machine too busy to
/// answer in time.
const ADMIT_AGAIN: Duration = Duration::from_secs(30);

impl Daemon {
    /// Has an event sent for what a slot is offered now and for whatever it is from now on.
    pub(super) fn listen(&self, slot: &PolicySlot) {
        let serial = slot.serial;
        forward(slot.feed.offer.clone(), self.events.clone(), move || Event::Offer {
            slot: serial,
        });
    }

    /// Compiles what a policy's origin offers, unless it was tried before.
    pub(super) fn consider(&mut self, serial: u64) {
        let Some(slot) = self.policies.iter_mut().find(|slot| slot.serial == serial) else {
            return;
        };
        let offer = slot.feed.offer.borrow().clone();
        let offered = match offer {
            Offer::Pending => return,
            Offer::Nothing { why, config_map } => {
                return self.refuse(serial, config_map.as_deref(), "not_readable", &why);
            }
            Offer::Component(offered) => offered,
        };
        if slot.admitting || slot.tried.as_ref() == Some(&offered) {
            return;
        }
        slot.admitting = true;
        slot.tried = Some(Arc::clone(&offered));
        let (engine, config) = (Arc::clone(&self.engine), slot.feed.config.clone());
        let events = self.events.clone();
        tokio::task::spawn_blocking(move || {
            let outcome = admit(&engine, &config, &offered);
            // Closed only when the daemon stops.
            let _ = events.blocking_send(Event::Admitted { slot: serial, offered, outcome });
        });
    }

    /// Takes a revision up, if it answers for everything that is there.
    pub(super) fn admitted(
        &mut self,
        serial: u64,
        offered: &Offered,
        outcome: Result<Arc<Revision>, AdmissionError>,
    ) {
        // A reload may have put another in its place.
        let Some(index) = self.policies.iter().position(|slot| slot.serial == serial) else {
            return;
        };
        self.policies[index].admitting = false;
        let config_map = offered.config_map.as_deref();
        match outcome {
            Ok(revision) => self.take_revision(index, revision, config_map),
            Err(error) => {
                self.refuse(serial, config_map, error.code(), &crate::error_chain(&error));
                self.try_again_if(is_transient(error.code()), serial);
            }
        }
        self.consider(serial);
    }

    fn take_revision(
        &mut self,
        index: usize,
        revision: Arc<Revision>,
        config_map: Option<&ConfigMap>,
    ) {
        let slot = &mut self.policies[index];
        let (serial, name) = (slot.serial, Text::clone(slot.name()));
        let before = slot.revision.replace(Arc::clone(&revision));
        // The first one is not judged: nothing stands that would be better.
        let judged = before.iter().map(|_| Text::clone(&name)).collect();
        let rules = rules(&self.config, &self.policies);
        match tokio::task::block_in_place(|| self.take_rules(&rules, &judged)) {
            Ok(()) => {
                PolicyTaken { policy: &name, revision: &revision }.emit(&self.metrics);
                let message = format!("revision {} is at work", revision.digest());
                let note = Note { warning: false, reason: "PolicyTaken", message };
                self.tell(serial, config_map, note);
            }
            Err(refused) => {
                self.policies[index].revision = before;
                self.update_waiting();
                let code = refused.fault.0.code;
                self.refuse(serial, config_map, code, &crate::error_chain(&refused));
                self.try_again_if(is_transient(code), serial);
            }
        }
    }

    /// Puts rules to work, and sends what follows from them.
    fn take_rules(
        &mut self,
        rules: &Arc<Rules>,
        judged: &BTreeSet<Text>,
    ) -> Result<(), RulesRefused> {
        self.update_waiting();
        let now = clock::now();
        let round = self.line.change_rules(rules, judged, now)?;
        self.spread(&round, now);
        Ok(())
    }

    fn try_again_if(&self, is_transient: bool, slot: u64) {
        if is_transient {
            let events = self.events.clone();
            tokio::spawn(async move {
                tokio::time::sleep(ADMIT_AGAIN).await;
                // Closed only when the daemon stops.
                let _ = events.send(Event::AdmitAgain { slot }).await;
            });
        }
    }

    /// Tries once more what was refused.
    pub(super) fn admit_again(&mut self, serial: u64) {
        if let Some(slot) = self.policies.iter_mut().find(|slot| slot.serial == serial) {
            slot.tried = None;
            self.consider(serial);
        }
    }

    /// Tells the line which services wait for a policy.
    pub(super) fn update_waiting(&mut self) {
        self.line.set_waiting(waiting(&self.policies));
    }

    fn refuse(
        &self,
        serial: u64,
        config_map: Option<&ConfigMap>,
        code: &'static str,
        message: &str,
    ) {
        if let Some(slot) = self.policies.iter().find(|slot| slot.serial == serial) {
            PolicyRefused { policy: slot.name(), code, message }.emit(&self.metrics);
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
    pub(super) fn policy_states(&self) -> Vec<(Text, bool)> {
        self.policies
            .iter()
            .map(|slot| (Text::clone(slot.name()), slot.revision.is_some()))
            .collect()
    }
}
