//! Follows one instance through the policies, one call each.

use std::sync::Arc;
use std::time::Duration;

use landfall_core::decision::{DropReason, Fault};
use landfall_core::mapping::{Mapping, Verdict};
use landfall_core::text::{Interner, Text};

use crate::abi::Item;
use crate::bench::Bench;
use crate::chain::{Chain, Placed, Work, check_places};
use crate::clock;
use crate::fault::Failure;
use crate::log::LogLine;
use crate::rules::Rules;

/// What one policy made of an instance.
#[derive(Clone, Debug)]
pub struct Step {
    /// Which policy.
    pub policy: Text,
    /// What it says of each place the instance was at, or how it failed.
    pub verdicts: Result<Vec<Verdict>, Arc<Fault>>,
    /// The instance's places after it; none when it is dropped. After a failure those before it.
    pub mappings: Vec<Mapping>,
    /// Why places were dropped.
    pub dropped: Vec<DropReason>,
    /// How long the call took.
    pub elapsed: Duration,
    /// What it logged.
    pub log: Vec<LogLine>,
}

/// The steps of the policies that are for the service, in order, up to the one that drops the
/// instance or fails on it. None when the defaults do not publish it, or there is no such instance.
pub(crate) fn trace(bench: &mut Bench, rules: &Rules, work: &Work, instance_id: &str) -> Vec<Step> {
    let mut steps = Vec::new();
    let Some(instance) = work.service.instance(instance_id) else { return steps };
    let mut chain = Chain::new(rules, work);
    let defaults = rules.defaults().of_service(&work.id, &work.service, &mut Vec::new());
    let default = defaults.mapping(instance, &mut Interner::default(), &mut Vec::new());
    let Ok(default) = default else { return steps };
    let mut mappings = vec![default];
    for link in rules.links() {
        if !link.revision.decides_instances() || !link.matches(&work.id) {
            continue;
        }
        let policy = link.revision.name();
        let items: Vec<Item<'_>> =
            mappings.iter().map(|mapping| Item { instance, mapping }).collect();
        let start = clock::now();
        let (answer, capture) =
            bench.traced(|bench| bench.decide(&link.revision, chain.service(), &items));
        let elapsed = clock::now().saturating_duration_since(start);
        let placed = answer.and_then(|answer| {
            let verdicts: Vec<Verdict> = answer.values.into_iter().collect::<Result<_, _>>()?;
            let placed: Result<Vec<Placed>, Failure> = mappings
                .iter()
                .zip(&verdicts)
                .map(|(mapping, verdict)| chain.apply(policy, instance, mapping, verdict.clone()))
                .collect();
            let placed = placed?;
            check_places(placed.iter().map(Placed::places).sum())?;
            Ok((verdicts, placed))
        });
        let mut step = Step {
            policy: Text::clone(policy),
            verdicts: Ok(Vec::new()),
            mappings: Vec::new(),
            dropped: Vec::new(),
            elapsed,
            log: capture.take(),
        };
        match placed {
            Ok((verdicts, placed)) => {
                step.verdicts = Ok(verdicts);
                for (before, placed) in mappings.into_iter().zip(placed) {
                    match placed {
                        Placed::Same => step.mappings.push(before),
                        Placed::At(places) => step.mappings.extend(places),
                        Placed::Nowhere(reason) => step.dropped.push(reason),
                    }
                }
            }
            Err(failure) => {
                step.verdicts = Err(failure.into_fault(policy));
                step.mappings = mappings;
            }
        }
        mappings = step.mappings.clone();
        let ended = step.verdicts.is_err() || mappings.is_empty();
        steps.push(step);
        if ended {
            break;
        }
    }
    steps
}
