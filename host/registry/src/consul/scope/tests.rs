//! The watch against a simulated Consul, in every order of answers that chance comes up with.

use landfall_core::pairs::Pairs;
use landfall_core::registry::{Health, Instance};
use proptest::prelude::*;

use super::*;
use crate::consul::client::Trust;
use crate::consul::convert::{ServiceRead, View, digest};

/// Services with their instances; each instance is a number that an edit in place changes.
#[derive(Clone, Debug, Default)]
struct Sim {
    index: u64,
    /// Of the table of services.
    table_index: u64,
    extinction_index: u64,
    services: BTreeMap<u8, (u64, BTreeMap<u8, u32>)>,
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
    /// A check writes its output.
    Noise,
    /// The servers lose their data and get it back, with lower indexes.
    Restore,
    /// Answers the so manieth of the questions that can be answered.
    Answer {
        which: usize,
    },
    /// Answers it with an error: one about Consul, or one about the question.
    Fail {
        which: usize,
        general: bool,
    },
    /// Time passes.
    Pass {
        millis: u64,
    },
}

struct World {
    sim: Sim,
    watch: ScopeWatch,
    now: Instant,
    epoch: u64,
    asked: Vec<Ask>,
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
        if known.1.insert(instance, version) != Some(version) {
            self.index += 1;
            known.0 = self.index;
            self.table_index = self.index;
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

    fn service(service: u8, instances: &BTreeMap<u8, u32>) -> Arc<Service> {
        let instance = |(id, version): (&u8, &u32)| {
            Arc::new(Instance {
                id: format!("n/{id}").into(),
                address: format!("v{version}").into(),
                ports: vec![],
                health: Health::Passing,
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
                let shows = |(service, (_, instances)): (&u8, &(u64, BTreeMap<u8, u32>))| {
                    let shown = match view {
                        ViewKind::Names => 0,
                        // Which instances there are, not what they are like.
                        ViewKind::Summary => digest(&instances.len()),
                        ViewKind::Checks => digest(&instances.keys().collect::<Vec<_>>()),
                    };
                    (Self::name(*service), shown)
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
        let (asked, listed) = (Vec::new(), BTreeMap::new());
        Self { sim, watch, now, epoch: 0, asked, listed, count: 0 }
    }

    /// Lets the watch ask all it wants.
    fn ask(&mut self) {
        while let Some(ask) = self.watch.next_ask(self.now) {
            if self.watch.epoch() != self.epoch {
                self.asked.clear();
                self.epoch = self.watch.epoch();
            }
            self.asked.push(ask);
            self.count += 1;
        }
        assert!(self.asked.len() <= self.watch.limits.in_flight);
    }

    fn answerable(&self) -> Vec<usize> {
        (0..self.asked.len()).filter(|i| self.sim.answer(&self.asked[*i]).is_some()).collect()
    }

    fn answer(&mut self, at: usize, answer: Result<Reply, ConsulError>) {
        let ask = self.asked.remove(at);
        self.watch.answered(ask, answer, self.now);
        if self.watch.epoch() != self.epoch {
            self.asked.clear();
            self.epoch = self.watch.epoch();
        }
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
            Op::Noise => self.sim.index += 1,
            Op::Restore => self.restore(),
            Op::Pass { millis } => self.now += Duration::from_millis(millis),
            Op::Answer { which } => {
                let answerable = self.answerable();
                if let Some(at) = answerable.get(which % answerable.len().max(1)) {
                    let answer = self.sim.answer(&self.asked[*at]).unwrap();
                    self.answer(*at, answer);
                }
            }
            Op::Fail { which, general } => {
                if !self.asked.is_empty() {
                    let attempt = "ask".to_owned();
                    let error = if general {
                        ConsulError::NoLeader { attempt }
                    } else {
                        ConsulError::Status { attempt, status: 500, told: "no".to_owned() }
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

    /// Answers everything, time passing as it must, until nothing is asked for `quiet`.
    fn settle(&mut self) {
        let quiet = Duration::from_secs(120);
        let mut last_answer = self.now;
        for _ in 0..100_000 {
            self.ask();
            if let Some(at) = self.answerable().first() {
                let answer = self.sim.answer(&self.asked[*at]).unwrap();
                self.answer(*at, answer);
                last_answer = self.now;
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

fn op() -> impl Strategy<Value = Op> {
    let (service, instance) = (0..12_u8, 0..2_u8);
    let which = 0..100_usize;
    prop_oneof![
        4 => (service.clone(), instance.clone(), 0..3_u32)
            .prop_map(|(service, instance, version)| Op::Put { service, instance, version }),
        3 => (service, instance).prop_map(|(service, instance)| Op::Remove { service, instance }),
        1 => Just(Op::Noise),
        1 => Just(Op::Restore),
        12 => which.clone().prop_map(|which| Op::Answer { which }),
        1 => (which, any::<bool>()).prop_map(|(which, general)| Op::Fail { which, general }),
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

#[test]
fn an_edit_that_no_view_shows_is_found_at_once() {
    let mut world = World::new(filled(200), 64);
    world.check();
    world.sim.put(150, 0, 9);
    let began = world.now;
    while world.listed != world.sim.listed() {
        world.ask();
        match world.answerable().first() {
            Some(at) => {
                let answer = world.sim.answer(&world.asked[*at]).unwrap();
                world.answer(*at, answer);
            }
            None => world.now = world.watch.wake_at().unwrap(),
        }
    }
    assert!(world.now - began < Duration::from_secs(1));
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

#[test]
fn a_rate_limit_is_waited_out() {
    let mut world = World::new(filled(3), 64);
    world.ask();
    let (attempt, told) = ("list".to_owned(), "429".to_owned());
    let retry_after = Some(Duration::from_secs(7));
    world.answer(0, Err(ConsulError::RateLimited { attempt, told, retry_after }));
    world.ask();
    assert!(world.asked.is_empty());
    assert_eq!(world.watch.wake_at(), Some(world.now + Duration::from_secs(7)));
    assert_eq!(world.watch.trouble().map(|t| t.code), Some("consul_rate_limited"));
    world.check();
}
