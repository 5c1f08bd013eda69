//! From a Cloud Map source as written to the one that is watched.

use landfall_registry::cloudmap::{
    CloudMapSettings, HEALTH_POLL_MIN, POLL_MIN, RESYNC_MIN, SERVICE_POLL_MIN,
};

use super::resolve::{Addresses, Resolver};
use super::tree::child;
use super::wire;

const CLOUD_MAP: Addresses = Addresses {
    such_as: "https://vpce-0a1b.servicediscovery.eu-central-1.vpce.amazonaws.com",
    secret_key: "credentialsFile",
    may_name_user: false,
};

impl Resolver<'_> {
    pub(super) fn cloud_map(&mut self, at: &str, map: &wire::CloudMapSource) -> CloudMapSettings {
        // It becomes part of a host name.
        let is_region = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '-';
        if map.region.is_empty() || !map.region.chars().all(is_region) {
            let message = format!("region is {:?}, but must be like eu-central-1", map.region);
            self.problem(&child(at, "region"), message);
        }
        for (index, name) in map.namespaces.iter().enumerate() {
            if name.trim().is_empty() {
                let message = "a namespace has a name; leave namespaces out to list all of them";
                self.problem(&format!("{at}/namespaces/{index}"), message);
            }
        }
        let mut endpoint = |key: &str, raw: &Option<String>| {
            let raw = raw.as_deref()?;
            self.url(&child(at, key), key, raw, &CLOUD_MAP)
        };
        let (at_endpoint, at_data) =
            (endpoint("endpoint", &map.endpoint), endpoint("dataEndpoint", &map.data_endpoint));
        if map.data_endpoint.is_some() && map.endpoint.is_none() {
            self.missing(at, "dataEndpoint goes with endpoint; set both, or endpoint alone");
        }
        if map.role_arn.as_ref().is_some_and(|arn| !is_role(arn)) {
            let message = "roleArn is not one, such as arn:aws:iam::123456789012:role/landfall";
            self.problem(&child(at, "roleArn"), message);
        }
        if map.external_id.is_some() && map.role_arn.is_none() {
            self.missing(at, "externalId goes with roleArn; set both or none");
        }
        let each = "each service costs a request that AWS charges for";
        let bounds = [
            ("poll", map.poll, POLL_MIN, each),
            ("healthPoll", map.health_poll, HEALTH_POLL_MIN, each),
            ("servicePoll", map.service_poll, SERVICE_POLL_MIN, "AWS names no rate for it"),
            ("resync", map.resync, RESYNC_MIN, each),
        ];
        for (key, given, least, why) in bounds {
            self.at_least(at, key, given, least, why);
        }
        let unset = CloudMapSettings::new(&map.region);
        CloudMapSettings {
            namespaces: map.namespaces.clone(),
            endpoint: at_endpoint,
            data_endpoint: at_data,
            credentials_file: map.credentials_file.as_deref().map(|path| self.path(path)),
            role_arn: map.role_arn.clone(),
            external_id: map.external_id.clone(),
            poll: map.poll.map_or(unset.poll, |poll| poll.0),
            health_poll: map.health_poll.map_or(unset.health_poll, |poll| poll.0),
            service_poll: map.service_poll.map_or(unset.service_poll, |poll| poll.0),
            resync: map.resync.map_or(unset.resync, |resync| resync.0),
            ..unset
        }
    }
}

/// `arn:PARTITION:iam::ACCOUNT:role/NAME`, where the name may have a path before it.
fn is_role(arn: &str) -> bool {
    match arn.splitn(6, ':').collect::<Vec<_>>()[..] {
        ["arn", partition, "iam", "", account, resource] => {
            partition.starts_with("aws")
                && account.len() == 12
                && account.bytes().all(|b| b.is_ascii_digit())
                && resource.strip_prefix("role/").is_some_and(|name| !name.is_empty())
        }
        _ => false,
    }
}
