//! A resource with endpoints of an older one beside its own: what is written while some of those
//! may not go yet.

use std::collections::BTreeSet;

use landfall_core::pairs::Pairs;
use landfall_core::text::Text;

use super::print::json_len;
use super::{
    Body, EndpointAddress, Endpoints, ORIGINS_ANNOTATION, ORIGINS_LEN_MAX, Resolution,
    ServiceEntry, Spec, WorkloadEntry,
};

/// Most inline endpoints of a ServiceEntry: the CRD's limit.
pub const ENDPOINTS_MAX: usize = 4096;
/// Most bytes of an object. etcd takes 1.5 MiB a request by default; the rest is room for what
/// the API server adds, above all `managedFields`.
pub const OBJECT_LEN_MAX: usize = 1_468_006;

/// `body` with those endpoints of `older` too that it lacks. Only for addresses in the resource
/// itself and equal ports: an endpoint listens on the service's number where it has none of its own.
pub(super) fn joined(body: &Body, older: &Body) -> Option<Body> {
    let (entry, list) = inline(body)?;
    let (older_entry, older_list) = inline(older)?;
    if entry.ports != older_entry.ports {
        return None;
    }
    let known: BTreeSet<&EndpointAddress> = list.iter().map(|endpoint| &endpoint.address).collect();
    let lacking = older_list.iter().filter(|endpoint| !known.contains(&endpoint.address));
    let all: Box<[WorkloadEntry]> = list.iter().chain(lacking).cloned().collect();
    if all.len() > ENDPOINTS_MAX {
        return None;
    }
    let entry = ServiceEntry { endpoints: Endpoints::Inline(all), ..entry.clone() };
    let annotations = with_origins(&body.annotations, &older.annotations);
    let joined = Body { labels: body.labels.clone(), annotations, spec: Spec::ServiceEntry(entry) };
    (json_len(&joined) <= OBJECT_LEN_MAX).then_some(joined)
}

fn inline(body: &Body) -> Option<(&ServiceEntry, &[WorkloadEntry])> {
    let entry = body.service_entry()?;
    match &entry.endpoints {
        Endpoints::Inline(list) if entry.resolution == Resolution::Static => Some((entry, list)),
        Endpoints::Inline(_) | Endpoints::Selected(_) => None,
    }
}

/// What feeds either. A remark of either, that its list is not whole, stays, and one is added where
/// the list becomes too long.
fn with_origins(annotations: &Pairs, older: &Pairs) -> Pairs {
    let text_of = |pairs: &Pairs| pairs.get(ORIGINS_ANNOTATION).cloned().unwrap_or_default();
    let (text, older) = (text_of(annotations), text_of(older));
    let (mut seen, mut all, mut is_cut) = (BTreeSet::new(), String::new(), false);
    for line in text.split('\n').chain(older.split('\n')) {
        if line.is_empty() || !seen.insert(line) {
            continue;
        }
        let is_remark = !line.contains('/');
        if !is_remark && all.len() + line.len() >= ORIGINS_LEN_MAX {
            is_cut = true;
            continue;
        }
        if !all.is_empty() {
            all.push('\n');
        }
        all.push_str(line);
    }
    if is_cut {
        all.push_str("\n(and more)");
    }
    let key = Text::from(ORIGINS_ANNOTATION);
    let others = annotations.iter().filter(|(known, _)| known.as_ref() != ORIGINS_ANNOTATION);
    let others = others.map(|(key, value)| (key.clone(), value.clone()));
    others.chain([(key, Text::from(all))]).collect()
}
