//! The MCP-over-xDS server, asked as istiod asks.

#![allow(clippy::unwrap_used, reason = "a failure ends the test")]
#![allow(clippy::disallowed_methods, reason = "objects are dated")]

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use landfall_core::plan::{Observed, Step};
use landfall_core::time::Time;
use landfall_mesh::api::{Body, Owner};
use landfall_mesh::mcp::{McpOptions, McpSink};
use landfall_tests::fake_istiod::{Answer, FakeIstiod, TYPES};
use landfall_tests::line::{OPEN, World};
use landfall_tests::world;
use tokio_util::sync::CancellationToken;

const SERVICE_ENTRIES: &str = "networking.istio.io/v1/ServiceEntry";
const QUIET: Duration = Duration::from_millis(300);
const LONG: Duration = Duration::from_secs(10);
const THEN: Time = Time::from_millis(1_700_000_000_000);

async fn start(folder: &Path, stop: &CancellationToken) -> Arc<McpSink> {
    let options = McpOptions {
        listen: "127.0.0.1:0".parse().unwrap(),
        journal: folder.join("journal"),
        addresses: None,
        tls: None,
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
