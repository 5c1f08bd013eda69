//! Posts Kubernetes Events, where `kubectl describe` shows them.

use std::collections::BTreeMap;
use std::fmt;
use std::time::Duration;

use k8s_openapi::api::core::v1::ObjectReference;
use k8s_openapi::api::events::v1::Event;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{MicroTime, ObjectMeta};
use kube::api::PostParams;
use kube::{Api, Client};
use landfall_core::time::Time;

use super::error::message_of;
use crate::api::FIELD_MANAGER;
use crate::sink::Condition;

/// Posts events, each of equal ones once in five minutes.
pub struct EventPoster {
    client: Client,
    /// Such as the name of the Pod.
    instance: String,
    posted: BTreeMap<(Subject, Note), Time>,
}

/// The object that an event is about.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Subject {
    /// Such as `v1`.
    pub api_version: String,
    /// Such as `ConfigMap`.
    pub kind: String,
    /// Its namespace, in which the event is posted too.
    pub namespace: String,
    /// Its name.
    pub name: String,
    /// Which object of that name; may be empty.
    pub uid: String,
}

/// What an event says.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Note {
    /// Whether a person should do something.
    pub warning: bool,
    /// One of a closed set, in upper camel case.
    pub reason: &'static str,
    /// For a person; cut to 1 KiB.
    pub message: String,
}

// Kubernetes: `note` is at most 1 KiB, `reportingInstance` and `reason` at most 128 characters.
const MESSAGE_LEN_MAX: usize = 1024;
const WORD_LEN_MAX: usize = 128;
const QUIET: Duration = Duration::from_secs(300);
// When full, the oldest is forgotten, and may then be posted once more.
const POSTED_MAX: usize = 1024;
const CONTROLLER: &str = "landfall.dev/landfall";

impl EventPoster {
    /// A poster that calls itself `instance`.
    #[must_use]
    pub fn new(client: Client, instance: String) -> Self {
        let instance = if instance.is_empty() { "landfall".to_owned() } else { instance };
        let instance = instance.chars().take(WORD_LEN_MAX).collect();
        Self { client, instance, posted: BTreeMap::new() }
    }

    /// Posts `note` about `subject`, unless an equal one was posted within five minutes. Says
    /// whether it was posted.
    ///
    /// # Errors
    /// The API server did not take it. It may be posted again at once.
    pub async fn post(
        &mut self,
        subject: &Subject,
        mut note: Note,
        now: Time,
    ) -> Result<bool, Condition> {
        let end = note.message.floor_char_boundary(MESSAGE_LEN_MAX);
        note.message.truncate(end);
        self.posted.retain(|_, at| now.since(*at) < QUIET);
        let key = (subject.clone(), note);
        if self.posted.contains_key(&key) {
            return Ok(false);
        }
        let event = self.event(subject, &key.1, now);
        let api: Api<Event> = Api::namespaced(self.client.clone(), &subject.namespace);
        let params =
            PostParams { field_manager: Some(FIELD_MANAGER.to_owned()), ..PostParams::default() };
        api.create(&params, &event).await.map_err(|error| Condition {
            code: "kube_event",
            message: format!(
                "failed to post event {} on {} {}/{}: {}",
                key.1.reason,
                subject.kind,
                subject.namespace,
                subject.name,
                message_of(&error)
            ),
        })?;
        if self.posted.len() >= POSTED_MAX {
            let oldest = self.posted.iter().min_by_key(|(_, at)| **at).map(|(key, _)| key.clone());
            self.posted.retain(|key, _| Some(key) != oldest.as_ref());
        }
        self.posted.insert(key, now);
        Ok(true)
    }

    /// What is posted.
    fn event(&self, subject: &Subject, note: &Note, now: Time) -> Event {
        let millis = i64::try_from(now.millis()).unwrap_or(i64::MAX);
        let time = k8s_openapi::jiff::Timestamp::from_millisecond(millis).unwrap_or_default();
        Event {
            metadata: ObjectMeta {
                generate_name: Some("landfall-".to_owned()),
                namespace: Some(subject.namespace.clone()),
                ..ObjectMeta::default()
            },
            action: Some("Publish".to_owned()),
            event_time: Some(MicroTime(time)),
            note: Some(note.message.clone()),
            reason: Some(note.reason.chars().take(WORD_LEN_MAX).collect()),
            regarding: Some(ObjectReference {
                api_version: Some(subject.api_version.clone()),
                kind: Some(subject.kind.clone()),
                namespace: Some(subject.namespace.clone()),
                name: Some(subject.name.clone()),
                uid: Some(subject.uid.clone()).filter(|uid| !uid.is_empty()),
                ..ObjectReference::default()
            }),
            reporting_controller: Some(CONTROLLER.to_owned()),
            reporting_instance: Some(self.instance.clone()),
            type_: Some(if note.warning { "Warning" } else { "Normal" }.to_owned()),
            ..Event::default()
        }
    }
}

impl fmt::Debug for EventPoster {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("EventPoster").field("instance", &self.instance).finish_non_exhaustive()
    }
}
