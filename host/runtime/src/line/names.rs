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
    /// Who has a name that no policy gave, and nothing else to fall back on.
    own: BTreeMap<Place, HostKey>,
    given: BTreeMap<HostKey, Given>,
    /// Who would have a name that policies give.
    takers: BTreeMap<Place, BTreeSet<Taker>>,
}

/// A namespace and a name in it.
type Place = (Text, Text);

/// Under which name an object is to be.
#[derive(Debug)]
pub(super) struct Wish {
    /// The one that policies give it.
    pub(super) given: Option<Text>,
    /// Whether it is more than what lingers.
    pub(super) is_current: bool,
}

/// The name that policies give a service.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Given {
    name: Text,
    rank: Rank,
}

/// Who would have a name; the first one of several gets it, unless it is somebody's own.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Taker {
    rank: Rank,
    host: HostKey,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Rank {
    Current,
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
    /// Takes up what the service at `host` wishes by now; nothing where it is gone. `own` is the
    /// name that it has without a wish, and which is always left to it. Returns the others whose
    /// names change by it.
    pub(super) fn set(&mut self, host: &HostKey, own: &Text, wish: Option<Wish>) -> Vec<HostKey> {
        let place = |name: &Text| (Text::clone(host.namespace.text()), Text::clone(name));
        let given = wish.as_ref().and_then(Wish::given);
        let is_there = self.own.contains_key(&place(own));
        let old = self.given.get(host);
        if is_there == wish.is_some() && old == given.as_ref() {
            return Vec::new();
        }
        let old = self.given.remove(host);
        let names = [Some(own), old.as_ref().map(|g| &g.name), given.as_ref().map(|g| &g.name)];
        let places: BTreeSet<Place> = names.into_iter().flatten().map(place).collect();
        let before: Vec<Option<HostKey>> =
            places.iter().map(|place| self.holder(place).cloned()).collect();
        match &wish {
            Some(_) => self.own.insert(place(own), host.clone()),
            None => self.own.remove(&place(own)),
        };
        if let Some(Given { name, rank }) = old
            && let Some(takers) = self.takers.get_mut(&place(&name))
        {
            takers.remove(&Taker { rank, host: host.clone() });
            if takers.is_empty() {
                self.takers.remove(&place(&name));
            }
        }
        if let Some(Given { name, rank }) = &given {
            let taker = Taker { rank: *rank, host: host.clone() };
            self.takers.entry(place(name)).or_default().insert(taker);
        }
        self.given.extend(given.map(|given| (host.clone(), given)));
        let mut others = Vec::new();
        for (place, before) in places.iter().zip(before) {
            let now = self.holder(place);
            if now != before.as_ref() {
                others.extend(now.cloned().into_iter().chain(before));
            }
        }
        others.retain(|other| other != host);
        others
    }

    /// Who has a name.
    fn holder(&self, place: &Place) -> Option<&HostKey> {
        let first = || self.takers.get(place)?.first().map(|taker| &taker.host);
        self.own.get(place).or_else(first)
    }

    /// The name that policies give the service at `host` and that another one has.
    pub(super) fn taken_from(&self, host: &HostKey) -> Option<&Text> {
        let given = &self.given.get(host)?.name;
        let place = (Text::clone(host.namespace.text()), Text::clone(given));
        self.holder(&place).filter(|holder| *holder != host).map(|_| given)
    }
}

// === impl Wish ===

impl Wish {
    fn given(&self) -> Option<Given> {
        let rank = if self.is_current { Rank::Current } else { Rank::Lingering };
        Some(Given { name: Text::clone(self.given.as_ref()?), rank })
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
        let hosts: Vec<(HostKey, Text)> =
            names.own.iter().map(|((_, own), host)| (host.clone(), Text::clone(own))).collect();
        let losers = hosts.iter().filter(|(host, _)| names.taken_from(host).is_some());
        let losers = losers.map(|(host, _)| host.host.to_string()).collect();
        // Nothing stays of services that are gone.
        hosts.iter().for_each(|(host, own)| drop(names.set(host, own, None)));
        let Names { own, given, takers } = &names;
        assert!(own.is_empty() && given.is_empty() && takers.is_empty(), "{names:?}");
        losers
    }

    fn set(names: &mut Names, text: &str) -> Vec<String> {
        let (text, is_current) = text.strip_prefix('~').map_or((text, true), |text| (text, false));
        let (host, given) = text.split_once('>').unwrap_or((text, ""));
        let given = Some(given).filter(|given| !given.is_empty()).map(Text::from);
        let others = names.set(&key("a", host), &host.into(), Some(Wish { given, is_current }));
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
        assert_eq!(names.set(&key("a", "same"), &"same".into(), None), [key("a", "x")]);
        assert_eq!(names.set(&key("a", "x"), &"x".into(), None), [key("a", "y")]);
        let wish = Wish { given: Some("same".into()), is_current: true };
        let others = names.set(&key("b", "x"), &"x".into(), Some(wish));
        assert_eq!(others, [], "namespaces are apart");
    }
}
