//! The settings: rules, and what can be wrong with them beyond their types.

use std::collections::{BTreeMap, BTreeSet};

use landfall_policy::{Problem, Service, names, settings};
use serde::Deserialize;

use crate::glob::OneOf;
use crate::matching::Match;
use crate::template::{Number, Template};

/// Rules that say which instances are published and how, without code.
#[derive(Clone, Debug, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub struct Settings {
    /// Carried out one after the other; each sees what those before it have set.
    pub(crate) rules: Vec<Rule>,
}

/// What becomes of the instances that match. `drop`, `set` and `split` exclude each other, but for `set` with `split`.
#[derive(Clone, Debug, Default, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
#[serde(deny_unknown_fields, rename_all = "camelCase", default)]
pub(crate) struct Rule {
    /// For whoever reads the settings; nothing depends on it.
    #[allow(dead_code, reason = "a comment that survives in JSON")]
    name: String,
    /// Which instances the rule is for; all, if left out.
    #[serde(rename = "match")]
    pub(crate) matching: Match,
    /// Which of them it is not for.
    pub(crate) unless: Option<Match>,
    /// Does not publish the instance. The text is the reason that operators see, counted by: a short constant phrase.
    pub(crate) drop: Option<String>,
    /// Publishes the instance with these changes.
    pub(crate) set: Set,
    /// Publishes the instance once for each of these lists of changes, made after those of `set`. No rule after this one
    /// is carried out for the instance. `{}` is the instance as it is so far.
    pub(crate) split: Vec<Set>,
    /// Carries out no rule after this one for the instance.
    pub(crate) stop: bool,
}

/// Changes to how an instance is published. Texts are templates: `{meta.version}` is filled with the instance's data,
/// and what cannot be filled is not set.
#[derive(Clone, Debug, Default, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
#[serde(deny_unknown_fields, rename_all = "camelCase", default)]
pub(crate) struct Set {
    /// The host name that clients use.
    pub(crate) host: Option<Template>,
    /// The Kubernetes namespace of the resources.
    pub(crate) namespace: Option<Template>,
    /// The IP address or DNS name of the instance.
    pub(crate) address: Option<Template>,
    /// Labels by their keys.
    pub(crate) labels: BTreeMap<String, Template>,
    /// Keys of labels to take away.
    pub(crate) remove_labels: Vec<String>,
    /// Changes to ports: of each port the first entry that matches it.
    pub(crate) ports: Vec<PortRule>,
    /// Ports to add. One that has the name of a port that is there replaces it.
    pub(crate) add_ports: Vec<NewPort>,
    /// Where the instance runs. Without a region nothing is set.
    pub(crate) locality: Option<SetLocality>,
    /// The share of requests relative to the other endpoints.
    pub(crate) weight: Option<Number>,
    /// The mesh network that the address belongs to.
    pub(crate) network: Option<Template>,
    /// The identity that the instance presents.
    pub(crate) service_account: Option<Template>,
}

/// A change to the ports that match.
#[derive(Clone, Debug, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub(crate) struct PortRule {
    /// Which ports; all, if left out.
    #[serde(rename = "match", default)]
    pub(crate) matching: PortMatch,
    /// Takes the port away.
    #[serde(default)]
    pub(crate) drop: bool,
    /// A new name.
    pub(crate) name: Option<Template>,
    /// A new number for clients to dial.
    pub(crate) number: Option<Number>,
    /// A new number that the instance listens on.
    pub(crate) target: Option<Number>,
    /// A new protocol: `http`, `http2`, `grpc`, `https`, `tls`, `tcp`, `mongo`, ...
    pub(crate) protocol: Option<Template>,
}

/// Conditions on a port, of which all have to hold.
#[derive(Clone, Debug, Default, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
#[serde(deny_unknown_fields, rename_all = "camelCase", default)]
pub(crate) struct PortMatch {
    /// Names.
    pub(crate) names: Option<OneOf>,
    /// The number that clients dial.
    pub(crate) number: Option<u16>,
    /// The number that the instance listens on.
    pub(crate) target: Option<u16>,
    /// Protocols.
    pub(crate) protocols: Option<OneOf>,
}

/// A port to add.
#[derive(Clone, Debug, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub(crate) struct NewPort {
    /// Its name.
    pub(crate) name: Template,
    /// The number that clients dial. Without data for it the port is not added.
    pub(crate) number: Number,
    /// The number that the instance listens on; the same, if left out.
    pub(crate) target: Option<Number>,
    /// Its protocol; left out, Istio detects it.
    pub(crate) protocol: Option<Template>,
}

/// Where an instance runs.
#[derive(Clone, Debug, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub(crate) struct SetLocality {
    /// The region.
    pub(crate) region: Template,
    /// The zone in the region.
    pub(crate) zone: Option<Template>,
    /// The part of the zone.
    pub(crate) subzone: Option<Template>,
}

// === impl Settings ===

impl Settings {
    /// Every problem that the types do not rule out.
    pub(crate) fn problems(&self) -> Vec<Problem> {
        let mut problems = Vec::new();
        for (index, rule) in self.rules.iter().enumerate() {
            rule.problems(&format!("/rules/{index}"), &mut problems);
        }
        problems
    }

    /// The instance fields that the rules look at; there may be none.
    pub(crate) fn reads(&self) -> Vec<String> {
        let mut fields = BTreeSet::new();
        let mut read = |field: String| {
            fields.insert(field);
        };
        for rule in &self.rules {
            rule.matching.reads(&mut read);
            if let Some(unless) = &rule.unless {
                unless.reads(&mut read);
            }
            for set in std::iter::once(&rule.set).chain(&rule.split) {
                set.reads(&mut read);
            }
        }
        fields.into_iter().collect()
    }
}

// === impl Rule ===

impl Rule {
    /// Whether the rule can be for instances of this service.
    pub(crate) fn concerns(&self, service: &Service) -> bool {
        self.matching.fits_service(service)
    }

    fn problems(&self, path: &str, problems: &mut Vec<Problem>) {
        let sets = !self.set.is_empty() || !self.split.is_empty();
        if let Some(reason) = &self.drop {
            if sets {
                problems.push(settings::problem(
                    path,
                    "what is dropped cannot be set or split as well",
                ));
            }
            if reason.trim().is_empty() {
                problems.push(settings::problem(format!("{path}/drop"), "needs a reason"));
            }
        } else if !sets && !self.stop {
            problems.push(settings::problem(path, "does nothing; add drop, set, split or stop"));
        }
        if self.unless.as_ref().is_some_and(Match::is_empty) {
            problems.push(settings::problem(format!("{path}/unless"), "excludes everything"));
        }
        self.set.problems(&format!("{path}/set"), problems);
        for (index, set) in self.split.iter().enumerate() {
            set.problems(&format!("{path}/split/{index}"), problems);
        }
    }
}

// === impl Set ===

impl Set {
    /// Whether nothing changes.
    pub(crate) fn is_empty(&self) -> bool {
        let Self {
            host,
            namespace,
            address,
            labels,
            remove_labels,
            ports,
            add_ports,
            locality,
            weight,
            network,
            service_account,
        } = self;
        [host, namespace, address, network, service_account]
            .iter()
            .all(|template| template.is_none())
            && labels.is_empty()
            && remove_labels.is_empty()
            && ports.is_empty()
            && add_ports.is_empty()
            && locality.is_none()
            && weight.is_none()
    }

    /// What no data is needed to see. The rest Landfall judges, for it knows Istio's rules.
    fn problems(&self, path: &str, problems: &mut Vec<Problem>) {
        let mut check =
            |place: String, template: Option<&Template>, legal: fn(&str) -> bool, what: &str| {
                if let Some(text) = template.and_then(Template::literal).filter(|text| !legal(text))
                {
                    problems.push(settings::problem(
                        format!("{path}/{place}"),
                        format!("{text:?} is not {what}"),
                    ));
                }
            };
        check("host".to_owned(), self.host.as_ref(), names::is_host, "a host name in lower case");
        check("namespace".to_owned(), self.namespace.as_ref(), names::is_dns_label, "a namespace");
        for (key, value) in &self.labels {
            let place = format!("labels/{}", settings::escape(key));
            check(place, Some(value), names::is_label_value, "the value of a label");
        }
    }

    fn reads(&self, read: &mut dyn FnMut(String)) {
        let locality = self.locality.iter().flat_map(|locality| {
            std::iter::once(&locality.region).chain(&locality.zone).chain(&locality.subzone)
        });
        let ports = self.ports.iter().flat_map(|port| port.name.iter().chain(&port.protocol));
        let added = self
            .add_ports
            .iter()
            .flat_map(|port| std::iter::once(&port.name).chain(&port.protocol));
        [&self.host, &self.namespace, &self.address, &self.network, &self.service_account]
            .into_iter()
            .flatten()
            .chain(self.labels.values())
            .chain(locality)
            .chain(ports)
            .chain(added)
            .for_each(|template| template.reads(read));

        let ports = self.ports.iter().flat_map(|port| port.number.iter().chain(&port.target));
        let added = self
            .add_ports
            .iter()
            .flat_map(|port| std::iter::once(&port.number).chain(&port.target));
        self.weight.iter().chain(ports).chain(added).for_each(|number| number.reads(read));

        // Ports can only be replaced as a whole, so those that are there have to be known.
        if !self.ports.is_empty() || !self.add_ports.is_empty() {
            read("mapping".to_owned());
        }
    }
}

// === impl PortMatch ===

impl PortMatch {
    /// Whether the conditions hold for a port.
    pub(crate) fn fits(&self, port: &landfall_policy::Port) -> bool {
        self.names.as_ref().is_none_or(|names| names.fits(&port.name))
            && self.number.is_none_or(|number| number == port.number)
            && self.target.is_none_or(|target| target == port.target)
            && self.protocols.as_ref().is_none_or(|protocols| protocols.fits(&port.protocol))
    }
}

#[cfg(test)]
mod tests {
    use landfall_policy::{Policy, testing};

    use crate::Relabel;

    /// The problems with the settings, one a line; empty when there are none.
    fn problems(json: &str) -> String {
        testing::configure::<Relabel>(json).err().unwrap_or_default()
    }

    #[test]
    fn mistakes_are_reported_at_their_places() {
        for (rule, want) in [
            (r#"{}"#, "/rules/0: does nothing; add drop, set, split or stop"),
            (r#"{"drop": " "}"#, "/rules/0/drop: needs a reason"),
            (
                r#"{"drop": "a", "set": {"weight": 1}}"#,
                "/rules/0: what is dropped cannot be set or split as well",
            ),
            (r#"{"drop": "a", "unless": {}}"#, "/rules/0/unless: excludes everything"),
            (
                r#"{"set": {"host": "A_b"}}"#,
                "/rules/0/set/host: \"A_b\" is not a host name in lower case",
            ),
            (
                r#"{"split": [{}, {"namespace": "a.b"}]}"#,
                "/rules/0/split/1/namespace: \"a.b\" is not a namespace",
            ),
            (
                r#"{"set": {"labels": {"a/b": "c d"}}}"#,
                "/rules/0/set/labels/a~1b: \"c d\" is not the value of a label",
            ),
            (
                r#"{"drop": "a", "match": {"services": []}}"#,
                "/rules/0/match/services: must not be empty; leave it out to match anything",
            ),
            (
                r#"{"set": {"weight": 0}}"#,
                "/rules/0/set/weight: invalid value: integer `0`, expected a number from 1 to 65535, or a template of one",
            ),
        ] {
            assert_eq!(problems(&format!(r#"{{"rules": [{rule}]}}"#)), want);
        }
        assert!(
            problems(r#"{"rules": [{"set": {"hosts": "a"}}]}"#)
                .starts_with("/rules/0/set/hosts: unknown field")
        );
        assert!(
            problems(r#"{"rules": [{"set": {"host": "{x}"}}]}"#)
                .starts_with("/rules/0/set/host: has no field `x`")
        );
        assert_eq!(problems(r#"{"rules": [{}, {"drop": ""}]}"#).lines().count(), 2);
    }

    #[test]
    fn only_what_rules_look_at_is_read() {
        let reads = |rules: &str| {
            testing::configure::<Relabel>(&format!(r#"{{"rules": [{rules}]}}"#))
                .unwrap()
                .reads()
                .unwrap()
                .join(" ")
        };
        assert_eq!(reads(r#"{"match": {"services": ["a"]}, "drop": "x"}"#), "");
        assert_eq!(
            reads(r#"{"match": {"meta": {"b": null}, "tags": ["*"]}, "stop": true}"#),
            "meta/b tags"
        );
        assert_eq!(
            reads(
                r#"{"unless": {"ext": {"e": "x"}}, "split": [{"weight": "{meta.w}"}, {"labels": {"l": "{label.m}"}}]}"#
            ),
            "ext/e mapping meta/w",
        );
        assert_eq!(
            reads(r#"{"set": {"addPorts": [{"name": "a", "number": "{tag.p}"}]}}"#),
            "mapping tags"
        );
        assert_eq!(
            reads(r#"{"set": {"locality": {"region": "eu", "zone": "{meta.z}"}}}"#),
            "meta/z"
        );
    }

    /// `BLESS=1 cargo test` writes the schema anew.
    #[test]
    fn the_schema_is_that_of_the_types() {
        let path = concat!(env!("CARGO_MANIFEST_DIR"), "/settings.schema.json");
        let want =
            serde_json::to_string_pretty(&schemars::schema_for!(super::Settings)).unwrap() + "\n";
        if std::env::var_os("BLESS").is_some() {
            std::fs::write(path, want).unwrap();
        } else {
            assert_eq!(
                std::fs::read_to_string(path).unwrap(),
                want,
                "BLESS=1 cargo test writes it anew"
            );
        }
    }
}
