//! Which service of the mesh has which name of an object, where policies give names.
//!
//! Invariant: equal wishes give equal names, in whatever order they came, and one name is never for
//! two. Cost follows change: of the others only those are named whose name changes by it.

use std::collections::{BTreeMap, BTreeSet};

use landfall_core::finding::{Finding, FindingCode};
use landfall_core::mesh::HostKey;
use landfall_core::text::Text;

/// Who is to have which name.
#[derive(Debug, Default)]
pub(super) struct Names {
    wishes: BTreeMap<HostKey, Wish>,
    /// By namespace and name.
    takers: BTreeMap<(Text, Text), BTreeSet<Taker>>,
}

/// Under which name an object is to be.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Wish {
    /// The one that no policy gave it, which is always left to it.
    pub(super) own: Text,
    /// The one that policies give it.
    pub(super) given: Option<Text>,
    /// Whether it is more than what lingers.
    pub(super) is_current: bool,
}

/// Who would have a name; the first one of several gets it.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Taker {
    rank: Rank,
    host: HostKey,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Rank {
    /// It has nothing else to fall back on.
    Own,
    Given,
    Lingering,
}

/// What a person should know of `host`, whose object was to be named `taken`.
pub(super) fn finding(host: &HostKey, taken: &Text) -> Finding {
    let message = format!(
        "another service of the namespace has the object name {taken}, so this one has its own. \
         Give each a name of its own by a policy"
    );
    Finding::new(FindingCode::NameAltered, host, message)
}

// === impl Names ===

impl Names {
    /// Takes up what the service at `host` wishes by now; nothing where it is gone. Returns the
    /// others whose names change by it.
    pub(super) fn set(&mut self, host: &HostKey, wish: Option<Wish>) -> Vec<HostKey> {
        if self.wishes.get(host) == wish.as_ref() {
            return Vec::new();
        }
        let old = self.wishes.remove(host);
        let names: BTreeSet<(Text, Text)> =
            old.iter().chain(&wish).flat_map(|wish| wish.names(host)).collect();
        let first = |takers: &BTreeMap<_, BTreeSet<Taker>>, name| -> Option<Taker> {
            takers.get(name)?.first().cloned()
        };
        let before: Vec<Option<Taker>> =
            names.iter().map(|name| first(&self.takers, name)).collect();
        for (name, taker) in old.iter().flat_map(|wish| wish.takes(host)) {
            if let Some(takers) = self.takers.get_mut(&name) {
                takers.remove(&taker);
                if takers.is_empty() {
                    self.takers.remove(&name);
                }
            }
        }
        for (name, taker) in wish.iter().flat_map(|wish| wish.takes(host)) {
            self.takers.entry(name).or_default().insert(taker);
        }
        self.wishes.extend(wish.map(|wish| (host.clone(), wish)));
        let mut others = Vec::new();
        for (name, before) in names.iter().zip(before) {
            let now = first(&self.takers, name);
            if now != before {
                others.extend([before, now].into_iter().flatten().map(|taker| taker.host));
            }
        }
        others.retain(|other| other != host);
        others
    }

    /// The name that policies give the service at `host` and that another one has.
    pub(super) fn taken_from(&self, host: &HostKey) -> Option<&Text> {
        let given = self.wishes.get(host)?.given.as_ref()?;
        let takers = self.takers.get(&(Text::clone(host.namespace.text()), Text::clone(given)))?;
        takers.first().filter(|taker| taker.host != *host).map(|_| given)
    }
}

// === impl Wish ===

impl Wish {
    fn names<'a>(&'a self, host: &'a HostKey) -> impl Iterator<Item = (Text, Text)> + 'a {
        self.takes(host).map(|(name, _)| name)
    }

    fn takes<'a>(&'a self, host: &'a HostKey) -> impl Iterator<Item = ((Text, Text), Taker)> + 'a {
        let rank = if self.is_current { Rank::Given } else { Rank::Lingering };
        let own = std::iter::once((&self.own, Rank::Own));
        own.chain(self.given.iter().map(move |given| (given, rank))).map(|(name, rank)| {
            let place = (Text::clone(host.namespace.text()), Text::clone(name));
            (place, Taker { rank, host: host.clone() })
        })
    }
}

#[cfg(test)]
mod tests {
    use landfall_core::name::{Hostname, Namespace};

    use super::*;

    fn key(namespace: &str, host: &str) -> HostKey {
        HostKey {
            namespace: Namespace::parse(namespace).unwrap(),
            host: Hostname::parse(host).unwrap(),
        }
    }

    /// Has each of `wishes`, which are `host` or `host>name`, with `~` before one that lingers, set in
    /// turn, and returns the hosts that do not get the names that they were given.
    fn losers(wishes: &[&str]) -> Vec<String> {
        let mut names = Names::default();
        for text in wishes {
            set(&mut names, text);
        }
        let hosts: Vec<HostKey> = names.wishes.keys().cloned().collect();
        let losers = hosts.iter().filter(|host| names.taken_from(host).is_some());
        let losers = losers.map(|host| host.host.to_string()).collect();
        // Nothing stays of services that are gone.
        hosts.iter().for_each(|host| drop(names.set(host, None)));
        assert!(names.wishes.is_empty() && names.takers.is_empty(), "{names:?}");
        losers
    }

    fn set(names: &mut Names, text: &str) -> Vec<String> {
        let (text, is_current) = text.strip_prefix('~').map_or((text, true), |text| (text, false));
        let (host, given) = text.split_once('>').unwrap_or((text, ""));
        let given = Some(given).filter(|given| !given.is_empty()).map(Text::from);
        let wish = Wish { own: Text::from(host), given, is_current };
        let others = names.set(&key("a", host), Some(wish));
        others.iter().map(|host| host.host.to_string()).collect()
    }

    #[test]
    fn one_name_is_for_one_whoever_came_first() {
        for (wishes, want) in [
            (["x>x-1", "y>y-1", "z"], vec![]),
            (["x>same", "y>same", "z"], vec!["y"]),
            // What has no other name goes first, whether it goes by that or not.
            (["x>z", "y", "z"], vec!["x"]),
            (["x>z", "y", "z>other"], vec!["x"]),
            (["~x>same", "y>same", "z"], vec!["x"]),
            (["x>x", "y>x", "z>y"], vec!["y", "z"]),
        ] {
            for order in [[0, 1, 2], [0, 2, 1], [1, 0, 2], [1, 2, 0], [2, 0, 1], [2, 1, 0]] {
                assert_eq!(losers(&order.map(|at| wishes[at])), want, "{wishes:?}");
            }
        }
    }

    #[test]
    fn others_are_told_whose_names_change() {
        let mut names = Names::default();
        assert_eq!(set(&mut names, "y>same"), [""; 0]);
        assert_eq!(set(&mut names, "z>same"), [""; 0], "it does not get it");
        assert_eq!(set(&mut names, "x>same"), ["y"]);
        assert_eq!(set(&mut names, "x>same"), [""; 0]);
        assert_eq!(set(&mut names, "same"), ["x"]);
        assert_eq!(names.set(&key("a", "same"), None), [key("a", "x")]);
        assert_eq!(names.set(&key("a", "x"), None), [key("a", "y")]);
        let wish = Wish { own: "x".into(), given: Some("same".into()), is_current: true };
        assert_eq!(names.set(&key("b", "x"), Some(wish)), [], "namespaces are apart");
    }
}
