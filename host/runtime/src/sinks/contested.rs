//! Hosts of ours that ServiceEntries of somebody else claim too, whoever came first.
//!
//! Cost follows change: what two readings of the sink share is not looked at again.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use imbl::OrdMap;
use imbl::ordmap::DiffItem;
use landfall_core::finding::{Finding, FindingCode};
use landfall_core::mesh::ObjectId;
use landfall_core::text::Text;
use landfall_mesh::api::MeshObject;

/// Who claims which hosts, as of the last reading.
#[derive(Debug, Default)]
pub(super) struct Contested {
    ours: OrdMap<ObjectId, Arc<MeshObject>>,
    others: OrdMap<ObjectId, Arc<[Text]>>,
    hosts: BTreeMap<Text, Claims>,
    /// By host: our objects that claim one which others claim too, and the first of those.
    standing: BTreeMap<Text, BTreeMap<ObjectId, ObjectId>>,
}

/// Who claims a host.
#[derive(Debug, Default)]
struct Claims {
    ours: BTreeSet<ObjectId>,
    others: BTreeSet<ObjectId>,
}

/// What a person should know of a host that `other` claims besides our `id`.
pub(super) fn finding(host: &Text, id: &ObjectId, other: &ObjectId) -> Finding {
    let message = format!(
        "host {host} is claimed by {other} too, which is somebody else's; Istio joins the two or \
         prefers the older one, and ambient proxies know no other. Remove one, or give this one \
         another host by a policy"
    );
    Finding::new(FindingCode::ForeignObject, id, message)
}

/// The hosts of an object.
pub(super) fn hosts_of(object: &MeshObject) -> &[Text] {
    object.body.service_entry().map_or(&[], |entry| &entry.hosts)
}

const NONE: &[Text] = &[];

// === impl Claims ===

impl Claims {
    fn ours(&mut self) -> &mut BTreeSet<ObjectId> {
        &mut self.ours
    }

    fn others(&mut self) -> &mut BTreeSet<ObjectId> {
        &mut self.others
    }
}

// === impl Contested ===

impl Contested {
    /// Takes up a reading: our objects, and the hosts of those of others. Returns what is contested
    /// and was not so before.
    pub(super) fn take(
        &mut self,
        ours: &OrdMap<ObjectId, Arc<MeshObject>>,
        others: &OrdMap<ObjectId, Arc<[Text]>>,
    ) -> Vec<Finding> {
        if others.is_empty() {
            // The usual case, for which nothing needs to be kept of ours.
            *self = Self::default();
            return Vec::new();
        }
        let mut touched = BTreeSet::new();
        for item in self.ours.diff(ours) {
            let (id, from, to) = change(item);
            let hosts = (from.map_or(NONE, |o| hosts_of(o)), to.map_or(NONE, |o| hosts_of(o)));
            note(&mut self.hosts, id, hosts, Claims::ours, &mut touched);
        }
        for item in self.others.diff(others) {
            let (id, from, to) = change(item);
            let hosts = (from.map_or(NONE, |hosts| hosts), to.map_or(NONE, |hosts| hosts));
            note(&mut self.hosts, id, hosts, Claims::others, &mut touched);
        }
        self.ours.clone_from(ours);
        self.others.clone_from(others);
        let mut news = Vec::new();
        for host in touched {
            let before = self.standing.remove(&host).unwrap_or_default();
            let Some(claims) = self.hosts.get(&host) else { continue };
            if claims.ours.is_empty() && claims.others.is_empty() {
                self.hosts.remove(&host);
                continue;
            }
            let Some(other) = claims.others.first() else { continue };
            let now: BTreeMap<ObjectId, ObjectId> =
                claims.ours.iter().map(|id| (id.clone(), other.clone())).collect();
            let fresh = now.iter().filter(|(id, other)| before.get(*id) != Some(*other));
            news.extend(fresh.map(|(id, other)| finding(&host, id, other)));
            if !now.is_empty() {
                self.standing.insert(host, now);
            }
        }
        news
    }

    /// How many hosts are contested now.
    pub(super) fn len(&self) -> usize {
        self.standing.len()
    }

    /// What is contested now.
    pub(super) fn findings(&self) -> impl Iterator<Item = Finding> {
        self.standing
            .iter()
            .flat_map(|(host, ids)| ids.iter().map(|(id, other)| finding(host, id, other)))
    }
}

/// An object before and after a change.
fn change<'a, K, V>(item: DiffItem<'a, 'a, K, V>) -> (&'a K, Option<&'a V>, Option<&'a V>) {
    match item {
        DiffItem::Add(id, to) => (id, None, Some(to)),
        DiffItem::Update { old: (_, from), new: (id, to) } => (id, Some(from), Some(to)),
        DiffItem::Remove(id, from) => (id, Some(from), None),
    }
}

/// Takes up that the hosts of `id` were and are others; adds those to `touched`.
fn note(
    hosts: &mut BTreeMap<Text, Claims>,
    id: &ObjectId,
    (from, to): (&[Text], &[Text]),
    side: impl Fn(&mut Claims) -> &mut BTreeSet<ObjectId>,
    touched: &mut BTreeSet<Text>,
) {
    if from == to {
        return;
    }
    for host in from {
        if let Some(claims) = hosts.get_mut(host) {
            side(claims).remove(id);
        }
    }
    for host in to {
        side(hosts.entry(host.clone()).or_default()).insert(id.clone());
    }
    touched.extend(from.iter().chain(to).cloned());
}

#[cfg(test)]
mod tests {
    use landfall_core::mesh::Kind;
    use landfall_mesh::api::{Body, ServiceEntry, Spec};

    use super::*;

    fn id(name: &str) -> ObjectId {
        ObjectId { kind: Kind::ServiceEntry, namespace: "ns".into(), name: name.into() }
    }

    fn hosts(hosts: &str) -> Arc<[Text]> {
        hosts.split_whitespace().map(Text::from).collect()
    }

    fn ours(name: &str, of: &str) -> (ObjectId, Arc<MeshObject>) {
        let spec = ServiceEntry { hosts: hosts(of).iter().cloned().collect(), ..<_>::default() };
        let (labels, annotations) = <_>::default();
        let body = Arc::new(Body { labels, annotations, spec: Spec::ServiceEntry(spec) });
        let object = MeshObject { id: id(name), sources: Arc::from([]), removal: None, body };
        (id(name), Arc::new(object))
    }

    /// Takes a reading. Returns what is said anew, and all that is contested then.
    fn take(
        contested: &mut Contested,
        ours: &OrdMap<ObjectId, Arc<MeshObject>>,
        others: &[(&str, &str)],
    ) -> (Vec<String>, Vec<String>) {
        let others = others.iter().map(|(name, of)| (id(name), hosts(of))).collect();
        let short = |finding: &Finding| {
            let message = finding.message.split(" too").next().unwrap();
            format!("{}: {message}", finding.subject)
        };
        let news = contested.take(ours, &others).iter().map(short).collect();
        (news, contested.findings().map(|finding| short(&finding)).collect())
    }

    #[test]
    fn whoever_comes_first_a_host_is_contested() {
        let mut contested = Contested::default();
        let of = |name: &str, host: &str, other: &str| {
            format!("ServiceEntry ns/{name}: host {host} is claimed by ServiceEntry ns/{other}")
        };
        let none = Vec::<String>::new;
        let mut have: OrdMap<_, _> =
            [ours("a", "a.b alias.b"), ours("c", "c.b")].into_iter().collect();
        assert_eq!(take(&mut contested, &have, &[]), (none(), none()));
        // After ours, and by an alias.
        let thief = of("a", "alias.b", "thief");
        let seen = take(&mut contested, &have, &[("thief", "alias.b x.b")]);
        assert_eq!(seen, (vec![thief.clone()], vec![thief.clone()]));
        let seen = take(&mut contested, &have, &[("thief", "alias.b"), ("z", "alias.b")]);
        assert_eq!(seen, (none(), vec![thief.clone()]));
        // Before ours.
        let others = [("thief", "alias.b"), ("z", "alias.b late.b")];
        take(&mut contested, &have, &others);
        have.extend([ours("late", "late.b")]);
        let late = of("late", "late.b", "z");
        let seen = take(&mut contested, &have, &others);
        assert_eq!(seen, (vec![late.clone()], vec![thief, late]));
        // One gives it up, ours goes, and the last of the others does.
        let seen = take(&mut contested, &have, &[("thief", "q.b"), ("z", "alias.b late.b")]);
        let by_z = of("a", "alias.b", "z");
        assert_eq!(seen, (vec![by_z.clone()], vec![by_z.clone(), of("late", "late.b", "z")]));
        have.remove(&id("late"));
        let seen = take(&mut contested, &have, &[("z", "alias.b late.b")]);
        assert_eq!(seen, (none(), vec![by_z]));
        assert_eq!(take(&mut contested, &have, &[("z", "y.b")]), (none(), none()));
        assert_eq!(take(&mut contested, &have, &[]), (none(), none()));
    }
}
