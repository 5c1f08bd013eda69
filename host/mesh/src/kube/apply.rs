//! Executes steps: one request for each changed object, many at once, none before knowing it.
//!
//! Applying makes no choice. It retries what may pass, reports what became of each step, and one
//! bad object harms no other.
//
//  step            request                                   guards against
//  create          apply, not forced, resourceVersion that   taking over an object that somebody
//                  no object has                             made meanwhile: 409
//  update, empty   apply, forced, uid and resourceVersion    an object that was made anew, or
//                                                            that is somebody else's by now: 409
//    answer has fields of others in the spec, or it is invalid with them:
//                  replace, resourceVersion                  a change in between: 409
//  delete          delete, uid and resourceVersion           the same: 409
//
//  A 409 to an update or a deletion may also mean that something else of the object changed, such
//  as its status, which istiod writes. So it is read again, and tried again if it is still ours.
//
//  Fields of others in the spec are nobody's that we could take them from, and may make an apply
//  invalid that only joins ours to them, as with a selector beside our endpoints. A replacement
//  has our spec alone. It is the object as it is for the rest: of its metadata only what is ours
//  changes.

use std::sync::Arc;
use std::time::Duration;

use futures_util::stream::{FuturesUnordered, StreamExt as _};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use kube::Resource as _;
use kube::api::{
    DeleteParams, GetParams, Patch, PatchParams, PostParams, Preconditions, ValidationDirective,
};
use kube::core::Request;
use landfall_core::mesh::{Kind, ObjectId};
use landfall_core::name;
use landfall_core::text::Interner;
use serde_json::Value;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::error::{Verdict, is_answer, is_invalid, status_of, verdict};
use super::store::Version;
use super::wire::{Sighting, has_other_managers, sight, without_ours};
use super::{KubeSink, Observation};
use crate::api::{
    ApiVersion, Extra, FIELD_MANAGER, Manifest, MeshObject, ServiceEntryWire, Wire, WireSpec,
    WorkloadEntryWire, to_json,
};
use crate::sink::{Applied, Outcome, Step, Stuck};
use crate::validate::validate;

// An API server waits up to 30 s for a webhook, and then says so.
pub(super) const REQUEST_TIMEOUT: Duration = Duration::from_secs(35);
// All attempts together: what takes longer is planned again. Two requests that take their time,
// and between them the longest pause that a server may ask for.
const STEP_TIMEOUT: Duration = Duration::from_secs(130);
// Steps at once for each write at once: the others are in a pause, which is most of the time of
// those that are tried again. More would wait longer for their next attempt than a pause.
const STEPS_PER_WRITE: usize = 4;
// Others that change an object faster than we can read it are not fought.
const READS_MAX: u32 = 3;
// 0.2 + 0.4 + 0.8 + 1.6 s: a restart of one API server behind a balancer.
const ATTEMPTS_MAX: u32 = 5;
const RETRY_MIN: Duration = Duration::from_millis(200);
// A server may ask for a longer pause in its answer; one that asks for more than a minute is as
// good as gone, and the step is planned again.
const PAUSE_MAX: Duration = Duration::from_secs(60);
// No object ever has it: etcd's first revision is the one before anything was written.
const NO_VERSION: &str = "1";

impl KubeSink {
    /// Executes `steps`, phase after phase, and reports what became of each as soon as that is
    /// known. Reporting slowly makes applying slow. Calls at the same time share the writes that
    /// may be under way at once, and what is known of whether the API server answers.
    pub async fn apply(
        &self,
        steps: &[Step],
        stop: &CancellationToken,
        mut report: impl AsyncFnMut(Applied),
    ) {
        let mut stuck = Stuck::default();
        for phase in steps.chunk_by(|a, b| a.phase() == b.phase()) {
            let mut failed = Vec::new();
            let mut waiting = phase.iter();
            let mut under_way = FuturesUnordered::new();
            loop {
                while under_way.len() < self.options.concurrency.max(1) * STEPS_PER_WRITE
                    && let Some(step) = waiting.next()
                {
                    under_way.push(self.apply_step(step, stuck.obstacle(step), stop));
                }
                let Some((step, applied)) = under_way.next().await else { break };
                if !applied.outcome.is_done() {
                    failed.push(step);
                }
                report(applied).await;
            }
            failed.into_iter().for_each(|step| stuck.note_failed(step));
        }
    }

    async fn apply_step<'a>(
        &self,
        step: &'a Step,
        obstacle: Option<Outcome>,
        stop: &CancellationToken,
    ) -> (&'a Step, Applied) {
        let (outcome, attempts) = match obstacle {
            Some(outcome) => (outcome, 0),
            None => self.tried(step, stop).await,
        };
        (step, Applied { id: step.id().clone(), verb: step.verb(), outcome, attempts })
    }

    /// Tries a step until it is clear what becomes of it, unless that makes no sense by the time
    /// its turn comes, and says how often it was tried.
    async fn tried(&self, step: &Step, stop: &CancellationToken) -> (Outcome, u32) {
        let mut end = None;
        let mut delay = RETRY_MIN;
        let mut attempts = 0;
        let mut heard = false;
        loop {
            // For one attempt: who pauses keeps nobody else from writing. Fails only once it is
            // closed, which nobody does.
            let turn = self.writes.acquire().await;
            if stop.is_cancelled() {
                return (Outcome::Unavailable("the process is stopping".to_owned()), attempts);
            }
            let now = Instant::now();
            if attempts == 0
                && let Err(message) = self.breaker().admits(now, now + STEP_TIMEOUT)
            {
                return (Outcome::Unavailable(message), 0);
            }
            let end = *end.get_or_insert(now + STEP_TIMEOUT);
            let once = async {
                match step.id().kind {
                    Kind::ServiceEntry => self.once::<ServiceEntryWire>(step).await,
                    Kind::WorkloadEntry => self.once::<WorkloadEntryWire>(step).await,
                }
            };
            let answer = tokio::time::timeout_at(end.min(now + REQUEST_TIMEOUT), once).await;
            drop(turn);
            attempts += 1;
            if matches!(&answer, Ok(answer) if answer.as_ref().err().is_none_or(is_answer)) {
                heard = true;
                self.breaker().answered();
            }
            let (after_secs, message) = match answer {
                Ok(Ok(outcome)) => return (outcome, attempts),
                Ok(Err(error)) => match verdict(&error) {
                    Verdict::Final(outcome) => return (outcome, attempts),
                    Verdict::Again { after_secs, message } => (after_secs, message),
                },
                Err(_) => {
                    let secs = REQUEST_TIMEOUT.as_secs();
                    (None, format!("the API server did not answer within {secs}s"))
                }
            };
            let left = end.saturating_duration_since(Instant::now());
            let pause = pause(jittered(delay, step.id(), attempts), after_secs, left);
            let pause = pause.filter(|_| attempts < ATTEMPTS_MAX);
            let waited = match pause {
                None => false,
                Some(pause) => tokio::select! {
                    () = stop.cancelled() => false,
                    () = tokio::time::sleep(pause) => true,
                },
            };
            if !waited {
                if !heard {
                    self.breaker().unanswered(Instant::now(), &message);
                }
                return (Outcome::Unavailable(message), attempts);
            }
            delay *= 2;
        }
    }

    async fn once<S: WireSpec>(&self, step: &Step) -> Result<Outcome, kube::Error> {
        let version = self.state.borrow().api_version();
        if let Step::Create(to) = step {
            return self.create::<S>(version, to).await;
        }
        let mut reads = 0;
        loop {
            let known = self.state.borrow().version_of(step.id()).cloned();
            let Some(known) = known else {
                let is_gone =
                    reads > 0 && !self.state.borrow().observed.foreign.contains(step.id());
                return Ok(match step {
                    Step::Delete(_) if is_gone => Outcome::Done(None),
                    _ => Outcome::Conflict("it is gone, or no longer ours".to_owned()),
                });
            };
            let written = match step.to() {
                Some(to) => match self.update::<S>(version, to, &known).await {
                    Err(refusal) if is_invalid(&refusal) && validate(to).is_ok() => {
                        self.replace_present::<S>(version, to, &known).await
                    }
                    written => written,
                },
                None => self.delete::<S>(version, step.id(), &known).await,
            };
            match written {
                Err(error) if status_of(&error) == Some(409) && reads < READS_MAX => {
                    reads += 1;
                    self.read_again::<S>(version, step.id(), &known).await?;
                }
                written => return written,
            }
        }
    }

    /// Takes up an object as it is now, and hands out its metadata if it is ours.
    async fn read_again<S: WireSpec>(
        &self,
        version: ApiVersion,
        id: &ObjectId,
        known: &Version,
    ) -> Result<Option<ObjectMeta>, kube::Error> {
        let path = Wire::<S>::url_path(&version, Some(&id.namespace));
        let request = Request::new(path)
            .get(&id.name, &GetParams::default())
            .map_err(kube::Error::BuildRequest)?;
        match self.send::<Wire<S>>(request).await {
            Ok(wire) => {
                let metadata = wire.metadata.clone();
                let sighting = sight(wire, &self.options.owner, &mut Interner::default());
                let is_ours = matches!(sighting, Sighting::Ours(..));
                self.take_up(id, &sighting.version().clone(), |state| state.take(sighting));
                Ok(is_ours.then_some(metadata))
            }
            Err(error) if status_of(&error) == Some(404) => {
                self.take_end(id, known);
                Ok(None)
            }
            Err(error) => Err(error),
        }
    }

    async fn create<S: WireSpec>(
        &self,
        version: ApiVersion,
        to: &Arc<MeshObject>,
    ) -> Result<Outcome, kube::Error> {
        let extra = Extra { resource_version: NO_VERSION, ..Extra::default() };
        let answer = self.patch::<S>(version, to, extra, PatchParams::apply(FIELD_MANAGER)).await?;
        if has_other_managers(&answer) {
            // Cannot be while API servers check versions as they do; said rather than hidden.
            return Ok(Outcome::Conflict(
                "an object of others was there and took our fields".to_owned(),
            ));
        }
        self.written(version, to, answer).await
    }

    pub(super) async fn update<S: WireSpec>(
        &self,
        version: ApiVersion,
        to: &Arc<MeshObject>,
        known: &Version,
    ) -> Result<Outcome, kube::Error> {
        let resource_version = known.to_name();
        let extra = Extra {
            uid: &known.uid,
            resource_version: resource_version.as_deref().unwrap_or_default(),
            ..Extra::default()
        };
        let params = PatchParams::apply(FIELD_MANAGER).force();
        let answer = self.patch::<S>(version, to, extra, params).await?;
        self.written(version, to, answer).await
    }

    async fn patch<S: WireSpec>(
        &self,
        version: ApiVersion,
        to: &MeshObject,
        extra: Extra<'_>,
        params: PatchParams,
    ) -> Result<Wire<S>, kube::Error> {
        let manifest = Manifest::new(to, &self.options.owner, version).with(extra);
        let body = manifest.to_apply().map_err(|error| kube::Error::Service(error.into()))?;
        let path = Wire::<S>::url_path(&version, Some(&to.id.namespace));
        // What is not stored shows in the answer. To warn of fields that it does not know the API
        // server would parse the object a second time.
        let params = PatchParams { field_validation: Some(ValidationDirective::Ignore), ..params };
        let mut request = Request::new(path)
            .patch(&to.id.name, &params, &Patch::Apply(()))
            .map_err(kube::Error::BuildRequest)?;
        // kube would print it as plain JSON, see `to_apply`.
        *request.body_mut() = body;
        self.send(request).await
    }

    async fn delete<S: WireSpec>(
        &self,
        version: ApiVersion,
        id: &ObjectId,
        known: &Version,
    ) -> Result<Outcome, kube::Error> {
        let path = Wire::<S>::url_path(&version, Some(&id.namespace));
        let params = DeleteParams {
            preconditions: Some(Preconditions {
                uid: Some(known.uid.to_string()),
                resource_version: known.to_name(),
            }),
            ..DeleteParams::default()
        };
        let request =
            Request::new(path).delete(&id.name, &params).map_err(kube::Error::BuildRequest)?;
        // A status, or the object that something keeps.
        match self.send::<Value>(request).await {
            Ok(answer) if !answer["metadata"]["deletionTimestamp"].is_null() => {
                return Ok(Outcome::Conflict(
                    "it is to be deleted, and finalizers of others keep it until then".to_owned(),
                ));
            }
            Ok(_) => (),
            // Gone already is what was wanted. Where the namespace or the CRD is gone, the object
            // went with it.
            Err(error) if status_of(&error) == Some(404) => (),
            Err(error) => return Err(error),
        }
        self.take_end(id, known);
        Ok(Outcome::Done(None))
    }

    /// Takes up the answer to an apply. Where the spec has fields of others besides, it is
    /// replaced as a whole: they belong to nobody that we could take them from.
    async fn written<S: WireSpec>(
        &self,
        version: ApiVersion,
        to: &Arc<MeshObject>,
        answer: Wire<S>,
    ) -> Result<Outcome, kube::Error> {
        let metadata = answer.metadata.clone();
        if self.take_answer(to, answer) {
            return Ok(Outcome::Done(Some(Arc::clone(to))));
        }
        self.replace::<S>(version, to, metadata).await
    }

    /// Replaces an object of which the API server does not take what `to` makes of it, if it is
    /// still the one that was known.
    async fn replace_present<S: WireSpec>(
        &self,
        version: ApiVersion,
        to: &Arc<MeshObject>,
        known: &Version,
    ) -> Result<Outcome, kube::Error> {
        match self.read_again::<S>(version, &to.id, known).await? {
            Some(metadata) if Version::of(&metadata).uid == known.uid => {
                self.replace::<S>(version, to, metadata).await
            }
            Some(_) | None => Ok(Outcome::Conflict("it is gone, or no longer ours".to_owned())),
        }
    }

    /// Replaces an object of ours, which has this metadata, as a whole.
    async fn replace<S: WireSpec>(
        &self,
        version: ApiVersion,
        to: &Arc<MeshObject>,
        metadata: ObjectMeta,
    ) -> Result<Outcome, kube::Error> {
        let mut manifest = to_json(to, &self.options.owner, version)
            .map_err(|error| kube::Error::Service(error.into()))?;
        let metadata = serde_json::to_value(without_ours(metadata));
        let mut metadata = metadata.map_err(kube::Error::SerdeError)?;
        for pairs in ["labels", "annotations"] {
            if let Value::Object(ours) = manifest["metadata"][pairs].take() {
                match &mut metadata[pairs] {
                    Value::Object(theirs) => theirs.extend(ours),
                    none => *none = Value::Object(ours),
                }
            }
        }
        manifest["metadata"] = metadata;
        let body = serde_json::to_vec(&manifest).map_err(kube::Error::SerdeError)?;
        let params =
            PostParams { field_manager: Some(FIELD_MANAGER.to_owned()), ..PostParams::default() };
        let path = Wire::<S>::url_path(&version, Some(&to.id.namespace));
        let request = Request::new(path)
            .replace(&to.id.name, &params, body)
            .map_err(kube::Error::BuildRequest)?;
        let answer: Wire<S> = self.send(request).await?;
        if self.take_answer(to, answer) {
            return Ok(Outcome::Done(Some(Arc::clone(to))));
        }
        Ok(Outcome::Conflict(
            "the API server stores something else than was written: an admission webhook or \
             another controller changes it"
                .to_owned(),
        ))
    }

    /// Takes up what the API server says it has stored. Says whether that is `to`.
    pub(super) fn take_answer<S: WireSpec>(&self, to: &Arc<MeshObject>, answer: Wire<S>) -> bool {
        match sight(answer, &self.options.owner, &mut Interner::default()) {
            Sighting::Ours(object, version) if object == **to => {
                self.take_up(&to.id, &version.clone(), |state| {
                    state.put(Arc::clone(to), version);
                });
                true
            }
            other => {
                let version = other.version().clone();
                self.take_up(&to.id, &version, |state| state.take(other));
                false
            }
        }
    }

    /// Changes what is known of `id`, whatever a list that is under way says of it. An answer that
    /// says that it was there at `version` comes too late once the watch has said that it is gone.
    fn take_up(&self, id: &ObjectId, version: &Version, change: impl FnOnce(&mut Observation)) {
        let mut listings = self.listings();
        for listing in listings.iter_mut() {
            listing.note_written(id);
        }
        let is_past = listings
            .iter()
            .any(|listing| listing.has_ended(version) || listing.is_past(id, version));
        self.state.send_if_modified(|state| {
            if is_past && state.version_of(id).is_none() {
                return false;
            }
            change(state);
            true
        });
    }

    /// Takes up that the object which was `known` is gone, whatever a list that is under way, or a
    /// watch that is behind, says of it.
    fn take_end(&self, id: &ObjectId, known: &Version) {
        let mut listings = self.listings();
        self.state.send_if_modified(|state| {
            // The watch may have said so before the answer.
            let is_known = state.version_of(id).is_some_and(|version| version.uid == known.uid);
            if is_known {
                listings.iter_mut().for_each(|listing| listing.note_ended(id, known));
                state.forget(id);
            }
            is_known
        });
    }
}

/// How long to wait before the next attempt: `delay`, or as long as the server asks for. `None`
/// when that is not worth it, for what is `left` of the step's time is shorter.
fn pause(delay: Duration, asked_secs: Option<u32>, left: Duration) -> Option<Duration> {
    let asked = Duration::from_secs(u64::from(asked_secs.unwrap_or(0)));
    let pause = delay.max(asked);
    (pause <= PAUSE_MAX && pause < left).then_some(pause)
}

/// Between half of `delay` and all of it; the same for an object and attempt.
fn jittered(delay: Duration, id: &ObjectId, attempt: u32) -> Duration {
    let digest = name::digest(&[&id.namespace, &id.name, &attempt.to_string()]);
    let share =
        digest.bytes().fold(0_u32, |sum, byte| sum.wrapping_mul(31).wrapping_add(u32::from(byte)));
    delay / 2 + delay / 2 * (share % 256) / 256
}

#[cfg(test)]
mod tests;
