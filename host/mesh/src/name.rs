//! Names of objects: total, stable, and never one for two.

use landfall_core::mesh::Endpoint;
use landfall_core::name::{self, Hostname};
use landfall_core::registry::ServiceId;
use landfall_core::text::Text;

// Kubernetes: the name of an object, and the value of a label.
const NAME_LEN_MAX: usize = 253;
const LABEL_LEN_MAX: usize = 63;
const DIGEST_LEN: usize = 16;

/// The name of the ServiceEntry of `host`: the host itself where that is legal.
///
/// Any other name ends in a label that is a number, which no host name does, so that the two
/// kinds of names never meet.
pub(crate) fn service_entry_name(host: &Hostname) -> Text {
    let Some(rest) = host.as_str().strip_prefix("*.") else { return Text::clone(host.text()) };
    let readable = format!("wildcard.{rest}.0");
    if readable.len() <= NAME_LEN_MAX {
        return Text::from(readable);
    }
    Text::from(format!("wildcard.{}.1", digest(&[host.as_str()])))
}

/// The value of the label by which the ServiceEntry of `host` selects its WorkloadEntries: the
/// host itself where that is legal. Any other has an underscore, which no host name has.
pub(crate) fn service_label(host: &Hostname) -> Text {
    let raw = host.as_str();
    if raw.len() <= LABEL_LEN_MAX && !host.is_wildcard() {
        return Text::clone(host.text());
    }
    let stem = stem(raw.trim_start_matches("*."), LABEL_LEN_MAX - DIGEST_LEN - 1);
    Text::from(format!("{stem}_{}", digest(&[raw])))
}

/// The name of the WorkloadEntry of `endpoint` at `host`.
pub(crate) fn workload_entry_name(
    host: &Hostname,
    origin: &ServiceId,
    endpoint: &Endpoint,
) -> Text {
    let key = &origin.key;
    let index = endpoint.mapping_index.to_string();
    let digest = digest(&[
        host.as_str(),
        origin.source.as_str(),
        &key.datacenter,
        &key.partition,
        &key.group,
        &key.name,
        &endpoint.instance.id,
        &index,
    ]);
    // The name turns up as the workload's in telemetry: short, and the service first.
    let stem = stem(host.as_str().trim_start_matches("*."), LABEL_LEN_MAX - DIGEST_LEN - 1);
    Text::from(format!("{stem}-{digest}"))
}

/// The beginning of `text`, without a dot or dash at its end.
fn stem(text: &str, len_max: usize) -> &str {
    text.get(..len_max).unwrap_or(text).trim_end_matches(['.', '-'])
}

/// Twice as long as core's, for these are not looked at by anybody and decide what belongs
/// together: 80 bits.
fn digest(parts: &[&str]) -> String {
    let mut longer = vec!["landfall"];
    longer.extend_from_slice(parts);
    name::digest(parts) + &name::digest(&longer)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn host(raw: &str) -> Hostname {
        Hostname::parse(raw).unwrap()
    }

    #[test]
    fn hosts_are_names_where_they_can_be() {
        assert_eq!(&*service_entry_name(&host("a.b")), "a.b");
        assert_eq!(&*service_entry_name(&host("*.a.b")), "wildcard.a.b.0");
        assert_eq!(&*service_entry_name(&host("wildcard.a.b")), "wildcard.a.b");
        let long = host(&format!("*.{}a", "a.".repeat(125)));
        assert_eq!(long.as_str().len(), 253);
        assert!(service_entry_name(&long).len() < 40);
    }

    #[test]
    fn labels_of_different_hosts_differ() {
        assert_eq!(&*service_label(&host("a.b")), "a.b");
        let wildcard = service_label(&host("*.a.b"));
        assert!(wildcard.starts_with("a.b_") && wildcard.len() == 20, "{wildcard}");
        let long = service_label(&host(&format!("{}x", "a.".repeat(40))));
        assert!(long.len() <= 63 && long.contains('_'), "{long}");
    }
}
