//! The settings: which bridge, its options, and what can be wrong with them beyond their types.

use landfall_policy::{Problem, names, settings};
use serde::Deserialize;

use crate::bridge::Bridge;
use crate::consul2istio::Consul2Istio;
use crate::eureka2istio::Eureka2Istio;
use crate::istio_consul::IstioConsul;
use crate::registry_sync::RegistrySync;

/// The bridge whose place Landfall takes. Options are those that it had as flags, under their names, and some that say
/// how much of what it wrote is wanted.
#[derive(Clone, Debug, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub struct Settings {
    /// The bridge.
    preset: Preset,
    /// The Kubernetes namespace of the resources. Left out it is `istio-system` for consul2istio and eureka2istio,
    /// `default` for Istio's adapter, and for registry-sync, which wrote to its own, that of Landfall's configuration.
    namespace: Option<String>,
    /// consul2istio: what stands behind the names of services, as in `service.consul`; nothing, if left out.
    fqdn: Option<String>,
    /// consul2istio: whether every service has port 80 besides its own. It has, if left out.
    enable_default_port: Option<bool>,
    /// registry-sync: the address of instances in Consul; that of their nodes, if left out.
    address: Option<AddressOf>,
    /// registry-sync and istio-consul: whether all names of ports have their numbers behind them, as in `tcp-8080`, so
    /// that instances of one service can listen on different ones. They do not, if left out.
    numbered_ports: Option<bool>,
    /// istio-consul: what an instance speaks whose meta `protocol` does not say; TCP, if left out. It was HTTP in older
    /// releases of Istio.
    default_protocol: Option<DefaultProtocol>,
    /// istio-consul: the trust domain of the mesh; `cluster.local`, if left out.
    trust_domain: Option<String>,
    /// consul2istio and eureka2istio: whether ServiceEntries carry the labels of the bridge, and its annotation. They do,
    /// if left out.
    object_labels: Option<bool>,
}

/// A bridge.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
#[serde(rename_all = "kebab-case")]
enum Preset {
    /// registry-sync, which was istio-cloud-map before.
    RegistrySync,
    /// Aeraki's consul2istio.
    #[serde(rename = "consul2istio")]
    Consul2Istio,
    /// Aeraki's eureka2istio.
    #[serde(rename = "eureka2istio")]
    Eureka2Istio,
    /// The adapter for Consul that Istio had itself.
    IstioConsul,
}

/// Whose address an instance has.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
#[serde(rename_all = "kebab-case")]
enum AddressOf {
    /// That of its node, whatever it registered for itself, as the bridge had it.
    Node,
    /// Its own, and its node's where it registered none.
    Service,
}

/// What is spoken where nobody says.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
#[serde(rename_all = "kebab-case")]
enum DefaultProtocol {
    /// As in the newest releases that had the adapter.
    Tcp,
    /// As in older ones.
    Http,
}

/// Options besides `preset` and `namespace`, which all bridges have.
const OPTIONS: [(&str, &[Preset]); 7] = [
    ("address", &[Preset::RegistrySync]),
    ("defaultProtocol", &[Preset::IstioConsul]),
    ("enableDefaultPort", &[Preset::Consul2Istio]),
    ("fqdn", &[Preset::Consul2Istio]),
    ("numberedPorts", &[Preset::RegistrySync, Preset::IstioConsul]),
    ("objectLabels", &[Preset::Consul2Istio, Preset::Eureka2Istio]),
    ("trustDomain", &[Preset::IstioConsul]),
];

// === impl Preset ===

impl Preset {
    const fn as_str(self) -> &'static str {
        match self {
            Self::RegistrySync => "registry-sync",
            Self::Consul2Istio => "consul2istio",
            Self::Eureka2Istio => "eureka2istio",
            Self::IstioConsul => "istio-consul",
        }
    }

    fn options(self) -> String {
        let own = OPTIONS.iter().filter(|(_, presets)| presets.contains(&self));
        let names: Vec<&str> =
            std::iter::once("namespace").chain(own.map(|(name, _)| *name)).collect();
        names.join(", ")
    }
}

// === impl Settings ===

impl Settings {
    /// Every problem that the types do not rule out.
    pub(crate) fn problems(&self) -> Vec<Problem> {
        let mut problems = Vec::new();
        for name in self.given() {
            let of = OPTIONS.iter().find(|(known, _)| *known == name);
            let Some((_, presets)) = of.filter(|(_, presets)| !presets.contains(&self.preset))
            else {
                continue;
            };
            let owners: Vec<&str> = presets.iter().map(|preset| preset.as_str()).collect();
            let message = format!(
                "is an option of {}; those of {} are {}",
                owners.join(" and "),
                self.preset.as_str(),
                self.preset.options()
            );
            problems.push(settings::problem(format!("/{name}"), message));
        }
        let mut check = |name: &str, text: &Option<String>, legal: fn(&str) -> bool, what: &str| {
            if let Some(text) = text.as_deref().filter(|text| !legal(text)) {
                let message = format!("{text:?} is not {what}");
                problems.push(settings::problem(format!("/{name}"), message));
            }
        };
        check("namespace", &self.namespace, names::is_dns_label, "a namespace");
        let what = "a domain in lower case; it has no dot before it";
        check("fqdn", &self.fqdn, |text| text.is_empty() || names::is_host(text), what);
        check("trustDomain", &self.trust_domain, is_trust_domain, "a trust domain");
        problems
    }

    /// The options that are given, but for those that all bridges have.
    fn given(&self) -> Vec<&'static str> {
        let Self {
            preset: _,
            namespace: _,
            fqdn,
            enable_default_port,
            address,
            numbered_ports,
            default_protocol,
            trust_domain,
            object_labels,
        } = self;
        let given = [
            ("address", address.is_some()),
            ("defaultProtocol", default_protocol.is_some()),
            ("enableDefaultPort", enable_default_port.is_some()),
            ("fqdn", fqdn.is_some()),
            ("numberedPorts", numbered_ports.is_some()),
            ("objectLabels", object_labels.is_some()),
            ("trustDomain", trust_domain.is_some()),
        ];
        given.into_iter().filter(|(_, given)| *given).map(|(name, _)| name).collect()
    }

    /// The namespace and the bridge that settings without problems stand for.
    pub(crate) fn into_bridge(self) -> (Option<String>, Bridge) {
        let numbers_ports = self.numbered_ports.unwrap_or(false);
        let labels_objects = self.object_labels.unwrap_or(true);
        let (namespace, bridge) = match self.preset {
            Preset::RegistrySync => {
                let at_node = self.address != Some(AddressOf::Service);
                (None, Bridge::RegistrySync(RegistrySync { at_node, numbers_ports }))
            }
            Preset::Consul2Istio => {
                let bridge = Consul2Istio {
                    fqdn: self.fqdn.unwrap_or_default(),
                    has_default_port: self.enable_default_port.unwrap_or(true),
                    labels_objects,
                };
                (Some("istio-system"), Bridge::Consul2Istio(bridge))
            }
            Preset::Eureka2Istio => {
                (Some("istio-system"), Bridge::Eureka2Istio(Eureka2Istio { labels_objects }))
            }
            Preset::IstioConsul => {
                let bridge = IstioConsul {
                    default_protocol: match self.default_protocol {
                        None | Some(DefaultProtocol::Tcp) => "tcp",
                        Some(DefaultProtocol::Http) => "http",
                    },
                    numbers_ports,
                    trust_domain: self.trust_domain.unwrap_or_else(|| "cluster.local".to_owned()),
                };
                (Some("default"), Bridge::IstioConsul(bridge))
            }
        };
        (self.namespace.or_else(|| namespace.map(str::to_owned)), bridge)
    }
}

/// SPIFFE-ID, 2.1: lower-case letters, digits, dots, dashes and underscores.
fn is_trust_domain(text: &str) -> bool {
    let inside = |byte: u8| matches!(byte, b'a'..=b'z' | b'0'..=b'9' | b'.' | b'-' | b'_');
    !text.is_empty() && text.len() <= 255 && text.bytes().all(inside)
}

#[cfg(test)]
mod tests {
    use landfall_policy::testing;

    use crate::BridgePresets;

    /// The problems with the settings, one a line; empty when there are none.
    fn problems(json: &str) -> String {
        testing::configure::<BridgePresets>(json).err().unwrap_or_default()
    }

    #[test]
    fn mistakes_are_reported_at_their_places() {
        for (json, want) in [
            (r#"{}"#, ": missing field `preset`"),
            (
                r#"{"preset": "consul"}"#,
                "/preset: unknown variant `consul`, expected one of `registry-sync`, `consul2istio`, `eureka2istio`, `istio-consul`",
            ),
            (
                r#"{"preset": "registry-sync", "fqdn": "a.b"}"#,
                "/fqdn: is an option of consul2istio; those of registry-sync are namespace, address, numberedPorts",
            ),
            (
                r#"{"preset": "eureka2istio", "numberedPorts": false}"#,
                "/numberedPorts: is an option of registry-sync and istio-consul; those of eureka2istio are namespace, objectLabels",
            ),
            (
                r#"{"preset": "consul2istio", "namespace": "a.b", "fqdn": ".service.consul"}"#,
                "/namespace: \"a.b\" is not a namespace\n\
                 /fqdn: \".service.consul\" is not a domain in lower case; it has no dot before it",
            ),
            (
                r#"{"preset": "istio-consul", "trustDomain": "spiffe://a"}"#,
                "/trustDomain: \"spiffe://a\" is not a trust domain",
            ),
        ] {
            assert_eq!(problems(json), want, "{json}");
        }
        let unknown = problems(r#"{"preset": "consul2istio", "enableDefaultport": true}"#);
        assert!(unknown.starts_with("/enableDefaultport: unknown field"), "{unknown}");
    }

    #[test]
    fn every_bridge_takes_its_options() {
        for json in [
            r#"{"preset": "registry-sync", "namespace": "a", "address": "node", "numberedPorts": true}"#,
            r#"{"preset": "consul2istio", "fqdn": "", "enableDefaultPort": true, "objectLabels": true}"#,
            r#"{"preset": "eureka2istio", "namespace": "a", "objectLabels": false}"#,
            r#"{"preset": "istio-consul", "defaultProtocol": "http", "numberedPorts": true, "trustDomain": "a.b"}"#,
        ] {
            assert_eq!(problems(json), "", "{json}");
        }
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
