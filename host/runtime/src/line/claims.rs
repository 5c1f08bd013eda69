//! Which services of the mesh claim one name: as their host, as an alias, or as a virtual address.
//!
//! Services with one host in one namespace are one already, see `core::group`. Those here are
//! several to Istio, of which it prefers one.
//!
//! Invariant: cost follows change. Only names of services that were rendered are looked at.

use std::collections::{BTreeMap, BTreeSet};

use landfall_core::finding::{Finding, FindingCode};
use landfall_core::mesh::HostKey;
use landfall_core::text::Text;
use landfall_mesh::api::ServiceEntry;

/// Who claims which name.
#[derive(Debug, Default)]
pub(super) struct Claims {
    services: BTreeMap<HostKey, Claim>,
    names: BTreeMap<Text, BTreeSet<HostKey>>,
    /// Names that several services claim where somebody sees more than one of them.
    shared: BTreeMap<Text, Finding>,
}

/// What one service claims.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Claim {
    names: BTreeSet<Text>,
    /// The namespaces that see the service; `None` for all.
    seen_in: Option<BTreeSet<Text>>,
}

/// The findings of names whose finding changed, before and after.
#[derive(Debug, Default)]
pub(super) struct ClaimsChanged {
    pub(super) before: Vec<Finding>,
    pub(super) now: Vec<Finding>,
}

// === impl Claims ===

impl Claims {
    /// Takes up what the service at `host` claims by now; nothing where it is gone.
    pub(super) fn set(&mut self, host: &HostKey, claim: Option<Claim>) -> ClaimsChanged {
        let mut changed = ClaimsChanged::default();
        if self.services.get(host) == claim.as_ref() {
            return changed;
        }
        let mut touched = BTreeSet::new();
        if let Some(old) = self.services.remove(host) {
            for name in old.names {
                if let Some(claimants) = self.names.get_mut(&name) {
                    claimants.remove(host);
                }
                touched.insert(name);
            }
        }
        if let Some(claim) = claim {
            for name in &claim.names {
                self.names.entry(Text::clone(name)).or_default().insert(host.clone());
                touched.insert(Text::clone(name));
            }
            self.services.insert(host.clone(), claim);
        }
        for name in touched {
            let now = self.finding(&name);
            if self.names.get(&name).is_some_and(BTreeSet::is_empty) {
                self.names.remove(&name);
            }
            let before = match &now {
                Some(now) => self.shared.insert(name, now.clone()),
                None => self.shared.remove(&name),
            };
            if before != now {
                changed.before.extend(before);
                changed.now.extend(now);
            }
        }
        changed
    }

    /// What a person should know of `name`, if anything.
    fn finding(&self, name: &Text) -> Option<Finding> {
        let claimants = self.names.get(name).filter(|claimants| claimants.len() > 1)?;
        let (first, second) = self.meeting(claimants)?;
        let what = match name.parse::<std::net::IpAddr>().is_ok() || name.contains('/') {
            true => "virtual address",
            false => "host",
        };
        Some(Finding::new(
            FindingCode::HostShared,
            name,
            format!(
                "{} services of the mesh claim this {what}, among them {first} and {second}. Where \
                 both are seen, Istio prefers one of them. If that is not meant, set it for one \
                 alone, or let each be seen in its own namespace by exportTo",
                claimants.len()
            ),
        ))
    }

    /// The first two of `claimants` that somebody sees both of.
    fn meeting<'a>(&self, claimants: &'a BTreeSet<HostKey>) -> Option<(&'a HostKey, &'a HostKey)> {
        let (mut everywhere, mut anywhere) = (None, None);
        let mut in_namespace: BTreeMap<&Text, &HostKey> = BTreeMap::new();
        for host in claimants {
            match &self.services.get(host)?.seen_in {
                None => {
                    if let Some(other) = anywhere {
                        return Some((other, host));
                    }
                    everywhere = Some(host);
                    anywhere = Some(host);
                }
                Some(namespaces) => {
                    for namespace in namespaces {
                        let other = everywhere.or(in_namespace.get(namespace).copied());
                        if let Some(other) = other {
                            return Some((other, host));
                        }
                        in_namespace.insert(namespace, host);
                        anywhere = Some(host);
                    }
                }
            }
        }
        None
    }

    /// What a person should know of the names that the service at `host` claims.
    pub(super) fn of_host(&self, host: &HostKey) -> impl Iterator<Item = Finding> {
        let names = self.services.get(host).into_iter().flat_map(|claim| &claim.names);
        names.filter_map(|name| self.shared.get(name).cloned())
    }

    /// All of it.
    pub(super) fn findings(&self) -> impl Iterator<Item = Finding> {
        self.shared.values().cloned()
    }
}

// === impl Claim ===

impl Claim {
    /// What `entry` claims, which is in `namespace`.
    pub(super) fn of(entry: &ServiceEntry, namespace: &Text) -> Self {
        let names = entry.hosts.iter().chain(&entry.addresses).cloned().collect();
        let all = entry.export_to.is_empty() || entry.export_to.iter().any(|to| &**to == "*");
        // Of a name it is no more than that; "~" is no namespace.
        let seen_in = entry.export_to.iter().filter(|to| &***to != "~");
        let seen_in = seen_in.map(|to| Text::clone(if &**to == "." { namespace } else { to }));
        Self { names, seen_in: (!all).then(|| seen_in.collect()) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Sets services as `namespace/host name,.. export-to,..`, and returns who meets at which name.
    fn check(services: &[&str]) -> Vec<String> {
        let mut claims = Claims::default();
        for text in services {
            let mut words = text.split(' ');
            let (namespace, host) = words.next().unwrap().split_once('/').unwrap();
            let list = |words: Option<&str>| -> Box<[Text]> {
                words.unwrap_or("").split(',').filter(|w| !w.is_empty()).map(Text::from).collect()
            };
            let (names, export_to) = (list(words.next()), list(words.next()));
            let (addresses, hosts) =
                names.iter().cloned().partition(|name: &Text| name.starts_with("10."));
            let hosts: Vec<Text> = std::iter::once(Text::from(host)).chain(hosts).collect();
            let addresses: Vec<Text> = addresses;
            let entry = ServiceEntry {
                hosts: hosts.into(),
                addresses: addresses.into(),
                export_to,
                ..ServiceEntry::default()
            };
            claims.set(&key(namespace, host), Some(Claim::of(&entry, &namespace.into())));
        }
        let said: Vec<String> = claims.findings().map(|finding| finding.to_string()).collect();
        // Nothing stays of services that are gone.
        let all: Vec<HostKey> = claims.services.keys().cloned().collect();
        all.iter().for_each(|host| drop(claims.set(host, None)));
        assert!(claims.names.is_empty() && claims.shared.is_empty(), "{claims:?}");
        said.iter().map(|text| text.split(". ").next().unwrap().to_owned()).collect()
    }

    fn key(namespace: &str, host: &str) -> HostKey {
        use landfall_core::name::{Hostname, Namespace};
        HostKey {
            namespace: Namespace::parse(namespace).unwrap(),
            host: Hostname::parse(host).unwrap(),
        }
    }

    #[test]
    fn what_several_claim_is_told_once() {
        assert_eq!(check(&["a/x.mesh", "a/y.mesh", "b/z.mesh"]), [""; 0]);
        assert_eq!(
            check(&["a/x.mesh pay.mesh", "a/pay.mesh", "b/y.mesh pay.mesh"]),
            [
                "host_shared pay.mesh: 3 services of the mesh claim this host, among them a/pay.mesh \
              and a/x.mesh"
            ]
        );
        assert_eq!(check(&["a/x.mesh 10.0.0.0/8", "b/y.mesh 10.0.0.0/8"]).len(), 1);
        assert_eq!(check(&["a/x.mesh", "b/x.mesh"]).len(), 1);
    }

    #[test]
    fn who_is_not_seen_together_does_not_meet() {
        assert_eq!(check(&["a/x.mesh  .", "b/x.mesh  ."]), [""; 0]);
        assert_eq!(check(&["a/x.mesh  .,b", "b/x.mesh  ."]).len(), 1);
        assert_eq!(check(&["a/x.mesh  .", "b/x.mesh"]).len(), 1);
        assert_eq!(check(&["a/x.mesh  ~", "b/x.mesh"]), [""; 0]);
    }

    #[test]
    fn findings_come_and_go_with_the_second() {
        let mut claims = Claims::default();
        let entry = |host: &str| ServiceEntry {
            hosts: Box::from([Text::from(host), Text::from("pay.mesh")]),
            ..ServiceEntry::default()
        };
        let claim = |host: &str| Some(Claim::of(&entry(host), &Text::from("a")));
        let (one, two) = (key("a", "x.mesh"), key("a", "y.mesh"));
        let changed = claims.set(&one, claim("x.mesh"));
        assert!(changed.before.is_empty() && changed.now.is_empty());
        let changed = claims.set(&two, claim("y.mesh"));
        assert_eq!((changed.before.len(), changed.now.len()), (0, 1));
        assert_eq!(claims.of_host(&one).collect::<Vec<_>>(), changed.now);
        // Rendered again as it was: nothing is told anew.
        let changed = claims.set(&two, claim("y.mesh"));
        assert!(changed.before.is_empty() && changed.now.is_empty());
        let changed = claims.set(&one, None);
        assert_eq!((changed.before.len(), changed.now.len()), (1, 0));
    }
}
