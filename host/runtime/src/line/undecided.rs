//! Services of which something may be published that is not desired: no policy has decided them
//! in this process's life, and what an earlier process published of them is not known.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use imbl::{OrdMap, OrdSet};
use landfall_core::mesh::{HostKey, Tie};
use landfall_core::registry::ServiceId;
use landfall_core::text::Text;
use landfall_mesh::render::tie;

/// The services that are not decided, and why.
#[derive(Debug, Default)]
pub(super) struct Undecided {
    /// Those that wait for a policy, or on one of whose instances a policy failed.
    services: BTreeSet<Arc<ServiceId>>,
    /// Hosts on which a service policy failed, with the services that are published there.
    hosts: BTreeMap<HostKey, Vec<Arc<ServiceId>>>,
    /// How often each is among both.
    counts: BTreeMap<Text, usize>,
    printed: OrdSet<Text>,
    /// The hosts by what ties their objects together.
    unanswered: OrdMap<Tie, Text>,
}

impl Undecided {
    pub(super) fn add_service(&mut self, id: Arc<ServiceId>) {
        if self.services.insert(Arc::clone(&id)) {
            self.add(&id);
        }
    }

    pub(super) fn remove_service(&mut self, id: &Arc<ServiceId>) {
        if self.services.remove(id) {
            self.subtract(id);
        }
    }

    pub(super) fn set_host(&mut self, host: HostKey, origins: Vec<Arc<ServiceId>>) {
        self.remove_host(&host);
        origins.iter().for_each(|origin| self.add(origin));
        self.unanswered.insert(tie(&host), Text::from(host.to_string()));
        self.hosts.insert(host, origins);
    }

    /// Says whether it was there.
    pub(super) fn remove_host(&mut self, host: &HostKey) -> bool {
        let Some(origins) = self.hosts.remove(host) else { return false };
        origins.iter().for_each(|origin| self.subtract(origin));
        self.unanswered.remove(&tie(host));
        true
    }

    /// Whether the host is not to be rendered.
    pub(super) fn has_host(&self, host: &HostKey) -> bool {
        self.hosts.contains_key(host)
    }

    /// All services that are not decided, as [`ServiceId`] prints them.
    pub(super) fn printed(&self) -> &OrdSet<Text> {
        &self.printed
    }

    /// The services of the mesh that are not to be rendered, and their hosts.
    pub(super) fn unanswered(&self) -> &OrdMap<Tie, Text> {
        &self.unanswered
    }

    fn add(&mut self, id: &ServiceId) {
        let text = Text::from(id.to_string());
        self.printed.insert(Text::clone(&text));
        *self.counts.entry(text).or_default() += 1;
    }

    fn subtract(&mut self, id: &ServiceId) {
        let text = Text::from(id.to_string());
        if let Some(count) = self.counts.get_mut(&text) {
            *count -= 1;
            if *count == 0 {
                self.counts.remove(&text);
                self.printed.remove(&text);
            }
        }
    }
}
