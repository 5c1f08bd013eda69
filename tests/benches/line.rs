//! What the line costs: one change in 1k, 10k and 100k instances, from the source's snapshot to
//! the plan; and everything decided anew.

#![allow(clippy::expect_used, reason = "a benchmark that cannot begin has nothing to measure")]

use std::collections::{BTreeMap, BTreeSet};
use std::hint::black_box;
use std::sync::Arc;
use std::time::Duration;

use criterion::{BenchmarkId, Criterion, criterion_group, criterion_main};
use landfall_core::guard::GuardSettings;
use landfall_core::pattern::Selector;
use landfall_core::plan::{Mode, Observed, Step};
use landfall_core::registry::{Snapshot, SourceName, SourceState};
use landfall_core::text::Text;
use landfall_core::time::Time;
use landfall_mesh::api::Body;
use landfall_policy_host::Limits;
use landfall_policy_host::Workers;
use landfall_policy_host::{Candidate, Revision};
use landfall_policy_host::{EngineSettings, PolicyEngine};
use landfall_policy_host::{Link, Rules};
use landfall_runtime::line::sink::{SinkLine, SinkOptions};
use landfall_runtime::line::{Line, LineOptions};
use landfall_tests::repository::component;
use landfall_tests::world;

const INSTANCES_EACH: usize = 10;

fn policy(
    engine: &Arc<PolicyEngine>,
    name: &str,
    settings_json: &str,
    limits: Limits,
) -> Arc<Revision> {
    let bytes = std::fs::read(component(name)).expect("a built policy");
    let name = Text::from(name);
    let candidate = Candidate { name, bytes: &bytes, settings_json, limits };
    Revision::admit(engine, candidate).expect("the policy is good")
}

fn rules(revision: &Arc<Revision>) -> Arc<Rules> {
    let link = Link { revision: Arc::clone(revision), selector: Selector::default() };
    Rules::new(world::defaults(), vec![link])
}

fn states(snapshot: &Snapshot) -> BTreeMap<SourceName, SourceState> {
    BTreeMap::from([(world::source(), world::state(snapshot.clone()))])
}

fn line(rules: Arc<Rules>) -> Line {
    let workers = Workers::start(2).expect("two threads");
    let options = LineOptions {
        render: Default::default(),
        sharing: Arc::default(),
        grace: Duration::from_secs(30),
    };
    let mut line = Line::new(workers, rules, options);
    line.add_source(world::source(), "consul");
    line
}

/// A sink that holds all that is desired.
fn settled(line: &Line, held: &Observed<Body>) -> SinkLine {
    let mut sink = SinkLine::new(Mode::Sync, Vec::new(), usize::MAX);
    sink.observe(held, line.desired(), Time::from_millis(1));
    assert!(plan(line, &mut sink).is_empty());
    sink
}

fn plan(line: &Line, sink: &mut SinkLine) -> Vec<Step<Body>> {
    let guard = GuardSettings {
        removal_share_percent: 20,
        removal_min: 10,
        hold: Duration::from_secs(600),
    };
    let options = SinkOptions {
        evidence: &line.evidence(),
        guard: &guard,
        entries: line.entries(),
        grace: Duration::from_secs(30),
        now: Time::from_millis(1),
    };
    sink.due(line.desired(), options).steps
}

fn one_change(c: &mut Criterion) {
    let engine = PolicyEngine::start(EngineSettings::default()).expect("an engine");
    let canary = policy(&engine, "canary", "{}", Limits::default());
    let mut group = c.benchmark_group("one change, snapshot to plan");
    for instances in [1_000, 10_000, 100_000] {
        let snapshot = world::snapshot(instances / INSTANCES_EACH, INSTANCES_EACH);
        let mut line = line(rules(&canary));
        line.round(&states(&snapshot), Time::from_millis(1));
        let mut held = Observed { ours: line.desired().clone(), ..Observed::default() };
        let mut sink = settled(&line, &held);
        let variants: Vec<_> =
            (1..=2).map(|generation| states(&world::changed(&snapshot, 7, generation))).collect();
        let mut turn = 0;
        group.bench_function(BenchmarkId::from_parameter(instances), |b| {
            b.iter(|| {
                turn += 1;
                let round = line.round(&variants[turn % 2], Time::from_millis(1));
                sink.desire(&round, Time::from_millis(1));
                let steps = plan(&line, &mut sink);
                for step in &steps {
                    if let Some(object) = step.to() {
                        held.ours.insert(step.id().clone(), Arc::clone(object));
                    }
                    sink.applied(step.id());
                }
                sink.observe(&held, line.desired(), Time::from_millis(1));
                assert!(!steps.is_empty(), "a change gives a step");
                black_box(steps)
            });
        });
    }
    group.finish();
}

fn everything_anew(c: &mut Criterion) {
    let engine = PolicyEngine::start(EngineSettings::default()).expect("an engine");
    let mut group = c.benchmark_group("everything anew, 100,000 instances");
    group.sample_size(10);
    // Of the settings of relabel, the rules have no default.
    for (name, settings_json) in [("canary", "{}"), ("relabel", r#"{"rules":[]}"#)] {
        // Two revisions that differ in their limits alone, so that each swap decides all anew.
        let revision = |limits| rules(&policy(&engine, name, settings_json, limits));
        let one = revision(Limits::default());
        let other = revision(Limits { time_max: Duration::from_millis(51), ..Limits::default() });
        let snapshot = world::snapshot(10_000, INSTANCES_EACH);
        let mut line = line(Arc::clone(&one));
        line.round(&states(&snapshot), Time::from_millis(1));
        let all = [one, other];
        // The daemon's are new each time, and so have no compiled policy at hand; that costs the
        // line nothing.
        let workers = Workers::start(2).expect("threads");
        let mut turn = 0;
        group.bench_function(name, |b| {
            b.iter(|| {
                turn += 1;
                let rules = Arc::clone(&all[turn % 2]);
                let rehearsal = line.rehearsal(rules, BTreeSet::new(), Vec::new());
                let rehearsed = rehearsal.run(Arc::clone(&workers)).expect("nothing is judged");
                let round = line.take_rules(rehearsed, Time::from_millis(1));
                black_box(round).expect("nothing is judged")
            });
        });
    }
    group.finish();
}

criterion_group!(benches, one_change, everything_anew);
criterion_main!(benches);
