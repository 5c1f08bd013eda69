//! Services as hostile registries and policies would make them, for tests.
//!
//! Deterministic: equal seeds give equal services.

#![allow(clippy::unwrap_used, reason = "a test that cannot make its input should stop")]

use std::collections::{BTreeMap, BTreeSet};
use std::num::NonZeroU16;
use std::sync::Arc;

use landfall_core::decision::{DecidedService, Decision, Outcome, RulesMark};
use landfall_core::defaults::Defaults;
use landfall_core::group::{MeshServices, Redecided, gathered, group};
use landfall_core::mapping::{Address, Edit, Mapping, Port, PortEdit, Protocol};
use landfall_core::mesh::{Contribution, Endpoint, HostKey, MeshService, Setting};
use landfall_core::name::{Hostname, Namespace, PortName};
use landfall_core::pairs::Pairs;
use landfall_core::registry::{
    Health, Instance, InstancePort, Locality, Service, ServiceId, ServiceKey, SourceName,
};
use landfall_core::sharing::Sharing;
use landfall_core::template::Template;
use landfall_core::text::{Interner, Text};
use landfall_core::time::Time;

use crate::api::{Body, MeshObject};
use crate::render::{RenderOptions, Shape, render};

/// Names that some part of the way takes badly, or might.
pub const HOSTILE: [&str; 48] = [
    "",
    " ",
    "a",
    "A",
    "My_Service",
    "my-service",
    "my.service",
    "-a-",
    ".a.",
    "a..b",
    "*",
    "*.a",
    "*a",
    "*-a.b",
    "**",
    "10.0.0.1",
    "0",
    "123",
    "::1",
    "a/b",
    "a\\b",
    "a:b",
    "a b",
    "a\tb",
    "a\nb",
    "a\0b",
    "\u{7f}",
    "ü",
    "ünïcödé",
    "日本語",
    "🦀",
    "\u{200b}",
    "\u{feff}",
    "\u{fffe}",
    "\u{2028}",
    "true",
    "null",
    "yes",
    "1e3",
    "0x1f",
    "~",
    "'",
    "\"",
    "`",
    "{{.}}",
    "${x}",
    "%s%n",
    "../../etc",
];

/// A small generator of numbers (splitmix64).
#[derive(Clone, Debug)]
pub struct Dice(u64);

impl Dice {
    /// Dice that fall the same way for equal seeds.
    #[must_use]
    pub fn new(seed: u64) -> Self {
        Self(seed)
    }

    /// A number below `end`, which is not 0.
    pub fn below(&mut self, end: u64) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        (z ^ (z >> 31)) % end
    }

    /// True once in `of` times.
    pub fn once_in(&mut self, of: u64) -> bool {
        self.below(of) == 0
    }

    /// One of `list`, which is not empty.
    pub fn one_of<'a, T>(&mut self, list: &'a [T]) -> &'a T {
        &list[usize::try_from(self.below(list.len() as u64)).unwrap()]
    }

    /// A name, mostly plain, sometimes hostile, rarely very long.
    pub fn word(&mut self) -> String {
        match self.below(10) {
            0..5 => format!("svc-{}", self.below(50)),
            5..8 => (*self.one_of(&HOSTILE)).to_owned(),
            8 => {
                let (a, b) = (*self.one_of(&HOSTILE), *self.one_of(&HOSTILE));
                format!("{a}{b}{}", self.below(9))
            }
            _ => {
                let len = 1 + self.below(400) as usize;
                (*self.one_of(&["x", "x.", "x-", "é", "_", "9", "a."])).repeat(len)
            }
        }
    }
}

/// About `count` services, grouped by host; every word in them may be hostile.
#[must_use]
pub fn services(seed: u64, count: usize) -> Vec<MeshService> {
    let mut dice = Dice::new(seed);
    let mut mesh = MeshServices::new();
    let mut taken = BTreeSet::new();
    for _ in 0..count {
        let decided = decided(&mut dice);
        if !taken.insert(decided.id.clone()) {
            continue;
        }
        (mesh, _) =
            group(mesh, &[Redecided { before: None, now: Some(&decided) }], &Sharing::default());
    }
    mesh.values()
        .map(|service| {
            let settings = if dice.once_in(3) { settings(&mut dice) } else { Arc::from([]) };
            MeshService { settings, ..(**service).clone() }
        })
        .collect()
}

/// The objects of about `count` hostile services, in both shapes; some wait for their deletion.
#[must_use]
pub fn objects(seed: u64, count: usize) -> Vec<MeshObject> {
    let mut dice = Dice::new(seed ^ 1);
    let mut objects: Vec<MeshObject> = Vec::new();
    let mut taken = BTreeSet::new();
    for service in services(seed, count) {
        let shape = *dice.one_of(&[Shape::Auto, Shape::Inline, Shape::WorkloadEntries]);
        for mut object in
            render(&service, &RenderOptions { shape, ..RenderOptions::default() }).objects
        {
            // Policies may give several objects one name.
            if !taken.insert(object.id.clone()) {
                continue;
            }
            if dice.once_in(4) {
                object.removal = Some(Time::from_millis(dice.below(4_000_000_000_000)));
            }
            objects.push(object);
        }
    }
    objects
}

/// The bodies of [`objects`].
#[must_use]
pub fn bodies(seed: u64, count: usize) -> Vec<Arc<Body>> {
    objects(seed, count).into_iter().map(|object| object.body).collect()
}

fn decided(dice: &mut Dice) -> DecidedService {
    let text = |dice: &mut Dice| Text::from(dice.word());
    let source = SourceName::parse(dice.one_of::<&str>(&["dc1", "legacy", "aws"])).unwrap();
    let datacenter = if dice.once_in(4) { text(dice) } else { Text::from("") };
    let key = ServiceKey { datacenter, name: text(dice), ..ServiceKey::default() };
    let instances = (0..1 + dice.below(6)).map(|_| Arc::new(instance(dice))).collect();
    let meta = pairs(dice, 3);
    let (service, _) = Service::new(key.clone(), meta, Pairs::default(), instances);
    let id = Arc::new(ServiceId { source, key });
    let defaults = Defaults {
        host: Template::parse("{service}.{source}.mesh").unwrap(),
        namespace: Template::parse(dice.one_of::<&str>(&[
            "mesh-registry",
            "{meta.svc-1}",
            "ns-{source}",
        ]))
        .unwrap(),
        labels: vec![(Text::from("version"), Template::parse("{meta.svc-2}").unwrap())],
        health: Health::ALL.to_vec(),
        own_mark: None,
    };
    let mut findings = Vec::new();
    let mut interner = Interner::default();
    let of_service = defaults.of_service(&id, &service, &mut findings);
    let decisions = service
        .instances()
        .iter()
        .map(|instance| {
            let outcome = match of_service.mapping(instance, &mut interner, &mut findings) {
                Err(reason) => Outcome::Dropped(reason),
                Ok(mapping) => publish(dice, mapping, &mut interner),
            };
            Decision { outcome, fault: None }
        })
        .collect();
    let service = Arc::new(service.clone());
    DecidedService {
        id,
        service,
        rules: RulesMark::default(),
        decisions,
        findings: Vec::new(),
        unlisted: BTreeMap::new(),
    }
}

fn publish(dice: &mut Dice, mapping: Mapping, interner: &mut Interner) -> Outcome {
    let mut places = Vec::new();
    for _ in 0..1 + dice.below(2) {
        let edits: Vec<Edit> = (0..dice.below(4)).map(|_| edit(dice)).collect();
        let edited = mapping.edited(&edits, &"test", interner, &mut Vec::new());
        let place = edited.unwrap_or_else(|_| mapping.clone());
        if place.obstacle().is_none() {
            places.push(Arc::new(place));
        }
    }
    if places.is_empty() {
        Outcome::Dropped(landfall_core::decision::DropReason::Obstacle("test"))
    } else {
        Outcome::Published(places.into())
    }
}

fn edit(dice: &mut Dice) -> Edit {
    match dice.below(12) {
        0 => Edit::Host(format!("{}.mesh", dice.word())),
        1 => Edit::Host(format!("*.{}", dice.word())),
        2 => Edit::Host(dice.word()),
        3 => Edit::Namespace(dice.word()),
        4 => Edit::Address(address(dice)),
        5 => Edit::Label(dice.word(), dice.word()),
        6 => Edit::Label(format!("{}/{}", dice.word(), dice.word()), dice.word()),
        7 => Edit::Locality(locality(dice)),
        8 => Edit::Weight(1 + u32::try_from(dice.below(65535)).unwrap()),
        9 => Edit::Network(dice.word()),
        10 => Edit::ServiceAccount(dice.word()),
        _ => Edit::Ports((0..1 + dice.below(4)).map(|_| port_edit(dice)).collect()),
    }
}

fn port_edit(dice: &mut Dice) -> PortEdit {
    PortEdit {
        name: dice.word(),
        number: port(dice),
        target: port(dice),
        protocol: (*dice.one_of(&["", "http", "HTTPS", "tcp", "udp", "grpc-web", "Mongo"]))
            .to_owned(),
    }
}

fn port(dice: &mut Dice) -> u16 {
    *dice.one_of(&[1, 53, 80, 443, 8080, 8081, 9090, 65535])
}

fn address(dice: &mut Dice) -> String {
    match dice.below(8) {
        0 => format!("svc-{}.example.com", dice.below(9)),
        1 => format!("fd00::{:x}", 1 + dice.below(9)),
        2 => "::ffff:10.0.0.1".to_owned(),
        3 => dice.word(),
        _ => format!("10.0.{}.{}", dice.below(256), dice.below(256)),
    }
}

fn locality(dice: &mut Dice) -> Locality {
    let mut part = || Text::from(if dice.once_in(3) { String::new() } else { dice.word() });
    Locality { region: part(), zone: part(), subzone: part() }
}

fn pairs(dice: &mut Dice, most: u64) -> Pairs {
    (0..dice.below(most)).map(|_| (Text::from(dice.word()), Text::from(dice.word()))).collect()
}

fn instance(dice: &mut Dice) -> Instance {
    let port = |dice: &mut Dice| InstancePort {
        name: Text::from(if dice.once_in(2) { String::new() } else { dice.word() }),
        number: port(dice),
        protocol: Text::from(*dice.one_of(&["", "http", "tcp", "nonsense"])),
    };
    Instance {
        ports: (0..1 + dice.below(3)).map(|_| port(dice)).collect(),
        weight: u32::try_from(dice.below(3)).unwrap(),
        meta: pairs(dice, 4),
        locality: dice.once_in(2).then(|| locality(dice)),
        ..Instance::new(dice.word(), address(dice))
    }
}

fn settings(dice: &mut Dice) -> Arc<[Setting]> {
    (0..1 + dice.below(6))
        .map(|_| match dice.below(10) {
            0 => Setting::Alias(dice.word()),
            1 => Setting::Alias(format!("alias-{}.example.com", dice.below(9))),
            2 => Setting::Address(
                (*dice.one_of(&[
                    "240.0.0.1",
                    "fd00::1",
                    "10.0.0.0/8",
                    "10.0.0.0/08",
                    "x",
                    "fe80::1%eth0",
                ]))
                .to_owned(),
            ),
            3 => Setting::Location(
                (*dice.one_of(&["internal", "external", "MESH_INTERNAL", ""])).to_owned(),
            ),
            4 => Setting::Resolution(
                (*dice.one_of(&["static", "dns", "dns-round-robin", "none", "x"])).to_owned(),
            ),
            5 => Setting::ExportTo(
                (*dice.one_of(&[".", "*", "~", "default", "mesh-registry", "No_Namespace"]))
                    .to_owned(),
            ),
            6 => Setting::SubjectAltName(dice.word()),
            7 => Setting::Label(dice.word(), dice.word()),
            8 => Setting::Name(dice.word()),
            _ => Setting::Annotation(dice.word(), dice.word()),
        })
        .collect()
}

/// A service of `source/dc1` with `endpoints` unlike addresses, one port and two labels.
#[must_use]
pub fn plain_service(namespace: &str, host: &str, endpoints: usize) -> MeshService {
    let mut interner = Interner::default();
    let host = Hostname::parse(host).unwrap();
    let namespace = Namespace::parse(namespace).unwrap();
    let labels: Pairs = [("version", "1.4.2"), ("team", "payments")].into_iter().collect();
    let port = Port {
        name: PortName::legalize("http").name,
        number: NonZeroU16::new(80).unwrap(),
        target: NonZeroU16::new(8080).unwrap(),
        protocol: Protocol::Http,
    };
    let ports: Arc<[Port]> = Arc::from([port]);
    let endpoint = |n: usize| {
        let address = format!("10.{}.{}.{}", n >> 16 & 255, n >> 8 & 255, n & 255);
        let instance = Instance::new(format!("i-{n:05}"), address.as_str());
        let mapping = Mapping {
            host: host.clone(),
            namespace: namespace.clone(),
            address: Address::parse(&address).ok(),
            ports: Arc::clone(&ports),
            labels: labels.clone(),
            locality: Some(Locality {
                region: Text::from("eu-central-1"),
                zone: Text::from(*["eu-central-1a", "eu-central-1b"].get(n % 2).unwrap()),
                subzone: Text::from(""),
            }),
            weight: NonZeroU16::MIN,
            network: Text::from(""),
            service_account: Text::from(""),
        };
        Endpoint { instance: Arc::new(instance), mapping_index: 0, mapping: Arc::new(mapping) }
    };
    let endpoints: Arc<[Endpoint]> = (0..endpoints).map(endpoint).collect();
    let name = interner.text(host.as_str().split('.').next().unwrap());
    let source = SourceName::parse("dc1").unwrap();
    let id = ServiceId { source, key: ServiceKey { name, ..ServiceKey::default() } };
    let part = Contribution { origin: Arc::new(id), endpoints };
    gathered(HostKey { namespace, host }, vec![part], &Arc::default())
}
