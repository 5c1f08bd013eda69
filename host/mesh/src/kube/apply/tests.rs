//! What is made of the answers of an API server, by one that answers as it is told.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use landfall_core::mesh::Object;
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::super::{KubeOptions, KubeSink};
use super::*;
use crate::api::{Body, Endpoints, Location, Owner, Spec};
use crate::render::{RenderOptions, render};
use crate::testing;

/// How the server answers one request.
#[derive(Clone)]
enum Answer {
    /// As if it had stored what was sent, with this merged into it.
    Stored(Value),
    /// With a status, another header and a body.
    Says(u16, &'static str, String),
}

/// The server's port, and the requests it had: method and path.
struct Fake {
    port: u16,
    requests: Arc<Mutex<Vec<String>>>,
}

/// Answers with each of `answers` once, and with the last for ever.
async fn fake(answers: Vec<Answer>) -> Fake {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    let requests = Arc::new(Mutex::new(Vec::new()));
    let answers = Arc::new(Mutex::new(VecDeque::from(answers)));
    let seen = Arc::clone(&requests);
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            tokio::spawn(serve(stream, Arc::clone(&answers), Arc::clone(&seen)));
        }
    });
    Fake { port, requests }
}

async fn serve(
    mut stream: TcpStream,
    answers: Arc<Mutex<VecDeque<Answer>>>,
    requests: Arc<Mutex<Vec<String>>>,
) {
    let mut read = Vec::new();
    while let Some((head, body)) = request(&mut stream, &mut read).await {
        let line = head.lines().next().unwrap().trim_end_matches(" HTTP/1.1").to_owned();
        let path = line.split('?').next().unwrap().to_owned();
        requests.lock().unwrap().push(path);
        let answer = {
            let mut answers = answers.lock().unwrap();
            if answers.len() > 1 { answers.pop_front() } else { answers.front().cloned() }
        };
        let (status, header, text) = match answer.unwrap() {
            Answer::Stored(change) => (200, "", stored(&body, &change).to_string()),
            Answer::Says(status, header, text) => (status, header, text),
        };
        let answer = format!(
            "HTTP/1.1 {status} X\r\ncontent-type: application/json\r\ncontent-length: {}\r\n{header}\r\n{text}",
            text.len()
        );
        stream.write_all(answer.as_bytes()).await.unwrap();
    }
}

/// The next request's head and body.
async fn request(stream: &mut TcpStream, read: &mut Vec<u8>) -> Option<(String, Vec<u8>)> {
    loop {
        if let Some(end) = read.windows(4).position(|four| four == b"\r\n\r\n") {
            let head = String::from_utf8_lossy(&read[..end])
                .to_lowercase()
                .replace(" http/1.1", " HTTP/1.1");
            let len = head.lines().find_map(|line| line.strip_prefix("content-length: "));
            let len: usize = len.map_or(0, |len| len.trim().parse().unwrap());
            if read.len() >= end + 4 + len {
                let body = read[end + 4..end + 4 + len].to_vec();
                read.drain(..end + 4 + len);
                return Some((head, body));
            }
        }
        let mut chunk = [0; 4096];
        match stream.read(&mut chunk).await {
            Ok(count) if count > 0 => read.extend_from_slice(&chunk[..count]),
            _ => return None,
        }
    }
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
    let config = kube::Config::new(format!("http://127.0.0.1:{port}").parse().unwrap());
    let client = kube::Client::try_from(config).unwrap();
    KubeSink::new(client, KubeOptions::new(Owner::parse("home").unwrap()))
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
    let fake = fake(answers).await;
    let sink = sink(fake.port);
    let applied = apply(&sink, &[Step::Create(object("a.mesh"))]).await.remove(0);
    let known = sink.state.borrow().observed.ours.len();
    assert_eq!(known, usize::from(applied.outcome.is_done()));
    let requests = fake.requests.lock().unwrap().len();
    (applied.outcome.code(), applied.attempts, requests)
}

fn status(code: u16) -> Answer {
    let body = json!({"kind": "Status", "status": "Failure", "code": code, "message": "no", "reason": "No"});
    Answer::Says(code, "", body.to_string())
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

#[tokio::test]
async fn what_may_pass_is_tried_again() {
    // A webhook that does not answer.
    assert_eq!(create(vec![status(500), status(500), fine()]).await, ("done", 3, 3));
    // kube itself asks again.
    let overloaded = || Answer::Says(503, "", "overloaded".to_owned());
    assert_eq!(create(vec![overloaded(), overloaded(), fine()]).await, ("done", 1, 3));
}

#[tokio::test]
async fn retry_after_is_heeded() {
    let began = Instant::now();
    let wait = Answer::Says(429, "retry-after: 1\r\n", "Too many requests".to_owned());
    assert_eq!(create(vec![wait, fine()]).await, ("done", 1, 2));
    assert!(began.elapsed() >= Duration::from_secs(1));
}

#[tokio::test]
async fn a_silent_server_is_not_asked_for_ever() {
    // Nobody listens on a port that was just given back.
    let port = TcpListener::bind("127.0.0.1:0").await.unwrap().local_addr().unwrap().port();
    let mut sink = sink(port);
    sink.options.concurrency = 8;
    let steps: Vec<Step> = (0..100).map(|n| Step::Create(object(&format!("s{n}.mesh")))).collect();
    let applied = apply(&sink, &steps).await;
    assert!(applied.iter().all(|one| one.outcome.code() == "unavailable"));
    let tried = applied.iter().filter(|one| one.attempts > 0).count();
    assert!((16..24).contains(&tried), "{tried}");
}

#[tokio::test]
async fn fields_of_others_are_replaced_away() {
    let other = Answer::Stored(json!({"exportTo": ["."]}));
    let want = object("a.mesh");
    let fake = fake(vec![fine(), other.clone(), fine(), other]).await;
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
        .requests
        .lock()
        .unwrap()
        .iter()
        .map(|request| request.strip_suffix(path).unwrap().trim().to_owned())
        .collect();
    assert_eq!(methods, ["patch", "patch", "put", "patch", "put"]);
}

#[tokio::test]
async fn steps_wait_for_those_that_they_need() {
    let selected =
        RenderOptions { shape: crate::render::Shape::WorkloadEntries, ..RenderOptions::default() };
    let objects = render(&testing::plain_service("ns", "a.mesh", 1), &selected).objects;
    let [entry, endpoint] = <[MeshObject; 2]>::try_from(objects).unwrap().map(Arc::new);
    assert!(matches!(&entry.body.service_entry().unwrap().endpoints, Endpoints::Selected(_)));
    let fake = fake(vec![status(422)]).await;
    let sink = sink(fake.port);
    let applied = apply(&sink, &[Step::Create(endpoint), Step::Create(entry)]).await;
    let outcomes: Vec<_> = applied.iter().map(|a| (a.outcome.code(), a.attempts)).collect();
    assert_eq!(outcomes, [("refused", 1), ("unavailable", 0)]);
}

#[tokio::test]
async fn a_stop_ends_retries() {
    let fake = fake(vec![status(500)]).await;
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
