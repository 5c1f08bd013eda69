//! Which service of a registry feeds a resource with what, as its annotations say.

use std::collections::{BTreeMap, BTreeSet};
use std::rc::Rc;

use landfall_core::mesh::{Body as _, Kind, Spot};
use landfall_core::pairs::Pairs;
use landfall_core::registry::ServiceId;
use landfall_core::text::Text;

use super::place::{Place, sides, spot};
use super::{Body, EndpointAddress, Endpoints, ServiceEntry, Spec, WorkloadEntry};

/// Which services of registries are published in an object, one a line. A line without a slash,
/// which every service has behind its source, is a remark: the list is not whole.
pub const ORIGINS_ANNOTATION: &str = "landfall.dev/origins";
/// Which of these services have each of a ServiceEntry's endpoints, in their order: `1*3 1+2` where
/// the first has three, and the first and the second the one behind them. Of several the one that
/// comes first is the one whose facts are published. Left out where all are of one.
pub const ENDPOINT_ORIGINS_ANNOTATION: &str = "landfall.dev/endpoint-origins";
/// Bytes of the list of services, but for remarks: half of what Kubernetes takes for all
/// annotations together, of which policies may fill 32 KiB, and some 4,000 services. More make a
/// list that is not whole.
const ORIGINS_LEN_MAX: usize = 128 << 10;
// Enough to find the way back to the registry; each WorkloadEntry repeats its own.
const ORIGIN_LEN_MAX: usize = 512;

// A quarter of it. Services that have most of thousands of instances twice would need more.
const ENDPOINT_ORIGINS_LEN_MAX: usize = 64 << 10;
/// Most that services have together, each endpoint counted for each of them: 16 for every endpoint
/// that fits.
const CLAIMS_MAX: usize = 1 << 16;

/// A service of a registry; `None` where it is not known which.
pub(super) type Origin<'a> = Option<&'a str>;

/// What one service of a registry feeds a resource with.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Run<'a> {
    /// Where it is not known all is in one run.
    pub(super) origin: Origin<'a>,
    /// In order. None where endpoints are selected.
    pub(super) endpoints: Vec<Fed<'a>>,
}

/// An endpoint, and who has it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Fed<'a> {
    pub(super) endpoint: &'a WorkloadEntry,
    /// Besides the one whose run it is in.
    pub(super) others: Rc<[Origin<'a>]>,
}

/// The list of `services`. Names are free text: one with a line break in it is altered as all with
/// control characters are, and one that is too long is shortened. Where not all fit, the object
/// counts as one of which it is not known what feeds it.
pub(crate) fn origins_text<'a>(services: impl Iterator<Item = &'a ServiceId>) -> Text {
    let mut is_altered = false;
    let shown: Vec<String> = services
        .map(|service| {
            let origin = service.to_string();
            let end = origin.floor_char_boundary(ORIGIN_LEN_MAX);
            let shown = origin[..end].replace(char::is_control, "?");
            is_altered |= shown != origin;
            shown
        })
        .collect();
    let mut text = listed(shown.iter().map(String::as_str));
    if is_altered {
        text.push_str("\n(not all names are as registered)");
    }
    Text::from(text)
}

/// The list of `origins`, as far as it fits.
pub(super) fn listed<'a>(origins: impl Iterator<Item = &'a str>) -> String {
    let (mut text, mut left_out) = (String::new(), 0);
    for (index, origin) in origins.enumerate() {
        if left_out > 0 || text.len() + origin.len() >= ORIGINS_LEN_MAX {
            left_out += 1;
            continue;
        }
        if index > 0 {
            text.push('\n');
        }
        text.push_str(origin);
    }
    if left_out > 0 {
        text.push_str(&format!("\n(and {left_out} more)"));
    }
    text
}

/// Which services have each endpoint, by their places in the list of services; `None` where that
/// goes without saying, or takes too much.
pub(crate) fn endpoint_origins_text(
    services: usize,
    endpoints: impl Iterator<Item = Vec<usize>>,
) -> Option<Text> {
    if services < 2 {
        return None;
    }
    let (mut text, mut claims) = (String::new(), 0);
    let mut endpoints = endpoints.peekable();
    while let Some(origins) = endpoints.next() {
        let mut count = 1;
        while endpoints.next_if_eq(&origins).is_some() {
            count += 1;
        }
        claims += count * origins.len();
        let numbers: Vec<String> = origins.iter().map(|index| (index + 1).to_string()).collect();
        let space = if text.is_empty() { "" } else { " " };
        text.push_str(space);
        text.push_str(&numbers.join("+"));
        if count > 1 {
            text.push_str(&format!("*{count}"));
        }
        if text.len() > ENDPOINT_ORIGINS_LEN_MAX || claims > CLAIMS_MAX {
            return None;
        }
    }
    (!text.is_empty()).then(|| Text::from(text))
}

/// The places of services that a part of such a text names, and for how many endpoints.
fn parse_part(part: &str) -> Option<(Vec<usize>, usize)> {
    let (origins, count) = part.split_once('*').unwrap_or((part, "1"));
    let place = |number: &str| number.parse::<usize>().ok()?.checked_sub(1);
    let origins = origins.split('+').map(place).collect::<Option<Vec<usize>>>()?;
    Some((origins, count.parse().ok()?))
}

/// `annotations` of an object that those services feed too that `others` names.
pub(super) fn with_those_of(annotations: &Pairs, others: &Pairs) -> Pairs {
    let lines = |pairs: &Pairs| pairs.get(ORIGINS_ANNOTATION).cloned().unwrap_or_default();
    let (own, theirs) = (lines(annotations), lines(others));
    let known: BTreeSet<&str> = own.split('\n').collect();
    let more = theirs.split('\n').filter(|line| !known.contains(line));
    let text = own.split('\n').chain(more).filter(|line| !line.is_empty());
    let text = Text::from(text.collect::<Vec<_>>().join("\n"));
    let rest = annotations.iter().filter(|(key, _)| &***key != ORIGINS_ANNOTATION);
    let rest = rest.map(|(key, value)| (Text::clone(key), Text::clone(value)));
    rest.chain([(Text::from(ORIGINS_ANNOTATION), text)]).collect()
}

/// `annotations` of an object whose endpoints are taken out.
pub(super) fn without_endpoints(annotations: &Pairs) -> Pairs {
    let stays = |(key, _): &(&Text, &Text)| &***key != ENDPOINT_ORIGINS_ANNOTATION;
    let others = annotations.iter().filter(stays);
    others.map(|(key, value)| (Text::clone(key), Text::clone(value))).collect()
}

/// What each service feeds `body` with.
pub(super) fn runs(body: &Body) -> Vec<Run<'_>> {
    let list = match &body.spec {
        Spec::WorkloadEntry(entry) => std::slice::from_ref(entry),
        Spec::ServiceEntry(ServiceEntry { endpoints: Endpoints::Inline(list), .. }) => list,
        Spec::ServiceEntry(ServiceEntry { endpoints: Endpoints::Selected(_), .. }) => &[],
    };
    known_runs(body, list).unwrap_or_else(|| {
        let others: Rc<[Origin<'_>]> = Rc::from([]);
        let fed = |endpoint| Fed { endpoint, others: Rc::clone(&others) };
        vec![Run { origin: None, endpoints: list.iter().map(fed).collect() }]
    })
}

fn known_runs<'a>(body: &'a Body, list: &'a [WorkloadEntry]) -> Option<Vec<Run<'a>>> {
    let mut runs: Vec<Run<'a>> =
        body.origins()?.map(|origin| Run { origin: Some(origin), endpoints: Vec::new() }).collect();
    let parts: Vec<(Vec<usize>, usize)> = match &body.spec {
        // All of them have it.
        Spec::WorkloadEntry(_) => vec![((0..runs.len()).collect(), 1)],
        Spec::ServiceEntry(_) if runs.len() == 1 || list.is_empty() => vec![(vec![0], list.len())],
        Spec::ServiceEntry(_) => {
            let text = body.annotations.get(ENDPOINT_ORIGINS_ANNOTATION)?;
            text.split(' ').map(parse_part).collect::<Option<_>>()?
        }
    };
    let claims = parts.iter().try_fold(0_usize, |claims, (origins, count)| {
        claims.checked_add(origins.len().checked_mul(*count)?)
    });
    if claims? > CLAIMS_MAX {
        return None;
    }
    let mut rest = list.iter();
    for (origins, count) in parts {
        let (first, others) = origins.split_first()?;
        let other = |index: &usize| runs.get(*index).map(|run| run.origin);
        let others: Rc<[Origin<'a>]> = others.iter().map(other).collect::<Option<_>>()?;
        let endpoints = &mut runs.get_mut(*first)?.endpoints;
        let before = endpoints.len();
        let fed = |endpoint| Fed { endpoint, others: Rc::clone(&others) };
        endpoints.extend(rest.by_ref().take(count).map(fed));
        if endpoints.len() - before != count {
            return None;
        }
    }
    rest.next().is_none().then_some(runs)
}

/// Where traffic to the endpoints of `body` ends, by the services that have them; `None` where it is
/// not known whose they are.
pub(super) fn spots_by_origin(
    body: &Body,
) -> Option<BTreeMap<&str, BTreeSet<Spot<EndpointAddress>>>> {
    let ports = body.service_entry().map_or(&[][..], |entry| &entry.ports);
    let mut spots: BTreeMap<&str, BTreeSet<Spot<EndpointAddress>>> = BTreeMap::new();
    for run in &runs(body) {
        spots.entry(run.origin?).or_default();
        for (origin, endpoint) in run.of_each() {
            spots.entry(origin?).or_default().insert(spot(endpoint, ports));
        }
    }
    Some(spots)
}

/// The services of which `other` has fewer endpoints than `body`, or which it does not name; `None`
/// among them where it lacks endpoints of which it is not known whose they are.
pub(super) fn lessened<'a>(body: &'a Body, other: &'a Body) -> BTreeSet<Option<&'a str>> {
    let (own, theirs) = (runs(body), runs(other));
    if own.iter().chain(&theirs).any(|run| run.origin.is_none()) {
        let theirs = other.reached();
        let is_less = body.spots().any(|spot| !theirs.contains(&spot));
        let unnamed = match (body.origins(), other.origins()) {
            (Some(own), Some(theirs)) => {
                let theirs: BTreeSet<&str> = theirs.collect();
                own.filter(|origin| !theirs.contains(origin)).map(Some).collect()
            }
            _ => BTreeSet::new(),
        };
        return is_less.then_some(None).into_iter().chain(unnamed).collect();
    }
    let named: BTreeSet<Origin<'_>> = theirs.iter().map(|run| run.origin).collect();
    let unnamed = own.iter().map(|run| run.origin).filter(|origin| !named.contains(origin));
    let mut lessened: BTreeSet<Origin<'a>> = unnamed.collect();
    if body.kind() == Kind::WorkloadEntry {
        // One instance, which those have who list it, wherever it is by now.
        return lessened;
    }
    let (one, two) = sides((body, &own), (other, &theirs));
    let mut left: BTreeMap<(Origin<'_>, Place<'_>), usize> = BTreeMap::new();
    for (origin, endpoint) in theirs.iter().flat_map(Run::of_each) {
        *left.entry((origin, two.place(endpoint))).or_default() += 1;
    }
    for (origin, endpoint) in own.iter().flat_map(Run::of_each) {
        match left.get_mut(&(origin, one.place(endpoint))) {
            Some(count) if *count > 0 => *count -= 1,
            Some(_) | None => drop(lessened.insert(origin)),
        }
    }
    lessened
}

impl<'a> Run<'a> {
    /// Its endpoints with each service that has them.
    fn of_each(&self) -> impl Iterator<Item = (Origin<'a>, &'a WorkloadEntry)> + '_ {
        self.endpoints.iter().flat_map(|fed| {
            let origins = std::iter::once(self.origin).chain(fed.others.iter().copied());
            origins.map(|origin| (origin, fed.endpoint))
        })
    }
}
