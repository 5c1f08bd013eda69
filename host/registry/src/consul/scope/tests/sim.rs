//! A simulated Consul, and a watch over it whose questions are answered one by one.

use landfall_core::pairs::Pairs;
use landfall_core::registry::{Health, Instance};

use super::super::*;
use crate::consul::client::Trust;
use crate::consul::convert::{ServiceRead, Shown, View, digest};

/// How long what is missing after a loss is kept.
pub(super) const SETTLE: Duration = Duration::from_secs(20);

/// What an edit in place changes, and whether it is well.
pub(super) type Fact = (u32, bool);
/// The instances of a service, and its index.
pub(super) type Instances = (u64, BTreeMap<u8, Fact>);

/// Services with their instances.
#[derive(Clone, Debug, Default)]
pub(super) struct Sim {
    pub(super) index: u64,
    /// Of the table of services.
    pub(super) table_index: u64,
    pub(super) extinction_index: u64,
    pub(super) services: BTreeMap<u8, Instances>,
    pub(super) summary_refused: bool,
    pub(super) checks_refused: bool,
}

#[derive(Clone, Copy, Debug)]
pub(super) enum Op {
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
    /// As [`Self::Restore`], but for what they had of a service.
    Lose {
        service: u8,
    },
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
pub(super) enum Failing {
    /// About Consul.
    General,
    /// About the question.
    Own,
    /// Fewer are asked for.
    Limited,
}

pub(super) type Answered = Result<Reply, ConsulError>;

pub(super) struct World {
    pub(super) sim: Sim,
    pub(super) watch: ScopeWatch,
    pub(super) now: Instant,
    pub(super) epoch: u64,
    pub(super) asked: Vec<Ask>,
    /// What is on its way to who asked, beside what was asked.
    pub(super) found: Vec<Option<Answered>>,
    pub(super) listed: BTreeMap<ServiceKey, Arc<Service>>,
    pub(super) count: usize,
}

// === impl Sim ===

impl Sim {
    pub(super) fn new() -> Self {
        let index = 1_000_000;
        Self { index, table_index: index, extinction_index: index, ..Self::default() }
    }

    pub(super) fn put(&mut self, service: u8, instance: u8, version: u32) {
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
    pub(super) fn check(&mut self, service: u8, instance: u8, well: bool) {
        let Some(known) = self.services.get_mut(&service) else { return };
        let Some(fact) = known.1.get_mut(&instance) else { return };
        if fact.1 != well {
            fact.1 = well;
            self.index += 1;
            known.0 = self.index;
        }
    }

    pub(super) fn remove(&mut self, service: u8, instance: u8) {
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

    pub(super) fn restore(&mut self) {
        let index = self.index - 1000;
        (self.index, self.table_index, self.extinction_index) = (index, index, index);
        self.services.values_mut().for_each(|service| service.0 = index);
    }

    pub(super) fn name(service: u8) -> Text {
        format!("s{service}").into()
    }

    pub(super) fn service(service: u8, instances: &BTreeMap<u8, Fact>) -> Arc<Service> {
        let instance = |(id, (version, well)): (&u8, &Fact)| {
            Arc::new(Instance {
                health: if *well { Health::Passing } else { Health::Critical },
                ..Instance::new(format!("n/{id}"), format!("v{version}"))
            })
        };
        let key = ServiceKey { name: Self::name(service), ..ServiceKey::default() };
        let instances = instances.iter().map(instance).collect();
        Service::new(key, Pairs::default(), Pairs::default(), instances).0.into()
    }

    /// The answer, or `None` if Consul would let the question wait. One that waits for an index
    /// beyond those of Consul is answered when its time is over; here that is at once.
    pub(super) fn answer(&self, ask: &Ask) -> Option<Result<Reply, ConsulError>> {
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

    pub(super) fn listed(&self) -> BTreeMap<ServiceKey, Arc<Service>> {
        let services = self.services.iter().map(|(s, (_, i))| Self::service(*s, i));
        services.map(|service| (service.key.clone(), service)).collect()
    }
}

// === impl World ===

impl World {
    pub(super) fn new(sim: Sim, in_flight: usize) -> Self {
        let now = Instant::now();
        let settings = ConsulSettings {
            resync: Duration::from_secs(86_400),
            settle: SETTLE,
            ..ConsulSettings::new(vec![])
        };
        let watch = ScopeWatch::new(&Scope::default(), in_flight, &settings, now);
        let (asked, found, listed) = (Vec::new(), Vec::new(), BTreeMap::new());
        Self { sim, watch, now, epoch: 0, asked, found, listed, count: 0 }
    }

    /// Lets the watch ask all it wants.
    pub(super) fn ask(&mut self) {
        while let Some(ask) = self.watch.next_ask(self.now) {
            self.forget_the_past();
            self.asked.push(ask);
            self.found.push(None);
            self.count += 1;
        }
        assert!(self.asked.len() <= self.watch.limits.in_flight);
    }

    pub(super) fn forget_the_past(&mut self) {
        if self.watch.epoch() != self.epoch {
            self.asked.clear();
            self.found.clear();
            self.epoch = self.watch.epoch();
        }
    }

    /// The answer to a question, found now unless it is on its way.
    pub(super) fn answer_to(&self, at: usize) -> Option<Answered> {
        let found = self.found[at].as_ref().map(|found| match found {
            Ok(reply) => Ok(reply.clone()),
            Err(_) => self.sim.answer(&self.asked[at]).unwrap(),
        });
        found.or_else(|| self.sim.answer(&self.asked[at]))
    }

    pub(super) fn answerable(&self) -> Vec<usize> {
        (0..self.asked.len()).filter(|at| self.answer_to(*at).is_some()).collect()
    }

    /// Has the question that `is_meant` answered.
    pub(super) fn answer_what(&mut self, is_meant: impl Fn(&Ask) -> bool) {
        let at = self.asked.iter().position(is_meant).unwrap();
        let answer = self.answer_to(at).unwrap();
        self.answer(at, answer);
    }

    pub(super) fn answer(&mut self, at: usize, answer: Answered) {
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

    pub(super) fn run(&mut self, op: Op) {
        self.ask();
        match op {
            Op::Put { service, instance, version } => self.sim.put(service, instance, version),
            Op::Remove { service, instance } => self.sim.remove(service, instance),
            Op::Check { service, instance, well } => self.sim.check(service, instance, well),
            Op::Noise => self.sim.index += 1,
            Op::Restore => self.restore(),
            Op::Lose { service } => {
                self.sim.services.remove(&service);
                self.restore();
            }
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
    pub(super) fn restore(&mut self) {
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
    pub(super) fn is_blind(&self) -> bool {
        self.sim.summary_refused && self.sim.checks_refused
    }

    /// Answers everything, time passing as it must, until nothing is asked for `quiet`.
    pub(super) fn settle(&mut self) {
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

    pub(super) fn check(&mut self) {
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
