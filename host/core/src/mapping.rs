//! Where an instance is published, and how policies change that.

use std::fmt;
use std::net::IpAddr;
use std::num::NonZeroU16;
use std::sync::Arc;

use crate::finding::{Finding, FindingCode};
use crate::name::{self, Hostname, Legal, NameError, Namespace, PortName};
use crate::pairs::Pairs;
use crate::registry::Locality;
use crate::text::{Interner, Text};

/// How an instance is published. Legal by construction: nothing in it is refused by Istio.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Mapping {
    /// The host name that clients use.
    pub host: Hostname,
    /// The Kubernetes namespace of the resources.
    pub namespace: Namespace,
    /// Where the instance is; `None` when the registry has no usable address, which only a policy
    /// can mend.
    pub address: Option<Address>,
    /// In the order of their names, which are unique. Empty when the registry has no port, which
    /// only a policy can mend.
    pub ports: Arc<[Port]>,
    /// The endpoint's labels.
    pub labels: Pairs,
    /// Where the instance runs.
    pub locality: Option<Locality>,
    /// Its share of traffic; 1 to 65535.
    pub weight: NonZeroU16,
    /// The Istio network it is in; empty for the mesh's own.
    pub network: Text,
    /// The Kubernetes service account it runs as; set it only where a sidecar runs, for clients
    /// then speak mutual TLS to it. May be empty.
    pub service_account: Text,
}

/// Where an instance can be reached.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Address {
    /// An IP address.
    Ip(IpAddr),
    /// A DNS name, to be resolved by each proxy.
    Dns(Hostname),
}

/// One port of a service, and where the instance listens for it.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Port {
    /// What joins the ports of instances.
    pub name: PortName,
    /// The number that clients dial.
    pub number: NonZeroU16,
    /// The number that the instance listens on.
    pub target: NonZeroU16,
    /// What is spoken there.
    pub protocol: Protocol,
}

/// The protocols that Istio knows for a ServiceEntry (`pkg/config/protocol/instance.go`).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Protocol {
    /// Istio detects HTTP by itself.
    #[default]
    Auto,
    /// Plain bytes.
    Tcp,
    /// Accepted by Istio but not proxied.
    Udp,
    /// gRPC over HTTP/2.
    Grpc,
    /// gRPC for browsers.
    GrpcWeb,
    /// HTTP/1.1.
    Http,
    /// HTTP proxying.
    HttpProxy,
    /// HTTP/2 in the clear.
    Http2,
    /// TLS with HTTP in it, routed by SNI.
    Https,
    /// TLS, routed by SNI.
    Tls,
    /// MongoDB.
    Mongo,
    /// Redis.
    Redis,
    /// MySQL.
    Mysql,
}

/// What a policy says of an instance.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// Publish with the mapping so far.
    Keep,
    /// Do not publish, for this reason: a short constant phrase.
    Drop(Text),
    /// Publish with these changes.
    Edit(Vec<Edit>),
    /// Publish once per list of changes.
    Split(Vec<Vec<Edit>>),
}

/// One change to a mapping, as a policy writes it: nothing in it is checked yet.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Edit {
    /// The host name.
    Host(String),
    /// The Kubernetes namespace.
    Namespace(String),
    /// An IP address or a DNS name.
    Address(String),
    /// All ports anew.
    Ports(Vec<PortEdit>),
    /// Sets a label.
    Label(String, String),
    /// Takes a label away.
    RemoveLabel(String),
    /// Where it runs.
    Locality(Locality),
    /// 1 to 65535.
    Weight(u32),
    /// The Istio network.
    Network(String),
    /// The service account.
    ServiceAccount(String),
}

/// A port as a policy writes it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PortEdit {
    /// What joins the ports of instances.
    pub name: String,
    /// The number that clients dial; 1 to 65535.
    pub number: u16,
    /// The number that the instance listens on; 1 to 65535.
    pub target: u16,
    /// One of Istio's protocols, in any case, or empty.
    pub protocol: String,
}

/// A change that cannot be made. The instance keeps its last good mapping.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum EditError {
    /// Not an IP address and not a DNS name.
    #[error("the verdict sets an address that is neither an IP address nor a DNS name")]
    Address(#[source] NameError),
    /// Out of range.
    #[error("the verdict sets weight {0}; a weight is 1 to 65535")]
    Weight(u32),
    /// Out of range.
    #[error("the verdict sets number or target of port {0:?} to 0; a port is 1 to 65535")]
    PortNumber(String),
    /// Unknown to Istio.
    #[error(
        "the verdict sets protocol {0:?}, which Istio does not know; see Protocol in the contract"
    )]
    Protocol(String),
    /// Istio's CRD takes 256 ports, and an endpoint 128.
    #[error("the verdict sets {0} ports; at most {PORTS_MAX} fit an endpoint")]
    TooManyPorts(usize),
    /// Istio's CRD takes 256 labels.
    #[error("the verdict sets {0} labels; at most {LABELS_MAX} fit an endpoint")]
    TooManyLabels(usize),
    /// Beyond what the CRD takes.
    #[error("the verdict sets a {what} of {len} characters; at most {max} fit")]
    TooLong {
        /// Which field.
        what: &'static str,
        /// How long it is.
        len: usize,
        /// How long it may be.
        max: usize,
    },
}

/// Most ports of an instance: the CRD's limit for `endpoints[].ports`.
pub const PORTS_MAX: usize = 128;
/// Most labels of an endpoint: the CRD's limit.
pub const LABELS_MAX: usize = 256;
/// Most characters of a network: the CRD's limit.
pub const NETWORK_LEN_MAX: usize = 2048;
/// Most characters of a service account: the CRD's limit.
pub const SERVICE_ACCOUNT_LEN_MAX: usize = 253;
/// Most characters of a locality: the CRD's limit.
pub const LOCALITY_LEN_MAX: usize = 2048;
/// What keeps an instance from being published that has no port.
pub const NO_PORT: &str = "no port";

impl Mapping {
    /// This mapping with `edits` made in order. Names that Istio would refuse are altered, and
    /// `findings` says so; `subject` is whom they are about.
    ///
    /// # Errors
    /// What has no legal form: numbers out of range, unknown protocols, addresses that are none.
    pub fn edited(
        &self,
        edits: &[Edit],
        subject: &dyn fmt::Display,
        interner: &mut Interner,
        findings: &mut Vec<Finding>,
    ) -> Result<Self, EditError> {
        let mut new = self.clone();
        let mut labels: Option<Vec<(Text, Text)>> = None;
        for edit in edits {
            match edit {
                Edit::Host(raw) => {
                    if raw != new.host.as_str() {
                        let legal = Hostname::legalize(raw);
                        note_altered("host", raw, &legal, subject, findings);
                        new.host = legal.name;
                    }
                }
                Edit::Namespace(raw) => {
                    let legal = Namespace::legalize(raw);
                    note_altered("namespace", raw, &legal, subject, findings);
                    new.namespace = legal.name;
                }
                Edit::Address(raw) => {
                    new.address = Some(Address::parse(raw).map_err(EditError::Address)?);
                }
                Edit::Ports(ports) => new.ports = edited_ports(ports, subject, findings)?,
                Edit::Label(raw_key, raw_value) => {
                    let key = name::label_key(raw_key);
                    note_altered("label key", raw_key, &key, subject, findings);
                    let value = name::label_value(raw_value);
                    note_altered("label value", raw_value, &value, subject, findings);
                    let pair = (interner.text(&key.name), interner.text(&value.name));
                    labels.get_or_insert_with(|| new.labels.as_slice().to_vec()).push(pair);
                }
                Edit::RemoveLabel(key) => {
                    labels
                        .get_or_insert_with(|| new.labels.as_slice().to_vec())
                        .retain(|(k, _)| **k != **key);
                }
                Edit::Locality(locality) => {
                    let len =
                        locality.region.len() + locality.zone.len() + locality.subzone.len() + 2;
                    check_len("locality", len, LOCALITY_LEN_MAX)?;
                    new.locality = Some(locality.clone());
                }
                Edit::Weight(weight) => {
                    new.weight = u16::try_from(*weight)
                        .ok()
                        .and_then(NonZeroU16::new)
                        .ok_or(EditError::Weight(*weight))?;
                }
                Edit::Network(network) => {
                    check_len("network", network.len(), NETWORK_LEN_MAX)?;
                    new.network = interner.text(network);
                }
                Edit::ServiceAccount(account) => {
                    check_len("service account", account.len(), SERVICE_ACCOUNT_LEN_MAX)?;
                    new.service_account = interner.text(account);
                }
            }
        }
        if let Some(labels) = labels {
            new.labels = labels.into_iter().collect();
            if new.labels.len() > LABELS_MAX {
                return Err(EditError::TooManyLabels(new.labels.len()));
            }
        }
        Ok(new)
    }

    /// Why Istio has no way to publish this, if so.
    #[must_use]
    pub fn obstacle(&self) -> Option<&'static str> {
        match (&self.address, self.ports.is_empty()) {
            (None, _) => Some("no usable address"),
            (Some(_), true) => Some(NO_PORT),
            (Some(_), false) => None,
        }
    }
}

fn edited_ports(
    ports: &[PortEdit],
    subject: &dyn fmt::Display,
    findings: &mut Vec<Finding>,
) -> Result<Arc<[Port]>, EditError> {
    if ports.len() > PORTS_MAX {
        return Err(EditError::TooManyPorts(ports.len()));
    }
    let mut legal_ports = Vec::with_capacity(ports.len());
    for port in ports {
        let name = PortName::legalize(&port.name);
        note_altered("port name", &port.name, &name, subject, findings);
        let bad_number = || EditError::PortNumber(port.name.clone());
        legal_ports.push(Port {
            name: name.name,
            number: NonZeroU16::new(port.number).ok_or_else(bad_number)?,
            target: NonZeroU16::new(port.target).ok_or_else(bad_number)?,
            protocol: Protocol::parse(&port.protocol)
                .ok_or_else(|| EditError::Protocol(port.protocol.clone()))?,
        });
    }
    Ok(ports_by_name(legal_ports, subject, findings))
}

/// Ports in the order of their names. Of several with one name the lowest is kept, and a finding
/// says so.
pub fn ports_by_name(
    mut ports: Vec<Port>,
    subject: &dyn fmt::Display,
    findings: &mut Vec<Finding>,
) -> Arc<[Port]> {
    ports.sort();
    ports.dedup_by(|next, kept| {
        let same = next.name == kept.name;
        if same && next != kept {
            findings.push(Finding::new(
                FindingCode::PortConflict,
                subject,
                format!(
                    "two ports are named {}; kept {}, left out {}. Name each port differently",
                    kept.name, kept.target, next.target
                ),
            ));
        }
        same
    });
    ports.into()
}

/// Records that `raw` had to be altered.
pub fn note_altered<N: fmt::Debug>(
    what: &str,
    raw: &str,
    legal: &Legal<N>,
    subject: &dyn fmt::Display,
    findings: &mut Vec<Finding>,
) {
    if legal.altered {
        let shown: String = raw.chars().take(80).collect();
        findings.push(Finding::new(
            FindingCode::NameAltered,
            subject,
            format!("{what} {shown:?} is not legal for Kubernetes and Istio and was altered"),
        ));
    }
}

/// Why no endpoint can be at `ip`, if so.
fn unreachable(ip: IpAddr) -> Option<&'static str> {
    if ip.is_unspecified() {
        return Some("it is the unspecified address");
    }
    if ip.is_multicast() {
        return Some("it is a multicast address");
    }
    match ip {
        IpAddr::V4(ip) => ip.is_broadcast().then_some("it is the broadcast address"),
        // Of no use without the interface, which Istio has no place for.
        IpAddr::V6(ip) => ip.is_unicast_link_local().then_some("it is a link-local address"),
    }
}

fn check_len(what: &'static str, len: usize, max: usize) -> Result<(), EditError> {
    if len > max { Err(EditError::TooLong { what, len, max }) } else { Ok(()) }
}

// === impl Address ===

impl Address {
    /// Takes an IP address (brackets of IPv6 are removed) or a DNS name without wildcard. An IPv4
    /// address that is written as one of IPv6 becomes one of IPv4 again.
    ///
    /// Loopback and the link-local addresses of IPv4 are taken, though they lead every proxy to
    /// its own machine: that is how an agent on each node is published.
    ///
    /// # Errors
    /// Says why it is neither, also for addresses at which nobody can listen for others.
    pub fn parse(raw: &str) -> Result<Self, NameError> {
        let problem =
            |problem| NameError { what: "address", name: raw.chars().take(300).collect(), problem };
        let bare = raw.strip_prefix('[').and_then(|r| r.strip_suffix(']')).unwrap_or(raw);
        if let Ok(ip) = bare.parse::<IpAddr>() {
            let ip = ip.to_canonical();
            return match unreachable(ip) {
                Some(why) => Err(problem(why)),
                None => Ok(Self::Ip(ip)),
            };
        }
        let host = Hostname::parse(raw).map_err(|e| NameError { what: "address", ..e })?;
        if host.is_wildcard() {
            return Err(problem("it is a wildcard"));
        }
        Ok(Self::Dns(host))
    }
}

impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Ip(ip) => ip.fmt(f),
            Self::Dns(host) => host.fmt(f),
        }
    }
}

// === impl Protocol ===

impl Protocol {
    /// All of them.
    pub const ALL: [Self; 13] = [
        Self::Auto,
        Self::Tcp,
        Self::Udp,
        Self::Grpc,
        Self::GrpcWeb,
        Self::Http,
        Self::HttpProxy,
        Self::Http2,
        Self::Https,
        Self::Tls,
        Self::Mongo,
        Self::Redis,
        Self::Mysql,
    ];

    /// As Istio spells it; empty for [`Protocol::Auto`].
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Auto => "",
            Self::Tcp => "TCP",
            Self::Udp => "UDP",
            Self::Grpc => "GRPC",
            Self::GrpcWeb => "GRPC-Web",
            Self::Http => "HTTP",
            Self::HttpProxy => "HTTP_PROXY",
            Self::Http2 => "HTTP2",
            Self::Https => "HTTPS",
            Self::Tls => "TLS",
            Self::Mongo => "Mongo",
            Self::Redis => "Redis",
            Self::Mysql => "MySQL",
        }
    }

    /// The protocol that `word` names, in any case.
    #[must_use]
    pub fn parse(word: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|protocol| protocol.as_str().eq_ignore_ascii_case(word))
    }

    /// Whether requests are told apart by their host header.
    #[must_use]
    pub const fn is_http(self) -> bool {
        matches!(self, Self::Http | Self::Http2 | Self::HttpProxy | Self::Grpc | Self::GrpcWeb)
    }

    /// Whether connections are told apart by SNI.
    #[must_use]
    pub const fn is_tls(self) -> bool {
        matches!(self, Self::Https | Self::Tls)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_that_lead_nowhere_are_refused() {
        let parsed = |raw: &str| Address::parse(raw).map(|address| address.to_string()).ok();
        for raw in ["0.0.0.0", "224.0.0.1", "239.1.2.3", "255.255.255.255", "::", "ff02::1"] {
            assert_eq!(parsed(raw), None, "{raw}");
        }
        for raw in ["fe80::1", "fe80::1%eth0", "::ffff:0.0.0.0", "[::ffff:224.0.0.1]"] {
            assert_eq!(parsed(raw), None, "{raw}");
        }
        for raw in ["127.0.0.1", "169.254.169.254", "::1", "240.0.0.1", "fd00::1", "10.0.0.1"] {
            assert_eq!(parsed(raw).as_deref(), Some(raw));
        }
        // One endpoint is at one address, however a registry writes it.
        assert_eq!(parsed("[::ffff:10.0.0.1]").as_deref(), Some("10.0.0.1"));
    }
}
