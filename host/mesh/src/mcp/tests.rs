//! What is served over restarts, crashes and disks that fail.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;
use std::sync::Arc;

use landfall_core::mesh::{Kind, Object, ObjectId};
use landfall_core::pairs::Pairs;
use landfall_core::registry::SourceName;
use landfall_core::text::Text;
use landfall_core::time::Time;
use tokio_util::sync::{CancellationToken, DropGuard};

use super::{McpError, McpOptions, McpSink, PEM_BYTES_MAX, TlsIdentity};
use crate::api::{
    Body, EndpointAddress, Endpoints, MeshObject, Owner, Resolution, ServiceEntry, Spec,
    WorkloadEntry,
};
use crate::sink::{Applied, Step};

const THEN: Time = Time::from_millis(1_700_000_000_123);
const LATER: Time = Time::from_millis(1_800_000_000_000);

struct Running {
    sink: Arc<McpSink>,
    _stop: DropGuard,
}

async fn start(folder: &Path) -> Running {
    let stop = CancellationToken::new();
    let sink = McpSink::start(options(folder), stop.clone()).await.unwrap();
    Running { sink, _stop: stop.drop_guard() }
}

fn options(folder: &Path) -> McpOptions {
    McpOptions {
        listen: "127.0.0.1:0".parse().unwrap(),
        journal: folder.join("journal"),
        addresses: Some("240.241.0.0/24".parse().unwrap()),
        tls: None,
        owner: Owner::parse("me").unwrap(),
    }
}

fn object(name: &str, endpoint: &str) -> Arc<MeshObject> {
    let spec = ServiceEntry {
        hosts: Box::from([Text::from(name)]),
        resolution: Resolution::Static,
        endpoints: Endpoints::Inline(Box::from([WorkloadEntry {
            address: EndpointAddress::Ip(endpoint.parse().unwrap()),
            ..WorkloadEntry::default()
        }])),
        ..ServiceEntry::default()
    };
    Arc::new(Object {
        id: ObjectId {
            kind: Kind::ServiceEntry,
            namespace: Text::from("mesh"),
            name: Text::from(name),
        },
        sources: Arc::from([SourceName::parse("dc1").unwrap()]),
        removal: None,
        body: Arc::new(Body {
            labels: Pairs::default(),
            annotations: Pairs::default(),
            spec: Spec::ServiceEntry(spec),
        }),
    })
}

fn create(name: &str) -> Step {
    Step::Create(object(name, "10.0.0.1"))
}

fn all_done(applied: &[Applied]) -> bool {
    applied.iter().all(|applied| applied.outcome.is_done())
}

/// Names with when they were first served and their virtual addresses.
fn served(sink: &McpSink) -> BTreeMap<String, (String, String)> {
    let served = sink.served();
    let one = |(id, entry): (&ObjectId, &super::Entry)| {
        let address = entry.address.map_or_else(String::new, |address| address.to_string());
        (id.name.to_string(), (entry.created.clone(), address))
    };
    served.entries.iter().map(one).collect()
}

fn is_told(sink: &McpSink) -> bool {
    sink.states.borrow().is_some()
}

#[tokio::test]
async fn nothing_is_told_before_it_is_complete() {
    let folder = tempfile::tempdir().unwrap();
    let running = start(folder.path()).await;
    assert!(all_done(&running.sink.apply(&[create("a.mesh")], THEN)));
    assert!(!is_told(&running.sink), "the rest is still to come");
    drop(running);
    // A crash in the middle of it.
    let running = start(folder.path()).await;
    assert_eq!(served(&running.sink).into_keys().collect::<Vec<_>>(), ["a.mesh"]);
    assert!(!is_told(&running.sink), "the rest is still to come");
    running.sink.complete();
    assert!(is_told(&running.sink));
    drop(running);
    assert!(is_told(&start(folder.path()).await.sink));
    // A journal that somebody made, or that lost all.
    fs::write(folder.path().join("journal"), "").unwrap();
    assert!(!is_told(&start(folder.path()).await.sink));
}

#[tokio::test]
async fn a_restart_serves_the_same() {
    let folder = tempfile::tempdir().unwrap();
    let running = start(folder.path()).await;
    running.sink.apply(&[create("a.mesh"), create("b.mesh")], THEN);
    running.sink.complete();
    let update =
        Step::Update { from: object("a.mesh", "10.0.0.1"), to: object("a.mesh", "10.0.0.2") };
    running.sink.apply(&[update, Step::Delete(object("b.mesh", "10.0.0.1"))], LATER);
    let before = served(&running.sink);
    let created = "2023-11-14T22:13:20.123Z".to_owned();
    assert_eq!(before, [("a.mesh".to_owned(), (created, "240.241.0.1".to_owned()))].into());
    drop(running);
    let running = start(folder.path()).await;
    assert!(is_told(&running.sink), "whoever asks was told before");
    assert_eq!(served(&running.sink), before);
    let seen = running.sink.observation();
    assert_eq!(seen.borrow().observed.ours.get_min().unwrap().1, object("a.mesh", "10.0.0.2"));
    // The address of the one that went is not given again so soon.
    running.sink.apply(&[create("c.mesh")], LATER);
    assert_eq!(served(&running.sink)["c.mesh"].1, "240.241.0.3");
}

#[tokio::test]
async fn half_a_state_was_told_to_nobody() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("journal.new");
    let begin = async || {
        let options = McpOptions { journal: path.clone(), ..options(folder.path()) };
        let stop = CancellationToken::new();
        let sink = McpSink::start(options, stop.clone()).await.unwrap();
        Running { sink, _stop: stop.drop_guard() }
    };
    let running = begin().await;
    running.sink.apply(&[create("a.mesh")], THEN);
    running.sink.complete();
    let before = fs::read_to_string(&path).unwrap();
    running.sink.apply(&[create("b.mesh"), Step::Delete(object("a.mesh", "10.0.0.1"))], THEN);
    drop(running);
    let text = fs::read_to_string(&path).unwrap();
    // Wherever a crash cut it off.
    for len in before.len()..text.len() {
        fs::write(&path, &text[..len]).unwrap();
        let running = begin().await;
        assert!(is_told(&running.sink));
        assert_eq!(served(&running.sink).into_keys().collect::<Vec<_>>(), ["a.mesh"], "{len}");
    }
    // What is written next stands on a line of its own.
    let running = begin().await;
    running.sink.apply(&[create("c.mesh")], THEN);
    drop(running);
    let running = begin().await;
    assert_eq!(served(&running.sink).into_keys().collect::<Vec<_>>(), ["a.mesh", "c.mesh"]);
}

#[tokio::test]
async fn what_cannot_be_written_is_not_served() {
    let folder = tempfile::tempdir().unwrap();
    let running = start(folder.path()).await;
    running.sink.apply(&[create("a.mesh")], THEN);
    // The journal's place is taken, so that it can be written neither here nor anew.
    drop(running);
    let running = start(folder.path()).await;
    fs::remove_file(folder.path().join("journal")).unwrap();
    fs::create_dir(folder.path().join("journal")).unwrap();
    let applied = running.sink.apply(&[create("b.mesh")], THEN);
    assert!(!all_done(&applied));
    assert_eq!(served(&running.sink).into_keys().collect::<Vec<_>>(), ["a.mesh"]);
    let condition = || running.sink.observation().borrow().condition.clone();
    assert_eq!(condition().unwrap().code, "mcp_journal");
    // Nor is what is not on the disk said to be whole.
    running.sink.complete();
    assert!(!is_told(&running.sink));
    fs::remove_dir(folder.path().join("journal")).unwrap();
    assert!(all_done(&running.sink.apply(&[create("b.mesh")], THEN)));
    assert_eq!(condition(), None);
    running.sink.complete();
    assert!(is_told(&running.sink));
    assert_eq!(served(&running.sink)["b.mesh"].1, "240.241.0.3", "the failed one's is skipped");
}

#[tokio::test]
async fn a_journal_that_somebody_takes_away_is_written_anew() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("journal");
    let running = start(folder.path()).await;
    running.sink.apply(&[create("a.mesh")], THEN);
    running.sink.complete();
    fs::remove_file(&path).unwrap();
    running.sink.apply(&[create("b.mesh")], THEN);
    let all = served(&running.sink);
    // Another process that began beside it put its own there.
    fs::write(folder.path().join("other"), "").unwrap();
    fs::rename(folder.path().join("other"), &path).unwrap();
    running.sink.apply(&[Step::Delete(object("b.mesh", "10.0.0.1")), create("b.mesh")], THEN);
    drop(running);
    let running = start(folder.path()).await;
    assert!(is_told(&running.sink));
    assert_eq!(served(&running.sink).keys().collect::<Vec<_>>(), all.keys().collect::<Vec<_>>());
}

#[tokio::test]
async fn a_long_journal_is_written_anew() {
    let folder = tempfile::tempdir().unwrap();
    let running = start(folder.path()).await;
    running.sink.apply(&[create("a.mesh")], THEN);
    for turn in 0..3000 {
        let to = object("a.mesh", ["10.0.0.1", "10.0.0.2"][turn % 2]);
        running.sink.apply(&[Step::Update { from: Arc::clone(&to), to }], THEN);
    }
    let lines = fs::read_to_string(folder.path().join("journal")).unwrap().lines().count();
    assert!(lines < 1100, "{lines}");
    drop(running);
    let running = start(folder.path()).await;
    assert_eq!(served(&running.sink)["a.mesh"].1, "240.241.0.1");
}

#[tokio::test]
async fn a_certificate_that_may_never_end_is_refused() {
    let folder = tempfile::tempdir().unwrap();
    let (pipe, large) = (folder.path().join("pipe"), folder.path().join("large"));
    assert!(std::process::Command::new("mkfifo").arg(&pipe).status().unwrap().success());
    fs::write(&large, vec![b'x'; usize::try_from(PEM_BYTES_MAX).unwrap() + 1]).unwrap();
    for (file, problem) in [
        (pipe.clone(), "it is not a regular file"),
        ("/dev/zero".into(), "it is not a regular file"),
        (large, "it has more than 1048576 bytes"),
    ] {
        let tls = Some(TlsIdentity { cert_file: file, key_file: pipe.clone() });
        let options = McpOptions { tls, ..options(folder.path()) };
        let refused = McpSink::start(options, CancellationToken::new()).await;
        let Err(McpError::Tls { source, .. }) = refused else { panic!("{refused:?}") };
        assert_eq!(source.to_string(), problem);
    }
    let journal = McpOptions { journal: pipe, ..options(folder.path()) };
    let refused = McpSink::start(journal, CancellationToken::new()).await;
    assert!(matches!(refused, Err(McpError::Journal(_))), "{refused:?}");
}

#[test]
fn files_are_read_beside_the_threads_that_others_wait_for() {
    let folder = tempfile::tempdir().unwrap();
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .max_blocking_threads(1)
        .build()
        .unwrap();
    runtime.block_on(async {
        let (release, released) = std::sync::mpsc::channel::<()>();
        let taken = tokio::task::spawn_blocking(move || released.recv());
        let mut starting = Box::pin(start(folder.path()));
        let pause = std::time::Duration::from_millis(50);
        assert!(tokio::time::timeout(pause, &mut starting).await.is_err(), "read on this thread");
        release.send(()).unwrap();
        starting.await;
        taken.await.unwrap().unwrap();
    });
}
