//! How sources share hosts.

use std::collections::BTreeMap;
use std::num::NonZeroU16;
use std::sync::Arc;

use landfall_core::pattern::Pattern;
use landfall_core::registry::SourceName;
use landfall_core::sharing::{HostSelector, Sharing, SharingMode, SharingRule};

use super::super::tree::child;
use super::super::{SourceConfig, wire};
use super::Resolver;

impl Resolver<'_> {
    /// The rules of `rules`, and for all other hosts a union in the order of `sources`.
    pub(super) fn sharing(
        &mut self,
        rules: &[wire::SharingRule],
        sources: &[SourceConfig],
    ) -> Sharing {
        let names: Vec<SourceName> = sources.iter().map(|source| source.name.clone()).collect();
        let mut resolved = Vec::new();
        let mut fits_all = None;
        for (index, rule) in rules.iter().enumerate() {
            let at = format!("/sharing/{index}");
            if let Some(earlier) = fits_all {
                self.problem(
                    &at,
                    format!(
                        "this rule holds for no host, since rule {earlier} before it is for all; \
                         put it before that one"
                    ),
                );
            }
            if rule.hosts.is_empty() {
                fits_all = fits_all.or(Some(index + 1));
            }
            let hosts = rule.hosts.iter().map(Pattern::new).collect();
            let rule = self.sharing_rule(&at, rule, &names);
            resolved.push((HostSelector { hosts }, Arc::new(rule)));
        }
        let otherwise = SharingRule { precedence: names, ..SharingRule::default() };
        Sharing { rules: resolved, otherwise: Arc::new(otherwise) }
    }

    fn sharing_rule(
        &mut self,
        at: &str,
        rule: &wire::SharingRule,
        sources: &[SourceName],
    ) -> SharingRule {
        let mut precedence: Vec<SourceName> = Vec::new();
        for (index, raw) in rule.precedence.iter().enumerate() {
            let at = format!("{}/{index}", child(at, "precedence"));
            match self.configured(&at, raw, sources) {
                Some(name) if precedence.contains(name) => {
                    self.problem(&at, format!("source {raw:?} is listed twice"));
                }
                Some(name) => precedence.push(name.clone()),
                None => {}
            }
        }
        let others = sources.iter().filter(|name| !precedence.contains(name)).cloned();
        let others: Vec<SourceName> = others.collect();
        precedence.extend(others);
        let mut weights = BTreeMap::new();
        for (raw, weight) in &rule.weights {
            let at = child(&child(at, "weights"), raw);
            let Some(name) = self.configured(&at, raw, sources) else { continue };
            match NonZeroU16::new(*weight) {
                Some(weight) => drop(weights.insert(name.clone(), weight)),
                None => self.problem(
                    &at,
                    "a weight is 1 to 65535, for to Istio none is the same as 1; to publish nothing \
                     of a source use mode first",
                ),
            }
        }
        let mode = match rule.mode {
            wire::SharingMode::Union => SharingMode::Union,
            wire::SharingMode::First => SharingMode::First,
            wire::SharingMode::PreferLocal => SharingMode::PreferLocal,
        };
        SharingRule { mode, precedence, weights }
    }

    /// The source of that name.
    fn configured<'a>(
        &mut self,
        at: &str,
        raw: &str,
        sources: &'a [SourceName],
    ) -> Option<&'a SourceName> {
        let known = sources.iter().find(|name| name.as_str() == raw);
        if known.is_none() {
            let all: Vec<&str> = sources.iter().map(SourceName::as_str).collect();
            let message = format!("there is no source {raw:?}; there are {}", all.join(", "));
            self.missing(at, message);
        }
        known
    }
}
