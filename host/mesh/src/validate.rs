//! What the API server and istiod would refuse, so that it is never sent.
//!
//! Three validators at once: Kubernetes' rules for metadata, the schema and CEL rules of Istio's
//! CRDs (since 1.24), and istiod's own (`pkg/config/validation`), which alone judges what comes
//! by files and MCP. Where they differ the strictest holds. Warnings of istiod are no violations.

use std::collections::BTreeSet;
use std::fmt;
use std::net::IpAddr;

use landfall_core::mapping::{
    LABELS_MAX, LOCALITY_LEN_MAX, NETWORK_LEN_MAX, PORTS_MAX, Protocol, SERVICE_ACCOUNT_LEN_MAX,
};
use landfall_core::mesh::Kind;
use landfall_core::pairs::Pairs;
use landfall_core::text::Text;

use crate::api::{
    self, Body, EndpointAddress, Endpoints, MeshObject, Resolution, ServiceEntry, ServicePort,
    Spec, WorkloadEntry,
};

/// Something in an object that would be refused.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Violation {
    /// Which rule.
    pub rule: Rule,
    /// Where in the object.
    pub field: String,
    /// What is wrong, for a person.
    pub message: String,
}

/// The closed set of rules.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Rule {
    /// Name and namespace of the object.
    Name,
    /// Labels of the object or of an endpoint.
    Labels,
    /// Annotations of the object.
    Annotations,
    /// Host names.
    Hosts,
    /// Virtual addresses.
    Addresses,
    /// Ports of the service.
    Ports,
    /// What the resolution demands of hosts, addresses, ports and endpoints.
    Resolution,
    /// Single endpoints.
    Endpoints,
    /// The selector.
    Selector,
    /// To whom it is visible.
    ExportTo,
    /// The object as a whole is too large.
    Size,
}

pub use crate::api::{ENDPOINTS_MAX, FRAME_LEN_MAX, LIST_LEN_MAX, OBJECT_LEN_MAX};

/// Most characters of a virtual address: the CRD's limit.
pub const VIRTUAL_ADDRESS_LEN_MAX: usize = 64;

/// With these annotations istiod refuses a ServiceEntry or WorkloadEntry, whatever their value
/// (`validateMetadata` in `pkg/config/validation` of Istio 1.32-dev).
pub(crate) const REFUSED_ANNOTATIONS: [&str; 4] = [
    "istio.io/dry-run",
    "internal.istio.io/parent-namespace",
    "internal.istio.io/parents",
    "internal.istio.io/webhook-always-reject",
];

// Violations of one object that are told; more would not help anybody.
const VIOLATIONS_MAX: usize = 16;
// Kubernetes: names, namespaces and the parts of label keys and values.
const SUBDOMAIN_LEN_MAX: usize = 253;
const LABEL_LEN_MAX: usize = 63;
// Kubernetes: all keys and values together (`TotalAnnotationSizeLimitB`).
const ANNOTATIONS_LEN_MAX: usize = 256 << 10;
// The webhook's limit for a domain name, and the CRD's limits for the rest, as far as a mapping
// does not keep to them already.
const DOMAIN_LEN_MAX: usize = 255;
const ADDRESS_LEN_MAX: usize = 256;
const PORT_KEY_LEN_MAX: usize = 62;

/// Checks `object` against all rules.
///
/// # Errors
/// The violations, at most 16 of them.
pub fn validate(object: &MeshObject) -> Result<(), Vec<Violation>> {
    let mut check = Check::default();
    metadata(object, &mut check);
    match (&object.body.spec, object.id.kind) {
        (Spec::ServiceEntry(spec), Kind::ServiceEntry) => {
            service_entry(&object.id.namespace, &object.body, spec, &mut check);
        }
        (Spec::WorkloadEntry(spec), Kind::WorkloadEntry) => {
            let mut last = None;
            endpoint(spec, None, true, "spec", &mut last, &mut check);
        }
        (Spec::ServiceEntry(_) | Spec::WorkloadEntry(_), _) => {
            check.fail(Rule::Name, "kind", "the identifier names another kind than the body has");
        }
    }
    let len = api::json_len(&object.body) + FRAME_LEN_MAX;
    if len > OBJECT_LEN_MAX {
        check.fail(
            Rule::Size,
            "spec",
            format_args!("it is {len} bytes as JSON; at most {OBJECT_LEN_MAX} fit into etcd"),
        );
    }
    if check.violations.is_empty() { Ok(()) } else { Err(check.violations) }
}

#[derive(Default)]
struct Check {
    violations: Vec<Violation>,
}

fn metadata(object: &MeshObject, check: &mut Check) {
    if !is_subdomain(&object.id.name) {
        check.fail(
            Rule::Name,
            "metadata.name",
            "it is not a lower-case DNS subdomain of at most 253 characters",
        );
    }
    if !is_dns_label(&object.id.namespace) || has_upper(&object.id.namespace) {
        check.fail(Rule::Name, "metadata.namespace", "it is not a lower-case DNS label");
    }
    labels(&object.body.labels, "metadata.labels", check);
    let mut len = 0;
    for (key, value) in object.body.annotations.iter() {
        len += key.len() + value.len();
        if !is_label_key(key) {
            check.fail(
                Rule::Annotations,
                "metadata.annotations",
                format_args!("key {key:?} is not legal"),
            );
        }
        if REFUSED_ANNOTATIONS.contains(&&**key) {
            check.fail(
                Rule::Annotations,
                "metadata.annotations",
                format_args!("Istio refuses whatever has the key {key:?}"),
            );
        }
    }
    if len > ANNOTATIONS_LEN_MAX {
        check.fail(
            Rule::Annotations,
            "metadata.annotations",
            format_args!("they are {len} bytes; at most {ANNOTATIONS_LEN_MAX} fit"),
        );
    }
}

fn service_entry(namespace: &str, body: &Body, spec: &ServiceEntry, check: &mut Check) {
    hosts(&spec.hosts, check);
    addresses(spec, check);
    ports(&spec.ports, check);
    let inline: &[WorkloadEntry] = match &spec.endpoints {
        Endpoints::Inline(list) => list,
        Endpoints::Selected(labels) => {
            selector(labels, check);
            &[]
        }
    };
    if inline.len() > ENDPOINTS_MAX {
        check.fail(
            Rule::Endpoints,
            "spec.endpoints",
            format_args!("there are {}; at most {ENDPOINTS_MAX} fit inline", inline.len()),
        );
    }
    let takes_names = !matches!(spec.resolution, Resolution::Static);
    let mut last_labels = None;
    for (index, item) in inline.iter().enumerate() {
        let field = Indexed("spec.endpoints", index);
        endpoint(item, Some(&spec.ports), takes_names, field, &mut last_labels, check);
    }
    resolution(body, spec, inline, check);
    export_to(namespace, &spec.export_to, check);
}

fn hosts(hosts: &[Text], check: &mut Check) {
    if hosts.is_empty() || hosts.len() > LIST_LEN_MAX {
        check.fail(
            Rule::Hosts,
            "spec.hosts",
            format_args!("there are {}; there must be 1 to {LIST_LEN_MAX}", hosts.len()),
        );
    }
    for (index, host) in hosts.iter().enumerate() {
        if !is_service_host(host) {
            check.fail(
                Rule::Hosts,
                Indexed("spec.hosts", index),
                format_args!("{host:?} is not a legal host name"),
            );
        }
    }
}

fn addresses(spec: &ServiceEntry, check: &mut Check) {
    if spec.addresses.len() > LIST_LEN_MAX {
        check.fail(
            Rule::Addresses,
            "spec.addresses",
            format_args!("there are {}; at most {LIST_LEN_MAX} fit", spec.addresses.len()),
        );
    }
    let takes_blocks = matches!(spec.resolution, Resolution::None | Resolution::Static);
    for (index, address) in spec.addresses.iter().enumerate() {
        let field = Indexed("spec.addresses", index);
        if address.chars().count() > VIRTUAL_ADDRESS_LEN_MAX || !is_ip_or_block(address) {
            check.fail(
                Rule::Addresses,
                field,
                format_args!("{address:?} is not an IP address or CIDR block"),
            );
        } else if address.contains('/') && !takes_blocks {
            check.fail(
                Rule::Addresses,
                field,
                "CIDR blocks are taken with resolution NONE or STATIC only",
            );
        }
    }
}

fn ports(ports: &[ServicePort], check: &mut Check) {
    if ports.len() > LIST_LEN_MAX {
        check.fail(
            Rule::Ports,
            "spec.ports",
            format_args!("there are {}; at most {LIST_LEN_MAX} fit", ports.len()),
        );
    }
    let (mut names, mut numbers) = (BTreeSet::new(), BTreeSet::new());
    for (index, port) in ports.iter().enumerate() {
        let field = Indexed("spec.ports", index);
        if !is_dns_label(&port.name) {
            check.fail(Rule::Ports, field, format_args!("name {:?} is not a DNS label", port.name));
        }
        if !names.insert(&port.name) {
            check.fail(Rule::Ports, field, format_args!("name {} is there twice", port.name));
        }
        if !numbers.insert(port.number) {
            check.fail(Rule::Ports, field, format_args!("number {} is there twice", port.number));
        }
        if !is_port(port.number) || (port.target_port != 0 && !is_port(port.target_port)) {
            check.fail(Rule::Ports, field, "numbers must be 1 to 65535");
        }
        if Protocol::parse(&port.protocol).is_none() {
            check.fail(
                Rule::Ports,
                field,
                format_args!("Istio does not know protocol {:?}", port.protocol),
            );
        }
    }
}

fn selector(labels: &Pairs, check: &mut Check) {
    let field = "spec.workloadSelector.labels";
    if labels.is_empty() {
        check.fail(Rule::Selector, field, "there are none, so nothing would be selected");
    }
    if labels.len() > LABELS_MAX {
        check.fail(
            Rule::Selector,
            field,
            format_args!("there are {}; at most {LABELS_MAX} fit", labels.len()),
        );
    }
    for (key, value) in labels.iter() {
        if key.is_empty()
            || key.contains('*')
            || value.contains('*')
            || value.chars().count() > LABEL_LEN_MAX
        {
            check.fail(Rule::Selector, field, format_args!("{key}={value} is not legal"));
        }
    }
}

/// `last_labels` are those of the endpoint before, which mostly are the very same.
fn endpoint<'a>(
    endpoint: &'a WorkloadEntry,
    ports: Option<&[ServicePort]>,
    takes_names: bool,
    field: impl fmt::Display + Copy,
    last_labels: &mut Option<&'a Pairs>,
    check: &mut Check,
) {
    let mut fail = |message: &dyn fmt::Display| check.fail(Rule::Endpoints, field, message);
    // What is resolved by DNS is an IP address or a name, and nothing else.
    let resolved = ports.is_some() && takes_names;
    match &endpoint.address {
        EndpointAddress::Ip(_) => (),
        EndpointAddress::Other(text) if text.is_empty() => {
            if resolved {
                fail(&"it has no address that could be resolved");
            } else if endpoint.network.is_empty() {
                fail(&"it has neither address nor network");
            }
        }
        EndpointAddress::Other(text) => {
            if text.chars().count() > ADDRESS_LEN_MAX {
                fail(&format_args!("the address has more than {ADDRESS_LEN_MAX} characters"));
            } else if let Some(path) = text.strip_prefix("unix://") {
                let absolute = path.starts_with('/') || path.starts_with('@');
                if resolved {
                    fail(&"a socket cannot be resolved; it needs resolution STATIC");
                } else if !absolute || path.ends_with('/') {
                    fail(&format_args!("{text:?} is not the path of a socket"));
                }
                if !endpoint.ports.is_empty() || ports.is_some_and(|ports| ports.len() != 1) {
                    fail(&"a socket has no ports, and its service exactly one");
                }
            } else if text.parse::<IpAddr>().is_err() && !(takes_names && is_fqdn(text)) {
                fail(&format_args!("{text:?} is not an address that the resolution takes"));
            }
        }
    }
    if endpoint.ports.len() > PORTS_MAX {
        fail(&format_args!("it has {} ports; at most {PORTS_MAX} fit", endpoint.ports.len()));
    }
    for (name, number) in &endpoint.ports {
        if !is_dns_label(name) || name.len() > PORT_KEY_LEN_MAX {
            fail(&format_args!(
                "port name {name:?} is not a DNS label of at most {PORT_KEY_LEN_MAX} characters"
            ));
        }
        if !is_port(*number) {
            fail(&format_args!("port {name} is {number}; it must be 1 to 65535"));
        }
        if ports.is_some_and(|ports| !ports.iter().any(|port| port.name == *name)) {
            fail(&format_args!("port {name} is not one of the service"));
        }
    }
    for (what, text, max) in [
        ("network", &endpoint.network, NETWORK_LEN_MAX),
        ("locality", &endpoint.locality, LOCALITY_LEN_MAX),
        ("service account", &endpoint.service_account, SERVICE_ACCOUNT_LEN_MAX),
    ] {
        if text.len() > max && text.chars().count() > max {
            fail(&format_args!("its {what} has more than {max} characters"));
        }
    }
    if !last_labels
        .is_some_and(|last| last.as_slice().as_ptr() == endpoint.labels.as_slice().as_ptr())
    {
        labels(&endpoint.labels, field, check);
        if endpoint.labels.len() > LABELS_MAX {
            check.fail(
                Rule::Labels,
                field,
                format_args!("it has {} labels; at most {LABELS_MAX} fit", endpoint.labels.len()),
            );
        }
        *last_labels = Some(&endpoint.labels);
    }
}

fn resolution(body: &Body, spec: &ServiceEntry, inline: &[WorkloadEntry], check: &mut Check) {
    let mut fail =
        |message: &dyn fmt::Display| check.fail(Rule::Resolution, "spec.resolution", message);
    let is_selected = matches!(spec.endpoints, Endpoints::Selected(_));
    let protocols = || spec.ports.iter().filter_map(|port| Protocol::parse(&port.protocol));
    match spec.resolution {
        Resolution::None if !inline.is_empty() => fail(&"NONE takes no endpoints"),
        // A warning only, but then nothing is selected.
        Resolution::None if is_selected => fail(&"NONE takes no selector"),
        Resolution::None | Resolution::Static => (),
        Resolution::Dns | Resolution::DnsRoundRobin => {
            if inline.is_empty() && !spec.hosts.iter().all(|host| is_fqdn(host)) {
                fail(&"DNS without inline endpoints takes no wildcard among the hosts");
            }
            if spec.resolution == Resolution::DnsRoundRobin && inline.len() > 1 {
                fail(&"DNS_ROUND_ROBIN takes one endpoint at most");
            }
        }
        Resolution::DynamicDns => {
            if !spec.hosts.iter().all(|host| host.starts_with('*')) {
                fail(&"DYNAMIC_DNS takes wildcard hosts only");
            }
            if !spec.addresses.is_empty() || !inline.is_empty() {
                fail(&"DYNAMIC_DNS takes neither addresses nor endpoints");
            }
            if !protocols().all(|p| {
                matches!(p, Protocol::Http | Protocol::Http2 | Protocol::Grpc | Protocol::Tls)
            }) {
                fail(&"DYNAMIC_DNS takes protocols HTTP, HTTP2, GRPC and TLS only");
            }
            let waypoint = body.labels.get("istio.io/use-waypoint");
            let waypoint =
                waypoint.is_some_and(|w| !w.is_empty() && !w.eq_ignore_ascii_case("none"));
            if waypoint && spec.location == api::Location::MeshInternal {
                fail(&"DYNAMIC_DNS within the mesh takes no waypoint");
            }
        }
    }
    let told_apart = protocols().all(|p| p.is_http() || p.is_tls());
    if spec.resolution != Resolution::None && spec.hosts.len() > 1 && !told_apart {
        fail(
            &"several hosts need ports of HTTP or TLS only, for other protocols do not name the host",
        );
    }
}

fn export_to(namespace: &str, list: &[Text], check: &mut Check) {
    let mut seen = BTreeSet::new();
    for entry in list {
        let key = if &**entry == "." { namespace } else { &**entry };
        if !seen.insert(key) {
            check.fail(Rule::ExportTo, "spec.exportTo", format_args!("{entry} is there twice"));
        }
        if !matches!(key, "*" | "~") && !is_dns_label(key) {
            check.fail(
                Rule::ExportTo,
                "spec.exportTo",
                format_args!("{entry:?} is not a namespace"),
            );
        }
    }
    if list.len() > 1 && (seen.contains("*") || seen.contains("~")) {
        check.fail(Rule::ExportTo, "spec.exportTo", "* and ~ must stand alone");
    }
}

fn labels(labels: &Pairs, field: impl fmt::Display + Copy, check: &mut Check) {
    for (key, value) in labels.iter() {
        if !is_label_key(key) || !(value.is_empty() || is_label_word(value)) {
            check.fail(Rule::Labels, field, format_args!("label {key:?}: {value:?} is not legal"));
        }
    }
}

// === words ===

/// Whether `host` may stand in `spec.hosts`.
pub(crate) fn is_service_host(host: &str) -> bool {
    if host == "*" || host.is_empty() || host.len() > DOMAIN_LEN_MAX {
        return false;
    }
    let (first, rest) = match host.split_once('.') {
        Some((first, rest)) => (first, Some(rest)),
        None => (host, None),
    };
    let bare = first.strip_prefix("*-").or_else(|| first.strip_prefix('*')).unwrap_or(first);
    first.len() <= LABEL_LEN_MAX
        && (first == "*" || is_dns_label(bare))
        && rest.is_none_or(are_dns_labels)
}

fn is_fqdn(name: &str) -> bool {
    !name.is_empty() && name.len() <= DOMAIN_LEN_MAX && are_dns_labels(name)
}

/// Labels with dots between, the last of them empty or not a number.
fn are_dns_labels(name: &str) -> bool {
    let (rest, last) =
        name.rsplit_once('.').map_or((None, name), |(rest, last)| (Some(rest), last));
    let number = !last.is_empty() && last.bytes().all(|b| b.is_ascii_digit());
    let last_fits =
        if rest.is_some() { last.is_empty() || is_dns_label(last) } else { is_dns_label(last) };
    !number && last_fits && rest.is_none_or(|rest| rest.split('.').all(is_dns_label))
}

fn is_dns_label(label: &str) -> bool {
    let ends = |b: Option<&u8>| b.is_some_and(u8::is_ascii_alphanumeric);
    let bytes = label.as_bytes();
    bytes.len() <= LABEL_LEN_MAX
        && ends(bytes.first())
        && ends(bytes.last())
        && bytes.iter().all(|b| b.is_ascii_alphanumeric() || *b == b'-')
}

fn has_upper(text: &str) -> bool {
    text.bytes().any(|b| b.is_ascii_uppercase())
}

fn is_subdomain(name: &str) -> bool {
    let is_part = |part: &str| {
        let bytes = part.as_bytes();
        let ends = |b: Option<&u8>| b.is_some_and(u8::is_ascii_alphanumeric);
        ends(bytes.first())
            && ends(bytes.last())
            && bytes.iter().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || *b == b'-')
    };
    name.len() <= SUBDOMAIN_LEN_MAX && name.split('.').all(is_part)
}

/// Whether `key` is a legal key of a label or an annotation.
pub(crate) fn is_label_key(key: &str) -> bool {
    match key.split_once('/') {
        Some((prefix, name)) => is_subdomain(prefix) && is_label_word(name),
        None => is_label_word(key),
    }
}

fn is_label_word(word: &str) -> bool {
    let ends = |b: Option<&u8>| b.is_some_and(u8::is_ascii_alphanumeric);
    let bytes = word.as_bytes();
    bytes.len() <= LABEL_LEN_MAX
        && ends(bytes.first())
        && ends(bytes.last())
        && bytes.iter().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_' | b'.'))
}

/// Whether `text` is an IP address, or a block as `10.0.0.0/8`.
pub(crate) fn is_ip_or_block(text: &str) -> bool {
    let Some((ip, bits)) = text.split_once('/') else { return text.parse::<IpAddr>().is_ok() };
    let most = match ip.parse::<IpAddr>() {
        Ok(IpAddr::V4(_)) => 32,
        Ok(IpAddr::V6(_)) => 128,
        Err(_) => return false,
    };
    // Go takes no sign and no leading zero.
    bits.parse::<u8>().is_ok_and(|n| n <= most && n.to_string() == bits)
}

const fn is_port(number: u32) -> bool {
    0 < number && number <= 65535
}

// === impl Check ===

impl Check {
    fn fail(&mut self, rule: Rule, field: impl fmt::Display, message: impl fmt::Display) {
        if self.violations.len() < VIOLATIONS_MAX {
            let (field, message) = (field.to_string(), message.to_string());
            self.violations.push(Violation { rule, field, message });
        }
    }
}

// === impl Rule ===

impl Rule {
    /// The word for logs, metrics and documentation.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Name => "name",
            Self::Labels => "labels",
            Self::Annotations => "annotations",
            Self::Hosts => "hosts",
            Self::Addresses => "addresses",
            Self::Ports => "ports",
            Self::Resolution => "resolution",
            Self::Endpoints => "endpoints",
            Self::Selector => "selector",
            Self::ExportTo => "export_to",
            Self::Size => "size",
        }
    }
}

impl fmt::Display for Violation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.field, self.message)
    }
}

/// A list's name with an index, as `spec.hosts[1]`; printed only when something is wrong.
#[derive(Clone, Copy)]
struct Indexed(&'static str, usize);

impl fmt::Display for Indexed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}[{}]", self.0, self.1)
    }
}

#[cfg(test)]
mod tests;
