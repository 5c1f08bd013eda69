//! Parts of the host without a guest, for the tests of other crates: what takes input from outside
//! is fuzzed a thousand times as often in this way.

use landfall_core::decision::DecidedService;
use landfall_core::defaults::Defaults;
use landfall_core::mapping::Verdict;
use landfall_core::registry::Instance;
use landfall_core::text::Text;

use crate::chain::{Chain, Slot};
use crate::decide::{Plan, Stands};
use crate::{AdmissionError, Rules, Work, artifact, structure};

/// Decides a service as it is decided if policies answer like this, one after the other, about each
/// instance wherever it is by then.
#[must_use]
pub fn decided(
    defaults: Defaults,
    work: Work,
    policies: &[&dyn Fn(&Instance) -> Verdict],
) -> DecidedService {
    let rules = Rules::new(defaults, Vec::new());
    let plan = Plan::new(work.clone(), rules.mark(), Stands::All);
    let instances = work.service.instances();
    let pending: Vec<&Instance> =
        plan.pending.iter().map(|&index| &*instances[index as usize]).collect();
    let mut chain = Chain::new(&rules, &work);
    let mut slots = vec![Slot::default(); pending.len()];
    let mut live = chain.defaults(&pending, &mut slots);
    for policy in policies {
        let answers = live.iter().map(|at| Ok(policy(pending[at.slot]))).collect();
        let name = Text::from("probe");
        live = chain.take(&name, &pending, live, &mut slots, answers, &mut |_| Ok(()));
    }
    let decided = chain.publish(&pending, live, slots);
    plan.joined(vec![decided], rules.mark())
}

/// Whether these bytes would be given to the compiler.
///
/// # Errors
/// They are refused before.
pub fn examined(bytes: &[u8]) -> Result<(), AdmissionError> {
    let bytes = artifact::unpacked(bytes)?;
    structure::examined(&bytes)?.check()
}
