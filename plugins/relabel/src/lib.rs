//! Rules without code: each matches some instances and drops them or sets how they are published.
//!
//! The README explains the rules; `settings` has their types, `matching` says which instances a rule is for, `template`
//! makes texts of an instance's data, and `apply` carries the rules out.

mod apply;
mod glob;
mod matching;
mod settings;
mod template;

use landfall_policy::{Instance, InstancePolicy, Policy, Problem, Service, Verdict};

pub use settings::Settings;

/// The policy: its checked rules.
#[derive(Debug)]
pub struct Relabel(Settings);

impl Policy for Relabel {
    type Settings = Settings;
    const SCHEMA: Option<&'static str> = Some(include_str!("../settings.schema.json"));

    fn new(settings: Settings) -> Result<Self, Vec<Problem>> {
        let problems = settings.problems();
        if problems.is_empty() { Ok(Self(settings)) } else { Err(problems) }
    }

    fn reads(&self) -> Option<Vec<String>> {
        Some(self.0.reads())
    }
}

impl InstancePolicy for Relabel {
    fn decide(&self, service: &Service, instance: &Instance) -> Verdict {
        apply::decide(self.0.rules.iter().filter(|rule| rule.concerns(service)), service, instance)
    }

    /// Most rules are for some services only, so those for this one are picked once and not for each instance.
    fn decide_all(
        &self,
        service: &Service,
        instances: &[Instance],
    ) -> Result<Vec<Verdict>, String> {
        let rules: Vec<_> = self.0.rules.iter().filter(|rule| rule.concerns(service)).collect();
        Ok(instances
            .iter()
            .map(|instance| apply::decide(rules.iter().copied(), service, instance))
            .collect())
    }
}

landfall_policy::export!(Relabel);
