//! What is made of the answers of an API server, by one that answers as it is told.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use landfall_core::mesh::Object;
use serde_json::{Value, json};
use tokio::net::TcpListener;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::super::fake::{self, Fake, Says};
use super::super::{KubeOptions, KubeSink};
use super::*;
use crate::api::{Body, Endpoints, Location, Owner, Spec};
use crate::render::{RenderOptions, Shape, render};
use crate::testing;

/// How the server answers one request.
#[derive(Clone)]
enum Answer {
    /// As if it had stored what was sent, with this merged into it.
    Stored(Value),
    /// In these words.
    Says(Says),
}

/// Answers with each of `answers` once, and with the last for ever.
async fn told(answers: Vec<Answer>) -> Fake {
    let answers = Mutex::new(VecDeque::from(answers));
    Fake::start(Duration::ZERO, move |_, body| {
        let mut answers = answers.lock().unwrap();
        let answer = if answers.len() > 1 { answers.pop_front() } else { answers.front().cloned() };
        match answer.unwrap() {
            Answer::Stored(change) => Says::json(200, &stored(body, &change)),
            Answer::Says(says) => says,
        }
    })
    .await
}

/// What an API server has after `body` was written.
fn stored(body: &[u8], change: &Value) -> Value {
    let mut object: Value = serde_json::from_slice(body).unwrap();
    let keys = |map: &Value| -> Value {
        let map = map.as_object().cloned().unwrap_or_default();
        map.into_iter().map(|(key, _)| (format!("f:{key}"), json!({}))).collect()
    };
    let metadata = &mut object["metadata"];
    metadata["uid"] = json!("u-1");
    metadata["resourceVersion"] = json!("7");
    metadata["managedFields"] = json!([{"manager": "landfall", "operation": "Apply", "fieldsV1": {
        "f:metadata": {"f:labels": keys(&metadata["labels"]), "f:annotations": keys(&metadata["annotations"])},
    }}]);
    for (field, value) in change.as_object().into_iter().flatten() {
        object["spec"][field] = value.clone();
    }
    object
}

fn sink(port: u16) -> KubeSink {
    sink_with(port, 32)
}

fn sink_with(port: u16, concurrency: usize) -> KubeSink {
    let owner = Owner::parse("home").unwrap();
    KubeSink::new(fake::client(port), KubeOptions { concurrency, ..KubeOptions::new(owner) })
}

fn object(host: &str) -> Arc<MeshObject> {
    let service = testing::plain_service("ns", host, 2);
    Arc::new(render(&service, &RenderOptions::default()).objects.remove(0))
}

fn outside(object: &MeshObject) -> Arc<MeshObject> {
    let mut body: Body = (*object.body).clone();
    if let Spec::ServiceEntry(entry) = &mut body.spec {
        entry.location = Location::MeshExternal;
    }
    Arc::new(Object { body: Arc::new(body), ..object.clone() })
}

async fn apply(sink: &KubeSink, steps: &[Step]) -> Vec<Applied> {
    let mut applied = Vec::new();
    sink.apply(steps, &CancellationToken::new(), async |one| applied.push(one)).await;
    applied
}

/// Creates one object against a server that answers so. Returns the outcome's code, how often the
/// step was tried, and how many requests there were.
async fn create(answers: Vec<Answer>) -> (&'static str, u32, usize) {
    let fake = told(answers).await;
    let sink = sink(fake.port);
    let applied = apply(&sink, &[Step::Create(object("a.mesh"))]).await.remove(0);
    let known = sink.state.borrow().observed.ours.len();
    assert_eq!(known, usize::from(applied.outcome.is_done()));
    let requests = fake.requests().len();
    (applied.outcome.code(), applied.attempts, requests)
}

fn many(count: usize) -> Vec<Step> {
    (0..count).map(|n| Step::Create(object(&format!("s{n}.mesh")))).collect()
}

fn says(code: u16) -> Says {
    let body = json!({"kind": "Status", "status": "Failure", "code": code, "message": "no", "reason": "No"});
    Says::json(code, &body)
}

fn status(code: u16) -> Answer {
    Answer::Says(says(code))
}

fn fine() -> Answer {
    Answer::Stored(json!({}))
}

#[tokio::test]
async fn refusals_are_final() {
    for (code, expected) in [
        (400, "refused"),
        (401, "forbidden"),
        (403, "forbidden"),
        (404, "not_found"),
        (409, "conflict"),
        (413, "refused"),
        (422, "refused"),
    ] {
        assert_eq!(create(vec![status(code), fine()]).await, (expected, 1, 1), "{code}");
    }
}

#[tokio::test(start_paused = true)]
async fn what_may_pass_is_tried_again() {
    // A webhook that does not answer.
    assert_eq!(create(vec![status(500), status(500), fine()]).await, ("done", 3, 3));
    // In words of somebody before the API server.
    let overloaded = || Answer::Says(Says::text(503, "overloaded"));
    assert_eq!(create(vec![overloaded(), overloaded(), fine()]).await, ("done", 3, 3));
}

#[tokio::test(start_paused = true)]
async fn retry_after_is_heeded() {
    let began = Instant::now();
    let wait = Says { header: "retry-after: 1\r\n", ..Says::text(429, "Too many requests") };
    let wait = Answer::Says(wait);
    assert_eq!(create(vec![wait, fine()]).await, ("done", 2, 2));
    assert!(began.elapsed() >= Duration::from_secs(1));
}

#[tokio::test(start_paused = true)]
async fn a_webhook_that_fails_is_no_silence() {
    let fake = told(vec![status(500)]).await;
    let applied = apply(&sink_with(fake.port, 8), &many(100)).await;
    assert_eq!(applied.len(), 100);
    assert!(applied.iter().all(|one| (one.outcome.message(), one.attempts) == ("no", 5)));
}

#[tokio::test(start_paused = true)]
async fn who_pauses_keeps_nobody_from_writing() {
    let fake = Fake::start(Duration::ZERO, |line, body| match line.contains("busy") {
        true => Says { header: "retry-after: 30\r\n", ..Says::text(429, "Too many requests") },
        false => Says::json(200, &stored(body, &json!({}))),
    })
    .await;
    let sink = sink_with(fake.port, 1);
    let steps = [Step::Create(object("busy.mesh")), Step::Create(object("a.mesh"))];
    let began = Instant::now();
    let mut ends = Vec::new();
    let report = async |one: Applied| ends.push((one.outcome.code(), began.elapsed().as_secs()));
    sink.apply(&steps, &CancellationToken::new(), report).await;
    assert_eq!(ends, [("done", 0), ("unavailable", 120)]);
}

/// Updates an object that is known in version 7 against a server that has it in version 9, as
/// `owner`'s. Returns the outcome's code, and the methods of the requests.
async fn outdated(owner: &'static str) -> (&'static str, Vec<String>) {
    let want = object("a.mesh");
    let mut there = to_json(&want, &Owner::parse(owner).unwrap(), ApiVersion::V1).unwrap();
    there = stored(there.to_string().as_bytes(), &json!({}));
    there["metadata"]["resourceVersion"] = json!("9");
    let fake = Fake::start(Duration::ZERO, move |line, body| {
        if line.starts_with("get") {
            return Says::json(200, &there);
        }
        let sent: Value = serde_json::from_slice(body).unwrap();
        match sent["metadata"]["resourceVersion"].as_str() {
            // As API servers do: who names no version means any.
            Some("9") | None => Says::json(200, &stored(body, &json!({}))),
            Some(_) => says(409),
        }
    })
    .await;
    let sink = sink(fake.port);
    let known = Version { uid: "u-1".into(), resource_version: 7 };
    sink.state.send_modify(|state| state.put(Arc::clone(&want), known));
    let step = Step::Update { to: outside(&want), from: want };
    let outcome = apply(&sink, &[step]).await.remove(0).outcome.code();
    let methods =
        fake.requests().iter().map(|line| line[..5].trim_matches([' ', '/']).to_owned()).collect();
    (outcome, methods)
}

#[tokio::test]
async fn what_was_handed_over_is_not_taken_back() {
    assert_eq!(outdated("other").await, ("conflict", vec!["patch".into(), "get".into()]));
}

#[tokio::test]
async fn what_changed_besides_is_no_obstacle() {
    let methods = vec!["patch".into(), "get".into(), "patch".into()];
    assert_eq!(outdated("home").await, ("done", methods));
}

#[tokio::test(start_paused = true)]
async fn a_silent_server_is_not_asked_for_ever() {
    // Nobody listens on a port that was just given back.
    let port = TcpListener::bind("127.0.0.1:0").await.unwrap().local_addr().unwrap().port();
    let sink = sink_with(port, 8);
    let tried = async || {
        let applied = apply(&sink, &many(100)).await;
        assert!(applied.iter().all(|one| one.outcome.code() == "unavailable"));
        applied.iter().filter(|one| one.attempts > 0).count()
    };
    let first = tried().await;
    // 32 are begun at once, and another for each that ends, until 16 had no answer.
    assert!((32..48).contains(&first), "{first}");
    // The next round knows it.
    let second = tried().await;
    assert!(second <= 1, "{second}");
}

#[tokio::test]
async fn rounds_share_the_writes_under_way() {
    let pause = Duration::from_millis(20);
    let fake = Fake::start(pause, |_, body| Says::json(200, &stored(body, &json!({})))).await;
    let sink = sink_with(fake.port, 4);
    let steps = many(20);
    let rounds = steps.chunks(5).map(|steps| apply(&sink, steps));
    let applied = futures_util::future::join_all(rounds).await.concat();
    assert_eq!(applied.len(), 20);
    assert!(applied.iter().all(|one| one.outcome.is_done()));
    assert!((2..=4).contains(&fake.peak()), "{}", fake.peak());
}

#[test]
fn a_server_may_ask_for_a_minute() {
    let secs = Duration::from_secs;
    for (delay, asked, left, expected) in [
        (1, None, 120, Some(1)),
        (1, Some(45), 120, Some(45)),
        (1, Some(60), 120, Some(60)),
        (1, Some(61), 120, None),
        (1, Some(60), 59, None),
        (1, None, 0, None),
    ] {
        let pause = pause(secs(delay), asked, secs(left));
        assert_eq!(pause, expected.map(secs), "{delay} {asked:?} {left}");
    }
}

#[tokio::test]
async fn fields_of_others_are_replaced_away() {
    let other = Answer::Stored(json!({"exportTo": ["."]}));
    let want = object("a.mesh");
    let fake = told(vec![fine(), other.clone(), fine(), other]).await;
    let sink = sink(fake.port);
    assert_eq!(apply(&sink, &[Step::Create(Arc::clone(&want))]).await[0].outcome.code(), "done");
    let to = outside(&want);
    let update = Step::Update { from: want, to: Arc::clone(&to) };
    let applied = apply(&sink, std::slice::from_ref(&update)).await.remove(0);
    assert!(matches!(&applied.outcome, Outcome::Done(Some(object)) if Arc::ptr_eq(object, &to)));
    // A webhook that puts them back is not fought.
    let applied = apply(&sink, &[update]).await.remove(0);
    assert_eq!(applied.outcome.code(), "conflict");
    assert!(applied.outcome.message().contains("webhook"));
    let path = "/apis/networking.istio.io/v1/namespaces/ns/serviceentries/a.mesh";
    let methods: Vec<String> = fake
        .requests()
        .iter()
        .map(|request| request.strip_suffix(path).unwrap().trim().to_owned())
        .collect();
    assert_eq!(methods, ["patch", "patch", "put", "patch", "put"]);
}

/// Updates an object of ours that somebody changed so that an apply is invalid, and that is
/// `owner`'s when it is read. Returns the outcome's code, the methods of the requests, and what was
/// sent last.
async fn unfit(owner: &str, to: Arc<MeshObject>) -> (&'static str, Vec<String>, Value) {
    let from = object("a.mesh");
    let mut there = to_json(&from, &Owner::parse(owner).unwrap(), ApiVersion::V1).unwrap();
    there = stored(there.to_string().as_bytes(), &json!({"workloadSelector": {}}));
    let metadata = &mut there["metadata"];
    metadata["resourceVersion"] = json!("9");
    metadata["finalizers"] = json!(["theirs"]);
    metadata["labels"]["team"] = json!("theirs");
    metadata["annotations"]["note"] = json!("theirs");
    // Ours until now, and nothing that we still want.
    metadata["annotations"]["old"] = json!("ours");
    metadata["managedFields"][0]["fieldsV1"]["f:metadata"]["f:annotations"]["f:old"] = json!({});
    let sent = Arc::new(Mutex::new(Value::Null));
    let last = Arc::clone(&sent);
    let fake = Fake::start(Duration::ZERO, move |line, body| {
        if line.starts_with("get") {
            return Says::json(200, &there);
        }
        let sent: Value = serde_json::from_slice(body).unwrap();
        last.lock().unwrap().clone_from(&sent);
        match line.starts_with("put") {
            true => Says::json(200, &sent),
            false => says(422),
        }
    })
    .await;
    let sink = sink(fake.port);
    let known = Version { uid: "u-1".into(), resource_version: 7 };
    sink.state.send_modify(|state| state.put(Arc::clone(&from), known));
    let outcome = apply(&sink, &[Step::Update { from, to }]).await.remove(0).outcome.code();
    let methods =
        fake.requests().iter().map(|line| line[..5].trim_matches([' ', '/']).to_owned()).collect();
    let sent = sent.lock().unwrap().clone();
    (outcome, methods, sent)
}

#[tokio::test]
async fn what_makes_an_apply_invalid_is_replaced() {
    let to = outside(&object("a.mesh"));
    let (outcome, methods, sent) = unfit("home", Arc::clone(&to)).await;
    assert_eq!((outcome, methods.join(" ").as_str()), ("done", "patch get put"));
    let mut want = to_json(&to, &Owner::parse("home").unwrap(), ApiVersion::V1).unwrap();
    assert_eq!(sent["spec"], want["spec"]);
    let metadata = &mut want["metadata"];
    metadata["labels"]["team"] = json!("theirs");
    metadata["annotations"]["note"] = json!("theirs");
    assert_eq!(sent["metadata"]["labels"], metadata["labels"]);
    assert_eq!(sent["metadata"]["annotations"], metadata["annotations"]);
    assert_eq!(sent["metadata"]["finalizers"], json!(["theirs"]));
    assert_eq!(sent["metadata"]["resourceVersion"], "9");
    // Meanwhile it was handed over.
    let (outcome, methods, _) = unfit("other", Arc::clone(&to)).await;
    assert_eq!((outcome, methods.join(" ").as_str()), ("conflict", "patch get"));
    // What nobody would take is not tried.
    let mut body: Body = (*to.body).clone();
    if let Spec::ServiceEntry(entry) = &mut body.spec {
        entry.hosts = Box::default();
    }
    let illegal = Arc::new(Object { body: Arc::new(body), ..(*to).clone() });
    let (outcome, methods, _) = unfit("home", illegal).await;
    assert_eq!((outcome, methods.join(" ").as_str()), ("refused", "patch"));
}

/// The ServiceEntry of `a.mesh` and its one endpoint, inline or in a WorkloadEntry of its own.
fn shaped(shape: Shape) -> Vec<Arc<MeshObject>> {
    let options = RenderOptions { shape, ..RenderOptions::default() };
    let objects = render(&testing::plain_service("ns", "a.mesh", 1), &options).objects;
    objects.into_iter().map(Arc::new).collect()
}

/// Applies `steps` to a server that refuses writes to `refused`, a part of their paths. Returns
/// the outcomes and how often each step was tried.
async fn refusing(refused: &'static str, steps: &[Step]) -> Vec<(&'static str, u32)> {
    let fake = Fake::start(Duration::ZERO, move |line, body| {
        if line.contains(refused) {
            return says(422);
        }
        match line.starts_with("delete") {
            true => Says::json(200, &json!({"kind": "Status", "status": "Success"})),
            false => Says::json(200, &stored(body, &json!({}))),
        }
    })
    .await;
    let sink = sink(fake.port);
    // What is to change or to go is known by then.
    let known = Version { uid: "u-1".into(), resource_version: 7 };
    for from in steps.iter().filter_map(Step::from) {
        sink.state.send_modify(|state| state.put(Arc::clone(from), known.clone()));
    }
    let applied = apply(&sink, steps).await;
    applied.iter().map(|a| (a.outcome.code(), a.attempts)).collect()
}

#[tokio::test]
async fn steps_wait_for_those_that_they_need() {
    let [inline] = <[_; 1]>::try_from(shaped(Shape::Inline)).unwrap();
    let [selecting, endpoint] = <[_; 2]>::try_from(shaped(Shape::WorkloadEntries)).unwrap();
    assert!(matches!(&selecting.body.service_entry().unwrap().endpoints, Endpoints::Selected(_)));
    // The endpoint would be nowhere, were the ServiceEntry to select what is not there.
    let turn = Step::Update { from: Arc::clone(&inline), to: Arc::clone(&selecting) };
    let outcomes = refusing("workloadentries", &[Step::Create(Arc::clone(&endpoint)), turn]).await;
    assert_eq!(outcomes, [("refused", 1), ("waits", 0)]);
    // And were it to go while it is still selected.
    let back = Step::Update { from: Arc::clone(&selecting), to: inline };
    let outcomes = refusing("serviceentries", &[back, Step::Delete(endpoint)]).await;
    assert_eq!(outcomes, [("refused", 1), ("waits", 0)]);
}

#[tokio::test]
async fn what_is_dead_goes_though_what_is_new_cannot_come() {
    let [selecting, endpoint] = <[_; 2]>::try_from(shaped(Shape::WorkloadEntries)).unwrap();
    let dead = Object {
        id: ObjectId { name: "dead".into(), ..endpoint.id.clone() },
        ..(*endpoint).clone()
    };
    // As with a quota that is full, which only the last step makes room in.
    let steps = [
        Step::Create(Arc::clone(&endpoint)),
        Step::Update { from: Arc::clone(&selecting), to: outside(&selecting) },
        Step::Delete(Arc::new(dead)),
    ];
    let outcomes = refusing("workloadentries/a.mesh", &steps).await;
    assert_eq!(outcomes, [("refused", 1), ("done", 1), ("done", 1)]);
}

#[tokio::test]
async fn a_stop_ends_retries() {
    let fake = told(vec![status(500)]).await;
    let sink = sink(fake.port);
    let stop = CancellationToken::new();
    let steps = [Step::Create(object("a.mesh")), Step::Create(object("b.mesh"))];
    let mut applied = Vec::new();
    let began = Instant::now();
    let stopping = async {
        tokio::time::sleep(Duration::from_millis(100)).await;
        stop.cancel();
    };
    tokio::join!(sink.apply(&steps, &stop, async |one| applied.push(one)), stopping);
    assert_eq!(applied.len(), 2);
    assert!(began.elapsed() < Duration::from_secs(2));
}
