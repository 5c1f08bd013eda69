//! Properties of plans over generated objects.

#![allow(clippy::unwrap_used, reason = "a failure here is a test's")]

mod objects;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use landfall_core::mesh::{Kind, Object, ObjectId};
use landfall_core::plan::{Entries, Mode, Observed, PlanOptions, Step, plan};
use landfall_core::time::Time;
use proptest::collection::btree_set;
use proptest::prelude::*;

use self::objects::*;

proptest! {
    #[test]
    fn a_plan_converges_in_one_round(have in objects(), want in objects()) {
        let mut observed = Observed { ours: made(&have), ..Observed::default() };
        let desired = made(&want);
        let first = full(&observed, &desired, Duration::ZERO, Time::default());
        apply(&mut observed, &first.steps);
        let again = full(&observed, &desired, Duration::ZERO, Time::default());
        prop_assert_eq!(again.steps, vec![]);
        prop_assert_eq!(observed.ours, desired);
    }

    #[test]
    fn removal_takes_two_rounds_with_a_grace_between(have in objects(), want in objects()) {
        let mut observed = Observed { ours: made(&have), ..Observed::default() };
        let desired = made(&want);
        let start = Time::from_millis(1_000_000);
        let first = full(&observed, &desired, GRACE, start);
        for step in &first.steps {
            let deletes = matches!(step, Step::Delete(_));
            prop_assert!(!deletes || step.id().kind == Kind::WorkloadEntry);
        }
        apply(&mut observed, &first.steps);
        let at_once = full(&observed, &desired, GRACE, start);
        prop_assert_eq!(&at_once.steps, &vec![]);
        if let Some(wake) = at_once.wake {
            prop_assert_eq!(wake, start.plus(GRACE));
            let second = full(&observed, &desired, GRACE, wake);
            apply(&mut observed, &second.steps);
        }
        prop_assert_eq!(observed.ours, desired);
    }

    #[test]
    fn whatever_is_noted_of_its_removal_what_nothing_wants_goes(
        have in objects(),
        noted in prop_oneof![0_u64..2_000_000, any::<u64>()],
    ) {
        let removal = Some(Time::from_millis(noted));
        let noted = made(&have).into_iter().map(|(id, object)| {
            (id, Arc::new(Object { removal, ..(*object).clone() }))
        });
        let mut observed = Observed { ours: noted.collect(), ..Observed::default() };
        let nothing = made(&BTreeMap::new());
        let start = Time::from_millis(1_000_000);
        let first = full(&observed, &nothing, GRACE, start);
        prop_assert!(first.wake.is_none_or(|wake| wake <= start.plus(GRACE)));
        apply(&mut observed, &first.steps);
        let after = full(&observed, &nothing, GRACE, start.plus(GRACE));
        apply(&mut observed, &after.steps);
        prop_assert!(observed.ours.is_empty(), "{:?}", observed.ours);
    }

    #[test]
    fn equal_states_need_no_step(have in objects()) {
        let observed = Observed { ours: made(&have), ..Observed::default() };
        let plan = full(&observed, &made(&have), GRACE, Time::default());
        prop_assert_eq!(plan.steps, vec![]);
        prop_assert_eq!(plan.settled.len(), have.len());
    }

    #[test]
    fn a_foreign_object_is_never_named(
        have in objects(),
        want in objects(),
        foreign in btree_set(object_id(), 0..10),
    ) {
        let mut ours = made(&have);
        for id in &foreign {
            ours.remove(id);
        }
        let foreign_set = foreign.iter().cloned().collect();
        let observed = Observed { ours, foreign: foreign_set };
        let plan = full(&observed, &made(&want), GRACE, Time::default());
        for step in &plan.steps {
            prop_assert!(!foreign.contains(step.id()), "{:?}", step);
        }
        let blocked: BTreeSet<_> = plan.blocked.into_iter().collect();
        let expected: BTreeSet<_> =
            foreign.into_iter().filter(|id| want.contains_key(id)).collect();
        prop_assert_eq!(blocked, expected);
    }

    #[test]
    fn modes_only_do_what_they_allow(have in objects(), want in objects()) {
        let observed = Observed { ours: made(&have), ..Observed::default() };
        let desired = made(&want);
        let scope: BTreeSet<ObjectId> =
            observed.ours.keys().chain(desired.keys()).cloned().collect();
        for mode in [Mode::UpsertOnly, Mode::CreateOnly] {
            let (entries, now) = (Entries::new(), Time::default());
            let options = PlanOptions { mode, grace: GRACE, entries: &entries, now };
            for step in plan(&observed, &desired, &scope, options).steps {
                let allowed = match mode {
                    Mode::UpsertOnly => matches!(step, Step::Create(_) | Step::Update { .. }),
                    _ => matches!(step, Step::Create(_)),
                };
                prop_assert!(allowed, "{mode:?} {step:?}");
            }
        }
    }

    #[test]
    fn the_order_in_which_objects_are_looked_at_does_not_matter(
        have in objects(),
        want in objects(),
    ) {
        let observed = Observed { ours: made(&have), ..Observed::default() };
        let desired = made(&want);
        let scope: Vec<ObjectId> = have.keys().chain(want.keys()).cloned().collect();
        let turned: Vec<ObjectId> = scope.iter().rev().cloned().collect();
        let (entries, now) = (Entries::new(), Time::default());
        let options = PlanOptions { mode: Mode::Sync, grace: GRACE, entries: &entries, now };
        let steps = |scope: &[ObjectId]| {
            let mut steps = plan(&observed, &desired, scope, options).steps;
            steps.dedup();
            steps
        };
        prop_assert_eq!(steps(&scope), steps(&turned));
    }
}
