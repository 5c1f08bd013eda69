//! What every source must do, whatever its registry: the cases, over a small trait that stands
//! for a registry which can be filled, broken and mended.
#![allow(clippy::expect_used, reason = "part of tests: a failure is theirs")]

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use landfall_core::registry::{Health, Snapshot, SourceName, SourceState};
use landfall_core::time::Time;
use landfall_registry::{Publisher, Source};
use tokio::sync::watch;
use tokio::time::{sleep, timeout};
use tokio_util::sync::{CancellationToken, DropGuard};

/// A registry under test.
pub trait Registry: Send {
    /// A source that watches it. Several may.
    fn source(&self) -> Box<dyn Source>;
    /// The states of health that it has, the last one that which instances begin with.
    fn healths(&self) -> &'static [Health] {
        &[Health::Warning, Health::Critical, Health::Maintenance, Health::Passing]
    }
    /// Registers an instance, or replaces it.
    fn put(&mut self, service: &str, id: &str, facts: &Facts);
    /// Removes an instance; a service without any is gone.
    fn remove(&mut self, service: &str, id: &str);
    /// Registers an instance that is not as the registry documents. False if it can have none.
    fn put_malformed(&mut self, service: &str) -> bool;
    /// Lists everything in another order. False if it has but one.
    fn reorder(&mut self) -> bool {
        false
    }
    /// Breaks. False if it cannot break in this way.
    fn break_down(&mut self, how: Break) -> bool;
    /// Works again.
    fn mend(&mut self);
    /// Starts anew, with what was registered but without its past. False if it has none.
    fn restart(&mut self) -> bool;
    /// Starts anew and empty. False if it has no past to lose.
    fn restart_empty(&mut self) -> bool;
    /// Has one service that cannot be read until it is mended. False if it fails as a whole.
    fn break_service(&mut self, _service: &str, _how: ServiceBreak) -> bool {
        false
    }
}

/// What is registered of an instance.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Facts {
    /// An IP address.
    pub address: String,
    /// A port without a name.
    pub port: u16,
    /// Its health.
    pub health: Health,
    /// One pair of metadata.
    pub version: String,
}

/// Ways to break.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Break {
    /// Nobody is there.
    Unreachable,
    /// Every answer is an error of the registry's own.
    Errors,
    /// The credentials are refused.
    Refused,
    /// The credentials see nothing: the listing is well-formed and empty.
    Hidden,
    /// As [`Self::Hidden`], and nothing says that it is so.
    Unsaid,
    /// Fewer requests are asked for, whatever is asked.
    Limited,
    /// The registry is in no state to know.
    Leaderless,
    /// Answers never end.
    Slow,
    /// Answers are larger than what is read.
    Oversize,
    /// Answers end in their middle.
    Cut,
    /// Nothing is ever answered.
    Silent,
    /// The listing is gone altogether.
    Gone,
}

/// All of them.
pub const BREAKS: [Break; 12] = [
    Break::Unreachable,
    Break::Errors,
    Break::Refused,
    Break::Hidden,
    Break::Unsaid,
    Break::Limited,
    Break::Leaderless,
    Break::Slow,
    Break::Oversize,
    Break::Cut,
    Break::Silent,
    Break::Gone,
];

/// Ways for one service to break.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ServiceBreak {
    /// An error of the registry's own.
    Errors,
    /// Fewer requests are asked for.
    Limited,
    /// The registry is not there just now.
    Unavailable,
}

/// All of them.
pub const SERVICE_BREAKS: [ServiceBreak; 3] =
    [ServiceBreak::Errors, ServiceBreak::Limited, ServiceBreak::Unavailable];

/// What is registered: instances by service.
pub type Listed = BTreeMap<String, BTreeSet<Facts>>;

// Far longer than anything should take: a loaded machine must not fail a test.
const WAIT_MAX: Duration = Duration::from_secs(30);
// Long enough for a wrong publication to have happened.
const LOOK: Duration = Duration::from_millis(400);

/// A source that runs.
#[derive(Debug)]
pub struct Running {
    /// What it publishes.
    pub state: watch::Receiver<SourceState>,
    _stop: DropGuard,
}

// === impl Running ===

impl Running {
    /// Starts `source`.
    ///
    /// # Panics
    /// Never: the name is legal.
    #[must_use]
    pub fn start(source: Box<dyn Source>) -> Self {
        let name = SourceName::parse("dc1").expect("a legal name");
        let (out, state) = Publisher::new(name, || Time::from_millis(1));
        let stop = CancellationToken::new();
        tokio::spawn(source.run(out, stop.clone()));
        Self { state, _stop: stop.drop_guard() }
    }

    /// Waits until the state is as wanted.
    ///
    /// # Panics
    /// It does not become so.
    pub async fn until(&mut self, what: &str, wanted: impl Fn(&SourceState) -> bool) {
        let waited = timeout(WAIT_MAX, self.state.wait_for(wanted)).await.is_ok_and(|r| r.is_ok());
        assert!(waited, "waited in vain until {what}; have {:#?}", brief(&self.state.borrow()));
    }

    /// Waits until exactly `listed` is published, without doubt.
    ///
    /// # Panics
    /// It is not published.
    pub async fn until_listed(&mut self, listed: &Listed) {
        let what = format!("{listed:?} is listed");
        self.until(&what, |state| seen(state).as_ref() == Some(listed) && state.doubt.is_none())
            .await;
    }

    /// Waits until there is a doubt.
    ///
    /// # Panics
    /// There is none.
    pub async fn until_doubted(&mut self) {
        self.until("it is in doubt", |state| state.doubt.is_some()).await;
    }
}

/// What a state lists.
#[must_use]
pub fn seen(state: &SourceState) -> Option<Listed> {
    Some(listed(state.snapshot.as_ref()?))
}

/// What a snapshot lists, without what only one kind of registry has.
#[must_use]
pub fn listed(snapshot: &Snapshot) -> Listed {
    let of_service = |service: &landfall_core::registry::Service| {
        let facts = service.instances().iter().map(|instance| Facts {
            address: instance.address.to_string(),
            port: instance.ports.first().map_or(0, |port| port.number),
            health: instance.health,
            version: instance.meta.get("version").map(ToString::to_string).unwrap_or_default(),
        });
        (service.key.name.to_string(), facts.collect())
    };
    snapshot.services.values().map(|service| of_service(service)).collect()
}

fn brief(state: &SourceState) -> impl std::fmt::Debug {
    (seen(state), state.doubt.clone(), state.findings.clone())
}

/// An instance that is distinct from all others.
#[must_use]
pub fn facts(n: u8) -> Facts {
    let health = Health::Passing;
    Facts {
        address: format!("10.0.0.{n}"),
        port: 8000 + u16::from(n),
        health,
        version: format!("v{n}"),
    }
}

/// Fills an empty registry with three services; the same is returned.
pub fn fill(registry: &mut dyn Registry) -> Listed {
    let mut listed = Listed::new();
    for (service, id, n) in [("a", "a1", 1), ("a", "a2", 2), ("b.x", "b1", 3), ("c", "c1", 4)] {
        put(registry, &mut listed, service, id, facts(n));
    }
    listed
}

fn put(registry: &mut dyn Registry, listed: &mut Listed, service: &str, id: &str, facts: Facts) {
    registry.put(service, id, &facts);
    listed.entry(service.to_owned()).or_default().insert(facts);
}

// === The cases ===
//
// Those that return a bool say whether the registry can do what they are about. Whoever runs them
// asserts it: a case that nobody can fail would pass for ever.

/// All that is registered is listed, then every kind of change.
pub async fn lists_and_sees_changes(registry: &mut dyn Registry) {
    let mut want = fill(registry);
    let mut running = Running::start(registry.source());
    running.until_listed(&want).await;
    // An instance more.
    put(registry, &mut want, "a", "a3", facts(5));
    running.until_listed(&want).await;
    // A service more.
    put(registry, &mut want, "d", "d1", facts(6));
    running.until_listed(&want).await;
    // Edited in place.
    let edited = Facts { port: 9999, version: "v9".to_owned(), ..facts(3) };
    registry.put("b.x", "b1", &edited);
    want.insert("b.x".to_owned(), [edited].into());
    running.until_listed(&want).await;
    // Every health.
    for &health in registry.healths() {
        let now = Facts { health, ..facts(4) };
        registry.put("c", "c1", &now);
        want.insert("c".to_owned(), [now].into());
        running.until_listed(&want).await;
    }
    // An instance less, a service less.
    registry.remove("a", "a1");
    want.get_mut("a").map(|instances| instances.remove(&facts(1)));
    running.until_listed(&want).await;
    registry.remove("d", "d1");
    want.remove("d");
    running.until_listed(&want).await;
    // And back again.
    put(registry, &mut want, "d", "d1", facts(7));
    running.until_listed(&want).await;
    assert!(running.state.borrow().findings.is_empty());
}

/// When all is deregistered in a registry that works, all is gone.
pub async fn an_emptied_registry_is_empty(registry: &mut dyn Registry) {
    let want = fill(registry);
    let mut running = Running::start(registry.source());
    running.until_listed(&want).await;
    for (service, id) in [("a", "a1"), ("a", "a2"), ("b.x", "b1"), ("c", "c1")] {
        registry.remove(service, id);
    }
    running.until_listed(&Listed::new()).await;
}

/// Whatever breaks: nothing is gone, the doubt says what to do, and afterwards all is seen.
pub async fn a_broken_registry_loses_nothing(registry: &mut dyn Registry, how: Break) -> bool {
    let mut want = fill(registry);
    let before = want.clone();
    let mut running = Running::start(registry.source());
    running.until_listed(&want).await;
    if !registry.break_down(how) {
        return false;
    }
    running.until_doubted().await;
    let keeps = |state: &SourceState| {
        let seen = seen(state).unwrap_or_default();
        before.iter().all(|(name, all)| seen.get(name).is_some_and(|seen| seen.is_superset(all)))
    };
    let deadline = tokio::time::Instant::now() + LOOK;
    while tokio::time::timeout_at(deadline, running.state.changed()).await.is_ok() {
        let state = running.state.borrow_and_update();
        assert!(keeps(&state), "{how:?}: {:?}", brief(&state));
    }
    {
        let state = running.state.borrow();
        assert!(keeps(&state) && state.doubt.is_some(), "{how:?}: {:?}", brief(&state));
        let doubt = state.doubt.clone().expect("seen above");
        // What was attempted, on what, and what to do: at least two sentences.
        assert!(doubt.message.contains(". ") && doubt.message.len() > 40, "{how:?}: {doubt:?}");
        assert!(
            !doubt.code.is_empty()
                && doubt.code.chars().all(|c| c.is_ascii_lowercase() || c == '_')
        );
    }
    registry.mend();
    registry.remove("c", "c1");
    want.remove("c");
    put(registry, &mut want, "e", "e1", facts(8));
    running.until_listed(&want).await;
    true
}

/// A source that starts on a broken registry publishes nothing until it is mended.
pub async fn nothing_is_listed_before_all_is(registry: &mut dyn Registry, how: Break) -> bool {
    let want = fill(registry);
    if !registry.break_down(how) {
        return false;
    }
    let mut running = Running::start(registry.source());
    running.until_doubted().await;
    sleep(LOOK).await;
    assert_eq!(running.state.borrow().snapshot, None, "{how:?}");
    registry.mend();
    running.until_listed(&want).await;
    true
}

/// A source that starts while one service cannot be read lists the others, in doubt, and follows
/// them. Without a doubt there never is a part.
pub async fn a_start_with_a_broken_service_lists_the_others(
    registry: &mut dyn Registry,
    how: ServiceBreak,
) -> bool {
    let mut want = fill(registry);
    if !registry.break_service("b.x", how) {
        return false;
    }
    let mut running = Running::start(registry.source());
    let hidden = want.remove("b.x").expect("it was filled");
    for n in [21, 22] {
        let part = want.clone();
        running.until("the others are listed", |state| seen(state).as_ref() == Some(&part)).await;
        let deadline = tokio::time::Instant::now() + LOOK;
        while tokio::time::timeout_at(deadline, running.state.changed()).await.is_ok() {
            let state = running.state.borrow_and_update();
            assert!(state.doubt.is_some(), "{how:?}: {:?}", brief(&state));
        }
        put(registry, &mut want, "f", &format!("f{n}"), facts(n));
    }
    registry.mend();
    want.insert("b.x".to_owned(), hidden);
    running.until_listed(&want).await;
    true
}

/// A registry that starts anew, and whose positions mean nothing any more.
pub async fn a_restarted_registry_is_followed(registry: &mut dyn Registry) -> bool {
    let mut want = fill(registry);
    let mut running = Running::start(registry.source());
    running.until_listed(&want).await;
    // Moves the registry's position on, so that it goes back with the restart.
    for n in 10..20 {
        registry.put("a", "a4", &facts(n));
    }
    want.entry("a".to_owned()).or_default().insert(facts(19));
    running.until_listed(&want).await;
    if !registry.restart() {
        return false;
    }
    registry.remove("b.x", "b1");
    want.remove("b.x");
    put(registry, &mut want, "f", "f1", facts(21));
    running.until_listed(&want).await;
    true
}

/// A registry that starts anew and empty: what it had is kept until it has been missing for a
/// while, and what registers meanwhile is listed beside it.
pub async fn an_empty_restart_is_believed_when_it_lasts(registry: &mut dyn Registry) -> bool {
    let mut want = fill(registry);
    let mut running = Running::start(registry.source());
    running.until_listed(&want).await;
    // Moves the registry's position on, further than a restart does, and has that noticed.
    for n in 10..50 {
        registry.put("a", "a4", &facts(n));
    }
    want.entry("a".to_owned()).or_default().insert(facts(49));
    running.until_listed(&want).await;
    sleep(LOOK).await;
    if !registry.restart_empty() {
        return false;
    }
    running.until_doubted().await;
    put(registry, &mut want, "f", "f1", facts(21));
    let all = want.clone();
    running.until("what is new is listed too", |state| seen(state).as_ref() == Some(&all)).await;
    sleep(LOOK).await;
    {
        let state = running.state.borrow();
        assert!(seen(&state) == Some(all) && state.doubt.is_some(), "{:?}", brief(&state));
    }
    want.retain(|service, _| service == "f");
    running.until_listed(&want).await;
    true
}

/// A registry that starts anew while one service cannot be read: that one stands as it was.
pub async fn a_restart_with_a_broken_service_is_followed(
    registry: &mut dyn Registry,
    how: ServiceBreak,
) -> bool {
    let mut want = fill(registry);
    let mut running = Running::start(registry.source());
    running.until_listed(&want).await;
    if !registry.break_service("b.x", how) || !registry.restart() {
        return false;
    }
    put(registry, &mut want, "f", "f1", facts(21));
    let changed = want.clone();
    running.until("the others are listed", |state| seen(state).as_ref() == Some(&changed)).await;
    running.until_doubted().await;
    registry.mend();
    registry.remove("b.x", "b1");
    want.remove("b.x");
    running.until_listed(&want).await;
    true
}

/// One service that cannot be read stands as it was; the others go on changing.
pub async fn a_broken_service_harms_no_other(
    registry: &mut dyn Registry,
    how: ServiceBreak,
) -> bool {
    let mut want = fill(registry);
    let mut running = Running::start(registry.source());
    running.until_listed(&want).await;
    if !registry.break_service("b.x", how) {
        return false;
    }
    put(registry, &mut want, "a", "a5", facts(11));
    registry.remove("c", "c1");
    want.remove("c");
    let changed = want.clone();
    registry.remove("b.x", "b1");
    running.until_doubted().await;
    running.until("the others are listed", |state| seen(state).as_ref() == Some(&changed)).await;
    sleep(LOOK).await;
    {
        let state = running.state.borrow();
        assert!(seen(&state) == Some(changed) && state.doubt.is_some(), "{:?}", brief(&state));
    }
    registry.mend();
    want.remove("b.x");
    running.until_listed(&want).await;
    true
}

/// One instance that cannot be read is a finding; the others of its service are listed.
pub async fn a_malformed_instance_harms_no_other(registry: &mut dyn Registry) -> bool {
    let mut want = fill(registry);
    let mut running = Running::start(registry.source());
    running.until_listed(&want).await;
    if !registry.put_malformed("a") {
        return false;
    }
    let found = |state: &SourceState| state.findings.iter().any(|f| f.subject.contains('a'));
    running.until("the finding", found).await;
    put(registry, &mut want, "a", "a9", facts(9));
    put(registry, &mut want, "g", "g1", facts(22));
    running.until_listed(&want).await;
    assert!(!running.state.borrow().findings.is_empty());
    true
}

/// The same facts in another order are the same snapshot.
pub async fn order_means_nothing(registry: &mut dyn Registry) -> bool {
    let want = fill(registry);
    let mut first = Running::start(registry.source());
    first.until_listed(&want).await;
    if !registry.reorder() {
        return false;
    }
    first.state.mark_unchanged();
    let mut second = Running::start(registry.source());
    second.until_listed(&want).await;
    assert_eq!(first.state.borrow().snapshot, second.state.borrow().snapshot);
    sleep(LOOK).await;
    assert!(!first.state.has_changed().expect("it runs"), "{:?}", brief(&first.state.borrow()));
    true
}
