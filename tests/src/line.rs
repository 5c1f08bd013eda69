//! A daemon without its edges: the line, and one sink in memory that takes every step.

#![allow(clippy::expect_used, reason = "a test fails by panicking")]

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use landfall_core::guard::GuardSettings;
use landfall_core::mesh::Body as _;
use landfall_core::plan::{Mode, Observed, Step};
use landfall_core::registry::{SourceName, SourceState};
use landfall_core::text::Text;
use landfall_core::time::Time;
use landfall_mesh::api::Body;
use landfall_policy_host::{Link, Rules, Workers};
use landfall_runtime::line::sink::{SinkLine, SinkOptions};
use landfall_runtime::line::{Line, LineOptions, Round, RulesRefused};

use crate::world;

/// How long an object stays without endpoints, and a host that lost its place.
pub const GRACE: Duration = Duration::from_secs(30);
/// A budget that holds nothing.
pub const OPEN: GuardSettings =
    GuardSettings { removal_share_percent: 100, removal_min: 0, hold: Duration::from_secs(600) };
/// The budget by default.
pub const DEFAULT: GuardSettings =
    GuardSettings { removal_share_percent: 20, removal_min: 10, hold: Duration::from_secs(600) };

/// The daemon.
#[derive(Debug)]
pub struct World {
    /// Its line.
    pub line: Line,
    /// The sink's side of the line.
    pub sink: SinkLine,
    /// What the sink holds.
    pub held: Observed<Body>,
    /// The budget.
    pub guard: GuardSettings,
    /// The time now.
    pub now: Time,
}

impl World {
    /// One that begins, without policies, with a sink that holds this.
    #[must_use]
    pub fn new(held: Observed<Body>, guard: GuardSettings) -> Self {
        Self::with(Vec::new(), held, guard)
    }

    /// One that begins with these policies.
    #[must_use]
    pub fn with(links: Vec<Link>, held: Observed<Body>, guard: GuardSettings) -> Self {
        let options =
            LineOptions { render: Default::default(), sharing: Arc::default(), grace: GRACE };
        let rules = Rules::new(world::defaults(), links);
        Self::of(&[world::source()], rules, options, held, guard)
    }

    /// One that begins with these sources.
    #[must_use]
    pub fn of(
        sources: &[SourceName],
        rules: Arc<Rules>,
        options: LineOptions,
        held: Observed<Body>,
        guard: GuardSettings,
    ) -> Self {
        let workers = Workers::start(1).expect("a thread");
        let mut line = Line::new(workers, rules, options);
        for source in sources {
            line.add_source(source.clone(), "file");
        }
        let sink = SinkLine::new(Mode::Sync, Vec::new(), usize::MAX);
        Self { line, sink, held, guard, now: Time::from_millis(1_000_000) }
    }

    /// One round with what the source offers; returns the steps, which are applied.
    pub fn round(&mut self, state: &SourceState) -> Vec<Step<Body>> {
        let round = self.decide(state);
        self.take(&round)
    }

    /// What the source offers goes through the line, and not yet to the sink.
    pub fn decide(&mut self, state: &SourceState) -> Round {
        let states = BTreeMap::from([(world::source(), state.clone())]);
        self.line.round(&states, self.now)
    }

    /// The steps that follow from what the source offers; each is still to be applied, or failed.
    pub fn offer(&mut self, state: &SourceState) -> Vec<Step<Body>> {
        let round = self.decide(state);
        self.due(&round)
    }

    /// Has everything decided by other rules, of which the policies `judged` must not fail.
    ///
    /// # Errors
    /// One failed.
    pub fn change_rules(
        &mut self,
        rules: &Arc<Rules>,
        judged: &[&str],
    ) -> Result<Round, RulesRefused> {
        let judged = judged.iter().copied().map(Text::from).collect();
        let rehearsal = self.line.rehearsal(Arc::clone(rules), judged, Vec::new());
        let rehearsed = rehearsal.run(Workers::start(1).expect("a thread"))?;
        self.line.take_rules(rehearsed, self.now)
    }

    /// Has the sink take what a round changed; returns the steps, which are applied.
    pub fn take(&mut self, round: &Round) -> Vec<Step<Body>> {
        let steps = self.due(round);
        for step in &steps {
            self.apply(step);
        }
        self.sink.observe(&self.held, self.line.desired(), self.now);
        steps
    }

    /// The steps that follow from a round; each is still to be applied, or failed.
    pub fn due(&mut self, round: &Round) -> Vec<Step<Body>> {
        self.sink.observe(&self.held, self.line.desired(), self.now);
        self.sink.desire(round, self.now);
        let evidence = self.line.evidence();
        let options = SinkOptions {
            evidence: &evidence,
            guard: &self.guard,
            entries: self.line.entries(),
            grace: GRACE,
            now: self.now,
        };
        self.sink.due(self.line.desired(), options).steps
    }

    /// Has the sink take a step.
    pub fn apply(&mut self, step: &Step<Body>) {
        match step.to() {
            Some(object) => self.held.ours.insert(step.id().clone(), Arc::clone(object)),
            None => self.held.ours.remove(step.id()),
        };
        self.sink.applied(step.id());
    }

    /// Rounds until nothing is due any more, through all grace times.
    pub fn settle(&mut self, state: &SourceState) {
        for _ in 0..4 {
            self.round(state);
            self.now = self.now.plus(GRACE);
        }
        assert!(self.round(state).is_empty(), "planning again gives no step");
        assert!(self.sink.is_settled());
        assert_eq!(self.held.ours, *self.line.desired());
    }

    /// How many endpoints the sink holds.
    #[must_use]
    pub fn endpoints(&self) -> usize {
        self.held.ours.values().map(|object| object.body.endpoint_count()).sum()
    }
}
