//! Which service of a registry feeds a resource with what, as its annotations say.

use std::collections::{BTreeMap, BTreeSet};

use landfall_core::mesh::Body as _;
use landfall_core::pairs::Pairs;
use landfall_core::registry::ServiceId;
use landfall_core::text::Text;

use super::{Body, EndpointAddress, Endpoints, ServiceEntry, Spec, WorkloadEntry};

/// Which services of registries are published in an object, one a line. A line without a slash,
/// which every service has behind its source, is a remark: the list is not whole.
pub const ORIGINS_ANNOTATION: &str = "landfall.dev/origins";
/// How many of a ServiceEntry's endpoints are of each of these services, in their order. Left out
/// where all are of one.
pub const ENDPOINTS_PER_ORIGIN_ANNOTATION: &str = "landfall.dev/endpoints-per-origin";
/// Bytes of the list of services, but for remarks: half of what Kubernetes takes for all
/// annotations together, of which policies may fill 32 KiB, and some 4,000 services. More make a
/// list that is not whole.
const ORIGINS_LEN_MAX: usize = 128 << 10;
// Enough to find the way back to the registry; each WorkloadEntry repeats its own.
const ORIGIN_LEN_MAX: usize = 512;

/// What one service of a registry feeds a resource with.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Run<'a> {
    /// `None` where it is not known; all is in one run then.
    pub(super) origin: Option<&'a str>,
    /// In order. None where endpoints are selected.
    pub(super) endpoints: Vec<&'a WorkloadEntry>,
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

/// How many endpoints are of each service; `None` where there is one, which has all.
pub(crate) fn per_origin_text(counts: impl ExactSizeIterator<Item = usize>) -> Option<Text> {
    let several = counts.len() > 1;
    several.then(|| Text::from(counts.map(|count| count.to_string()).collect::<Vec<_>>().join(" ")))
}

/// `annotations` of an object whose endpoints are taken out.
pub(super) fn without_endpoints(annotations: &Pairs) -> Pairs {
    let of_each = |(key, value): (&Text, &Text)| match &**key {
        ENDPOINTS_PER_ORIGIN_ANNOTATION => (
            Text::clone(key),
            Text::from(value.split(' ').map(|_| "0").collect::<Vec<_>>().join(" ")),
        ),
        _ => (Text::clone(key), Text::clone(value)),
    };
    annotations.iter().map(of_each).collect()
}

/// What each service feeds `body` with.
pub(super) fn runs(body: &Body) -> Vec<Run<'_>> {
    let list = match &body.spec {
        Spec::WorkloadEntry(entry) => std::slice::from_ref(entry),
        Spec::ServiceEntry(ServiceEntry { endpoints: Endpoints::Inline(list), .. }) => list,
        Spec::ServiceEntry(ServiceEntry { endpoints: Endpoints::Selected(_), .. }) => &[],
    };
    known_runs(body, list)
        .unwrap_or_else(|| vec![Run { origin: None, endpoints: list.iter().collect() }])
}

fn known_runs<'a>(body: &'a Body, list: &'a [WorkloadEntry]) -> Option<Vec<Run<'a>>> {
    let origins: Vec<&str> = body.origins()?.collect();
    let counts: Vec<usize> = match body.annotations.get(ENDPOINTS_PER_ORIGIN_ANNOTATION) {
        Some(counts) => counts.split(' ').map(str::parse).collect::<Result<_, _>>().ok()?,
        None if list.is_empty() => vec![0; origins.len()],
        None => vec![list.len()],
    };
    if counts.len() != origins.len()
        || counts.iter().try_fold(0, |sum: usize, n| sum.checked_add(*n)) != Some(list.len())
    {
        return None;
    }
    let mut rest = list.iter();
    let run = |(origin, count)| Run {
        origin: Some(origin),
        endpoints: rest.by_ref().take(count).collect(),
    };
    Some(origins.into_iter().zip(counts).map(run).collect())
}

/// The services of which `other` has fewer endpoints than `body`, or which it does not name; `None`
/// among them where it lacks endpoints of which it is not known whose they are.
pub(super) fn lessened<'a>(body: &'a Body, other: &'a Body) -> BTreeSet<Option<&'a str>> {
    let (own, theirs) = (runs(body), runs(other));
    if own.iter().chain(&theirs).any(|run| run.origin.is_none()) {
        let is_less = !body.missing_in(other).is_empty();
        let unnamed = match (body.origins(), other.origins()) {
            (Some(own), Some(theirs)) => {
                let theirs: BTreeSet<&str> = theirs.collect();
                own.filter(|origin| !theirs.contains(origin)).map(Some).collect()
            }
            _ => BTreeSet::new(),
        };
        return is_less.then_some(None).into_iter().chain(unnamed).collect();
    }
    let mut left: BTreeMap<(Option<&str>, &EndpointAddress), usize> = BTreeMap::new();
    for run in &theirs {
        for endpoint in &run.endpoints {
            *left.entry((run.origin, &endpoint.address)).or_default() += 1;
        }
    }
    let named: BTreeSet<Option<&str>> = theirs.iter().map(|run| run.origin).collect();
    let mut lessened = BTreeSet::new();
    for run in own {
        if !named.contains(&run.origin) {
            lessened.insert(run.origin);
        }
        for endpoint in run.endpoints {
            match left.get_mut(&(run.origin, &endpoint.address)) {
                Some(count) if *count > 0 => *count -= 1,
                Some(_) | None => drop(lessened.insert(run.origin)),
            }
        }
    }
    lessened
}
