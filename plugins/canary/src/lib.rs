//! Publishes each version of a service under a host of its own, besides the common one, and takes what is draining out.
//!
//! A service `pay` whose instances carry the meta `version: v2` is found at `pay.dc1.mesh` as before and, these instances
//! alone, at `v2.pay.dc1.mesh`: enough to send a canary its share of requests, or a tester to it. This file is meant to
//! be copied.

use landfall_policy::{
    Edits, Instance, InstancePolicy, Policy, Problem, Service, Verdict, names, settings, warn,
};

/// What an operator may set.
#[derive(serde::Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase", default)]
pub struct Settings {
    /// The label that shows an instance's version.
    label: String,
    /// Whether versions get hosts of their own.
    version_hosts: bool,
}

/// The policy: here no more than its settings.
pub struct Canary(Settings);

impl Default for Settings {
    fn default() -> Self {
        Self { label: "version".to_owned(), version_hosts: true }
    }
}

impl Policy for Canary {
    type Settings = Settings;
    // Whatever is not named here is not sent, which is what makes a policy fast.
    const READS: Option<&'static [&'static str]> =
        Some(&["meta/draining", "meta/version", "mapping"]);

    fn new(settings: Settings) -> Result<Self, Vec<Problem>> {
        if settings.label.is_empty() {
            return Err(vec![settings::problem("/label", "must not be empty")]);
        }
        Ok(Self(settings))
    }
}

impl InstancePolicy for Canary {
    fn decide(&self, service: &Service, instance: &Instance) -> Verdict {
        if instance.meta("draining") == Some("true") {
            return Verdict::drop("draining");
        }
        let Some(version) = instance.meta("version") else {
            return Verdict::Keep;
        };
        // A registry holds any text. Of `V2_beta.pay.dc1.mesh` Landfall would make a host that nobody expects.
        if !names::is_dns_label(version) {
            warn!("version {version:?} of {} cannot be part of a host name", service.name);
            return Verdict::Keep;
        }
        let labeled = Edits::new().label(&self.0.label, version);
        match instance.host() {
            Some(host) if self.0.version_hosts => {
                Verdict::split([labeled.clone(), labeled.host(format!("{version}.{host}"))])
            }
            _ => labeled.into(),
        }
    }
}

landfall_policy::export!(Canary);

#[cfg(test)]
mod tests {
    use landfall_policy::log::{self, Level};
    use landfall_policy::{Mapping, testing};

    use super::*;

    fn decide(settings: &str, instance: &Instance) -> Verdict {
        let canary: Canary = testing::configure(settings).unwrap();
        canary.decide(&Service::new("pay"), instance)
    }

    fn instance() -> Instance {
        Instance::new("pay-1").with_mapping(Mapping::new("pay.dc1.mesh"))
    }

    #[test]
    fn a_version_gets_a_host_of_its_own() {
        let labeled = Edits::new().label("version", "v2");
        assert_eq!(
            decide("{}", &instance().with_meta("version", "v2")),
            Verdict::split([labeled.clone(), labeled.host("v2.pay.dc1.mesh")]),
        );
    }

    #[test]
    fn hosts_can_be_left_out_and_the_label_named() {
        assert_eq!(
            decide(
                r#"{"versionHosts": false, "label": "app-version"}"#,
                &instance().with_meta("version", "v2")
            ),
            Edits::new().label("app-version", "v2").into(),
        );
    }

    #[test]
    fn without_a_version_nothing_changes() {
        assert_eq!(decide("{}", &instance()), Verdict::Keep);
    }

    #[test]
    fn what_is_draining_is_dropped() {
        let draining = instance().with_meta("version", "v2").with_meta("draining", "true");
        assert_eq!(decide("{}", &draining), Verdict::drop("draining"));
    }

    #[test]
    fn a_version_that_is_no_name_is_reported() {
        assert_eq!(decide("{}", &instance().with_meta("version", "V2_beta")), Verdict::Keep);
        let want = "version \"V2_beta\" of pay cannot be part of a host name";
        assert_eq!(log::take(), [(Level::Warn, want.to_owned())]);
    }

    #[test]
    fn bad_settings_are_refused() {
        let refused = |json| testing::configure::<Canary>(json).err().unwrap_or_default();
        assert_eq!(refused(r#"{"label": ""}"#), "/label: must not be empty");
        assert!(refused(r#"{"versionHost": true}"#).starts_with("/versionHost: unknown field"));
    }
}
