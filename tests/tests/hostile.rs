//! Hostile policies against the host: each fails no more than its own instances, and says why.

#![allow(clippy::unwrap_used, reason = "a helper of a test fails the test")]
#![expect(clippy::disallowed_methods, reason = "budgets of time are measured")]
#![expect(
    clippy::print_stdout,
    reason = "figures and messages are for who runs it with --nocapture"
)]

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use landfall_core::decision::{DecidedService, DropReason, Fault, Outcome};
use landfall_core::defaults::Defaults;
use landfall_core::group::gathered;
use landfall_core::mesh::{Contribution, MeshService, Setting};
use landfall_core::pairs::Pairs;
use landfall_core::pattern::{Pattern, Selector};
use landfall_core::registry::{
    Health, Instance, InstancePort, Service, ServiceId, ServiceKey, SourceName,
};
use landfall_core::template::Template;
use landfall_core::text::Text;
use landfall_mesh::api::Location;
use landfall_mesh::render::{RenderOptions, Shape, render};
use landfall_mesh::validate::validate;
use landfall_policy_host::{
    AdmissionError, Candidate, EngineSettings, Limits, Link, Origin, PolicyEngine, Revision, Rules,
    Work, Workers,
};
use landfall_tests::hostile::{ALL, Guest, Stage, hostile};

/// The budget for stopping a runaway policy, beyond its limit.
const STOP_MAX: Duration = Duration::from_millis(10);

/// Calls that are stopped to see how late that is; 5 s in all, and as much for the comparison.
const RUNAWAYS: usize = 100;

/// One engine and some threads, as a daemon has them.
struct Host {
    engine: Arc<PolicyEngine>,
    workers: Arc<Workers>,
    harmless: Arc<Revision>,
}

impl Host {
    fn start() -> Self {
        let engine = PolicyEngine::start(EngineSettings::default()).unwrap();
        let workers = Workers::start(2).unwrap();
        let harmless = admit(&engine, "harmless", Limits::default()).unwrap();
        Self { engine, workers, harmless }
    }

    fn admit(&self, name: &str) -> Result<Arc<Revision>, AdmissionError> {
        admit(&self.engine, name, limits())
    }

    /// Service `bad` passes the policy, service `good` a harmless one beside it.
    fn rules(&self, policy: &Arc<Revision>) -> Arc<Rules> {
        let link = |revision: &Arc<Revision>, service: &str| Link {
            revision: Arc::clone(revision),
            selector: Selector { services: vec![Pattern::new(service)], ..Selector::default() },
        };
        Rules::new(defaults(), vec![link(policy, "bad"), link(&self.harmless, "good")])
    }

    fn decide(&self, rules: &Arc<Rules>, work: Work) -> DecidedService {
        self.workers.decide(rules, vec![work]).remove(0)
    }
}

/// Long enough for what is slow but ends, in a debug build on a busy machine.
fn limits() -> Limits {
    Limits {
        time_max: Duration::from_millis(100),
        configure_time_max: Duration::from_millis(100),
        ..Limits::default()
    }
}

fn admit(
    engine: &Arc<PolicyEngine>,
    name: &str,
    limits: Limits,
) -> Result<Arc<Revision>, AdmissionError> {
    let bytes = hostile(name);
    let name = Text::from(name);
    Revision::admit(engine, Candidate { name, bytes: &bytes, settings_json: "{}", limits })
}

fn defaults() -> Defaults {
    Defaults {
        host: Template::parse("{service}.{source}.mesh").unwrap(),
        namespace: Template::parse("mesh").unwrap(),
        labels: Vec::new(),
        health: vec![Health::Passing],
        own_mark: None,
    }
}

fn work(service: &str, ids: &[String], before: Option<&DecidedService>) -> Work {
    let key = ServiceKey { name: Text::from(service), ..ServiceKey::default() };
    let instances = ids.iter().map(|id| {
        Arc::new(Instance {
            ports: vec![InstancePort { name: "http".into(), number: 80, protocol: "http".into() }],
            ..Instance::new(id.as_str(), "10.0.0.1")
        })
    });
    let (service, _) =
        Service::new(key.clone(), Pairs::default(), Pairs::default(), instances.collect());
    Work {
        id: Arc::new(ServiceId { source: SourceName::parse("dc1").unwrap(), key }),
        registry: "file",
        service: Arc::new(service),
        before: before.cloned().map(Arc::new),
    }
}

fn ids(count: usize) -> Vec<String> {
    (0..count).map(|n| format!("instance-{n:04}")).collect()
}

fn faults(decided: &DecidedService) -> Vec<&Fault> {
    decided.decisions.iter().filter_map(|decision| decision.fault.as_deref()).collect()
}

fn published(decided: &DecidedService) -> usize {
    let is_published = |outcome: &Outcome| matches!(outcome, Outcome::Published(_));
    decided.decisions.iter().filter(|decision| is_published(&decision.outcome)).count()
}

#[test]
fn what_fails_before_it_decides_is_refused() {
    let host = Host::start();
    for guest in ALL {
        match guest.fails {
            Stage::Load | Stage::Start | Stage::Describe | Stage::Configure => (),
            Stage::Decide | Stage::Poison | Stage::Service | Stage::Judgement => continue,
        }
        let error = host.admit(guest.name).expect_err(guest.name);
        println!("{}: {}: {error}", guest.name, error.code());
        assert_eq!(error.code(), guest.code, "{}: {error}", guest.name);
    }
}

#[test]
fn a_refusal_names_what_it_is_about() {
    let host = Host::start();
    for (name, word) in [
        ("unknown-import", "evil:host/shell@1.0.0"),
        ("unknown-wasi", "wasi:http/egress@0.2.6"),
        ("unknown-function", "erase"),
        ("missing-export", "landfall:policy/instances"),
        ("memory-at-start", "memory"),
        ("configure-refuses", "/"),
        ("configure-refuses-silently", "does not say why"),
    ] {
        let message = host.admit(name).expect_err(name).to_string();
        assert!(message.contains(word), "{name}: no {word:?} in {message:?}");
    }
    assert_eq!(host.admit("configure-refuses").unwrap_err().problems().len(), 1);
    assert!(host.admit("configure-refuses-silently").unwrap_err().problems().is_empty());
}

#[test]
fn a_policy_that_fails_keeps_what_stood_and_harms_nobody_else() {
    let host = Host::start();
    let none = Rules::new(defaults(), Vec::new());
    let before = host.decide(&none, work("bad", &ids(20), None));
    for guest in ALL.iter().filter(|guest| guest.fails == Stage::Decide) {
        let policy = host.admit(guest.name).expect(guest.name);
        let rules = host.rules(&policy);
        let services = vec![work("bad", &ids(20), Some(&before)), work("good", &ids(500), None)];
        let decided = host.workers.decide(&rules, services);
        let (bad, good) = (&decided[0], &decided[1]);
        assert_eq!((published(good), faults(good).len()), (500, 0), "{}", guest.name);
        // It failed on all of them, they stay as they were, and it is told.
        let codes: BTreeSet<&str> = faults(bad).iter().map(|fault| fault.code).collect();
        println!("{}: {codes:?}: {}", guest.name, faults(bad)[0].message);
        assert_eq!((faults(bad).len(), published(bad)), (20, 20), "{}", guest.name);
        assert!(!bad.findings.is_empty(), "{}", guest.name);
        for (was, is) in before.decisions.iter().zip(&bad.decisions) {
            assert_eq!(was.outcome, is.outcome, "{}", guest.name);
        }
        // Where nothing stood nothing is published.
        let fresh = host.decide(&rules, work("bad", &ids(3), None));
        assert_eq!(
            fresh.decisions[0].outcome,
            Outcome::Dropped(DropReason::Fault),
            "{}",
            guest.name
        );
    }
}

#[test]
fn the_reason_of_a_failure_is_the_real_one() {
    let host = Host::start();
    let fails = |guest: &&Guest| matches!(guest.fails, Stage::Decide | Stage::Poison);
    for Guest { name, code, .. } in ALL.iter().filter(fails) {
        // Some fill 32 MiB before they fail.
        let limits = Limits { time_max: Duration::from_secs(1), ..Limits::default() };
        let policy = admit(&host.engine, name, limits).expect(name);
        let decided = host.decide(&host.rules(&policy), work("bad", &["poison".to_owned()], None));
        assert_eq!(faults(&decided)[0].code, *code, "{name}: {}", faults(&decided)[0]);
    }
}

#[test]
fn only_the_poisonous_instance_fails() {
    let host = Host::start();
    let none = Rules::new(defaults(), Vec::new());
    for guest in ALL.iter().filter(|guest| guest.fails == Stage::Poison) {
        let policy = host.admit(guest.name).expect(guest.name);
        let rules = host.rules(&policy);
        let mut all = ids(700);
        all.push("poison".to_owned());
        let before = host.decide(&none, work("bad", &all, None));
        let decided = host.decide(&rules, work("bad", &all, Some(&before)));
        assert_eq!((faults(&decided).len(), published(&decided)), (1, 701), "{}", guest.name);
        let (_, poison) = decided.decision("poison").unwrap();
        assert!(poison.fault.is_some(), "{}", guest.name);
        // Equal data is not tried again: the decision stands, to the same allocation.
        let again = host.decide(&rules, work("bad", &all, Some(&decided)));
        let (_, stands) = again.decision("poison").unwrap();
        assert!(Arc::ptr_eq(stands.fault.as_ref().unwrap(), poison.fault.as_ref().unwrap()));
    }
}

#[test]
fn a_runaway_policy_is_stopped_within_its_budget() {
    let host = Host::start();
    let limits = Limits::default();
    let policy = admit(&host.engine, "loop-decide", limits.clone()).unwrap();
    let rules = host.rules(&policy);
    let work = work("bad", &ids(1), None);
    let overrun = || {
        let steps = host.workers.trace(&rules, &work, "instance-0000");
        assert_eq!(steps[0].verdicts.as_ref().unwrap_err().code, "deadline");
        steps[0].elapsed.checked_sub(limits.time_max).expect("it had its whole time")
    };
    // On a machine that does something else besides, any thread is late now and then: one of ours that
    // does nothing but look at the clock shows how often.
    let native = || {
        let start = std::time::Instant::now();
        while start.elapsed() < limits.time_max {
            std::hint::spin_loop();
        }
        start.elapsed().saturating_sub(limits.time_max)
    };
    let late = |overruns: &[Duration]| overruns.iter().filter(|late| **late > STOP_MAX).count();
    let (mut overruns, mut natives): (Vec<Duration>, Vec<Duration>) =
        (0..RUNAWAYS).map(|_| (overrun(), native())).unzip();
    overruns.sort();
    natives.sort();
    let (median, max) = (overruns[RUNAWAYS / 2], overruns[RUNAWAYS - 1]);
    let (late, natives_late) = (late(&overruns), late(&natives));
    println!(
        "{RUNAWAYS} calls stopped after their limit of {:?} + {median:?} (median), {max:?} (maximum); \
         {late} after more than {STOP_MAX:?}, as {natives_late} of our own thread",
        limits.time_max
    );
    // Both the guest and who stops it may be kept waiting.
    assert!(late <= RUNAWAYS / 20 + 2 * natives_late, "{overruns:?}");
}

/// An instruction that fills memory is not interrupted, so the limit is exceeded by one of them. What
/// it takes, our own thread says, which fills as much.
#[test]
fn a_policy_that_fills_memory_is_stopped_an_instruction_later() {
    let host = Host::start();
    let policy = admit(&host.engine, "loop-fill", Limits::default()).unwrap();
    let (rules, work) = (host.rules(&policy), work("bad", &ids(1), None));
    let overrun = || {
        let steps = host.workers.trace(&rules, &work, "instance-0000");
        assert_eq!(steps[0].verdicts.as_ref().unwrap_err().code, "deadline");
        steps[0].elapsed.saturating_sub(Limits::default().time_max)
    };
    let native = || {
        let start = std::time::Instant::now();
        std::hint::black_box(vec![1_u8; 60 << 20]);
        start.elapsed()
    };
    let (mut overruns, mut natives): (Vec<Duration>, Vec<Duration>) =
        (0..20).map(|_| (overrun(), native())).unzip();
    overruns.sort();
    natives.sort();
    println!(
        "stopped late by {:?} (median), {:?} (maximum); to fill 60 MiB takes {:?}, {:?}",
        overruns[10], overruns[19], natives[10], natives[19]
    );
    assert!(overruns[10] <= STOP_MAX + 2 * natives[10], "{overruns:?} {natives:?}");
}

#[test]
fn a_policy_that_always_fails_costs_a_bounded_time() {
    let host = Host::start();
    let limits = Limits { time_max: Duration::from_millis(20), ..Limits::default() };
    let policy = admit(&host.engine, "loop-decide", limits).unwrap();
    let rules = host.rules(&policy);
    let start = std::time::Instant::now();
    let services = vec![work("bad", &ids(20_000), None), work("good", &ids(1000), None)];
    let decided = host.workers.decide(&rules, services);
    let elapsed = start.elapsed();
    println!("20,000 instances of a looping policy with a limit of 20 ms: {elapsed:?}");
    assert_eq!((faults(&decided[0]).len(), published(&decided[1])), (20_000, 1000));
    assert!(elapsed < Duration::from_secs(2), "{elapsed:?}");
}

/// Services of one instance each, which are asked about one by one.
fn singles(count: usize) -> Vec<Work> {
    vec![work("bad", &ids(1), None); count]
}

fn codes(decided: &[DecidedService]) -> BTreeMap<&'static str, usize> {
    let mut codes = BTreeMap::new();
    for decision in decided.iter().flat_map(|service| &service.decisions) {
        *codes.entry(decision.fault.as_ref().map_or("none", |fault| fault.code)).or_default() += 1;
    }
    codes
}

#[test]
fn slow_failures_cost_a_bounded_time() {
    let host = Host::start();
    let policy = admit(&host.engine, "slow-trap", Limits::default()).unwrap();
    let start = std::time::Instant::now();
    let decided = host.workers.decide(&host.rules(&policy), singles(10_000));
    let (elapsed, codes) = (start.elapsed(), codes(&decided));
    println!("10,000 services, a trap after some 10 ms for each: {elapsed:?}, {codes:?}");
    // They come to 8 whole time limits of 50 ms, on two workers. The 1000 traps that would be allowed
    // if only their number counted take 5 s.
    assert!(elapsed < Duration::from_secs(3), "{elapsed:?}");
    // On a busy machine one or the other call runs into its limit before it traps, and on a quick one
    // it traps sooner.
    assert!(codes["untried"] > 9_500 && !codes.contains_key("none"), "{codes:?}");
}

#[test]
fn slow_answers_cost_a_bounded_time_and_the_rest_comes_later() {
    let host = Host::start();
    let limits = Limits { work_time_max: Duration::from_millis(300), ..Limits::default() };
    let policy = admit(&host.engine, "slow-decide", limits).unwrap();
    let rules = host.rules(&policy);
    let mut services = singles(10_000);
    services.push(work("good", &ids(1000), None));
    let mut answered = 0;
    for turn in 0..3 {
        let start = std::time::Instant::now();
        let decided = host.workers.decide_again(&rules, services.clone());
        let (elapsed, codes) = (start.elapsed(), codes(&decided[..10_000]));
        println!("turn {turn}, some 10 ms a service: {elapsed:?}, {codes:?}");
        assert!(elapsed < Duration::from_secs(2), "{elapsed:?}");
        assert!(codes.keys().all(|code| ["none", "time_budget", "deadline"].contains(code)));
        let none = codes.get("none").copied().unwrap_or(0);
        assert!(none > answered, "each turn goes on where the last one ended: {codes:?}");
        answered = none;
        // What waits says what to do about it, and no other policy waits with it.
        let told = decided[9_999].findings.iter().any(|f| f.message.contains("read fewer fields"));
        assert!(told, "{:?}", decided[9_999].findings);
        assert_eq!((published(&decided[10_000]), faults(&decided[10_000]).len()), (1000, 0));
        for (service, decided) in services.iter_mut().zip(decided) {
            service.before = Some(Arc::new(decided));
        }
    }
}

#[test]
fn what_all_answers_take_is_bounded() {
    let host = Host::start();
    let limits = Limits { work_answer_bytes_max: 4 << 20, ..limits() };
    let policy = admit(&host.engine, "many-places", limits).unwrap();
    let rules = host.rules(&policy);
    let none = Rules::new(defaults(), Vec::new());
    let before = host.decide(&none, work("bad", &ids(1), None));
    let mut services = vec![work("bad", &ids(1), Some(&before)); 1000];
    services.push(work("good", &ids(1000), None));
    let decided = host.workers.decide(&rules, services.clone());
    let first = codes(&decided);
    println!("1000 services, each at 64 places, within 4 MiB: {first:?}");
    // A place takes more than 100 bytes and less than 1 KB.
    assert!((64..655).contains(&(first["none"] - 1000)), "{first:?}");
    assert_eq!(first["none"] + first["volume"], 2000);
    let places = |decided: &DecidedService| match &decided.decisions[0].outcome {
        Outcome::Published(mappings) => mappings.len(),
        Outcome::Dropped(_) => 0,
    };
    let full = decided[..1000].iter().filter(|service| places(service) == 64).count();
    let kept = decided[..1000].iter().filter(|service| places(service) == 1).count();
    assert_eq!((full + 1000, kept), (first["none"], first["volume"]));
    // Else each turn would add as much again.
    for (service, decided) in services.iter_mut().zip(decided) {
        service.before = Some(Arc::new(decided));
    }
    assert_eq!(codes(&host.workers.decide_again(&rules, services)), first);
}

#[test]
fn what_a_used_store_fails_on_is_asked_again() {
    let host = Host::start();
    let policy = host.admit("trap-when-used").unwrap();
    let decided = host.decide(&host.rules(&policy), work("bad", &ids(1000), None));
    assert_eq!((published(&decided), faults(&decided).len()), (1000, 0), "{:?}", decided.findings);
}

/// What a policy gives a service, or how it fails on it.
type Settings = Result<Arc<[Setting]>, Arc<Fault>>;

/// What a service policy makes of one service of the mesh.
fn settings_of(host: &Host, name: &str) -> (Arc<MeshService>, Settings) {
    let policy = host.admit(name).unwrap();
    assert!(policy.decides_services() && !policy.decides_instances());
    let work = work("bad", &ids(2), None);
    let decided = host.decide(&Rules::new(defaults(), Vec::new()), work.clone());
    let (key, endpoints) = decided.endpoints().pop_first().unwrap();
    let contribution = Contribution { origin: Arc::clone(&work.id), endpoints: endpoints.into() };
    let service = Arc::new(gathered(key, vec![contribution], &Arc::default()));
    let origin = |_: &_| Origin { registry: "file", service: Some(Arc::clone(&work.service)) };
    let services = vec![Arc::clone(&service)];
    let settings = host.workers.settings(&host.rules(&policy), services, &origin).remove(0);
    (service, settings)
}

#[test]
fn a_service_policy_that_fails_says_why() {
    let host = Host::start();
    for guest in ALL.iter().filter(|guest| guest.fails == Stage::Service) {
        let fault = settings_of(&host, guest.name).1.expect_err(guest.name);
        println!("{}: {fault}", guest.name);
        assert_eq!(fault.code, guest.code, "{fault}");
    }
}

#[test]
fn illegal_settings_are_left_out_and_told() {
    let (service, settings) = settings_of(&Host::start(), "service-illegal");
    let settings = settings.unwrap();
    assert_eq!(settings.len(), 10, "all but the one that no version names: {settings:?}");
    let service = MeshService { settings, ..MeshService::clone(&service) };
    let options = RenderOptions {
        shape: Shape::default(),
        location: Location::MeshInternal,
        export_to: Arc::from([]),
        ambient: false,
        owner: None,
    };
    let rendered = render(&service, &options);
    assert_eq!(rendered.findings.len(), 9, "{:?}", rendered.findings);
    let [object] = &rendered.objects[..] else { panic!("{:?}", rendered.objects) };
    assert_eq!(validate(object), Ok(()));
    assert!(format!("{object:?}").contains("fine.example.com"), "{object:?}");
}

#[test]
fn illegal_edits_are_altered_or_refused_and_told() {
    let host = Host::start();
    let policy = host.admit("illegal-names").unwrap();
    let letters: Vec<String> = ('a'..='q').map(|letter| letter.to_string()).collect();
    let decided = host.decide(&host.rules(&policy), work("bad", &letters, None));
    for id in &letters {
        let (_, decision) = decided.decision(id).unwrap();
        // Names are made legal; numbers, addresses and protocols have no legal form nearby.
        let refused = ["e", "f", "g", "i", "m"].contains(&id.as_str());
        let code = decision.fault.as_ref().map(|fault| fault.code);
        assert_eq!(code, refused.then_some("verdict_illegal"), "{id}");
        let told =
            decided.findings.iter().any(|finding| finding.subject.ends_with(&format!("/{id}")));
        let legal = ["b", "o", "q"].contains(&id.as_str());
        assert_eq!(told, !refused && !legal, "{id}: {:?}", decided.findings);
    }
    assert!(decided.findings.iter().any(|finding| finding.message.contains("does not know")));
}

#[test]
fn answers_that_are_merely_bad_are_answers() {
    let host = Host::start();
    let decide = |name: &str, count: usize| {
        let policy = host.admit(name).expect(name);
        host.decide(&host.rules(&policy), work("bad", &ids(count), None))
    };
    // It is the guard that holds back deletions on such a scale.
    let dropped = decide("drop-all", 10);
    assert_eq!((published(&dropped), faults(&dropped).len()), (0, 0));
    assert_eq!(published(&decide("leak", 20_000)), 20_000);
    // Nothing is sent for a field that nobody knows.
    assert_eq!(published(&decide("unknown-reads", 10)), 10);

    // A line that is merely long is cut.
    let policy = host.admit("log-long-line").unwrap();
    let steps =
        host.workers.trace(&host.rules(&policy), &work("bad", &ids(1), None), "instance-0000");
    let [line] = &steps[0].log[..] else { panic!("{:?}", steps[0]) };
    assert!(steps[0].verdicts.is_ok() && line.text.len() <= 1024, "{:?}", steps[0]);
    assert!(line.text.starts_with("\x1b[2J") && line.text.ends_with("..."), "{line:?}");

    let policy = host.admit("counts-calls").unwrap();
    let rules = host.rules(&policy);
    let first = host.decide(&rules, work("bad", &ids(10), None));
    let second = host.decide(&rules, work("bad", &ids(10), Some(&first)));
    assert_eq!(first.decisions, second.decisions, "it flaps");
}

/// Takes in what policies log, in place of a log: how many lines of the one named `log-flood` came
/// through, how often it was told that further ones do not, and how many were counted as dropped.
struct Lines {
    written: &'static AtomicU64,
    floods: &'static AtomicU64,
    dropped: &'static AtomicU64,
}

#[derive(Default)]
struct Fields {
    policy: String,
    is_line: bool,
    dropped: Option<u64>,
}

impl tracing::field::Visit for Fields {
    fn record_debug(&mut self, _: &tracing::field::Field, _: &dyn std::fmt::Debug) {}

    fn record_str(&mut self, field: &tracing::field::Field, value: &str) {
        if field.name() == "policy" {
            value.clone_into(&mut self.policy);
        }
        self.is_line |= field.name() == "line";
    }

    fn record_u64(&mut self, field: &tracing::field::Field, value: u64) {
        if field.name() == "lines" {
            self.dropped = Some(value);
        }
    }
}

impl tracing::Subscriber for Lines {
    fn enabled(&self, _: &tracing::Metadata<'_>) -> bool {
        true
    }

    fn new_span(&self, _: &tracing::span::Attributes<'_>) -> tracing::span::Id {
        tracing::span::Id::from_u64(1)
    }

    fn record(&self, _: &tracing::span::Id, _: &tracing::span::Record<'_>) {}

    fn record_follows_from(&self, _: &tracing::span::Id, _: &tracing::span::Id) {}

    fn event(&self, event: &tracing::Event<'_>) {
        let mut fields = Fields::default();
        event.record(&mut fields);
        if fields.policy != "log-flood" {
            return;
        }
        match (fields.is_line, fields.dropped) {
            (true, _) => self.written.fetch_add(1, Ordering::Relaxed),
            (false, Some(dropped)) => self.dropped.fetch_add(dropped, Ordering::Relaxed),
            (false, None) => self.floods.fetch_add(1, Ordering::Relaxed),
        };
    }

    fn enter(&self, _: &tracing::span::Id) {}

    fn exit(&self, _: &tracing::span::Id) {}
}

#[test]
fn a_flood_of_lines_is_dropped_and_counted() {
    static WRITTEN: AtomicU64 = AtomicU64::new(0);
    static FLOODS: AtomicU64 = AtomicU64::new(0);
    static DROPPED: AtomicU64 = AtomicU64::new(0);
    // Guests run on threads of their own, so it is for the whole process.
    let lines = Lines { written: &WRITTEN, floods: &FLOODS, dropped: &DROPPED };
    tracing::subscriber::set_global_default(lines).expect("no other test sets one");
    let host = Host::start();
    let limits = Limits {
        log_lines_per_minute_max: 20,
        time_max: Duration::from_millis(200),
        ..Limits::default()
    };
    let policy = admit(&host.engine, "log-flood", limits).unwrap();
    let decided = host.decide(&host.rules(&policy), work("bad", &ids(1), None));
    // A million lines may take longer than the limit.
    assert!(
        faults(&decided).iter().all(|fault| fault.code == "deadline"),
        "{:?}",
        faults(&decided)
    );
    // That lines are dropped is told at once, whether or not there will be another one.
    assert_ne!(FLOODS.load(Ordering::Relaxed), 0);
    // How many were dropped is told when the minute, or as here the policy, is over. Workers keep a warm
    // instance, and with it the log, until the rules are others.
    drop((policy, decided));
    let _ = host.decide(&Rules::new(defaults(), Vec::new()), work("bad", &ids(1), None));
    drop(host);
    let (written, dropped) = (WRITTEN.load(Ordering::Relaxed), DROPPED.load(Ordering::Relaxed));
    println!("of a flood of lines {written} were written and {dropped} counted");
    // A second minute may have begun.
    assert!((20..=40).contains(&written) && dropped > 1000, "{written} {dropped}");
}
