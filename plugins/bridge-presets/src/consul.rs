//! What the bridges from Consul have in common: consul2istio began as Istio's own adapter.

use std::collections::{BTreeMap, BTreeSet};

use landfall_policy::{Edits, Instance, MeshService, Setting, names};

/// What consul2istio and Istio's adapter looked at.
pub(crate) const READS: &[&str] = &["mapping", "meta/external", "meta/protocol", "tags"];

/// What brings word of an external instance to the decision about its service. A service all of whose instances have it
/// is published without endpoints, so that nobody ever sees it.
const EXTERNAL_LABEL: (&str, &str) = ("bridge-presets/external", "true");

/// What Istio's `protocol.Parse` takes, in any case.
const PROTOCOLS: [&str; 12] = [
    "grpc",
    "grpc-web",
    "http",
    "http2",
    "http_proxy",
    "https",
    "mongo",
    "mysql",
    "redis",
    "tcp",
    "tls",
    "udp",
];

/// What an instance says is spoken at its ports.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Spoken<'a> {
    /// The word that names of ports are made of.
    pub(crate) word: &'a str,
    /// The protocol: TCP for a word that Istio does not know.
    pub(crate) protocol: &'a str,
}

// === impl Spoken ===

impl<'a> Spoken<'a> {
    /// What the meta `protocol` says, or else `default`.
    pub(crate) fn of(instance: &'a Instance, default: &'a str) -> Self {
        let said = instance.meta("protocol").filter(|word| !word.is_empty());
        let word = said.unwrap_or(default);
        let protocol = PROTOCOLS.into_iter().find(|known| known.eq_ignore_ascii_case(word));
        Self { word, protocol: protocol.unwrap_or("tcp") }
    }

    /// The word, or what of it can stand in the name of a port.
    pub(crate) fn name(self) -> String {
        let is_inside = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'-';
        if self.word.bytes().all(is_inside) && !self.word.starts_with('-') {
            return self.word.to_owned();
        }
        match names::dns_label(self.word).into_owned() {
            nothing if nothing.is_empty() => "tcp".to_owned(),
            name => name,
        }
    }
}

/// The numbers that an instance listens on. Bridges knew of one at most.
pub(crate) fn numbers(instance: &Instance) -> BTreeSet<u16> {
    let ports = instance.mapping.iter().flat_map(|mapping| &mapping.ports);
    ports.map(|port| port.target).collect()
}

/// The edits with a label for each tag that is written `key|value`, of which the last one of a key holds, and with one
/// that says whether the instance is external.
pub(crate) fn labeled(mut edits: Edits, instance: &Instance) -> Edits {
    let mut labels = BTreeMap::new();
    for tag in instance.tags() {
        let mut parts = tag.split('|');
        // A third part is ignored.
        if let (Some(key), Some(value)) = (parts.next(), parts.next())
            && !key.is_empty()
        {
            labels.insert(key, value);
        }
    }
    if instance.meta("external").is_some_and(|external| !external.is_empty()) {
        let (key, value) = EXTERNAL_LABEL;
        labels.insert(key, value);
    }
    for (key, value) in labels {
        edits = edits.label(key, value);
    }
    edits
}

/// Where a service is, and that traffic goes where clients dialed if it is external.
pub(crate) fn location(service: &MeshService) -> Vec<Setting> {
    let (key, value) = EXTERNAL_LABEL;
    if service.label(key) == Some(value) {
        vec![Setting::Location("external".to_owned()), Setting::Resolution("none".to_owned())]
    } else {
        vec![Setting::Location("internal".to_owned())]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_protocol_that_istio_does_not_know_is_tcp_under_its_own_name() {
        for (word, protocol, name) in [
            ("http", "http", "http"),
            ("HTTPS", "https", "HTTPS"),
            ("grpc-web", "grpc-web", "grpc-web"),
            ("http_proxy", "http_proxy", "http-proxy"),
            ("thrift", "tcp", "thrift"),
            ("-a b", "tcp", "a-b"),
            ("\u{e4}", "tcp", "tcp"),
            ("", "tcp", "tcp"),
        ] {
            let instance = Instance::new("1").with_meta("protocol", word);
            let spoken = Spoken::of(&instance, "tcp");
            assert_eq!((spoken.protocol, spoken.name().as_str()), (protocol, name), "{word}");
        }
        assert_eq!(Spoken::of(&Instance::new("1"), "http").protocol, "http");
    }

    #[test]
    fn tags_of_key_and_value_are_labels() {
        let tags = ["version|v1", "zone|a|b", "blue", "|x", "empty|", "version|v2"];
        let instance = tags.into_iter().fold(Instance::new("1"), Instance::with_tag);
        assert_eq!(
            labeled(Edits::new(), &instance),
            Edits::new().label("empty", "").label("version", "v2").label("zone", "a"),
        );
    }

    #[test]
    fn a_service_is_external_when_all_of_its_instances_are() {
        let instance = Instance::new("1").with_meta("external", "yes");
        let (key, value) = EXTERNAL_LABEL;
        assert_eq!(labeled(Edits::new(), &instance), Edits::new().label(key, value));
        let silent = Instance::new("1").with_meta("external", "");
        assert_eq!(labeled(Edits::new(), &silent), Edits::new());
        assert_eq!(
            location(&MeshService::new("a").with_label(key, value)),
            [Setting::Location("external".to_owned()), Setting::Resolution("none".to_owned())]
        );
        assert_eq!(location(&MeshService::new("a")), [Setting::Location("internal".to_owned())]);
    }
}
