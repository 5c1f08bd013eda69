//! From Eureka's types to the core's.
//!
//! # What an instance becomes
//!
//! * A service has the application's name in lower case. Eureka's names have no case: a server
//!   writes all of them in capitals, which no host name has.
//! * Eureka's own clients send requests to nobody but those that are `UP`. So that is the one
//!   status that passes; `OUT_OF_SERVICE` is maintenance, for an operator sets it; and `DOWN`,
//!   `STARTING`, `UNKNOWN` and what is none of these are critical. The word itself is in
//!   `eureka.status`.
//! * The plain port is the port `http`, the secure one the port `https`, each where it is enabled.
//!   That is what Eureka means by them: it makes `http://` and `https://` addresses of them.
//! * The place is Amazon's availability zone with its region, or else the metadata's `zone`, which
//!   is in no region that anybody named.
//! * The weight is the metadata's `weight` where that is a whole number, as several libraries of
//!   clients have it; anything else there means nothing to us.

use std::cmp::Reverse;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::time::Duration;

use landfall_core::pairs::Pairs;
use landfall_core::registry::{Health, Instance, InstancePort, Locality};
use landfall_core::text::{Interner, Text};
use landfall_core::time::Time;

use super::wire;
use crate::amazon::region_of;

/// What an answer lists.
#[derive(Debug, Default)]
pub(super) struct Read {
    /// The server's own digest of all that is registered, whatever of it is in the answer.
    pub(super) hash: Option<String>,
    /// In order, each instance once. For one that is listed several times, the newest.
    pub(super) entries: Vec<Entry>,
    /// Instances that stand in the answer more than once.
    pub(super) twice: Vec<Key>,
}

/// Which instance of which service.
pub(super) type Key = (Text, Text);

/// An instance in an answer.
#[derive(Debug)]
pub(super) struct Entry {
    pub(super) key: Key,
    pub(super) stamp: Stamp,
    pub(super) status: Status,
    pub(super) lease: Lease,
    /// In an answer to what changed: whether it is gone.
    pub(super) is_deleted: bool,
    /// The instance, or what is wrong with it.
    pub(super) facts: Result<Instance, String>,
}

/// When an instance changed, by the server's clock and then by its own. Zero where nobody said.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Stamp {
    updated_ms: u64,
    dirty_ms: u64,
}

/// How a server keeps an instance. Zero where it does not say.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Lease {
    /// When this server took the instance up, by its clock.
    registered_ms: u64,
    /// How long it is kept without being renewed.
    pub(super) duration: Duration,
}

/// The states that Eureka has, in the order of their names, which is that of its digest.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Status {
    Down,
    OutOfService,
    Starting,
    Unknown,
    Up,
}

/// How many instances are in each state.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Counts([usize; Status::ALL.len()]);

/// How instances are read.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Reading {
    pub(super) prefer_hostname: bool,
    /// Leases that were renewed last before this are of dead instances.
    pub(super) stale_before: Option<Time>,
}

/// Reads the answer to `/apps` or to `/apps/delta`. What is wrong with an application is wrong
/// with the whole answer: there is no telling which instances it lacks.
pub(super) fn answer(body: &[u8], reading: Reading) -> Result<Read, serde_json::Error> {
    let answer: wire::Answer<'_> = serde_json::from_slice(body)?;
    let mut texts = Interner::default();
    let mut entries = Vec::new();
    for application in answer.applications.list()? {
        let app = texts.text(&application.name.trim().to_lowercase());
        for raw in application.instances()? {
            entries.push((entry(raw.get(), &app, reading, &mut texts), raw.get()));
        }
    }
    // Which one is kept of several must not depend on the order in which they are listed.
    entries.sort_by(|(a, a_raw), (b, b_raw)| {
        (&a.key, Reverse(a.stamp), a_raw).cmp(&(&b.key, Reverse(b.stamp), b_raw))
    });
    let mut twice = Vec::new();
    entries.dedup_by(|(next, next_raw), (kept, kept_raw)| {
        let same = next.key == kept.key;
        if same && next_raw != kept_raw {
            twice.push(kept.key.clone());
        }
        same
    });
    let entries = entries.into_iter().map(|(entry, _)| entry).collect();
    Ok(Read { hash: answer.applications.hash, entries, twice })
}

fn entry(raw: &str, app: &Text, reading: Reading, texts: &mut Interner) -> Entry {
    let read = serde_json::from_str::<wire::Instance>(raw).map_err(|error| error.to_string());
    match read {
        Ok(wire) => {
            let id = identifier(&wire.instance_id, &wire.host_name);
            Entry {
                key: (Text::clone(app), Text::from(id)),
                stamp: Stamp {
                    updated_ms: wire.last_updated_timestamp,
                    dirty_ms: wire.last_dirty_timestamp,
                },
                status: Status::parse(&wire.status),
                lease: Lease::of(&wire.lease_info),
                is_deleted: is_deleted(&wire.action_type),
                facts: if app.is_empty() {
                    Err("its application has no name".to_owned())
                } else {
                    instance(&wire, id, reading, texts)
                },
            }
        }
        Err(problem) => {
            let known: wire::InstanceName = serde_json::from_str(raw).unwrap_or_default();
            let id = identifier(&known.instance_id, &known.host_name);
            Entry {
                key: (Text::clone(app), Text::from(id)),
                stamp: Stamp {
                    updated_ms: known.last_updated_timestamp,
                    dirty_ms: known.last_dirty_timestamp,
                },
                status: Status::parse(&known.status),
                lease: Lease::of(&known.lease_info),
                is_deleted: is_deleted(&known.action_type),
                facts: Err(problem),
            }
        }
    }
}

/// Clients of before 2014 register no identifier and are known by their host.
fn identifier<'a>(instance_id: &'a str, host_name: &'a str) -> &'a str {
    let instance_id = instance_id.trim();
    if instance_id.is_empty() { host_name.trim() } else { instance_id }
}

fn is_deleted(action: &str) -> bool {
    action.eq_ignore_ascii_case("DELETED")
}

fn instance(
    wire: &wire::Instance,
    id: &str,
    reading: Reading,
    texts: &mut Interner,
) -> Result<Instance, String> {
    if id.is_empty() {
        return Err("it has neither an instanceId nor a hostName".to_owned());
    }
    let (ip, name) = (wire.ip_addr.trim(), wire.host_name.trim());
    let (first, second) = if reading.prefer_hostname { (name, ip) } else { (ip, name) };
    let address = if first.is_empty() { second } else { first };
    if address.is_empty() {
        return Err("it has neither an ipAddr nor a hostName".to_owned());
    }
    let renewed = wire.lease_info.last_renewal.filter(|renewed| *renewed > 0);
    let is_stale = match (reading.stale_before, renewed) {
        (Some(before), Some(renewed)) => Time::from_millis(renewed) < before,
        // Without a lease there is nothing to judge by.
        _ => false,
    };
    let health = if is_stale { Health::Critical } else { Status::parse(&wire.status).health() };
    Ok(Instance {
        id: Text::from(id),
        address: texts.text(address),
        ports: ports(wire, texts)?,
        health,
        weight: wire.metadata.get("weight").and_then(|w| w.trim().parse().ok()).unwrap_or(1),
        tags: Vec::new(),
        meta: wire.metadata.iter().map(|(k, v)| (texts.text(k), texts.text(v))).collect(),
        ext: ext(wire, is_stale, texts),
        locality: locality(wire, texts),
    })
}

fn ports(wire: &wire::Instance, texts: &mut Interner) -> Result<Vec<InstancePort>, String> {
    // A registration that does not say has the plain port enabled and the secure one not, as
    // `InstanceInfo` begins with.
    let all = [("http", &wire.port, true), ("https", &wire.secure_port, false)];
    let mut ports = Vec::with_capacity(1);
    for (name, port, enabled_unsaid) in all {
        let number = match port.number {
            Some(number) if port.enabled.unwrap_or(enabled_unsaid) => number,
            _ => continue,
        };
        match u16::try_from(number) {
            // What is registered by who listens nowhere.
            Ok(0) => (),
            Ok(number) => {
                ports.push(InstancePort {
                    name: texts.text(name),
                    number,
                    protocol: texts.text(name),
                });
            }
            Err(_) => return Err(format!("port {number} is not between 1 and 65535")),
        }
    }
    Ok(ports)
}

fn locality(wire: &wire::Instance, texts: &mut Interner) -> Option<Locality> {
    let amazon = wire.data_center_info.availability_zone.trim();
    let own = wire.metadata.get("zone").map(|zone| zone.trim()).unwrap_or_default();
    let (region, zone) = if amazon.is_empty() { ("", own) } else { (region_of(amazon), amazon) };
    if zone.is_empty() {
        return None;
    }
    let [region, zone, subzone] = [region, zone, ""].map(|part| texts.text(part));
    Some(Locality { region, zone, subzone })
}

fn ext(wire: &wire::Instance, is_stale: bool, texts: &mut Interner) -> Pairs {
    let overridden = match wire.overridden_status.as_str() {
        // What Eureka says where nobody overrode anything.
        "UNKNOWN" => "",
        word => word,
    };
    let stale = if is_stale { "true" } else { "" };
    let all = [
        ("eureka.status", wire.status.as_str()),
        ("eureka.overridden-status", overridden),
        ("eureka.vip", &wire.vip_address),
        ("eureka.secure-vip", &wire.secure_vip_address),
        ("eureka.app-group", &wire.app_group_name),
        ("eureka.host-name", &wire.host_name),
        ("eureka.stale", stale),
    ];
    let said = all.into_iter().filter(|(_, value)| !value.is_empty());
    said.map(|(key, value)| (texts.text(key), texts.text(value))).collect()
}

// === impl Stamp ===

impl Stamp {
    /// Whether anybody said when.
    pub(super) fn is_said(self) -> bool {
        self != Self::default()
    }
}

// === impl Lease ===

impl Lease {
    fn of(wire: &wire::Lease) -> Self {
        Self {
            registered_ms: wire.registered.unwrap_or_default(),
            duration: Duration::from_secs(wire.duration_secs.unwrap_or_default()),
        }
    }

    /// Whether the server remembers the lease that it spoke of `before`. One that started anew
    /// makes new ones for everybody, for what it hears from other servers too
    /// (`AbstractInstanceRegistry.register`).
    pub(super) fn is_remembered(self, before: Self) -> bool {
        self.registered_ms != 0 && self.registered_ms == before.registered_ms
    }
}

// === impl Status ===

impl Status {
    const ALL: [Self; 5] =
        [Self::Down, Self::OutOfService, Self::Starting, Self::Unknown, Self::Up];

    /// As Eureka's own clients: any other word is unknown.
    fn parse(word: &str) -> Self {
        let known = |status: &Self| status.as_str().eq_ignore_ascii_case(word.trim());
        Self::ALL.into_iter().find(known).unwrap_or(Self::Unknown)
    }

    const fn as_str(self) -> &'static str {
        match self {
            Self::Down => "DOWN",
            Self::OutOfService => "OUT_OF_SERVICE",
            Self::Starting => "STARTING",
            Self::Unknown => "UNKNOWN",
            Self::Up => "UP",
        }
    }

    const fn health(self) -> Health {
        match self {
            Self::Up => Health::Passing,
            Self::OutOfService => Health::Maintenance,
            Self::Down | Self::Starting | Self::Unknown => Health::Critical,
        }
    }
}

// === impl Counts ===

impl Counts {
    pub(super) fn add(&mut self, status: Status) {
        self.0[status as usize] += 1;
    }

    pub(super) fn remove(&mut self, status: Status) {
        let count = &mut self.0[status as usize];
        *count = count.saturating_sub(1);
    }

    /// The digest that Eureka makes of them (`Applications.getReconcileHashCode`), such as
    /// `DOWN_1_UP_3_`.
    pub(super) fn hash(self) -> String {
        let some = Status::ALL.into_iter().zip(self.0).filter(|(_, count)| *count > 0);
        some.map(|(status, count)| format!("{}_{count}_", status.as_str())).collect()
    }
}

/// How many instances a digest says there are; `None` where it is not made as Eureka's is.
pub(super) fn counted(hash: &str) -> Option<usize> {
    let words = hash.strip_suffix('_')?.split('_');
    let numbers = words.filter(|word| word.starts_with(|first: char| first.is_ascii_digit()));
    let mut sum = 0_usize;
    for number in numbers {
        sum = sum.checked_add(number.parse().ok()?)?;
    }
    Some(sum)
}

/// Changes when `body` does.
pub(super) fn digest(body: &[u8]) -> u64 {
    let mut hasher = DefaultHasher::new();
    body.hash(&mut hasher);
    hasher.finish()
}
