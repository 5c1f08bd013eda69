//! How the sources that publish one host share it.
//!
//! Invariant: what a source offers is never lost. Whatever a rule leaves out stands beside what is
//! published, so that it is there when the rule, or another source, gives way.

use std::collections::BTreeMap;
use std::num::NonZeroU16;
use std::sync::Arc;

use crate::name::{Hostname, Namespace};
use crate::pattern::{Pattern, fits};
use crate::registry::SourceName;

/// The rules by which sources share hosts.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Sharing {
    /// The first that fits a host is its rule.
    pub rules: Vec<(HostSelector, Arc<SharingRule>)>,
    /// The rule of all other hosts.
    pub otherwise: Arc<SharingRule>,
}

/// Picks hosts.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct HostSelector {
    /// Patterns for host names, or for `namespace/host`; all when empty.
    pub hosts: Vec<Pattern>,
}

/// How sources share a host.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct SharingRule {
    /// Whose endpoints are published.
    pub mode: SharingMode,
    /// Sources in order of precedence. One that is not listed comes after those that are.
    pub precedence: Vec<SourceName>,
    /// By what the weights of a source's endpoints are multiplied; 1 where it is not listed.
    pub weights: BTreeMap<SourceName, NonZeroU16>,
}

/// Whose endpoints are published at a host.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum SharingMode {
    /// Those of all sources. An instance that is registered with several is published once, as the
    /// first in order of precedence has it.
    #[default]
    Union,
    /// Those of the first source in order of precedence that has any.
    First,
    /// As with [`SharingMode::Union`], and clients prefer those that are near to them.
    PreferLocal,
}

/// Who goes before whom at a host that one source has alone.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Ranks {
    /// Who has it.
    pub winner: SourceName,
    /// Sources that would take the host over if they listed anything there.
    pub above: Arc<[SourceName]>,
    /// Sources of which nothing is published there, whatever they list.
    pub below: Arc<[SourceName]>,
}

// === impl Sharing ===

impl Sharing {
    /// The rule of `host` in `namespace`.
    #[must_use]
    pub fn rule(&self, namespace: &Namespace, host: &Hostname) -> &Arc<SharingRule> {
        let own = self.rules.iter().find(|(selector, _)| selector.matches(namespace, host));
        own.map_or(&self.otherwise, |(_, rule)| rule)
    }
}

// === impl HostSelector ===

impl HostSelector {
    fn matches(&self, namespace: &Namespace, host: &Hostname) -> bool {
        self.hosts.is_empty()
            || fits(&self.hosts, host.as_str())
            || fits(&self.hosts, &format!("{namespace}/{host}"))
    }
}

// === impl SharingRule ===

impl SharingRule {
    /// The weight of an endpoint of `source` whose own is `weight`; at most 65535, as Istio takes it.
    #[must_use]
    pub fn weight(&self, source: &SourceName, weight: NonZeroU16) -> NonZeroU16 {
        self.weights.get(source).map_or(weight, |factor| weight.saturating_mul(*factor))
    }

    /// Who goes before and after `winner`, which has a host alone.
    #[must_use]
    pub fn ranks(&self, winner: &SourceName) -> Ranks {
        let rank = self.rank(winner).0;
        let above = self.precedence[..rank].into();
        let below = self.precedence.get(rank + 1..).unwrap_or_default().into();
        Ranks { winner: winner.clone(), above, below }
    }

    /// Where a source stands; of those that are not listed the order of their names decides.
    #[must_use]
    pub fn rank<'a>(&self, source: &'a SourceName) -> (usize, Option<&'a SourceName>) {
        match self.precedence.iter().position(|listed| listed == source) {
            Some(at) => (at, None),
            None => (self.precedence.len(), Some(source)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn source(name: &str) -> SourceName {
        SourceName::parse(name).unwrap()
    }

    fn rule(mode: SharingMode, precedence: &[&str]) -> SharingRule {
        let precedence = precedence.iter().map(|name| source(name)).collect();
        SharingRule { mode, precedence, ..SharingRule::default() }
    }

    #[test]
    fn ranks_tell_who_would_take_a_host_over() {
        let first = rule(SharingMode::First, &["a", "b", "c"]);
        let check = |winner: &str, above: &[&str], below: &[&str]| {
            let Ranks { above: is_above, below: is_below, .. } = first.ranks(&source(winner));
            let named = |names: &[&str]| -> Vec<SourceName> {
                names.iter().map(|name| source(name)).collect()
            };
            assert_eq!((&*is_above, &*is_below), (&*named(above), &*named(below)), "{winner}");
        };
        check("a", &[], &["b", "c"]);
        check("b", &["a"], &["c"]);
        check("c", &["a", "b"], &[]);
        check("other", &["a", "b", "c"], &[]);
    }

    #[test]
    fn weights_are_multiplied_and_stay_legal() {
        let mut rule = rule(SharingMode::Union, &[]);
        let new = source("new");
        let weight = |number: u16| NonZeroU16::new(number).unwrap();
        rule.weights.insert(new.clone(), weight(9));
        assert_eq!(rule.weight(&new, weight(2)), weight(18));
        assert_eq!(rule.weight(&new, weight(60_000)), NonZeroU16::MAX);
        assert_eq!(rule.weight(&source("old"), weight(2)), weight(2));
    }

    #[test]
    fn the_first_rule_that_fits_is_a_hosts() {
        let of = |patterns: &[&str], mode| {
            let hosts = patterns.iter().map(|pattern| Pattern::new(*pattern)).collect();
            (HostSelector { hosts }, Arc::new(rule(mode, &[])))
        };
        let mode = |patterns: &[&str]| {
            let rules = vec![of(patterns, SharingMode::First)];
            let sharing = Sharing { rules, ..Sharing::default() };
            let (namespace, host) = (Namespace::parse("ns"), Hostname::parse("a.mesh"));
            sharing.rule(&namespace.unwrap(), &host.unwrap()).mode
        };
        for patterns in [&["*.mesh"][..], &["x", "ns/a.*"], &[]] {
            assert_eq!(mode(patterns), SharingMode::First, "{patterns:?}");
        }
        for patterns in [&["b.mesh"][..], &["other/a.mesh"]] {
            assert_eq!(mode(patterns), SharingMode::Union, "{patterns:?}");
        }
    }
}
