//! Carries rules out for one instance.

use landfall_policy::{Edit, Edits, Instance, Locality, Port, Service, Verdict};

use crate::settings::{NewPort, PortRule, Rule, Set};
use crate::template::{Draft, Template};

/// The verdict of the rules, which are those that concern the service.
pub(crate) fn decide<'a>(
    rules: impl IntoIterator<Item = &'a Rule>,
    service: &Service,
    instance: &Instance,
) -> Verdict {
    let mut draft = Draft::new(service, instance);
    for rule in rules {
        let excluded = |unless: &crate::matching::Match| {
            unless.fits_service(service) && unless.fits_instance(instance)
        };
        if !rule.matching.fits_instance(instance) || rule.unless.as_ref().is_some_and(excluded) {
            continue;
        }
        if let Some(reason) = &rule.drop {
            return Verdict::drop(reason);
        }
        set(&rule.set, &mut draft);
        if !rule.split.is_empty() {
            return split(&rule.split, draft);
        }
        if rule.stop {
            break;
        }
    }
    draft.edits.into()
}

/// One branch for each list of changes. One whose host cannot be filled is left out: it would publish the instance under
/// the host of another branch once more.
fn split(sets: &[Set], draft: Draft<'_>) -> Verdict {
    let mut branches: Vec<Edits> = Vec::with_capacity(sets.len());
    for changes in sets {
        let mut branch = Draft { edits: draft.edits.clone(), ..draft };
        if set(changes, &mut branch) {
            branches.push(branch.edits);
        }
    }
    match branches.len() {
        0 => draft.edits.into(),
        1 => branches.remove(0).into(),
        _ => Verdict::split(branches),
    }
}

/// Adds the changes, each of which sees the instance as it was before this. False if there is a host that cannot be
/// filled.
fn set(changes: &Set, draft: &mut Draft<'_>) -> bool {
    if changes.is_empty() {
        return true;
    }
    let mut edits = Edits::new();
    let host = fill(changes.host.as_ref(), draft);
    let complete = host.is_some() || changes.host.is_none();
    edits.extend(host.map(Edit::Host));
    edits.extend(fill(changes.namespace.as_ref(), draft).map(Edit::Namespace));
    edits.extend(fill(changes.address.as_ref(), draft).map(Edit::Address));
    edits.extend(changes.remove_labels.iter().cloned().map(Edit::RemoveLabel));
    edits.extend(
        changes
            .labels
            .iter()
            .filter_map(|(key, value)| Some(Edit::Label((key.clone(), value.fill(draft)?)))),
    );
    if !changes.ports.is_empty() || !changes.add_ports.is_empty() {
        edits.push(Edit::Ports(ports(&changes.ports, &changes.add_ports, draft)));
    }
    edits.extend(changes.locality.as_ref().and_then(|locality| {
        Some(Edit::Locality(Locality {
            region: locality.region.fill(draft)?,
            zone: fill(locality.zone.as_ref(), draft).unwrap_or_default(),
            subzone: fill(locality.subzone.as_ref(), draft).unwrap_or_default(),
        }))
    }));
    edits.extend(
        changes
            .weight
            .as_ref()
            .and_then(|weight| weight.fill(draft))
            .map(|w| Edit::Weight(w.into())),
    );
    edits.extend(fill(changes.network.as_ref(), draft).map(Edit::Network));
    edits.extend(fill(changes.service_account.as_ref(), draft).map(Edit::ServiceAccount));
    draft.edits.extend(Vec::from(edits));
    complete
}

fn fill(template: Option<&Template>, draft: &Draft<'_>) -> Option<String> {
    template?.fill(draft)
}

fn ports(rules: &[PortRule], added: &[NewPort], draft: &Draft<'_>) -> Vec<Port> {
    let mut ports = Vec::with_capacity(draft.ports().len() + added.len());
    for port in draft.ports() {
        match rules.iter().find(|rule| rule.matching.fits(port)) {
            None => ports.push(port.clone()),
            Some(rule) if rule.drop => (),
            Some(rule) => ports.push(Port {
                name: fill(rule.name.as_ref(), draft).unwrap_or_else(|| port.name.clone()),
                number: rule
                    .number
                    .as_ref()
                    .and_then(|number| number.fill(draft))
                    .unwrap_or(port.number),
                target: rule
                    .target
                    .as_ref()
                    .and_then(|target| target.fill(draft))
                    .unwrap_or(port.target),
                protocol: fill(rule.protocol.as_ref(), draft)
                    .unwrap_or_else(|| port.protocol.clone()),
            }),
        }
    }
    for new in added {
        let (Some(name), Some(number)) = (new.name.fill(draft), new.number.fill(draft)) else {
            continue;
        };
        let target = match &new.target {
            None => number,
            Some(target) => match target.fill(draft) {
                Some(target) => target,
                None => continue,
            },
        };
        let protocol = fill(new.protocol.as_ref(), draft).unwrap_or_default();
        ports.retain(|port| port.name != name);
        ports.push(Port { name, number, target, protocol });
    }
    ports
}

#[cfg(test)]
mod tests {
    use landfall_policy::log::{self, Level};
    use landfall_policy::{InstancePolicy, Mapping, testing};

    use super::*;
    use crate::Relabel;

    fn instance() -> Instance {
        Instance::new("pay-1")
            .with_tag("env=prod")
            .with_tag("blue")
            .with_meta("version", "v2")
            .with_meta("region", "eu")
            .with_mapping(
                Mapping::new("pay.dc1.mesh")
                    .with_port(Port::new("a", 80, "http"))
                    .with_port(Port::new("b", 90, ""))
                    .with_label("team", "x"),
            )
    }

    #[track_caller]
    fn check(rules: &str, want: impl Into<Verdict>) {
        let relabel: Relabel = testing::configure(&format!(r#"{{"rules": [{rules}]}}"#)).unwrap();
        let (service, want) = (Service::new("pay").with_meta("tier", "1"), want.into());
        assert_eq!(relabel.decide(&service, &instance()), want);
        // The way that Landfall calls it is another.
        assert_eq!(relabel.decide_all(&service, &[instance()]).unwrap(), [want]);
    }

    #[test]
    fn rules_are_for_what_matches() {
        for (conditions, fits) in [
            (r#"{}"#, true),
            (r#"{"services": ["x", "p*"]}"#, true),
            (r#"{"services": ["x"]}"#, false),
            (
                r#"{"services": ["p*"], "sources": ["test"], "registries": ["file"], "health": ["pass*"]}"#,
                true,
            ),
            (r#"{"services": ["p*"], "sources": ["other"]}"#, false),
            (
                r#"{"datacenters": [""], "partitions": ["*"], "groups": [""], "ids": ["pay-?"]}"#,
                true,
            ),
            (r#"{"tags": ["green", "blue"]}"#, true),
            (r#"{"tags": ["green"]}"#, false),
            (r#"{"allTags": ["env=*", "blue"]}"#, true),
            (r#"{"allTags": ["env=*", "green"]}"#, false),
            (r#"{"meta": {"version": "v*", "old": null}, "serviceMeta": {"tier": "1"}}"#, true),
            (r#"{"meta": {"version": null}}"#, false),
            (r#"{"meta": {"old": "*"}}"#, false),
            (r#"{"ext": {"consul.node": "*"}}"#, false),
        ] {
            let dropped = if fits { Verdict::drop("x") } else { Verdict::Keep };
            check(&format!(r#"{{"match": {conditions}, "drop": "x"}}"#), dropped.clone());
            if conditions != "{}" {
                let kept = if fits { Verdict::Keep } else { Verdict::drop("x") };
                check(&format!(r#"{{"unless": {conditions}, "drop": "x"}}"#), kept);
            }
        }
    }

    #[test]
    fn everything_can_be_set() {
        check(
            r#"{"set": {
                "host": "{service}.mesh", "namespace": "{tag.env}", "address": "10.0.0.2", "network": "n-{meta.region}",
                "serviceAccount": "sa", "weight": 7, "labels": {"version": "{meta.version}", "none": "{meta.none}"},
                "removeLabels": ["team"], "locality": {"region": "{meta.region}", "zone": "{meta.none}", "subzone": "s"}
            }}"#,
            Edits::new()
                .host("pay.mesh")
                .namespace("prod")
                .address("10.0.0.2")
                .remove_label("team")
                .label("version", "v2")
                .locality("eu", "", "s")
                .weight(7)
                .network("n-eu")
                .service_account("sa"),
        );
        check(
            r#"{"set": {"host": "{meta.none}", "locality": {"region": "{meta.none}", "zone": "z"}}}"#,
            Verdict::Keep,
        );
    }

    #[test]
    fn ports_are_renamed_dropped_and_added() {
        check(
            r#"{"set": {
                "ports": [
                    {"match": {"names": ["a"], "number": 80, "protocols": ["http"]}, "name": "http", "number": 8080},
                    {"match": {"names": ["a"]}, "drop": true},
                    {"match": {"protocols": [""], "target": 90}, "protocol": "tcp"}
                ],
                "addPorts": [
                    {"name": "m", "number": 9090, "target": 9091, "protocol": "http"},
                    {"name": "b", "number": 91},
                    {"name": "none", "number": "{meta.none}"},
                    {"name": "none", "number": 1, "target": "{meta.none}"}
                ]
            }}"#,
            Edits::new().ports([
                Port {
                    name: "http".to_owned(),
                    number: 8080,
                    target: 80,
                    protocol: "http".to_owned(),
                },
                Port {
                    name: "m".to_owned(),
                    number: 9090,
                    target: 9091,
                    protocol: "http".to_owned(),
                },
                Port::new("b", 91, ""),
            ]),
        );
        check(r#"{"set": {"ports": [{"drop": true}]}}"#, Edits::new().ports([]));
    }

    #[test]
    fn later_rules_see_what_earlier_ones_set_until_one_stops() {
        check(
            r#"{"set": {"host": "a.{host}"}}, {"set": {"host": "b.{host}"}, "stop": true}, {"drop": "x"}"#,
            Edits::new().host("a.pay.dc1.mesh").host("b.a.pay.dc1.mesh"),
        );
        check(r#"{"set": {"weight": 2}}, {"drop": "x"}"#, Verdict::drop("x"));
    }

    #[test]
    fn a_split_ends_the_rules_and_leaves_out_what_has_no_host() {
        let labeled = Edits::new().label("a", "b");
        check(
            r#"{"set": {"labels": {"a": "b"}}, "split": [{}, {"host": "{meta.version}.{host}"}]}, {"drop": "x"}"#,
            Verdict::split([labeled.clone(), labeled.clone().host("v2.pay.dc1.mesh")]),
        );
        check(
            r#"{"set": {"labels": {"a": "b"}}, "split": [{}, {"host": "{meta.none}.{host}"}]}"#,
            labeled,
        );
        check(r#"{"split": [{"host": "{meta.none}"}]}"#, Verdict::Keep);
    }

    #[test]
    fn what_is_no_number_is_left_out_and_logged() {
        check(r#"{"set": {"weight": "{meta.version}"}}"#, Verdict::Keep);
        let want = "\"v2\" of instance pay-1 of pay is not a number from 1 to 65535".to_owned();
        assert_eq!(log::take(), [(Level::Warn, want.clone()), (Level::Warn, want)]);
    }
}
