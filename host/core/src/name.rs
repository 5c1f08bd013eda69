//! Names that Kubernetes, Istio and DNS accept.
//!
//! Names in registries are free text. Each `parse` here is strict; each `legalize` is total: it
//! returns the name itself where that is legal, and otherwise an altered one that is stable,
//! carries a digest of the original (so two names never become one) and is flagged as altered.

use std::fmt;

use sha2::{Digest, Sha256};

use crate::text::Text;

/// A name was refused.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{name:?} is not a legal {what}: {problem}")]
pub struct NameError {
    /// What it was to be.
    pub what: &'static str,
    /// The name as given.
    pub name: String,
    /// Which rule it breaks.
    pub problem: &'static str,
}

/// A legal name, and whether it had to be altered to be one.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Legal<N> {
    /// The legal name.
    pub name: N,
    /// Whether it differs from what was asked for in more than the case of a DNS name.
    pub altered: bool,
}

/// A host name that both of Istio's validators accept: lower case, at most 253 characters, labels
/// of at most 63, the last not all digits, a wildcard only as the whole first label.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Hostname(Text);

/// A Kubernetes namespace: a DNS label.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Namespace(Text);

/// The name of a port: letters, digits and inner dashes, at most [`PORT_NAME_LEN_MAX`].
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct PortName(Text);

// RFC 1035, 2.3.4; Istio's webhook would take 255, Kubernetes object names take 253.
const HOST_LEN_MAX: usize = 253;
const DNS_LABEL_LEN_MAX: usize = 63;
// Istio's webhook takes 63, the CRD's rule for keys of `endpoints[].ports` is `size < 63`.
const PORT_NAME_LEN_MAX: usize = 62;
// Kubernetes: the name part of a label key, and a label value.
const LABEL_LEN_MAX: usize = 63;
const LABEL_PREFIX_LEN_MAX: usize = 253;
// Kubernetes: the name of an object.
const OBJECT_NAME_LEN_MAX: usize = 253;
// 40 bits of SHA-256 in base 32: among 10,000 altered names with one stem a clash has a chance of
// about 1 in 20,000, and it would be reported as a shared host.
const DIGEST_LEN: usize = 8;
const ALPHABET: &[u8; 32] = b"abcdefghijklmnopqrstuvwxyz234567";

/// Eight lower-case letters and digits that stand for `parts`; equal for equal parts for ever.
#[must_use]
pub fn digest(parts: &[&str]) -> String {
    let mut hash = Sha256::new();
    for part in parts {
        // The length keeps ("a", "bc") and ("ab", "c") apart.
        hash.update((part.len() as u64).to_le_bytes());
        hash.update(part.as_bytes());
    }
    let bytes = hash.finalize();
    let mut word = u64::from_le_bytes([
        bytes[0], bytes[1], bytes[2], bytes[3], bytes[4], bytes[5], bytes[6], bytes[7],
    ]);
    let mut text = String::with_capacity(DIGEST_LEN);
    for _ in 0..DIGEST_LEN {
        text.push(char::from(ALPHABET[(word % 32) as usize]));
        word /= 32;
    }
    text
}

/// 32 hexadecimal digits that stand for `bytes`; equal for equal bytes for ever, and for no others
/// that anybody will meet.
#[must_use]
pub fn content_digest(bytes: &[u8]) -> String {
    let hash = Sha256::digest(bytes);
    hash.iter().take(16).map(|byte| format!("{byte:02x}")).collect()
}

/// Refuses what is not a lower-case DNS label.
///
/// # Errors
/// Says which rule `raw` breaks.
pub fn check_dns_label(raw: &str) -> Result<(), NameError> {
    let problem = dns_label_problem(raw).or_else(|| {
        raw.bytes().any(|b| b.is_ascii_uppercase()).then_some("it has upper-case letters")
    });
    problem.map_or(Ok(()), |problem| Err(error("DNS label", raw, problem)))
}

/// `raw` as one lower-case DNS label of at most 63 characters.
#[must_use]
pub fn dns_label(raw: &str) -> Legal<Text> {
    dns_label_within(raw, DNS_LABEL_LEN_MAX)
}

/// `raw` as the key of a Kubernetes label.
#[must_use]
pub fn label_key(raw: &str) -> Legal<Text> {
    if is_label_key(raw) {
        return Legal { name: Text::from(raw), altered: false };
    }
    let (prefix, name) = match raw.rsplit_once('/') {
        Some((prefix, name)) if is_label_prefix(prefix) => (Some(prefix), name),
        _ => (None, raw),
    };
    let name = altered(name, raw, LABEL_LEN_MAX, is_label_byte);
    let name = prefix.map_or(name.clone(), |prefix| format!("{prefix}/{name}"));
    Legal { name: Text::from(name), altered: true }
}

/// `raw` as the value of a Kubernetes label; the empty value is legal.
#[must_use]
pub fn label_value(raw: &str) -> Legal<Text> {
    if raw.is_empty() || is_label_word(raw) {
        return Legal { name: Text::from(raw), altered: false };
    }
    let name = altered(raw, raw, LABEL_LEN_MAX, is_label_byte);
    Legal { name: Text::from(name), altered: true }
}

/// `raw` as the name of a Kubernetes object: DNS labels with dots between, in lower case.
#[must_use]
pub fn object_name(raw: &str) -> Legal<Text> {
    let ends_legal = |b: Option<&u8>| b.is_some_and(u8::is_ascii_alphanumeric);
    // RFC 1123 as Kubernetes takes it: a label may have more than 63 characters.
    let is_label = |label: &str| {
        let bytes = label.as_bytes();
        ends_legal(bytes.first()) && ends_legal(bytes.last()) && bytes.iter().all(is_lower)
    };
    if raw.len() <= OBJECT_NAME_LEN_MAX && raw.split('.').all(is_label) {
        return Legal { name: Text::from(raw), altered: false };
    }
    let name = altered(&raw.to_lowercase(), raw, OBJECT_NAME_LEN_MAX, is_dns_byte);
    Legal { name: Text::from(name), altered: true }
}

// === impl Hostname ===

impl Hostname {
    /// Takes a legal host name; upper case becomes lower case, a trailing dot goes.
    ///
    /// # Errors
    /// Says which rule `raw` breaks.
    pub fn parse(raw: &str) -> Result<Self, NameError> {
        let lower = raw.strip_suffix('.').unwrap_or(raw).to_ascii_lowercase();
        match host_problem(&lower) {
            None => Ok(Self(Text::from(lower))),
            Some(problem) => Err(error("host name", raw, problem)),
        }
    }

    /// `raw`, or a legal host name made of it.
    #[must_use]
    pub fn legalize(raw: &str) -> Legal<Self> {
        if let Ok(name) = Self::parse(raw) {
            return Legal { name, altered: false };
        }
        let lower = raw.strip_suffix('.').unwrap_or(raw).to_ascii_lowercase();
        let count = lower.split('.').count();
        let labels: Vec<String> = lower
            .split('.')
            .enumerate()
            .map(|(index, label)| {
                let wildcard = index == 0 && label == "*" && count > 1;
                let number = index + 1 == count && label.bytes().all(|b| b.is_ascii_digit());
                if wildcard {
                    label.to_owned()
                } else if number {
                    altered(label, raw, DNS_LABEL_LEN_MAX, is_dns_byte)
                } else {
                    dns_label(label).name.to_string()
                }
            })
            .collect();
        let joined = labels.join(".");
        let name = if joined.len() <= HOST_LEN_MAX { joined } else { shortened(&labels, raw) };
        Legal { name: Self(Text::from(name)), altered: true }
    }

    /// Whether it stands for all hosts below a domain.
    #[must_use]
    pub fn is_wildcard(&self) -> bool {
        self.0.starts_with('*')
    }

    /// The name.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// The name, shared.
    #[must_use]
    pub fn text(&self) -> &Text {
        &self.0
    }
}

/// The last labels that fit, behind one that stands for all.
fn shortened(labels: &[String], raw: &str) -> String {
    let mut name = altered(labels.first().map_or("", String::as_str), raw, 40, is_dns_byte);
    let room = HOST_LEN_MAX - name.len();
    let mut used = 0;
    let mut tail = Vec::new();
    for label in labels.iter().skip(1).rev() {
        if used + label.len() + 1 > room {
            break;
        }
        used += label.len() + 1;
        tail.push(label.as_str());
    }
    for label in tail.into_iter().rev() {
        name.push('.');
        name.push_str(label);
    }
    name
}

// === impl Namespace ===

impl Namespace {
    /// Takes a legal namespace.
    ///
    /// # Errors
    /// Says which rule `raw` breaks.
    pub fn parse(raw: &str) -> Result<Self, NameError> {
        check_dns_label(raw).map_err(|e| NameError { what: "namespace", ..e })?;
        Ok(Self(Text::from(raw)))
    }

    /// `raw`, or a legal namespace made of it.
    #[must_use]
    pub fn legalize(raw: &str) -> Legal<Self> {
        let Legal { name, altered } = dns_label(raw);
        Legal { name: Self(name), altered }
    }

    /// The name.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// The name, shared.
    #[must_use]
    pub fn text(&self) -> &Text {
        &self.0
    }
}

// === impl PortName ===

impl PortName {
    /// `raw`, or a legal port name made of it.
    #[must_use]
    pub fn legalize(raw: &str) -> Legal<Self> {
        let legal = if dns_label_problem(raw).is_none() && raw.len() <= PORT_NAME_LEN_MAX {
            Legal { name: Text::from(raw), altered: false }
        } else {
            dns_label_within(raw, PORT_NAME_LEN_MAX)
        };
        Legal { name: Self(legal.name), altered: legal.altered }
    }

    /// The name.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// The name, shared.
    #[must_use]
    pub fn text(&self) -> &Text {
        &self.0
    }
}

impl fmt::Display for Hostname {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl fmt::Display for Namespace {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl fmt::Display for PortName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

// === rules ===

fn host_problem(lower: &str) -> Option<&'static str> {
    if lower.is_empty() {
        return Some("it is empty");
    }
    if lower.len() > HOST_LEN_MAX {
        return Some("it has more than 253 characters");
    }
    let rest = match lower.strip_prefix("*.") {
        Some(rest) => rest,
        None if lower == "*" => {
            return Some("a wildcard needs a domain below it, as in *.example.com");
        }
        None => lower,
    };
    let last = rest.rsplit('.').next().unwrap_or(rest);
    if last.bytes().all(|b| b.is_ascii_digit()) {
        return Some("its last label is a number");
    }
    rest.split('.').find_map(dns_label_problem)
}

fn dns_label_problem(label: &str) -> Option<&'static str> {
    if label.is_empty() {
        return Some("a label is empty");
    }
    if label.len() > DNS_LABEL_LEN_MAX {
        return Some("a label has more than 63 characters");
    }
    if !label.bytes().all(is_dns_byte) {
        return Some("labels consist of letters, digits and dashes");
    }
    if label.starts_with('-') || label.ends_with('-') {
        return Some("a label begins or ends with a dash");
    }
    None
}

fn dns_label_within(raw: &str, len_max: usize) -> Legal<Text> {
    if check_dns_label(raw).is_ok() && raw.len() <= len_max {
        return Legal { name: Text::from(raw), altered: false };
    }
    let name = altered(&raw.to_lowercase(), raw, len_max, is_dns_byte);
    Legal { name: Text::from(name), altered: true }
}

/// What is legal of `stem`, and a digest of `original`; at most `len_max` bytes.
fn altered(stem: &str, original: &str, len_max: usize, legal: fn(u8) -> bool) -> String {
    let stem_len_max = len_max - DIGEST_LEN - 1;
    let mut text: String = stem
        .chars()
        .map(|c| if u8::try_from(c).is_ok_and(|b| b.is_ascii() && legal(b)) { c } else { '-' })
        .take(stem_len_max)
        .collect();
    let trimmed = text.trim_matches(|c: char| !c.is_ascii_alphanumeric());
    text = if trimmed.is_empty() { "x".to_owned() } else { trimmed.to_owned() };
    text.push('-');
    text.push_str(&digest(&[original]));
    text
}

fn is_dns_byte(b: u8) -> bool {
    b.is_ascii_alphanumeric() || b == b'-'
}

fn is_lower(b: &u8) -> bool {
    is_dns_byte(*b) && !b.is_ascii_uppercase()
}

fn is_label_byte(b: u8) -> bool {
    b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_' | b'.')
}

fn is_label_word(raw: &str) -> bool {
    let ends_legal = |b: Option<&u8>| b.is_some_and(u8::is_ascii_alphanumeric);
    let bytes = raw.as_bytes();
    bytes.len() <= LABEL_LEN_MAX
        && ends_legal(bytes.first())
        && ends_legal(bytes.last())
        && bytes.iter().copied().all(is_label_byte)
}

fn is_label_prefix(prefix: &str) -> bool {
    prefix.len() <= LABEL_PREFIX_LEN_MAX && prefix.split('.').all(|l| check_dns_label(l).is_ok())
}

fn is_label_key(raw: &str) -> bool {
    match raw.split_once('/') {
        Some((prefix, name)) => is_label_prefix(prefix) && is_label_word(name),
        None => is_label_word(raw),
    }
}

fn error(what: &'static str, name: &str, problem: &'static str) -> NameError {
    NameError { what, name: name.chars().take(300).collect(), problem }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn host(raw: &str) -> String {
        let legal = Hostname::legalize(raw);
        assert!(Hostname::parse(legal.name.as_str()).is_ok(), "{raw:?} became {:?}", legal.name);
        format!("{}{}", legal.name, if legal.altered { " (altered)" } else { "" })
    }

    #[test]
    fn legal_hosts_stay() {
        assert_eq!(host("orders.dc1.mesh"), "orders.dc1.mesh");
        assert_eq!(host("Orders.DC1.mesh."), "orders.dc1.mesh");
        assert_eq!(host("*.example.com"), "*.example.com");
    }

    #[test]
    fn illegal_hosts_are_altered_and_stay_apart() {
        assert_eq!(
            host("my_service.mesh"),
            "my-service-e2mpjxq7.mesh (altered)".replace("e2mpjxq7", &digest(&["my_service"]))
        );
        assert_ne!(host("a_b.mesh"), host("a-b.mesh"));
        assert_ne!(host("a_b.mesh"), host("a/b.mesh"));
        for raw in ["", ".", "*", "..", "a..b", "10.0.0.1", "-a-", "ü.mesh", "a b"] {
            assert!(host(raw).ends_with("(altered)"), "{raw}");
        }
        host(&"a".repeat(300));
        host(&"a.".repeat(300));
        host(&format!("{}.{}", "x".repeat(60), "y.".repeat(120)));
    }

    #[test]
    fn labels() {
        assert_eq!(label_value("1.2.3").name.as_ref(), "1.2.3");
        assert!(label_value("1.2.3+build 5").name.starts_with("1.2.3-build-5-"));
        assert!(!label_value("").altered);
        assert_eq!(label_key("example.com/team").name.as_ref(), "example.com/team");
        assert!(label_key("example.com/the team").name.starts_with("example.com/the-team-"));
        assert!(is_label_key(&label_key("a/b/c").name));
        assert!(is_label_key(&label_key("").name));
        assert!(label_value(&"v".repeat(300)).name.len() <= 63);
    }

    #[test]
    fn object_names() {
        for raw in ["consul-web", "asm-a-b", "web.mesh.0", &"a".repeat(253)] {
            assert_eq!(object_name(raw), Legal { name: Text::from(raw), altered: false });
        }
        assert!(object_name("Consul_Web").name.starts_with("consul-web-"));
        for raw in
            ["", ".", "a..b", "a.", "-a", "a.-b", "*.mesh", "a/b", "\u{fc}", &"a".repeat(254)]
        {
            let legal = object_name(raw);
            assert!(legal.altered, "{raw:?}");
            assert_eq!(object_name(&legal.name).name, legal.name, "{raw:?}");
        }
        assert_ne!(object_name("A").name, object_name("a").name);
    }

    #[test]
    fn port_names() {
        assert_eq!(PortName::legalize("http").name.as_str(), "http");
        assert!(PortName::legalize("http_admin").name.as_str().starts_with("http-admin-"));
        assert!(PortName::legalize(&"p".repeat(63)).name.as_str().len() <= 62);
    }
}
