//! A resource with what an older one has beside its own: what is written while some of that may not
//! go yet.
//!
//! Invariant: what stays keeps its place, so that a resource of which nothing may go is the same
//! again.

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use landfall_core::mesh::Stays;
use landfall_core::pairs::Pairs;
use landfall_core::text::Text;

use super::origins::{
    ENDPOINTS_PER_ORIGIN_ANNOTATION, ORIGINS_ANNOTATION, Run, listed, per_origin_text, runs,
};
use super::print::json_len;
use super::{Body, EndpointAddress, Endpoints, Resolution, Spec, WorkloadEntry};

/// Most inline endpoints of a ServiceEntry: the CRD's limit.
pub const ENDPOINTS_MAX: usize = 4096;
/// Most bytes of an object. etcd takes 1.5 MiB a request by default; the rest is room for what
/// the API server adds, above all `managedFields`.
pub const OBJECT_LEN_MAX: usize = 1_468_006;

/// Stands in the list of services where an older one did not say what fed it: its endpoints may be of
/// others than those that are listed.
const UNKNOWN_REMARK: &str = "(and others that are not known)";

/// `body` with what of `older` stays; `None` where endpoints are not found the same way, or where a
/// port that they listen on is not the service's any more.
pub(super) fn joined(
    body: &Body,
    older: &Body,
    stays: &Stays<'_, EndpointAddress>,
) -> Option<Body> {
    let (entry, older_entry) = (body.service_entry()?, older.service_entry()?);
    match (&entry.endpoints, &older_entry.endpoints) {
        (Endpoints::Inline(_), Endpoints::Inline(_)) => {
            let takes_any = matches!(entry.resolution, Resolution::Static | Resolution::Dns);
            let has_ports = older_entry.ports.iter().all(|port| entry.ports.contains(port));
            if entry.resolution != older_entry.resolution || !takes_any || !has_ports {
                return None;
            }
        }
        (Endpoints::Selected(selector), Endpoints::Selected(older)) if selector == older => {}
        _ => return None,
    }
    let is_known = |runs: &[Run<'_>]| runs.iter().all(|run| run.origin.is_some());
    let (mut new, mut old) = (runs(body), runs(older));
    let names_origins = is_known(&new) && is_known(&old);
    if !names_origins {
        (new, old) = (as_one(new), as_one(old));
    }
    let together = together(new, old, stays);
    let list: Box<[WorkloadEntry]> =
        together.iter().flat_map(|run| run.endpoints.iter().copied().cloned()).collect();
    if list.len() > ENDPOINTS_MAX {
        return None;
    }
    let annotations = match names_origins {
        true => with_runs(&body.annotations, &together),
        false => with_lines_of(&body.annotations, &older.annotations),
    };
    let mut entry = entry.clone();
    if let Endpoints::Inline(endpoints) = &mut entry.endpoints {
        *endpoints = list;
    }
    let joined = Body { labels: body.labels.clone(), annotations, spec: Spec::ServiceEntry(entry) };
    (json_len(&joined) <= OBJECT_LEN_MAX).then_some(joined)
}

/// All endpoints in one run of which it is not known whose it is.
fn as_one(runs: Vec<Run<'_>>) -> Vec<Run<'_>> {
    let endpoints = runs.into_iter().flat_map(|run| run.endpoints).collect();
    vec![Run { origin: None, endpoints }]
}

/// The runs of `new`, and of `old` those that stay, in the order of `old`.
fn together<'a>(
    new: Vec<Run<'a>>,
    old: Vec<Run<'a>>,
    stays: &Stays<'_, EndpointAddress>,
) -> Vec<Run<'a>> {
    let named: BTreeSet<Option<&str>> = new.iter().map(|run| run.origin).collect();
    let mut fresh = Fresh::of(&new);
    let successors: Vec<Vec<Option<&WorkloadEntry>>> =
        old.iter().map(|run| fresh.successors(run)).collect();
    let mut together: Vec<Run<'a>> = Vec::new();
    for (run, successors) in old.iter().zip(successors) {
        let is_staying = (stays.origin)(run.origin);
        let mut endpoints = Vec::with_capacity(run.endpoints.len());
        for (endpoint, successor) in run.endpoints.iter().zip(successors) {
            if successor.is_some() {
                endpoints.extend(successor);
            } else if is_staying && (stays.endpoint)(&endpoint.address) {
                // Another service that has the instance by now waits.
                fresh.take_place(endpoint);
                endpoints.push(endpoint);
            }
        }
        let is_bare = run.endpoints.is_empty() && is_staying;
        if is_bare || !endpoints.is_empty() || named.contains(&run.origin) {
            together.push(Run { origin: run.origin, endpoints });
        }
    }
    // From the back, so that the run that comes behind a new one has its place already.
    let mut behind = together.len();
    for (index, run) in new.iter().enumerate().rev() {
        let left = fresh.left(index, run);
        match together.iter().position(|known| known.origin == run.origin) {
            Some(at) => {
                together[at].endpoints.extend(left);
                behind = at;
            }
            // All that it has is another's for now.
            None if left.is_empty() && !run.endpoints.is_empty() => {}
            None => together.insert(behind, Run { origin: run.origin, endpoints: left }),
        }
    }
    together
}

/// The endpoints of a new resource that are not yet placed.
struct Fresh<'a> {
    /// Of each endpoint of each run, whether it is placed.
    is_placed: Vec<Vec<bool>>,
    endpoints: Vec<Vec<&'a WorkloadEntry>>,
    /// Where they are, by whose they are and where traffic to them ends.
    by_place: BTreeMap<(Origin<'a>, Place<'a>), Queue>,
    by_address: BTreeMap<(Origin<'a>, &'a EndpointAddress), Queue>,
    anybody: BTreeMap<Place<'a>, Queue>,
}

/// As [`Run`] has it.
type Origin<'a> = Option<&'a str>;
/// Which endpoint of which run, in order.
type Queue = VecDeque<At>;
type At = (usize, usize);

/// What makes two endpoints one: where traffic to them ends.
type Place<'a> = (&'a EndpointAddress, &'a Text, &'a [(Text, u32)]);

fn place(endpoint: &WorkloadEntry) -> Place<'_> {
    (&endpoint.address, &endpoint.network, &endpoint.ports)
}

impl<'a> Fresh<'a> {
    fn of(runs: &[Run<'a>]) -> Self {
        let mut fresh = Self {
            is_placed: runs.iter().map(|run| vec![false; run.endpoints.len()]).collect(),
            endpoints: runs.iter().map(|run| run.endpoints.clone()).collect(),
            by_place: BTreeMap::new(),
            by_address: BTreeMap::new(),
            anybody: BTreeMap::new(),
        };
        for (index, run) in runs.iter().enumerate() {
            for (number, endpoint) in run.endpoints.iter().enumerate() {
                let (at, place) = ((index, number), place(endpoint));
                fresh.by_place.entry((run.origin, place)).or_default().push_back(at);
                let address = (run.origin, &endpoint.address);
                fresh.by_address.entry(address).or_default().push_back(at);
                fresh.anybody.entry(place).or_default().push_back(at);
            }
        }
        fresh
    }

    /// What each endpoint of an older run of the same service is by now: first what ends at the
    /// same place, then what is at least at the same address.
    fn successors(&mut self, run: &Run<'a>) -> Vec<Option<&'a WorkloadEntry>> {
        let placed = &mut self.is_placed;
        let mut successors: Vec<Option<At>> = run
            .endpoints
            .iter()
            .map(|endpoint| taken(self.by_place.get_mut(&(run.origin, place(endpoint))), placed))
            .collect();
        for (endpoint, successor) in run.endpoints.iter().zip(&mut successors) {
            if successor.is_none() {
                let address = (run.origin, &endpoint.address);
                *successor = taken(self.by_address.get_mut(&address), placed);
            }
        }
        let endpoint = |(index, number): At| self.endpoints[index][number];
        successors.into_iter().map(|at| at.map(endpoint)).collect()
    }

    /// Whoever has an endpoint at the place of this one does not get it placed.
    fn take_place(&mut self, endpoint: &'a WorkloadEntry) {
        taken(self.anybody.get_mut(&place(endpoint)), &mut self.is_placed);
    }

    /// What is left of the run at `index`.
    fn left(&self, index: usize, run: &Run<'a>) -> Vec<&'a WorkloadEntry> {
        let placed = &self.is_placed[index];
        let left = run.endpoints.iter().zip(placed).filter(|(_, is_placed)| !**is_placed);
        left.map(|(endpoint, _)| *endpoint).collect()
    }
}

/// The first of `queue` that is not placed, which it is then.
fn taken(queue: Option<&mut Queue>, is_placed: &mut [Vec<bool>]) -> Option<At> {
    let queue = queue?;
    while let Some((index, number)) = queue.pop_front() {
        if !std::mem::replace(&mut is_placed[index][number], true) {
            return Some((index, number));
        }
    }
    None
}

/// `annotations`, saying of what these runs are.
fn with_runs(annotations: &Pairs, runs: &[Run<'_>]) -> Pairs {
    let origins = Text::from(listed(runs.iter().filter_map(|run| run.origin)));
    let is_inline = annotations.get(ENDPOINTS_PER_ORIGIN_ANNOTATION).is_some()
        || runs.iter().any(|run| !run.endpoints.is_empty());
    let counts = per_origin_text(runs.iter().map(|run| run.endpoints.len()));
    let counts = counts.filter(|_| is_inline);
    let own = [(ORIGINS_ANNOTATION, Some(origins)), (ENDPOINTS_PER_ORIGIN_ANNOTATION, counts)];
    with(annotations, own)
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
    for remark in remarks.into_iter().chain(unknown) {
        all.push('\n');
        all.push_str(remark);
    }
    let own = [
        (ORIGINS_ANNOTATION, Some(Text::from(all))),
        // It is not known any more.
        (ENDPOINTS_PER_ORIGIN_ANNOTATION, None),
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
    use super::super::ServiceEntry;
    use super::*;

    /// A resource as `service=1,2 other=3`: endpoints of services, each the last part of an address.
    /// With `?` in front it does not say how many are whose.
    fn body(text: &str) -> Body {
        let is_known = !text.starts_with('?');
        let (mut origins, mut counts, mut endpoints) = (Vec::new(), Vec::new(), Vec::new());
        for run in text.trim_start_matches('?').split_whitespace() {
            let (name, numbers) = run.split_once('=').unwrap();
            let numbers: Vec<&str> = numbers.split(',').filter(|n| !n.is_empty()).collect();
            origins.push(format!("dc1/{name}"));
            counts.push(numbers.len());
            endpoints.extend(numbers.into_iter().map(|number| WorkloadEntry {
                address: EndpointAddress::of(&format!("10.0.0.{number}")),
                ..WorkloadEntry::default()
            }));
        }
        let counts = per_origin_text(counts.into_iter()).filter(|_| is_known);
        let own = [
            (ORIGINS_ANNOTATION, Some(Text::from(origins.join("\n")))),
            (ENDPOINTS_PER_ORIGIN_ANNOTATION, counts),
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
        let stays = Stays { origin: &origin, endpoint: &|_| true };
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
        check("b=1", "a=1", &["a"], "a=1");
        check("b=1,2", "a=1", &["a"], "a=1 b=2");
        check("b=1", "a=1", &[], "b=1");
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
