//! The watch against a simulated Consul, in every order of answers that chance comes up with.

use landfall_core::pairs::Pairs;
use landfall_core::registry::{Health, Instance};
use proptest::prelude::*;

use super::*;
use crate::consul::client::Trust;
use crate::consul::convert::{ServiceRead, Shown, View, digest};

/// What an edit in place changes, and whether it is well.
type Fact = (u32, bool);
/// The instances of a service, and its index.
type Instances = (u64, BTreeMap<u8, Fact>);

/// Services with their instances.
#[derive(Clone, Debug, Default)]
struct Sim {
    index: u64,
    /// Of the table of services.
    table_index: u64,
    extinction_index: u64,
    services: BTreeMap<u8, Instances>,
    summary_refused: bool,
    checks_refused: bool,
}

#[derive(Clone, Copy, Debug)]
enum Op {
    /// Registers an instance, or edits it in place.
    Put {
        service: u8,
        instance: u8,
        version: u32,
    },
    Remove {
        service: u8,
        instance: u8,
    },
    /// A check changes its state.
    Check {
        service: u8,
        instance: u8,
        well: bool,
    },
    /// A check writes its output.
    Noise,
    /// The servers lose their data and get it back, with lower indexes.
    Restore,
    /// Answers the so manieth of the questions that can be answered.
    Answer {
        which: usize,
    },
    /// Finds the answer to the so manieth, which then is on its way.
    Find {
        which: usize,
    },
    /// Answers it with an error.
    Fail {
        which: usize,
        how: Failing,
    },
    /// Time passes.
    Pass {
        millis: u64,
    },
}

#[derive(Clone, Copy, Debug)]
enum Failing {
    /// About Consul.
    General,
    /// About the question.
    Own,
    /// Fewer are asked for.
    Limited,
}

type Answered = Result<Reply, ConsulError>;

struct World {
    sim: Sim,
    watch: ScopeWatch,
    now: Instant,
    epoch: u64,
    asked: Vec<Ask>,
    /// What is on its way to who asked, beside what was asked.
    found: Vec<Option<Answered>>,
    listed: BTreeMap<ServiceKey, Arc<Service>>,
    count: usize,
}

// === impl Sim ===

impl Sim {
    fn new() -> Self {
        let index = 1_000_000;
        Self { index, table_index: index, extinction_index: index, ..Self::default() }
    }

    fn put(&mut self, service: u8, instance: u8, version: u32) {
        let known = self.services.entry(service).or_default();
        let before = known.1.get(&instance).copied();
        let now = (version, before.is_none_or(|(_, well)| well));
        if before != Some(now) {
            self.index += 1;
            known.0 = self.index;
            known.1.insert(instance, now);
            self.table_index = self.index;
        }
    }

    /// Moves no table but that of checks.
    fn check(&mut self, service: u8, instance: u8, well: bool) {
        let Some(known) = self.services.get_mut(&service) else { return };
        let Some(fact) = known.1.get_mut(&instance) else { return };
        if fact.1 != well {
            fact.1 = well;
            self.index += 1;
            known.0 = self.index;
        }
    }

    fn remove(&mut self, service: u8, instance: u8) {
        let Some(known) = self.services.get_mut(&service) else { return };
        if known.1.remove(&instance).is_some() {
            self.index += 1;
            known.0 = self.index;
            self.table_index = self.index;
            if known.1.is_empty() {
                self.services.remove(&service);
                self.extinction_index = self.index;
            }
        }
    }

    fn restore(&mut self) {
        let index = self.index - 1000;
        (self.index, self.table_index, self.extinction_index) = (index, index, index);
        self.services.values_mut().for_each(|service| service.0 = index);
    }

    fn name(service: u8) -> Text {
        format!("s{service}").into()
    }

    fn service(service: u8, instances: &BTreeMap<u8, Fact>) -> Arc<Service> {
        let instance = |(id, (version, well)): (&u8, &Fact)| {
            Arc::new(Instance {
                id: format!("n/{id}").into(),
                address: format!("v{version}").into(),
                ports: vec![],
                health: if *well { Health::Passing } else { Health::Critical },
                weight: 1,
                tags: vec![],
                meta: Pairs::default(),
                ext: Pairs::default(),
                locality: None,
            })
        };
        let key = ServiceKey { name: Self::name(service), ..ServiceKey::default() };
        let instances = instances.iter().map(instance).collect();
        Service::new(key, Pairs::default(), Pairs::default(), instances).0.into()
    }

    /// The answer, or `None` if Consul would let the question wait. One that waits for an index
    /// beyond those of Consul is answered when its time is over; here that is at once.
    fn answer(&self, ask: &Ask) -> Option<Result<Reply, ConsulError>> {
        let refusal = || {
            let (attempt, told) = ("read".to_owned(), "404".to_owned());
            Some(Err(ConsulError::Status { attempt, status: 404, told }))
        };
        match ask {
            Ask::View { view: ViewKind::Summary, .. } if self.summary_refused => refusal(),
            Ask::View { view: ViewKind::Checks, .. } if self.checks_refused => refusal(),
            Ask::View { view, index } => {
                let now_at = if *view == ViewKind::Names { self.table_index } else { self.index };
                let shows = |(service, (_, instances)): (&u8, &Instances)| {
                    let well = || instances.iter().map(|(id, (_, well))| (id, well));
                    let ill = well().filter(|(_, well)| !**well).count();
                    let digest = match view {
                        ViewKind::Names => 0,
                        // How many instances there are, not which, nor what they are like.
                        ViewKind::Summary => digest(&(instances.len(), ill)),
                        ViewKind::Checks => digest(&well().collect::<Vec<_>>()),
                    };
                    let hides_health = *view == ViewKind::Summary && ill > 0;
                    (Self::name(*service), Shown { digest, hides_health })
                };
                let view: View = self.services.iter().map(shows).collect();
                (index.is_none_or(|index| now_at != index)).then_some(Ok(Reply::View {
                    index: now_at,
                    view,
                    bytes: 100,
                    filtered: false,
                }))
            }
            Ask::Revision => Some(Ok(Reply::Revision { services: self.table_index, nodes: 1 })),
            Ask::Service { name, index, known } => {
                let service: u8 = name[1..].parse().unwrap();
                let found = self.services.get(&service);
                let now_at = found.map_or(self.extinction_index, |(at, _)| *at);
                let digest = digest(&found.map(|(_, instances)| instances));
                let read = ServiceRead {
                    service: found.map(|(_, instances)| Self::service(service, instances)),
                    findings: vec![],
                    entries: found.map_or(0, |(_, instances)| instances.len()),
                };
                let read = (*known != Some(digest)).then_some(read);
                (index.is_none_or(|index| now_at != index)).then_some(Ok(Reply::Service {
                    index: now_at,
                    digest,
                    bytes: 100,
                    read,
                    // Long polls come from a view of the agent's, as they do on its clients.
                    trust: if index.is_some() { Trust::Streamed } else { Trust::Full },
                }))
            }
        }
    }

    fn listed(&self) -> BTreeMap<ServiceKey, Arc<Service>> {
        let services = self.services.iter().map(|(s, (_, i))| Self::service(*s, i));
        services.map(|service| (service.key.clone(), service)).collect()
    }
}

// === impl World ===

impl World {
    fn new(sim: Sim, in_flight: usize) -> Self {
        let now = Instant::now();
        let day = Duration::from_secs(86_400);
        let watch = ScopeWatch::new(&Scope::default(), in_flight, day, now);
        let (asked, found, listed) = (Vec::new(), Vec::new(), BTreeMap::new());
        Self { sim, watch, now, epoch: 0, asked, found, listed, count: 0 }
    }

    /// Lets the watch ask all it wants.
    fn ask(&mut self) {
        while let Some(ask) = self.watch.next_ask(self.now) {
            self.forget_the_past();
            self.asked.push(ask);
            self.found.push(None);
            self.count += 1;
        }
        assert!(self.asked.len() <= self.watch.limits.in_flight);
    }

    fn forget_the_past(&mut self) {
        if self.watch.epoch() != self.epoch {
            self.asked.clear();
            self.found.clear();
            self.epoch = self.watch.epoch();
        }
    }

    /// The answer to a question, found now unless it is on its way.
    fn answer_to(&self, at: usize) -> Option<Answered> {
        let found = self.found[at].as_ref().map(|found| match found {
            Ok(reply) => Ok(reply.clone()),
            Err(_) => self.sim.answer(&self.asked[at]).unwrap(),
        });
        found.or_else(|| self.sim.answer(&self.asked[at]))
    }

    fn answerable(&self) -> Vec<usize> {
        (0..self.asked.len()).filter(|at| self.answer_to(*at).is_some()).collect()
    }

    /// Has the question that `is_meant` answered.
    fn answer_what(&mut self, is_meant: impl Fn(&Ask) -> bool) {
        let at = self.asked.iter().position(is_meant).unwrap();
        let answer = self.answer_to(at).unwrap();
        self.answer(at, answer);
    }

    fn answer(&mut self, at: usize, answer: Answered) {
        let ask = self.asked.remove(at);
        self.found.remove(at);
        self.watch.answered(ask, answer, self.now);
        self.forget_the_past();
        if self.watch.is_listed() {
            for (key, service) in self.watch.take_changes() {
                match service {
                    Some(service) => self.listed.insert(key, service),
                    None => self.listed.remove(&key),
                };
            }
        }
    }

    fn run(&mut self, op: Op) {
        self.ask();
        match op {
            Op::Put { service, instance, version } => self.sim.put(service, instance, version),
            Op::Remove { service, instance } => self.sim.remove(service, instance),
            Op::Check { service, instance, well } => self.sim.check(service, instance, well),
            Op::Noise => self.sim.index += 1,
            Op::Restore => self.restore(),
            Op::Pass { millis } => self.now += Duration::from_millis(millis),
            Op::Answer { which } => {
                let answerable = self.answerable();
                if let Some(at) = answerable.get(which % answerable.len().max(1)) {
                    let answer = self.answer_to(*at).unwrap();
                    self.answer(*at, answer);
                }
            }
            Op::Find { which } => {
                let answerable = self.answerable();
                if let Some(at) = answerable.get(which % answerable.len().max(1)) {
                    self.found[*at] = self.answer_to(*at);
                }
            }
            Op::Fail { which, how } => {
                if !self.asked.is_empty() {
                    let (attempt, told) = ("ask".to_owned(), "no".to_owned());
                    let error = match how {
                        Failing::General => ConsulError::NoLeader { attempt },
                        Failing::Own => ConsulError::Status { attempt, status: 500, told },
                        Failing::Limited => {
                            ConsulError::RateLimited { attempt, told, retry_after: None }
                        }
                    };
                    self.answer(which % self.asked.len(), Err(error));
                }
            }
        }
    }

    /// Consul gives up all that waits when its data are replaced.
    fn restore(&mut self) {
        self.sim.restore();
        while let Some(at) = (0..self.asked.len()).find(|at| match &self.asked[*at] {
            Ask::View { index, .. } | Ask::Service { index, .. } => index.is_some(),
            Ask::Revision => false,
        }) {
            let mut without_index = self.asked[at].clone();
            if let Ask::View { index, .. } | Ask::Service { index, .. } = &mut without_index {
                *index = None;
            }
            let answer = self.sim.answer(&without_index).unwrap();
            self.answer(at, answer);
        }
    }

    /// Whether only reading over and over shows what changes.
    fn is_blind(&self) -> bool {
        self.sim.summary_refused && self.sim.checks_refused
    }

    /// Answers everything, time passing as it must, until nothing is asked for `quiet`.
    fn settle(&mut self) {
        let quiet = Duration::from_secs(120);
        let mut last_answer = self.now;
        for _ in 0..100_000 {
            self.ask();
            if let Some(at) = self.answerable().first() {
                let answer = self.answer_to(*at).unwrap();
                self.answer(*at, answer);
                if !self.is_blind() {
                    last_answer = self.now;
                }
                continue;
            }
            match self.watch.wake_at() {
                Some(at) if at < last_answer + quiet => self.now = at.max(self.now),
                _ => return,
            }
        }
        panic!("it never rests: {:?}", self.asked);
    }

    fn check(&mut self) {
        self.settle();
        let is = self.sim.listed();
        let wrong: Vec<_> = is
            .iter()
            .filter(|(key, service)| self.listed.get(key) != Some(service))
            .map(|(key, _)| key)
            .chain(self.listed.keys().filter(|key| !is.contains_key(key)))
            .collect();
        assert!(wrong.is_empty(), "{wrong:?}");
        assert!(self.watch.is_listed());
        assert_eq!(self.watch.trouble(), None);
    }
}

fn filled(services: u8) -> Sim {
    let mut sim = Sim::new();
    (0..services).for_each(|service| sim.put(service, 0, 0));
    sim
}

fn failing() -> impl Strategy<Value = Failing> {
    prop::sample::select(vec![Failing::General, Failing::Own, Failing::Limited])
}

fn op() -> impl Strategy<Value = Op> {
    let (service, instance) = (0..12_u8, 0..2_u8);
    let which = 0..100_usize;
    prop_oneof![
        4 => (service.clone(), instance.clone(), 0..3_u32)
            .prop_map(|(service, instance, version)| Op::Put { service, instance, version }),
        3 => (service, instance).prop_map(|(service, instance)| Op::Remove { service, instance }),
        3 => (0..12_u8, 0..2_u8, any::<bool>())
            .prop_map(|(service, instance, well)| Op::Check { service, instance, well }),
        1 => Just(Op::Noise),
        1 => Just(Op::Restore),
        12 => which.clone().prop_map(|which| Op::Answer { which }),
        2 => which.clone().prop_map(|which| Op::Find { which }),
        1 => (which, failing()).prop_map(|(which, how)| Op::Fail { which, how }),
        3 => (0..3000_u64).prop_map(|millis| Op::Pass { millis }),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(512))]

    /// Whatever happens in whatever order: once it is quiet, what is listed is what there is.
    #[test]
    fn the_listing_becomes_what_is_registered(
        services in 0..12_u8,
        in_flight in prop::sample::select(vec![4_usize, 8, 64]),
        refused in (any::<bool>(), any::<bool>()),
        ops in prop::collection::vec(op(), 0..80),
    ) {
        let mut sim = filled(services);
        (sim.summary_refused, sim.checks_refused) = refused;
        let mut world = World::new(sim, in_flight);
        for op in ops {
            world.run(op);
        }
        world.check();
    }
}

#[test]
fn nothing_is_known_before_all_is() {
    let mut world = World::new(filled(10), 8);
    world.ask();
    while !world.watch.is_listed() {
        assert!(world.listed.is_empty());
        let answer = world.sim.answer(&world.asked[0]).unwrap();
        world.answer(0, answer);
        world.ask();
    }
    world.check();
}

#[test]
fn few_services_have_a_long_poll_each() {
    let mut world = World::new(filled(5), 64);
    world.check();
    assert_eq!(world.asked.len(), 6, "{:?}", world.asked);
    world.count = 0;
    world.sim.put(3, 0, 7);
    world.check();
    // The poll that follows, and the list of names that woke as well.
    assert_eq!(world.count, 2, "{:?}", world.asked);
}

#[test]
fn an_instance_among_many_services_costs_two_requests_until_it_is_known() {
    let mut world = World::new(filled(200), 64);
    world.check();
    assert!(world.asked.len() < 10, "{:?}", world.asked);
    world.count = 0;
    world.sim.put(77, 1, 0);
    // The summary wakes, the service is read.
    for _ in 0..2 {
        let at = world.answerable()[0];
        let answer = world.sim.answer(&world.asked[at]).unwrap();
        world.answer(at, answer);
        world.ask();
    }
    assert!(world.listed == world.sim.listed());
    // The read and the long poll of the service; the summary is waited for 25 ms later.
    assert_eq!(world.count, 2, "{:?}", world.asked);
    world.check();
    let polled =
        |ask: &Ask| matches!(ask, Ask::Service { name, index: Some(_), .. } if &**name == "s77");
    assert!(world.asked.iter().any(polled), "{:?}", world.asked);
    world.count = 0;
    world.sim.put(77, 1, 5);
    let at = world.asked.iter().position(polled).unwrap();
    let answer = world.sim.answer(&world.asked[at]).unwrap();
    world.answer(at, answer);
    assert!(world.listed == world.sim.listed());
}

#[test]
fn the_output_of_checks_costs_no_sweep() {
    let mut world = World::new(filled(200), 64);
    world.check();
    world.count = 0;
    world.sim.index += 1;
    world.check();
    // The summary and the revision.
    assert_eq!(world.count, 2);
}

/// How long it takes until all is listed as it is.
fn until_listed(world: &mut World) -> Duration {
    let began = world.now;
    for _ in 0..100_000 {
        if world.listed == world.sim.listed() {
            return world.now - began;
        }
        world.ask();
        match world.answerable().first() {
            Some(at) => {
                let answer = world.answer_to(*at).unwrap();
                world.answer(*at, answer);
            }
            None => world.now = world.watch.wake_at().unwrap(),
        }
    }
    panic!("it is never listed: {:?}", world.asked);
}

#[test]
fn an_edit_that_no_view_shows_is_found_at_once() {
    let mut world = World::new(filled(200), 64);
    world.check();
    world.sim.put(150, 0, 9);
    assert!(until_listed(&mut world) < Duration::from_secs(1));
}

#[test]
fn two_instances_that_trade_their_health_are_found_at_once() {
    let mut sim = filled(200);
    for service in [150, 151] {
        sim.put(service, 1, 0);
        sim.check(service, 0, false);
    }
    let mut world = World::new(sim, 64);
    world.check();
    world.sim.check(150, 0, true);
    world.sim.check(150, 1, false);
    world.count = 0;
    assert!(until_listed(&mut world) < Duration::from_secs(1));
    // The summary, the revision, the two services of which not all checks pass, and around them
    // the long polls that follow.
    assert!(world.count <= 6, "{}", world.count);
    // Checks that do nothing but write cost a read of the one without a long poll, a second at
    // most.
    world.check();
    let began = world.now;
    let mut reads = 0;
    while world.now < began + Duration::from_secs(10) {
        world.sim.index += 1;
        world.ask();
        let is_read = |ask: &&Ask| matches!(ask, Ask::Service { index: None, .. });
        reads += world.asked.iter().filter(is_read).count();
        while let Some(at) = world.answerable().first() {
            let answer = world.answer_to(*at).unwrap();
            world.answer(*at, answer);
        }
        world.now += Duration::from_millis(20);
    }
    assert!((2..=25).contains(&reads), "{reads}");
}

#[test]
fn without_any_view_of_health_it_is_found_all_the_same() {
    let mut sim = filled(200);
    (sim.summary_refused, sim.checks_refused) = (true, true);
    let mut world = World::new(sim, 64);
    world.check();
    world.sim.check(150, 0, false);
    world.count = 0;
    assert!(until_listed(&mut world) < Duration::from_secs(2));
    assert!(world.count < 500, "{}", world.count);
}

#[test]
fn a_summary_that_fails_once_is_asked_for_again() {
    let mut world = World::new(filled(200), 64);
    world.ask();
    world.answer_what(|ask| matches!(ask, Ask::View { view: ViewKind::Names, .. }));
    world.ask();
    let summary = |ask: &Ask| matches!(ask, Ask::View { view: ViewKind::Summary, .. });
    let at = world.asked.iter().position(summary).unwrap();
    let (attempt, told) = ("ask".to_owned(), "no".to_owned());
    world.answer(at, Err(ConsulError::Status { attempt, status: 500, told }));
    assert_eq!(world.watch.trouble().map(|t| t.code), Some("consul_status"));
    world.check();
    assert!(world.asked.iter().any(summary), "{:?}", world.asked);
}

#[test]
fn an_answer_that_was_overtaken_changes_nothing() {
    let mut world = World::new(filled(5), 64);
    world.check();
    // A read, as a resync makes it, is answered but on its way for long.
    world.watch.resync_at = world.now;
    world.now += Duration::from_secs(60);
    let read = |ask: &Ask| matches!(ask, Ask::Service { index: None, .. });
    while !world.asked.iter().any(read) {
        world.ask();
        if let Some(at) = world.asked.iter().position(|ask| *ask == Ask::Revision) {
            let answer = world.answer_to(at).unwrap();
            world.answer(at, answer);
        } else if !world.asked.iter().any(read) {
            world.now = world.watch.wake_at().unwrap();
        }
    }
    let at = world.asked.iter().position(read).unwrap();
    let Ask::Service { name, .. } = world.asked[at].clone() else { panic!() };
    world.sim.put(name[1..].parse().unwrap(), 0, 1);
    world.found[at] = world.answer_to(at);
    world.sim.put(name[1..].parse().unwrap(), 0, 2);
    let waits = |ask: &Ask| matches!(ask, Ask::Service { name: asked, index: Some(_), .. } if *asked == name);
    world.answer_what(waits);
    let newest = world.listed.clone();
    assert_eq!(newest, world.sim.listed());
    world.answer_what(read);
    assert_eq!(world.listed, newest);
    world.check();
}

#[test]
fn a_sweep_does_not_rely_on_a_read_that_began_before_it() {
    let mut world = World::new(filled(200), 64);
    world.check();
    // The read of a service that changed is answered, and its answer is on its way.
    world.sim.put(7, 1, 0);
    let is_read = |ask: &Ask| matches!(ask, Ask::Service { index: None, .. });
    let summary = |ask: &Ask| matches!(ask, Ask::View { view: ViewKind::Summary, .. });
    world.answer_what(summary);
    world.ask();
    let at = world.asked.iter().position(is_read).unwrap();
    world.found[at] = world.answer_to(at);
    // What the sweep looks for happens to the same service.
    world.sim.put(7, 1, 5);
    for _ in 0..2000 {
        world.ask();
        let at = world.answerable().into_iter().find(|at| world.found[*at].is_none());
        match at {
            Some(at) => {
                let answer = world.answer_to(at).unwrap();
                world.answer(at, answer);
            }
            None => world.now = world.watch.wake_at().unwrap().max(world.now),
        }
    }
    let at = world.found.iter().position(Option::is_some).unwrap();
    let answer = world.answer_to(at).unwrap();
    world.answer(at, answer);
    assert!(until_listed(&mut world) < Duration::from_secs(1));
}

#[test]
fn an_instance_that_a_streamed_answer_lacks_is_asked_for_again() {
    let mut sim = filled(3);
    sim.put(1, 1, 0);
    let mut world = World::new(sim, 64);
    world.check();
    world.sim.remove(1, 1);
    world.count = 0;
    world.check();
    let read = world.count;
    assert!(read >= 3, "a poll, a read, a poll: {read}");
}

#[test]
fn access_rules_that_hide_instances_remove_nothing() {
    let mut world = World::new(filled(3), 64);
    world.check();
    let before = world.listed.clone();
    world.ask();
    let at = world.asked.iter().position(|ask| matches!(ask, Ask::Service { .. })).unwrap();
    let hidden = Reply::Service {
        index: 2_000_000,
        digest: 1,
        bytes: 2,
        read: Some(ServiceRead::default()),
        trust: Trust::Filtered,
    };
    world.answer(at, Ok(hidden));
    assert_eq!(world.listed, before);
    assert_eq!(world.watch.trouble().map(|t| t.code), Some("consul_filtered"));
    world.check();
}

fn rate_limited(retry_after: Option<u64>) -> Answered {
    let (attempt, told) = ("ask".to_owned(), "429".to_owned());
    let retry_after = retry_after.map(Duration::from_secs);
    Err(ConsulError::RateLimited { attempt, told, retry_after })
}

#[test]
fn a_rate_limit_is_waited_out() {
    let mut world = World::new(filled(3), 64);
    world.ask();
    world.answer(0, rate_limited(Some(7)));
    world.ask();
    assert!(world.asked.is_empty());
    assert_eq!(world.watch.wake_at(), Some(world.now + Duration::from_secs(7)));
    assert_eq!(world.watch.trouble().map(|t| t.code), Some("consul_rate_limited"));
    world.check();
}

#[test]
fn a_rate_limit_on_one_service_throws_nothing_away() {
    for in_flight in [64, 4] {
        let mut world = World::new(filled(10), in_flight);
        world.check();
        let epoch = world.epoch;
        world.sim.put(3, 1, 0);
        let is_service = |ask: &Ask| matches!(ask, Ask::Service { .. });
        // Few connections: the view tells which service to read.
        if in_flight == 4 {
            world.answer_what(|ask| matches!(ask, Ask::View { .. }));
            world.ask();
        }
        let asked = world.asked.iter().position(is_service).unwrap();
        world.answer(asked, rate_limited(Some(20)));
        let began = world.now;
        world.count = 0;
        world.ask();
        assert_eq!(world.count, 0, "{:?}", world.asked);
        assert_eq!(world.watch.wake_at(), Some(began + Duration::from_secs(20)));
        assert_eq!(world.watch.trouble().map(|t| t.code), Some("consul_rate_limited"));
        world.check();
        assert_eq!(world.epoch, epoch);
    }
}

#[test]
fn a_storm_of_rate_limits_is_met_with_longer_and_longer_pauses() {
    let mut world = World::new(filled(10), 64);
    world.check();
    let mut pauses = Vec::new();
    for service in 0..9 {
        // In between everything is as it should be.
        let name: Text = format!("s{service}").into();
        let at = world
            .asked
            .iter()
            .position(|ask| matches!(ask, Ask::Service { name: asked, .. } if *asked == name));
        world.answer(at.unwrap(), rate_limited(None));
        world.ask();
        pauses.push(world.watch.limited_until(world.now).unwrap() - world.now);
        world.now += pauses[service];
        while world.watch.trouble().is_some() {
            world.ask();
            match world.answerable().first() {
                Some(at) => {
                    let answer = world.answer_to(*at).unwrap();
                    world.answer(*at, answer);
                }
                None => world.now = world.watch.wake_at().unwrap(),
            }
        }
        world.ask();
    }
    assert!(pauses[0] <= Duration::from_millis(200), "{pauses:?}");
    assert!(pauses[8] >= Duration::from_secs(15), "{pauses:?}");
}

#[test]
fn a_failure_of_one_service_is_its_own() {
    let mut world = World::new(filled(10), 64);
    world.check();
    let epoch = world.epoch;
    world.sim.put(3, 1, 0);
    let fail = |world: &mut World, service: u8| {
        // The long poll breaks, then the read does too.
        for _ in 0..2 {
            world.ask();
            let name = Sim::name(service);
            let at = world
                .asked
                .iter()
                .position(|ask| matches!(ask, Ask::Service { name: asked, .. } if *asked == name));
            let attempt = "read".to_owned();
            world.answer(at.unwrap(), Err(ConsulError::NoLeader { attempt }));
        }
    };
    fail(&mut world, 3);
    assert_eq!(world.watch.trouble().map(|t| t.code), Some("consul_no_leader"));
    world.check();
    assert_eq!(world.epoch, epoch);
    // Several in a row are about Consul.
    for service in [1, 2, 3] {
        fail(&mut world, service);
    }
    assert_ne!(world.watch.epoch(), epoch);
    world.check();
}

#[test]
fn a_view_that_access_rules_made_smaller_is_a_doubt() {
    for in_flight in [64, 4] {
        let mut world = World::new(filled(10), in_flight);
        // Until the listing is complete, and after.
        let smaller = |world: &mut World, at: usize| {
            let ask = world.asked[at].clone();
            let answer = world.sim.answer(&ask).unwrap();
            match answer {
                Ok(Reply::View { index, view, bytes, .. }) => {
                    Ok(Reply::View { index, view, bytes, filtered: true })
                }
                other => other,
            }
        };
        for _ in 0..100 {
            world.ask();
            let Some(at) = world.answerable().first().copied() else { break };
            let answer = smaller(&mut world, at);
            world.answer(at, answer);
        }
        assert!(world.watch.is_listed());
        assert_eq!(world.watch.trouble().map(|t| t.code), Some("consul_filtered"));
        assert_eq!(world.listed, world.sim.listed());
        world.sim.put(3, 1, 0);
        world.check();
    }
}
