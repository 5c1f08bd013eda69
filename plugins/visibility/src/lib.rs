//! Decides by team which namespaces of the mesh see a service.
//!
//! Every namespace that sees a service pays for it with memory in each of its proxies. The team that owns a service is
//! what a label says that all of its endpoints carry, or else the meta of the registry services that it came from.

use std::collections::BTreeMap;

use landfall_policy::{MeshService, Policy, Problem, ServicePolicy, Setting, names, settings};

/// What an operator may set.
#[derive(serde::Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub struct Settings {
    /// The label, and key of a service's meta, that names the team.
    #[serde(default = "team")]
    key: String,
    /// The namespaces that see a team's services: names, `.` for the service's own, `*` for all. No list may be empty:
    /// Istio takes none for all, which is the opposite of what it looks like.
    teams: BTreeMap<String, Vec<String>>,
    /// The namespaces for services of no team or another one. Empty sets none: then `resources.exportTo` of Landfall's
    /// configuration holds, and without that all namespaces see them.
    #[serde(default)]
    others: Vec<String>,
}

/// The policy: its checked settings.
pub struct Visibility(Settings);

fn team() -> String {
    "team".to_owned()
}

impl Policy for Visibility {
    type Settings = Settings;

    fn new(settings: Settings) -> Result<Self, Vec<Problem>> {
        let lists = settings
            .teams
            .iter()
            .map(|(team, list)| (format!("/teams/{}", settings::escape(team)), list));
        let empty = lists.clone().filter(|(_, list)| list.is_empty());
        let mut problems: Vec<Problem> = empty
            .map(|(path, _)| {
                let message = "no namespaces, which for Istio means all; name one, or \".\" for the service's own";
                settings::problem(path, message)
            })
            .collect();
        for (path, list) in lists.chain([("/others".to_owned(), &settings.others)]) {
            for (index, namespace) in list.iter().enumerate() {
                if !matches!(namespace.as_str(), "." | "*") && !names::is_dns_label(namespace) {
                    let message = format!("{namespace:?} is not a namespace, nor . or *");
                    problems.push(settings::problem(format!("{path}/{index}"), message));
                }
            }
        }
        if problems.is_empty() { Ok(Self(settings)) } else { Err(problems) }
    }
}

impl ServicePolicy for Visibility {
    fn decide_service(&self, service: &MeshService) -> Result<Vec<Setting>, String> {
        let Self(settings) = self;
        let from_meta = || service.origins.iter().find_map(|origin| origin.meta(&settings.key));
        let namespaces = service
            .label(&settings.key)
            .or_else(from_meta)
            .and_then(|team| settings.teams.get(team))
            .unwrap_or(&settings.others);
        Ok(namespaces.iter().cloned().map(Setting::ExportTo).collect())
    }
}

landfall_policy::export!(Visibility, services);

#[cfg(test)]
mod tests {
    use landfall_policy::{Service, testing};

    use super::*;

    const SETTINGS: &str = r#"{"teams": {"payments": [".", "checkout"]}, "others": ["."]}"#;

    fn seen_by(service: &MeshService) -> Vec<String> {
        let policy: Visibility = testing::configure(SETTINGS).unwrap();
        let settings = policy.decide_service(service).unwrap();
        settings
            .into_iter()
            .map(|setting| if let Setting::ExportTo(to) = setting { to } else { String::new() })
            .collect()
    }

    #[test]
    fn the_team_decides_who_sees_a_service() {
        let service = || MeshService::new("pay.mesh");
        assert_eq!(seen_by(&service().with_label("team", "payments")), [".", "checkout"]);
        assert_eq!(
            seen_by(&service().with_origin(Service::new("pay").with_meta("team", "payments"))),
            [".", "checkout"]
        );
        assert_eq!(seen_by(&service().with_label("team", "other")), ["."]);
        assert_eq!(seen_by(&service()), ["."]);
    }

    #[test]
    fn a_team_without_namespaces_is_refused() {
        let refusal = |json: &str| testing::configure::<Visibility>(json).err().unwrap_or_default();
        assert_eq!(
            refusal(r#"{"teams": {"a": [], "b": ["*"]}}"#),
            "/teams/a: no namespaces, which for Istio means all; name one, or \".\" for the service's own",
        );
        assert_eq!(refusal(r#"{"teams": {}, "others": []}"#), "");
    }

    #[test]
    fn what_is_no_namespace_is_refused() {
        let refused = testing::configure::<Visibility>(
            r#"{"teams": {"a/b": ["*", "A"]}, "others": ["x.y"]}"#,
        )
        .err();
        assert_eq!(
            refused.unwrap_or_default(),
            "/teams/a~1b/1: \"A\" is not a namespace, nor . or *\n/others/0: \"x.y\" is not a namespace, nor . or *",
        );
    }
}
