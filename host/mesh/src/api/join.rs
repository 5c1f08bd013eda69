//! A resource with what an older one has beside its own: what is written while some of that may not
//! go yet.
//!
//! Invariant: what stays keeps its place, so that a resource of which nothing may go is the same
//! again.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::ops::Range;

use landfall_core::mapping::PORTS_MAX;
use landfall_core::mesh::Stays;
use landfall_core::pairs::Pairs;
use landfall_core::text::Text;

use super::origins::{
    ENDPOINT_ORIGINS_ANNOTATION, Fed, ORIGINS_ANNOTATION, Origin, Run, endpoint_origins_text,
    listed, runs,
};
use super::place::{Place, Side, listens_at, sides, target};
use super::print::json_len;
use super::{
    Body, EndpointAddress, Endpoints, Resolution, ServiceEntry, ServicePort, Spec, WorkloadEntry,
};

/// Most inline endpoints of a ServiceEntry: the CRD's limit.
pub const ENDPOINTS_MAX: usize = 4096;
/// Most hosts, addresses and ports of a ServiceEntry: the CRD's limits.
pub const LIST_LEN_MAX: usize = 256;
/// Most bytes of an object. etcd takes 1.5 MiB a request by default; the rest is room for what
/// the API server adds, above all `managedFields`.
pub const OBJECT_LEN_MAX: usize = 1_468_006;

/// What a manifest has besides labels, annotations and spec: names, bookkeeping and the mark. Each
/// source that feeds it is named, in at most 64 bytes.
pub const FRAME_LEN_MAX: usize = 8192;

/// Stands in the list of services where an older one did not say what fed it: its endpoints may be of
/// others than those that are listed.
const UNKNOWN_REMARK: &str = "(and others that are not known)";
/// Most remarks of an older list that are kept, and most bytes of one.
const REMARKS_MAX: usize = 4;
const REMARK_LEN_MAX: usize = 100;

/// `body` with what of `older` stays; `None` where the two find endpoints in different ways.
pub(super) fn joined(
    body: &Body,
    older: &Body,
    stays: &Stays<'_, EndpointAddress>,
) -> Option<Body> {
    let is_known = |runs: &[Run<'_>]| runs.iter().all(|run| run.origin.is_some());
    let (mut new, mut old) = (runs(body), runs(older));
    let names_origins = is_known(&new) && is_known(&old);
    if !names_origins {
        (new, old) = (as_one(new), as_one(old));
    }
    let (new, old) = sides((body, &new), (older, &old));
    let together = together(&new, &old, stays);
    let spec = match (&body.spec, &older.spec) {
        (Spec::ServiceEntry(entry), Spec::ServiceEntry(older)) => {
            Spec::ServiceEntry(service_entry(entry, older, &together)?)
        }
        (Spec::WorkloadEntry(_), Spec::WorkloadEntry(_)) => {
            let mut puts = together.iter().flat_map(|lane| &lane.endpoints);
            match (puts.next(), puts.next()) {
                (Some(put), None) => Spec::WorkloadEntry(put.endpoint.clone()),
                _ => return None,
            }
        }
        _ => return None,
    };
    let annotations = match names_origins {
        true => with_lanes(body, &together),
        false => with_lines_of(&body.annotations, &older.annotations),
    };
    let joined = Body { labels: body.labels.clone(), annotations, spec };
    (json_len(&joined) + FRAME_LEN_MAX <= OBJECT_LEN_MAX).then_some(joined)
}

/// `entry` with the endpoints of `together`, of which some are `older`'s.
fn service_entry(
    entry: &ServiceEntry,
    older: &ServiceEntry,
    together: &[Lane<'_>],
) -> Option<ServiceEntry> {
    let mut joined = entry.clone();
    match (&mut joined.endpoints, &older.endpoints) {
        (Endpoints::Inline(endpoints), Endpoints::Inline(_)) => {
            let list = || together.iter().flat_map(|lane| &lane.endpoints);
            if list().count() > ENDPOINTS_MAX {
                return None;
            }
            if list().all(|put| !put.is_older) {
                *endpoints = list().map(|put| put.endpoint.clone()).collect();
                return Some(joined);
            }
            joined.ports = ports(&entry.ports, &older.ports);
            let listens = |put: &Put<'_>| {
                let own = if put.is_older { &older.ports } else { &entry.ports };
                listening(put.endpoint, own, &joined.ports)
            };
            *endpoints = list().map(listens).collect::<Option<_>>()?;
        }
        (Endpoints::Selected(selector), Endpoints::Selected(older_selector)) => {
            joined.ports = ports(&entry.ports, &older.ports);
            // WorkloadEntries say where they listen by the names of ports.
            let has_name = |name: &Text| joined.ports.iter().any(|port| port.name == *name);
            let has_ports = entry.ports.iter().all(|port| has_name(&port.name));
            if selector != older_selector || !has_ports {
                return None;
            }
        }
        _ => return None,
    }
    joined.resolution = resolution(entry, older)?;
    Some(joined)
}

// === how endpoints are found ===

/// How proxies find the endpoints of both.
fn resolution(new: &ServiceEntry, older: &ServiceEntry) -> Option<Resolution> {
    match (new.resolution, older.resolution) {
        (Resolution::Static, Resolution::Static) => Some(Resolution::Static),
        // It takes IP addresses too, but no blocks of virtual ones.
        (Resolution::Static | Resolution::Dns, Resolution::Static | Resolution::Dns) => {
            let has_block = new.addresses.iter().any(|address| address.contains('/'));
            (!has_block || new.resolution == Resolution::Dns).then_some(Resolution::Dns)
        }
        // They take one endpoint, or none.
        _ => None,
    }
}

/// What clients dial at both: what was there, for it is not known what those say of it that are not
/// known, and what came besides.
fn ports(new: &[ServicePort], older: &[ServicePort]) -> Box<[ServicePort]> {
    let fits = |port: &&ServicePort| {
        older.iter().all(|known| known.name != port.name && known.number != port.number)
    };
    let all = older.iter().chain(new.iter().filter(fits));
    let mut ports: Vec<ServicePort> = all.take(LIST_LEN_MAX).cloned().collect();
    // As they are published.
    ports.sort_by(|a, b| (&a.name, a.number).cmp(&(&b.name, b.number)));
    ports.into()
}

/// `endpoint` of a service with ports `own` in one with ports `ports`: it listens where it did.
/// `None` where it cannot say so.
fn listening(
    endpoint: &WorkloadEntry,
    own: &[ServicePort],
    ports: &[ServicePort],
) -> Option<WorkloadEntry> {
    if own == ports {
        return Some(endpoint.clone());
    }
    let dialed = dialed(endpoint, own, ports)?;
    let is_told = |(name, at): &&(Text, u32)| {
        let port = ports.iter().find(|port| port.name == *name);
        port.is_some_and(|port| target(port) != *at)
    };
    let listens = dialed.ports.iter().filter(is_told).cloned().collect();
    Some(WorkloadEntry { ports: listens, ..dialed })
}

/// The same, where it is said of every port.
pub(super) fn dialed(
    endpoint: &WorkloadEntry,
    own: &[ServicePort],
    ports: &[ServicePort],
) -> Option<WorkloadEntry> {
    let listens = ports.iter().filter_map(|port| {
        let of_name = own.iter().find(|own| own.name == port.name);
        let mine = of_name.or_else(|| own.iter().find(|own| own.number == port.number))?;
        Some((Text::clone(&port.name), listens_at(endpoint, mine)))
    });
    let listens: Vec<(Text, u32)> = listens.collect();
    (listens.len() <= PORTS_MAX)
        .then(|| WorkloadEntry { ports: listens.into(), ..endpoint.clone() })
}

// === which endpoints ===

/// All endpoints in one run of which it is not known whose it is.
fn as_one(runs: Vec<Run<'_>>) -> Vec<Run<'_>> {
    let all = runs.into_iter().flat_map(|run| run.endpoints);
    let endpoints = all.map(|fed| Fed { others: [].into(), ..fed }).collect();
    vec![Run { origin: None, endpoints }]
}

/// What a service feeds both with.
struct Lane<'a> {
    origin: Origin<'a>,
    endpoints: Vec<Put<'a>>,
    /// Whether it is named though it has nothing.
    is_named: bool,
}

/// An endpoint of one of both.
struct Put<'a> {
    endpoint: &'a WorkloadEntry,
    /// Who has it besides the one in whose lane it is.
    others: Vec<Origin<'a>>,
    is_older: bool,
}

/// What becomes of an endpoint of an older resource.
enum Fate<'a> {
    Gone,
    /// It is this one of the new resource by now, which these may have too.
    Is(usize, Vec<Origin<'a>>),
    /// It stays as it was, and these have it, or may: the first is whose it is.
    Stays(Vec<Origin<'a>>),
}

/// What `new` has, and of `old` what stays, in the order of `old`.
fn together<'a>(
    new: &Side<'a, '_>,
    old: &Side<'a, '_>,
    stays: &Stays<'_, EndpointAddress>,
) -> Vec<Lane<'a>> {
    let named: BTreeSet<Origin<'_>> = new.runs.iter().map(|run| run.origin).collect();
    let mut fresh = Fresh::of(new);
    let successors = fresh.successors(old);
    let mut lanes: Vec<Lane<'a>> = Vec::with_capacity(old.runs.len());
    let mut displaced = Vec::new();
    for (run, successors) in old.runs.iter().zip(successors) {
        let mut endpoints = Vec::with_capacity(run.endpoints.len());
        for (fed, successor) in run.endpoints.iter().zip(successors) {
            match fresh.fate(old, run, fed, successor, stays) {
                Fate::Gone => {}
                Fate::Is(at, others) => {
                    fresh.add(at, &others);
                    if fresh.owner(at) == run.origin {
                        endpoints.push(fresh.put(at));
                    }
                }
                Fate::Stays(origins) => {
                    let Some((owner, others)) = origins.split_first() else { continue };
                    let put =
                        Put { endpoint: fed.endpoint, others: others.to_vec(), is_older: true };
                    match *owner == run.origin {
                        true => endpoints.push(put),
                        false => displaced.push((*owner, put)),
                    }
                }
            }
        }
        let is_bare = run.endpoints.is_empty() && (stays.origin)(run.origin);
        let is_named = is_bare || named.contains(&run.origin);
        lanes.push(Lane { origin: run.origin, endpoints, is_named });
    }
    for (owner, put) in displaced {
        if let Some(lane) = lanes.iter_mut().find(|lane| lane.origin == owner) {
            lane.endpoints.push(put);
        }
    }
    put_new(&mut lanes, new, &mut fresh);
    let puts = lanes.iter().flat_map(|lane| &lane.endpoints);
    let others: BTreeSet<Origin<'_>> = puts.flat_map(|put| put.others.iter().copied()).collect();
    lanes.retain(|lane| {
        !lane.endpoints.is_empty() || lane.is_named || others.contains(&lane.origin)
    });
    lanes
}

/// Puts what of `new` has no place yet behind what stands in `lanes`, in the order of `new`.
fn put_new<'a>(lanes: &mut Vec<Lane<'a>>, new: &Side<'a, '_>, fresh: &mut Fresh<'a>) {
    // From the back, so that the lane that comes behind a new one has its place already.
    let mut behind = lanes.len();
    for (index, run) in new.runs.iter().enumerate().rev() {
        let left = fresh.left(index);
        match lanes.iter().position(|lane| lane.origin == run.origin) {
            Some(at) => {
                lanes[at].endpoints.extend(left);
                behind = at;
            }
            None => {
                // It may be that all that it has stands in the lanes of others for now.
                let is_named = run.endpoints.is_empty();
                lanes.insert(behind, Lane { origin: run.origin, endpoints: left, is_named });
            }
        }
    }
}

/// Who has an endpoint, first the one in whose run it is.
fn origins<'a, 'b>(run: &'b Run<'a>, fed: &'b Fed<'a>) -> impl Iterator<Item = Origin<'a>> + 'b {
    std::iter::once(run.origin).chain(fed.others.iter().copied())
}

/// The endpoints of a new resource, and which of them are placed.
struct Fresh<'a> {
    endpoints: Vec<FreshEndpoint<'a>>,
    /// Which are in each of its runs.
    runs: Vec<Range<usize>>,
    /// Where they are, by who has them and where traffic to them ends.
    by_place: BTreeMap<(Origin<'a>, Place<'a>), VecDeque<usize>>,
    by_address: BTreeMap<(Origin<'a>, &'a EndpointAddress), VecDeque<usize>>,
    anybody: BTreeMap<Place<'a>, VecDeque<usize>>,
}

struct FreshEndpoint<'a> {
    endpoint: &'a WorkloadEntry,
    place: Place<'a>,
    /// First the one whose it is.
    origins: Vec<Origin<'a>>,
    stage: Stage,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Stage {
    Free,
    /// It is known what it was.
    Taken,
    Placed,
}

impl<'a> Fresh<'a> {
    fn of(side: &Side<'a, '_>) -> Self {
        let mut fresh = Self {
            endpoints: Vec::new(),
            runs: Vec::with_capacity(side.runs.len()),
            by_place: BTreeMap::new(),
            by_address: BTreeMap::new(),
            anybody: BTreeMap::new(),
        };
        for run in side.runs {
            let begin = fresh.endpoints.len();
            for fed in &run.endpoints {
                fresh.note(fed.endpoint, side.place(fed.endpoint), origins(run, fed).collect());
            }
            fresh.runs.push(begin..fresh.endpoints.len());
        }
        fresh
    }

    fn note(&mut self, endpoint: &'a WorkloadEntry, place: Place<'a>, origins: Vec<Origin<'a>>) {
        let at = self.endpoints.len();
        for origin in &origins {
            self.by_place.entry((*origin, place.clone())).or_default().push_back(at);
            self.by_address.entry((*origin, &endpoint.address)).or_default().push_back(at);
        }
        self.anybody.entry(place.clone()).or_default().push_back(at);
        self.endpoints.push(FreshEndpoint { endpoint, place, origins, stage: Stage::Free });
    }

    /// What each endpoint of older runs is by now, of those that one of the same services has: first
    /// what ends at the same place, then what is at least at the same address.
    fn successors(&mut self, of: &Side<'a, '_>) -> Vec<Vec<Option<usize>>> {
        let all = &mut self.endpoints;
        let by_place = &mut self.by_place;
        let mut at_place = |run: &Run<'a>, fed: &Fed<'a>| {
            let place = of.place(fed.endpoint);
            let mut origins = origins(run, fed);
            origins.find_map(|origin| taken(by_place.get_mut(&(origin, place.clone())), all))
        };
        let mut successors: Vec<Vec<Option<usize>>> = of
            .runs
            .iter()
            .map(|run| run.endpoints.iter().map(|fed| at_place(run, fed)).collect())
            .collect();
        for (run, successors) in of.runs.iter().zip(&mut successors) {
            let unknown = run.endpoints.iter().zip(successors).filter(|(_, known)| known.is_none());
            for (fed, successor) in unknown {
                *successor = origins(run, fed).find_map(|origin| {
                    taken(self.by_address.get_mut(&(origin, &fed.endpoint.address)), all)
                });
            }
        }
        successors
    }

    /// What becomes of an endpoint of the `old` resource, of which `successor` is what it may be by
    /// now.
    ///
    /// ```text
    /// successor         who may have it still   fate
    /// none              nobody                  gone
    ///                   somebody                stays where it may, else gone
    /// at its place      its owner, by claim     stays, and who has the successor has it
    ///                   anybody else            is the successor
    /// at its address    nobody                  is the successor
    ///                   somebody                stays where it may: the successor may be another one;
    ///                                           else gone by claim, and is the successor without
    /// ```
    fn fate(
        &mut self,
        old: &Side<'a, '_>,
        run: &Run<'a>,
        fed: &Fed<'a>,
        successor: Option<usize>,
        stays: &Stays<'_, EndpointAddress>,
    ) -> Fate<'a> {
        let place = old.place(fed.endpoint);
        let may_have = origins(run, fed).filter(|origin| (stays.origin)(*origin));
        let mut may_have: Vec<Origin<'a>> = may_have.collect();
        let is_sure = |at: &usize| may_have.is_empty() || self.endpoints[*at].place == place;
        if let Some(at) = successor.filter(is_sure) {
            may_have.retain(|origin| stays.claims && !self.has(at, *origin));
            // Its owner's facts are published until it is known that it has it no more.
            if may_have.first() == Some(&run.origin) {
                may_have.extend(self.take(at));
                return Fate::Stays(may_have);
            }
            return Fate::Is(at, may_have);
        }
        let may_stay = !may_have.is_empty() && (stays.endpoint)(&old.spot(fed.endpoint));
        match successor {
            Some(at) if !may_stay && !stays.claims => return Fate::Is(at, Vec::new()),
            Some(at) => self.endpoints[at].stage = Stage::Free,
            None => {}
        }
        if !may_stay {
            return Fate::Gone;
        }
        // Another service that has the instance by now has it too.
        let have = self.take_place(&place).into_iter();
        let have: Vec<Origin<'a>> = have.filter(|origin| !may_have.contains(origin)).collect();
        may_have.extend(have);
        Fate::Stays(may_have)
    }

    fn owner(&self, at: usize) -> Origin<'a> {
        self.endpoints[at].origins[0]
    }

    fn has(&self, at: usize, origin: Origin<'a>) -> bool {
        self.endpoints[at].origins.contains(&origin)
    }

    /// Others have it too.
    fn add(&mut self, at: usize, others: &[Origin<'a>]) {
        self.endpoints[at].origins.extend_from_slice(others);
    }

    /// Takes the endpoint out, and returns who has it.
    fn take(&mut self, at: usize) -> Vec<Origin<'a>> {
        self.endpoints[at].stage = Stage::Placed;
        std::mem::take(&mut self.endpoints[at].origins)
    }

    /// Places the endpoint.
    fn put(&mut self, at: usize) -> Put<'a> {
        let endpoint = self.endpoints[at].endpoint;
        let others = self.take(at).split_off(1);
        Put { endpoint, others, is_older: false }
    }

    /// Takes an endpoint at that place out, if there is one, and returns who has it.
    fn take_place(&mut self, place: &Place<'a>) -> Vec<Origin<'a>> {
        let at = taken(self.anybody.get_mut(place), &mut self.endpoints);
        at.map(|at| self.take(at)).unwrap_or_default()
    }

    /// Places what is left of the run at `index`.
    fn left(&mut self, index: usize) -> Vec<Put<'a>> {
        let run = self.runs[index].clone();
        let left: Vec<usize> =
            run.filter(|at| self.endpoints[*at].stage != Stage::Placed).collect();
        left.into_iter().map(|at| self.put(at)).collect()
    }
}

/// The first of `queue` that is free, which it is not any more then.
fn taken(queue: Option<&mut VecDeque<usize>>, all: &mut [FreshEndpoint<'_>]) -> Option<usize> {
    let queue = queue?;
    while let Some(at) = queue.pop_front() {
        if all[at].stage == Stage::Free {
            all[at].stage = Stage::Taken;
            return Some(at);
        }
    }
    None
}

// === what is said of them ===

/// The annotations of `body`, saying of what these lanes are.
fn with_lanes(body: &Body, lanes: &[Lane<'_>]) -> Pairs {
    let origins = Text::from(listed(lanes.iter().filter_map(|lane| lane.origin)));
    let places: BTreeMap<Origin<'_>, usize> =
        lanes.iter().enumerate().map(|(place, lane)| (lane.origin, place)).collect();
    let of_each = lanes.iter().flat_map(|lane| lane.endpoints.iter().map(move |put| (lane, put)));
    let of_each = of_each.map(|(lane, put)| {
        let origins = std::iter::once(&lane.origin).chain(&put.others);
        origins.filter_map(|origin| places.get(origin).copied()).collect()
    });
    let whose = match body.spec {
        Spec::ServiceEntry(_) => endpoint_origins_text(lanes.len(), of_each),
        // It has one endpoint, which is all of theirs.
        Spec::WorkloadEntry(_) => None,
    };
    let own = [(ORIGINS_ANNOTATION, Some(origins)), (ENDPOINT_ORIGINS_ANNOTATION, whose)];
    with(&body.annotations, own)
}

/// `annotations` with the origins of `older` too, remarks among them.
fn with_lines_of(annotations: &Pairs, older: &Pairs) -> Pairs {
    let text_of = |pairs: &Pairs| pairs.get(ORIGINS_ANNOTATION).cloned().unwrap_or_default();
    let (text, older) = (text_of(annotations), text_of(older));
    let mut seen = BTreeSet::new();
    let lines = older.split('\n').chain(text.split('\n'));
    let lines = lines.filter(|line| !line.is_empty() && seen.insert(*line));
    let (origins, remarks): (Vec<&str>, Vec<&str>) = lines.partition(|line| line.contains('/'));
    let mut all = listed(origins.into_iter());
    let unknown = older.is_empty().then_some(UNKNOWN_REMARK);
    // There are few that we write.
    let remarks = remarks.into_iter().filter(|remark| remark.len() <= REMARK_LEN_MAX);
    for remark in remarks.take(REMARKS_MAX).chain(unknown) {
        all.push('\n');
        all.push_str(remark);
    }
    let own = [
        (ORIGINS_ANNOTATION, Some(Text::from(all))),
        // It is not known any more.
        (ENDPOINT_ORIGINS_ANNOTATION, None),
    ];
    with(annotations, own)
}

fn with<const N: usize>(annotations: &Pairs, own: [(&str, Option<Text>); N]) -> Pairs {
    let is_own = |key: &Text| own.iter().any(|(known, _)| **known == **key);
    let others = annotations.iter().filter(|(key, _)| !is_own(key));
    let others = others.map(|(key, value)| (key.clone(), value.clone()));
    let own = own.iter().filter_map(|(key, value)| Some((Text::from(*key), value.clone()?)));
    others.chain(own).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A resource as `service=1,2+other other=3`: endpoints of services, each the last part of an
    /// address and who has it besides. With `?` in front it does not say who has which.
    fn body(text: &str) -> Body {
        let is_known = !text.starts_with('?');
        let runs: Vec<(&str, &str)> = text
            .trim_start_matches('?')
            .split_whitespace()
            .map(|run| run.split_once('=').unwrap())
            .collect();
        let place = |name: &str| runs.iter().position(|(known, _)| *known == name).unwrap();
        let (mut whose, mut endpoints) = (Vec::new(), Vec::new());
        for (name, list) in &runs {
            for item in list.split(',').filter(|item| !item.is_empty()) {
                let mut parts = item.split('+');
                let number = parts.next().unwrap();
                whose.push(std::iter::once(place(name)).chain(parts.map(place)).collect());
                endpoints.push(WorkloadEntry {
                    address: EndpointAddress::of(&format!("10.0.0.{number}")),
                    ..WorkloadEntry::default()
                });
            }
        }
        let origins: Vec<String> = runs.iter().map(|(name, _)| format!("dc1/{name}")).collect();
        let whose = endpoint_origins_text(runs.len(), whose.into_iter()).filter(|_| is_known);
        let own = [
            (ORIGINS_ANNOTATION, Some(Text::from(origins.join("\n")))),
            (ENDPOINT_ORIGINS_ANNOTATION, whose),
        ];
        let entry = ServiceEntry {
            resolution: Resolution::Static,
            endpoints: Endpoints::Inline(endpoints.into()),
            ..ServiceEntry::default()
        };
        let annotations = with(&Pairs::default(), own);
        Body { labels: Pairs::default(), annotations, spec: Spec::ServiceEntry(entry) }
    }

    /// What is made of `new` while services in `staying`, or all that is not known, stay.
    fn check(new: &str, old: &str, staying: &[&str], want: &str) {
        let origin = |origin: Option<&str>| {
            origin.is_none_or(|origin| staying.contains(&origin.trim_start_matches("dc1/")))
        };
        let stays = Stays { origin: &origin, endpoint: &|_| true, claims: true };
        let joined = joined(&body(new), &body(old), &stays).unwrap();
        assert_eq!(joined, body(want), "{new} | {old}");
    }

    #[test]
    fn what_stays_keeps_its_place() {
        check("a=1", "a=1,2 b=3", &["a", "b"], "a=1,2 b=3");
        check("b=3", "a=1,2 b=3", &["a"], "a=1,2 b=3");
        check("b=4,3", "a=1,2 b=3", &["a"], "a=1,2 b=3,4");
        check("a=9 c=5", "b=3", &["b"], "b=3 a=9 c=5");
    }

    #[test]
    fn what_is_known_to_be_gone_goes() {
        check("a=2 b=4", "a=1,2 b=3", &["b"], "a=2 b=3,4");
        check("b=3", "a=1,2 b=3", &[], "b=3");
        check("b=", "a=1 b=3", &["a"], "a=1 b=");
    }

    #[test]
    fn an_instance_stays_with_the_service_that_may_still_have_it() {
        check("b=1", "a=1", &["a"], "a=1+b b=");
        check("b=1,2", "a=1", &["a"], "a=1+b b=2");
        check("b=1", "a=1", &[], "b=1");
    }

    #[test]
    fn an_instance_stays_with_whom_of_several_may_still_have_it() {
        check("a=1", "a=1+b,2 b=", &["b"], "a=1+b b=");
        check("a=1", "a=1+b,2+b b=", &["b"], "a=1+b b=2");
        check("a=1", "a=1+b b=", &[], "a=1");
        check("a=2", "a=1+b,2 b=3", &["b"], "a=2 b=3,1");
        // The facts are those of the one that goes first, while it may have it.
        check("b=1", "a=1+b b=", &["a"], "a=1+b b=");
        check("b=1", "a=1+b b=", &[], "b=1");
        check("b=1,2", "a=1+b,2 b=", &["a"], "a=1+b,2+b b=");
        check("a=1+b b=", "b=1", &["b"], "a=1+b b=");
        check("a=1+b b=", "b=1", &[], "a=1+b b=");
    }

    fn ports(text: &str) -> Box<[ServicePort]> {
        let ports = text.split_whitespace().map(|port| {
            let (name, number) = port.split_once(':').unwrap();
            let (name, number) = (Text::from(name), number.parse().unwrap());
            ServicePort { name, number, protocol: "HTTP".into(), target_port: 0 }
        });
        ports.collect()
    }

    /// As [`body`], at these ports of the service.
    fn with_ports(text: &str, said: &str) -> Body {
        let mut body = body(text);
        let Spec::ServiceEntry(entry) = &mut body.spec else { unreachable!() };
        entry.ports = ports(said);
        body
    }

    /// Where each endpoint says that it listens.
    fn said(body: &Body) -> Vec<String> {
        let Endpoints::Inline(list) = &body.service_entry().unwrap().endpoints else {
            unreachable!()
        };
        let of_each = |endpoint: &WorkloadEntry| {
            let said = endpoint.ports.iter().map(|(name, at)| format!("{name}:{at}"));
            said.collect::<Vec<_>>().join(" ")
        };
        list.iter().map(of_each).collect()
    }

    /// The only service's one instance at `10.0.0.1:8002` while it may have another at `:8001`.
    #[test]
    fn instances_on_one_node_are_told_apart_by_where_they_listen() {
        let mut old = with_ports("a=1,1", "http:8001");
        let Spec::ServiceEntry(entry) = &mut old.spec else { unreachable!() };
        let Endpoints::Inline(list) = &mut entry.endpoints else { unreachable!() };
        list[1].ports = Box::from([("http".into(), 8002)]);
        let new = with_ports("a=1", "http:8002");
        let joined = joined(&new, &old, &Stays { claims: true, ..Stays::all() }).unwrap();
        assert_eq!(joined, old);
    }

    #[test]
    fn what_clients_dial_stays_with_what_stays() {
        for (new, old, want, listens) in [
            ("http:80", "http:80", "http:80", [""; 2]),
            ("http:80", "http:80 admin:90", "admin:90 http:80", [""; 2]),
            ("http:80 extra:70", "http:80", "extra:70 http:80", [""; 2]),
            ("http:8080", "http:80", "http:80", ["", "http:8080"]),
            ("web:80", "http:80", "http:80", [""; 2]),
            ("web:81", "http:80", "http:80 web:81", [""; 2]),
            ("a:2 b:1", "a:1", "a:1", ["", "a:2"]),
        ] {
            let (new, old) = (with_ports("a=2", new), with_ports("b=1", old));
            let joined = joined(&new, &old, &Stays::all()).unwrap();
            let entry = joined.service_entry().unwrap();
            assert_eq!(entry.ports, ports(want));
            assert_eq!(said(&joined), listens);
        }
    }

    #[test]
    fn several_at_one_address_are_several() {
        check("a=1", "a=1,1,1", &["a"], "a=1,1,1");
        check("a=1,1 b=1", "a=1", &["a"], "a=1,1 b=1");
    }

    #[test]
    fn where_it_is_not_known_whose_endpoints_are_all_stay() {
        check("?a=1 b=4", "?a=1,2 b=3", &[], "?a=1,2,3,4 b=");
        check("a=4 b=5", "?a=1,2 b=3", &[], "?a=1,2,3,4,5 b=");
    }
}
