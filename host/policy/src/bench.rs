//! What one worker keeps: a warm instance of each policy.

use std::sync::Arc;

use crate::abi::{Item, MeshFacts, ServiceFacts, Settings, Verdicts};
use crate::fault::Failure;
use crate::guest::Guest;
use crate::log::Capture;
use crate::revision::Revision;
use crate::rules::Rules;

/// The warm instances of one worker. Never shared: a guest sees one call after the other.
#[derive(Default)]
pub(crate) struct Bench {
    places: Vec<Place>,
    /// Where guests' lines go while a call is traced.
    capture: Option<Capture>,
}

struct Place {
    revision: Arc<Revision>,
    guest: Option<Guest>,
}

// === impl Bench ===

impl Bench {
    /// Drops the instances of revisions that are not in `rules`: they would hold memory for nothing.
    pub(crate) fn prepare(&mut self, rules: &Rules) {
        self.places.retain(|place| {
            rules.links().iter().any(|link| Arc::ptr_eq(&link.revision, &place.revision))
        });
    }

    /// Whether the next call of the policy is of an instance that answered calls before.
    pub(crate) fn is_used(&self, revision: &Arc<Revision>) -> bool {
        let place = self.places.iter().find(|place| Arc::ptr_eq(&place.revision, revision));
        place.and_then(|place| place.guest.as_ref()).is_some_and(Guest::is_used)
    }

    /// Calls `instances.decide` of a warm instance, or of a fresh one.
    pub(crate) fn decide(
        &mut self,
        revision: &Arc<Revision>,
        service: ServiceFacts<'_>,
        items: &[Item<'_>],
    ) -> Result<Verdicts, Failure> {
        let slot = self.guest(revision)?;
        revision.mold.decide(slot, service, items, &revision.projection)
    }

    /// Calls `services.decide` of a warm instance, or of a fresh one.
    pub(crate) fn decide_service(
        &mut self,
        revision: &Arc<Revision>,
        asked: MeshFacts<'_>,
    ) -> Result<Settings, Failure> {
        let slot = self.guest(revision)?;
        revision.mold.decide_service(slot, asked)
    }

    /// Runs `f` and returns what guests logged meanwhile, in place of logging it.
    pub(crate) fn traced<R>(&mut self, f: impl FnOnce(&mut Self) -> R) -> (R, Capture) {
        let capture = Capture::default();
        self.capture = Some(capture.clone());
        let result = f(self);
        self.capture = None;
        (result, capture)
    }

    fn guest(&mut self, revision: &Arc<Revision>) -> Result<&mut Option<Guest>, Failure> {
        let known = self.places.iter().position(|place| Arc::ptr_eq(&place.revision, revision));
        let index = known.unwrap_or_else(|| {
            self.places.push(Place { revision: Arc::clone(revision), guest: None });
            self.places.len() - 1
        });
        let slot = &mut self.places[index].guest;
        let guest = match slot.take() {
            Some(guest) => guest,
            None => revision
                .guest(self.capture.clone())
                .map_err(|failure| Failure::no_instance(&failure))?,
        };
        slot.insert(guest).set_capture(self.capture.clone());
        Ok(slot)
    }
}
