//! Peak memory of the whole process with 100,000 instances: snapshot, decisions, services of the
//! mesh, desired objects, and a sink that holds them. The only test of its process.

#![allow(clippy::expect_used, reason = "a failure ends the test")]
#![allow(clippy::print_stdout, reason = "what it prints is the figure")]

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use landfall_core::pattern::Selector;
use landfall_core::plan::{Mode, Observed};
use landfall_core::text::Text;
use landfall_core::time::Time;
use landfall_mesh::api::{self, ApiVersion, Owner};
use landfall_policy_host::Limits;
use landfall_policy_host::Workers;
use landfall_policy_host::{Candidate, Revision};
use landfall_policy_host::{EngineSettings, PolicyEngine};
use landfall_policy_host::{Link, Rules};
use landfall_runtime::line::sink::SinkLine;
use landfall_runtime::line::{Line, LineOptions};
use landfall_tests::repository::component;
use landfall_tests::world;

/// 300 MiB are promised; the code of a debug build takes a few more.
const BUDGET_KIB: u64 = if cfg!(debug_assertions) { 310 << 10 } else { 300 << 10 };

#[test]
fn a_hundred_thousand_instances_fit() {
    let bytes = std::fs::read(component("canary")).expect("a built policy");
    let engine = PolicyEngine::start(EngineSettings::default()).expect("an engine");
    let candidate = Candidate {
        name: Text::from("canary"),
        bytes: &bytes,
        settings_json: "{}",
        limits: Limits::default(),
    };
    let revision = Revision::admit(&engine, candidate).expect("the policy is good");
    let link = Link { revision, selector: Selector::default() };
    let rules = Rules::new(world::defaults(), vec![link]);
    let workers = Workers::start(2).expect("two threads");
    let options = LineOptions {
        render: Default::default(),
        sharing: Arc::default(),
        grace: Duration::from_secs(30),
    };
    let mut line = Line::new(workers, rules, options);
    line.add_source(world::source(), "consul");

    let start = status_kib("VmRSS");
    let snapshot = world::snapshot(10_000, 10);
    let facts = status_kib("VmRSS");
    let states = BTreeMap::from([(world::source(), world::state(snapshot))]);
    line.round(&states, Time::from_millis(1));
    let decided = status_kib("VmRSS");

    // What a sink delivers is read from its own text, and shares nothing with what is desired.
    let owner = Owner::parse("default").expect("a legal owner");
    let mut observed = Observed::default();
    for (id, object) in line.desired() {
        let json = api::to_json(object, &owner, ApiVersion::V1).expect("objects print");
        let read = api::from_json(json).expect("what is printed is read");
        observed.ours.insert(id.clone(), Arc::new(read.object));
    }
    let mut sink = SinkLine::new(Mode::Sync, Vec::new(), usize::MAX);
    sink.observe(&observed, line.desired(), Time::from_millis(1));
    drop(observed);
    let peak = status_kib("VmHWM");
    println!(
        "100,000 instances: start {start} KiB, with facts {facts} KiB, decided and rendered \
         {decided} KiB, peak with a sink {peak} KiB (budget {BUDGET_KIB} KiB)"
    );
    assert!(peak <= BUDGET_KIB, "peak memory {peak} KiB is above the budget");
}

fn status_kib(field: &str) -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").expect("Linux");
    let line = status.lines().find(|line| line.starts_with(field)).expect("the field");
    line.split_whitespace().nth(1).and_then(|number| number.parse().ok()).expect("a number")
}
