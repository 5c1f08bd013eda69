//! Executes steps: one request for each changed object, many at once, none before knowing it.
//!
//! Applying makes no choice. It retries what may pass, reports what became of each step, and one
//! bad object harms no other.
//
//  step            request                                   guards against
//  create          apply, not forced, resourceVersion that   taking over an object that somebody
//                  no object has                             made meanwhile: 409
//  update, empty   apply, forced, uid                        an object that was made anew: 409
//    answer has fields of others in the spec:
//                  replace, resourceVersion                  a change in between: 409
//  delete          delete, uid and resourceVersion           the same: 409

use std::sync::Arc;
use std::time::Duration;

use futures_util::stream::{FuturesUnordered, StreamExt as _};
use kube::Resource as _;
use kube::api::{DeleteParams, Patch, PatchParams, PostParams, Preconditions};
use kube::core::Request;
use landfall_core::mesh::{Kind, ObjectId};
use landfall_core::name;
use landfall_core::text::Interner;
use serde::de::IgnoredAny;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::KubeSink;
use super::error::{Verdict, verdict};
use super::store::Version;
use super::wire::{Sighting, has_other_managers, sight};
use crate::api::{
    ApiVersion, Extra, FIELD_MANAGER, Manifest, MeshObject, ServiceEntryWire, Wire, WireSpec,
    WorkloadEntryWire, to_json,
};
use crate::sink::{Applied, Outcome, Step, Stuck};

// An API server waits up to 30 s for a webhook.
const REQUEST_TIMEOUT: Duration = Duration::from_secs(30);
// All attempts together: what takes longer is planned again. Two requests that take their time,
// and between them the longest pause that a server may ask for.
const STEP_TIMEOUT: Duration = Duration::from_secs(120);
// 0.2 + 0.4 + 0.8 + 1.6 s: a restart of one API server behind a balancer.
const ATTEMPTS_MAX: u32 = 5;
const RETRY_MIN: Duration = Duration::from_millis(200);
const RETRY_MAX: Duration = Duration::from_secs(10);
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
                while under_way.len() < self.options.concurrency.max(1)
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
            None => self.tried_in_turn(step, stop).await,
        };
        (step, Applied { id: step.id().clone(), verb: step.verb(), outcome, attempts })
    }

    /// Tries a step once its turn has come, unless that makes no sense by then.
    async fn tried_in_turn(&self, step: &Step, stop: &CancellationToken) -> (Outcome, u32) {
        // Fails only once it is closed, which nobody does.
        let _turn = self.writes.acquire().await;
        if stop.is_cancelled() {
            return (Outcome::Unavailable("the process is stopping".to_owned()), 0);
        }
        let now = Instant::now();
        if !self.breaker().admits(now, now + STEP_TIMEOUT) {
            let message = "not tried: the API server does not answer";
            return (Outcome::Unavailable(message.to_owned()), 0);
        }
        let (outcome, attempts) = self.tried(step, stop).await;
        match outcome {
            Outcome::Unavailable(_) => self.breaker().unanswered(Instant::now()),
            _ => self.breaker().answered(),
        }
        (outcome, attempts)
    }

    /// Tries a step until it is clear what becomes of it, and says how often it was tried.
    async fn tried(&self, step: &Step, stop: &CancellationToken) -> (Outcome, u32) {
        let end = Instant::now() + STEP_TIMEOUT;
        let mut delay = RETRY_MIN;
        let mut attempt = 1;
        loop {
            let until = end.min(Instant::now() + REQUEST_TIMEOUT);
            let once = async {
                match step.id().kind {
                    Kind::ServiceEntry => self.once::<ServiceEntryWire>(step).await,
                    Kind::WorkloadEntry => self.once::<WorkloadEntryWire>(step).await,
                }
            };
            let (after_secs, message) = match tokio::time::timeout_at(until, once).await {
                Ok(Ok(outcome)) => return (outcome, attempt),
                Ok(Err(error)) => match verdict(&error) {
                    Verdict::Final(outcome) => return (self.settled(step, outcome), attempt),
                    Verdict::Again { after_secs, message } => (after_secs, message),
                },
                Err(_) => {
                    let secs = REQUEST_TIMEOUT.as_secs();
                    (None, format!("the API server did not answer within {secs}s"))
                }
            };
            let left = end.saturating_duration_since(Instant::now());
            let pause = pause(jittered(delay, step.id(), attempt), after_secs, left);
            let Some(pause) = pause.filter(|_| attempt < ATTEMPTS_MAX) else {
                return (Outcome::Unavailable(message), attempt);
            };
            tokio::select! {
                () = stop.cancelled() => return (Outcome::Unavailable(message), attempt),
                () = tokio::time::sleep(pause) => (),
            }
            delay *= 2;
            attempt += 1;
        }
    }

    /// What a final refusal says of what we believed.
    fn settled(&self, step: &Step, outcome: Outcome) -> Outcome {
        match (step, outcome) {
            // Gone already is what was wanted, unless it is the namespace's CRD that is gone:
            // then so is the object.
            (Step::Delete(object), Outcome::NotFound(_)) => {
                self.state.send_modify(|state| state.forget(&object.id));
                Outcome::Done(None)
            }
            (_, outcome) => outcome,
        }
    }

    async fn once<S: WireSpec>(&self, step: &Step) -> Result<Outcome, kube::Error> {
        let version = self.state.borrow().api_version();
        let known = self.state.borrow().version_of(step.id()).cloned();
        match (step, known) {
            (Step::Create(to), _) => self.create::<S>(version, to).await,
            (Step::Update { .. } | Step::Empty { .. } | Step::Delete(_), None) => {
                Ok(Outcome::Conflict("it is gone, or no longer ours".to_owned()))
            }
            (Step::Update { to, .. } | Step::Empty { to, .. }, Some(known)) => {
                self.update::<S>(version, to, &known).await
            }
            (Step::Delete(object), Some(known)) => {
                let path = Wire::<S>::url_path(&version, Some(&object.id.namespace));
                self.delete(path, &object.id, &known).await
            }
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

    async fn update<S: WireSpec>(
        &self,
        version: ApiVersion,
        to: &Arc<MeshObject>,
        known: &Version,
    ) -> Result<Outcome, kube::Error> {
        let extra = Extra { uid: &known.uid, ..Extra::default() };
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
        let mut request = Request::new(path)
            .patch(&to.id.name, &params, &Patch::Apply(()))
            .map_err(kube::Error::BuildRequest)?;
        // kube would print it as plain JSON, see `to_apply`.
        *request.body_mut() = body;
        self.send(request).await
    }

    async fn delete(
        &self,
        path: String,
        id: &ObjectId,
        known: &Version,
    ) -> Result<Outcome, kube::Error> {
        let params = DeleteParams {
            preconditions: Some(Preconditions {
                uid: Some(known.uid.to_string()),
                resource_version: Some(known.resource_version.to_string()),
            }),
            ..DeleteParams::default()
        };
        let request =
            Request::new(path).delete(&id.name, &params).map_err(kube::Error::BuildRequest)?;
        // The answer is the object or a status; neither says more than that it was taken.
        self.send::<IgnoredAny>(request).await?;
        self.note_written(id);
        self.state.send_modify(|state| state.forget(id));
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
        let mut manifest = to_json(to, &self.options.owner, version)
            .map_err(|error| kube::Error::Service(error.into()))?;
        manifest["metadata"] = serde_json::to_value(metadata).map_err(kube::Error::SerdeError)?;
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
    fn take_answer<S: WireSpec>(&self, to: &Arc<MeshObject>, answer: Wire<S>) -> bool {
        self.note_written(&to.id);
        match sight(answer, &self.options.owner, &mut Interner::default()) {
            Sighting::Ours(object, version) if object == **to => {
                self.state.send_modify(|state| state.put(Arc::clone(to), version));
                true
            }
            other => {
                self.state.send_modify(|state| state.take(other));
                false
            }
        }
    }

    fn note_written(&self, id: &ObjectId) {
        for listing in self.listings().iter_mut() {
            listing.note_written(id);
        }
    }
}

/// How long to wait before the next attempt: `delay`, or as long as the server asks for. `None`
/// when that is not worth it, for what is `left` of the step's time is shorter.
fn pause(delay: Duration, asked_secs: Option<u32>, left: Duration) -> Option<Duration> {
    let asked = Duration::from_secs(u64::from(asked_secs.unwrap_or(0)));
    let pause = delay.min(RETRY_MAX).max(asked);
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
