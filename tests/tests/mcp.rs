//! The MCP-over-xDS server, asked as istiod asks.

#![allow(clippy::unwrap_used, reason = "a failure ends the test")]
#![allow(
    clippy::disallowed_methods,
    reason = "objects are dated, and what is promised of time is measured"
)]
#![allow(clippy::print_stdout, reason = "the figures are for people")]

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use landfall_core::plan::{Observed, Step};
use landfall_core::time::Time;
use landfall_mesh::api::{Body, Owner};
use landfall_mesh::mcp::{McpOptions, McpSink, TlsIdentity};
use landfall_tests::fake_istiod::{Answer, FakeIstiod, TYPES};
use landfall_tests::line::{OPEN, World};
use landfall_tests::world;
use tokio_util::sync::CancellationToken;

const SERVICE_ENTRIES: &str = "networking.istio.io/v1/ServiceEntry";
const QUIET: Duration = Duration::from_millis(300);
const LONG: Duration = Duration::from_secs(10);
const THEN: Time = Time::from_millis(1_700_000_000_000);

async fn start(folder: &Path, stop: &CancellationToken) -> Arc<McpSink> {
    start_with(folder, None, stop).await
}

async fn start_with(
    folder: &Path,
    tls: Option<TlsIdentity>,
    stop: &CancellationToken,
) -> Arc<McpSink> {
    let options = McpOptions {
        listen: "127.0.0.1:0".parse().unwrap(),
        journal: folder.join("journal"),
        addresses: None,
        tls,
        owner: Owner::parse("me").unwrap(),
    };
    McpSink::start(options, stop.clone()).await.unwrap()
}

/// The steps that make a sink hold a generated listing.
fn steps(services: usize, version: usize) -> Vec<Step<Body>> {
    let mut world = World::new(Observed::default(), OPEN);
    let listing = world::changed(&world::snapshot(services, 2), 0, version);
    world.round(&world::state(listing))
}

fn hosts(answers: &BTreeMap<String, Answer>) -> usize {
    answers.get(SERVICE_ENTRIES).map_or(0, |answer| answer.resources.len())
}

#[tokio::test(flavor = "multi_thread")]
async fn everybody_is_told_everything_and_then_what_changes() {
    let folder = tempfile::tempdir().unwrap();
    let stop = CancellationToken::new();
    let sink = start(folder.path(), &stop).await;
    let mut early = FakeIstiod::connect(sink.address()).await.unwrap();
    assert_eq!(early.all(QUIET).await, BTreeMap::new(), "held back until there is all of it");
    sink.apply(&steps(50, 0), THEN);
    assert_eq!(early.all(QUIET).await, BTreeMap::new());
    sink.complete();
    let answers = early.all(QUIET).await;
    // Each type but the first, which is istiod's own configuration.
    assert_eq!(answers.len(), TYPES.len() - 1);
    assert_eq!(hosts(&answers), 50);
    let served = answers[SERVICE_ENTRIES].resources.first_key_value().unwrap().1.clone();
    assert_eq!(served.body, "type.googleapis.com/istio.networking.v1alpha3.ServiceEntry");
    assert_eq!(served.created, 1_700_000_000);
    assert_eq!(served.endpoints.len(), 2);

    let mut late = FakeIstiod::connect(sink.address()).await.unwrap();
    assert_eq!(hosts(&late.all(QUIET).await), 50);
    // One change: one answer of one type, to each.
    let before = answers[SERVICE_ENTRIES].resources.clone();
    let changed = steps(50, 1).into_iter().take(1).map(|step| match step {
        Step::Create(to) => Step::Update { from: Arc::clone(&to), to },
        other => other,
    });
    sink.apply(&changed.collect::<Vec<_>>(), THEN);
    for istiod in [&mut early, &mut late] {
        let answer = istiod.next(LONG).await.unwrap();
        assert_eq!(answer.type_url, SERVICE_ENTRIES);
        let differ = |(name, served): &(&String, &_)| before.get(*name) != Some(*served);
        assert_eq!(answer.resources.iter().filter(differ).count(), 1);
        assert_eq!(istiod.next(QUIET).await, None);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_restart_tells_the_same() {
    let folder = tempfile::tempdir().unwrap();
    let stop = CancellationToken::new();
    let sink = start(folder.path(), &stop).await;
    sink.apply(&steps(20, 0), THEN);
    sink.complete();
    let before = FakeIstiod::connect(sink.address()).await.unwrap().all(QUIET).await;
    stop.cancel();
    drop(sink);
    let stop = CancellationToken::new();
    let sink = start(folder.path(), &stop).await;
    // No source has spoken yet.
    let after = FakeIstiod::connect(sink.address()).await.unwrap().all(QUIET).await;
    assert_eq!(before[SERVICE_ENTRIES].resources, after[SERVICE_ENTRIES].resources);
}

#[tokio::test(flavor = "multi_thread")]
async fn one_that_does_not_read_harms_nobody_and_costs_one_state() {
    const CHANGES: usize = 12;
    /// The first of them, in which everybody comes to hold what they always will.
    const FIRST: usize = 4;
    const PAUSE: Duration = Duration::from_millis(800);
    let folder = tempfile::tempdir().unwrap();
    let stop = CancellationToken::new();
    let sink = start(folder.path(), &stop).await;
    let mut world = World::new(Observed::default(), OPEN);
    // As many as a generated service has addresses for.
    let listing = world::snapshot(830, 250);
    sink.apply(&world.round(&world::state(listing.clone())), THEN);
    sink.complete();
    let mut slow = FakeIstiod::connect(sink.address()).await.unwrap();
    let mut others = Vec::new();
    let mut bytes = 0;
    for _ in 0..3 {
        let mut istiod = FakeIstiod::connect(sink.address()).await.unwrap();
        let answers = istiod.all(PAUSE).await;
        bytes = answers[SERVICE_ENTRIES].bytes;
        others.push(istiod);
    }
    assert!(bytes >= 8 << 20, "a state has {bytes} bytes");

    let (mut before, mut slowest) = (0, Duration::ZERO);
    for change in 1..=FIRST + CHANGES {
        if change == FIRST + 1 {
            before = resident_bytes();
        }
        let steps = world.round(&world::state(world::changed(&listing, change, change)));
        assert!(!steps.is_empty());
        let began = Instant::now();
        sink.apply(&steps, THEN);
        for istiod in &mut others {
            let answer = istiod.next(LONG).await.unwrap();
            assert_eq!(answer.type_url, SERVICE_ENTRIES);
        }
        slowest = slowest.max(began.elapsed());
    }
    let grown = resident_bytes().saturating_sub(before);
    println!(
        "{bytes} bytes to 3 control planes and one that does not read: {CHANGES} changes, each \
         with everybody else within {slowest:.1?}; {grown} bytes more in memory"
    );
    assert!(grown < CHANGES / 3 * bytes, "{grown} bytes for {CHANGES} states of {bytes}");
    // What it missed it is spared: it gets what was on its way, and then the last state.
    let mut told = Vec::new();
    while let Some(answer) = slow.next(PAUSE).await {
        if answer.type_url == SERVICE_ENTRIES {
            told.push(answer);
        }
    }
    assert!((1..=3).contains(&told.len()), "{} states", told.len());
    let mut late = FakeIstiod::connect(sink.address()).await.unwrap();
    let now = late.all(PAUSE).await;
    assert!(told.pop().unwrap().resources == now[SERVICE_ENTRIES].resources);
}

fn resident_bytes() -> usize {
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).unwrap();
    line.trim().strip_suffix(" kB").unwrap().parse::<usize>().unwrap() << 10
}

/// Certificates are made by openssl, which `make test` does without.
#[cfg(feature = "e2e")]
#[tokio::test(flavor = "multi_thread")]
async fn who_serves_proves_its_name() {
    let folder = tempfile::tempdir().unwrap();
    let stop = CancellationToken::new();
    landfall_tests::servers::certificates::make(folder.path());
    let file = |name: &str| folder.path().join(name);
    let tls = TlsIdentity { cert_file: file("server.pem"), key_file: file("server.key") };
    let sink = start_with(folder.path(), Some(tls), &stop).await;
    sink.apply(&steps(50, 0), THEN);
    sink.complete();
    let authority = std::fs::read(file("ca.pem")).unwrap();
    let mut istiod = FakeIstiod::connect_tls(sink.address(), &authority).await.unwrap();
    assert_eq!(hosts(&istiod.all(QUIET).await), 50);
    // Neither another authority nor plain text will do.
    let other = std::fs::read(file("other.pem")).unwrap();
    let refused = FakeIstiod::connect_tls(sink.address(), &other).await.unwrap_err();
    assert!(refused.contains("UnknownIssuer"), "{refused}");
    let plain = tokio::time::timeout(LONG, FakeIstiod::connect(sink.address())).await;
    assert!(!matches!(plain, Ok(Ok(_))), "it was served without TLS");
}
