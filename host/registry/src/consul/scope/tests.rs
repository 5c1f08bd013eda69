//! The watch against a simulated Consul, in every order of answers that chance comes up with.

mod losses;
mod sim;

use proptest::prelude::*;

use self::sim::{Answered, Failing, Op, SETTLE, Sim, World};
use super::*;
use crate::consul::client::Trust;
use crate::consul::convert::ServiceRead;

fn filled(services: u8) -> Sim {
    let mut sim = Sim::new();
    (0..services).for_each(|service| sim.put(service, 0, 0));
    sim
}

fn failing() -> impl Strategy<Value = Failing> {
    prop::sample::select(vec![Failing::General, Failing::Own, Failing::Limited])
}

fn op() -> impl Strategy<Value = Op> {
    let (service, instance) = (0..12_u8, 0..2_u8);
    let which = 0..100_usize;
    prop_oneof![
        4 => (service.clone(), instance.clone(), 0..3_u32)
            .prop_map(|(service, instance, version)| Op::Put { service, instance, version }),
        3 => (service, instance).prop_map(|(service, instance)| Op::Remove { service, instance }),
        3 => (0..12_u8, 0..2_u8, any::<bool>())
            .prop_map(|(service, instance, well)| Op::Check { service, instance, well }),
        1 => Just(Op::Noise),
        1 => Just(Op::Restore),
        1 => (0..12_u8).prop_map(|service| Op::Lose { service }),
        12 => which.clone().prop_map(|which| Op::Answer { which }),
        2 => which.clone().prop_map(|which| Op::Find { which }),
        1 => (which, failing()).prop_map(|(which, how)| Op::Fail { which, how }),
        3 => (0..3000_u64).prop_map(|millis| Op::Pass { millis }),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(512))]

    /// Whatever happens in whatever order: once it is quiet, what is listed is what there is.
    #[test]
    fn the_listing_becomes_what_is_registered(
        services in 0..12_u8,
        in_flight in prop::sample::select(vec![4_usize, 8, 64]),
        refused in (any::<bool>(), any::<bool>()),
        ops in prop::collection::vec(op(), 0..80),
    ) {
        let mut sim = filled(services);
        (sim.summary_refused, sim.checks_refused) = refused;
        let mut world = World::new(sim, in_flight);
        for op in ops {
            world.run(op);
        }
        world.check();
    }
}

#[test]
fn a_sweep_that_ends_by_skipping_the_rest_leaves_the_next_one_due() {
    let mut sim = filled(5);
    sim.summary_refused = true;
    let mut world = World::new(sim, 4);
    let answer = |which: usize| Op::Answer { which };
    let put = |service, instance, version| Op::Put { service, instance, version };
    let pass = Op::Pass { millis: 25 };
    [answer(0); 5].into_iter().for_each(|op| world.run(op));
    world.run(pass);
    [answer(0); 4].into_iter().for_each(|op| world.run(op));
    world.run(put(1, 0, 1));
    [answer(0); 2].into_iter().for_each(|op| world.run(op));
    world.run(Op::Check { service: 4, instance: 0, well: false });
    [pass, put(2, 0, 1), answer(63), put(0, 0, 1)].into_iter().for_each(|op| world.run(op));
    [answer(0); 3].into_iter().for_each(|op| world.run(op));
    [pass, put(2, 1, 0), answer(0), answer(27), answer(6), pass]
        .into_iter()
        .for_each(|op| world.run(op));
    world.check();
}

#[test]
fn a_service_that_was_read_while_it_was_ill_is_read_again() {
    let mut world = World::new(filled(20), 4);
    // It is ill for no longer than the summary sleeps.
    while !world.watch.is_listed() {
        world.ask();
        let at = world.asked.iter().position(|ask| !ask.waits()).unwrap();
        let is_ill = is_read(&world.asked[at], &Sim::name(3));
        if is_ill {
            world.sim.check(3, 0, false);
        }
        let answer = world.sim.answer(&world.asked[at]).unwrap();
        world.answer(at, answer);
        if is_ill {
            world.sim.check(3, 0, true);
        }
    }
    assert!(until_listed(&mut world) < Duration::from_secs(2));
}

#[test]
fn nothing_is_known_before_all_is() {
    let mut world = World::new(filled(10), 8);
    world.ask();
    while !world.watch.is_listed() {
        assert!(world.listed.is_empty());
        let answer = world.sim.answer(&world.asked[0]).unwrap();
        world.answer(0, answer);
        world.ask();
    }
    world.check();
}

#[test]
fn what_cannot_be_read_keeps_nothing_else_waiting() {
    for readable in [0_u8, 1, 9] {
        let mut world = World::new(filled(10), 8);
        let fails = |ask: &Ask| (readable..10).any(|service| is_read(ask, &Sim::name(service)));
        for _ in 0..30 {
            world.ask();
            let Some(at) = world.answerable().first().copied() else { break };
            let (attempt, told) = ("read".to_owned(), "no".to_owned());
            let answer = match fails(&world.asked[at]) {
                true => Err(ConsulError::Status { attempt, status: 500, told }),
                false => world.answer_to(at).unwrap(),
            };
            world.answer(at, answer);
        }
        // Where nothing can be read there is no listing.
        assert_eq!(world.watch.is_listed(), readable > 0);
        assert_eq!(world.listed.len(), usize::from(readable));
        assert_eq!(world.watch.trouble().map(|t| t.code), Some("consul_status"));
        world.check();
    }
}

#[test]
fn few_services_have_a_long_poll_each() {
    let mut world = World::new(filled(5), 64);
    world.check();
    assert_eq!(world.asked.len(), 6, "{:?}", world.asked);
    world.count = 0;
    world.sim.put(3, 0, 7);
    world.check();
    // The poll that follows, and the list of names that woke as well.
    assert_eq!(world.count, 2, "{:?}", world.asked);
}

#[test]
fn an_instance_among_many_services_costs_two_requests_until_it_is_known() {
    let mut world = World::new(filled(200), 64);
    world.check();
    assert!(world.asked.len() < 10, "{:?}", world.asked);
    world.count = 0;
    world.sim.put(77, 1, 0);
    // The summary wakes, the service is read.
    for _ in 0..2 {
        let at = world.answerable()[0];
        let answer = world.sim.answer(&world.asked[at]).unwrap();
        world.answer(at, answer);
        world.ask();
    }
    assert!(world.listed == world.sim.listed());
    // The read and the long poll of the service; the summary is waited for 25 ms later.
    assert_eq!(world.count, 2, "{:?}", world.asked);
    world.check();
    let polled =
        |ask: &Ask| matches!(ask, Ask::Service { name, index: Some(_), .. } if &**name == "s77");
    assert!(world.asked.iter().any(polled), "{:?}", world.asked);
    world.count = 0;
    world.sim.put(77, 1, 5);
    let at = world.asked.iter().position(polled).unwrap();
    let answer = world.sim.answer(&world.asked[at]).unwrap();
    world.answer(at, answer);
    assert!(world.listed == world.sim.listed());
}

#[test]
fn the_output_of_checks_costs_no_sweep() {
    let mut world = World::new(filled(200), 64);
    world.check();
    world.count = 0;
    world.sim.index += 1;
    world.check();
    // The summary and the revision.
    assert_eq!(world.count, 2);
}

/// How long it takes until all is listed as it is.
fn until_listed(world: &mut World) -> Duration {
    let began = world.now;
    for _ in 0..100_000 {
        if world.listed == world.sim.listed() {
            return world.now - began;
        }
        world.ask();
        match world.answerable().first() {
            Some(at) => {
                let answer = world.answer_to(*at).unwrap();
                world.answer(*at, answer);
            }
            None => world.now = world.watch.wake_at().unwrap(),
        }
    }
    panic!("it is never listed: {:?}", world.asked);
}

#[test]
fn an_edit_that_no_view_shows_is_found_at_once() {
    let mut world = World::new(filled(200), 64);
    world.check();
    world.sim.put(150, 0, 9);
    assert!(until_listed(&mut world) < Duration::from_secs(1));
}

#[test]
fn two_instances_that_trade_their_health_are_found_at_once() {
    let mut sim = filled(200);
    for service in [150, 151] {
        sim.put(service, 1, 0);
        sim.check(service, 0, false);
    }
    let mut world = World::new(sim, 64);
    world.check();
    world.sim.check(150, 0, true);
    world.sim.check(150, 1, false);
    world.count = 0;
    assert!(until_listed(&mut world) < Duration::from_secs(1));
    // The summary, the revision, the two services of which not all checks pass, and around them
    // the long polls that follow.
    assert!(world.count <= 6, "{}", world.count);
    // Checks that do nothing but write cost a read of the one without a long poll, a second at
    // most.
    world.check();
    let began = world.now;
    let mut reads = 0;
    while world.now < began + Duration::from_secs(10) {
        world.sim.index += 1;
        world.ask();
        let is_read = |ask: &&Ask| matches!(ask, Ask::Service { index: None, .. });
        reads += world.asked.iter().filter(is_read).count();
        while let Some(at) = world.answerable().first() {
            let answer = world.answer_to(*at).unwrap();
            world.answer(*at, answer);
        }
        world.now += Duration::from_millis(20);
    }
    assert!((2..=25).contains(&reads), "{reads}");
}

#[test]
fn a_trade_in_the_moment_of_another_change_is_found_at_once() {
    let mut sim = filled(200);
    for service in [150, 151] {
        sim.put(service, 1, 0);
        sim.check(service, 0, false);
    }
    let mut world = World::new(sim, 64);
    world.check();
    world.count = 0;
    world.sim.check(150, 0, true);
    world.sim.check(150, 1, false);
    world.sim.put(77, 1, 0);
    assert!(until_listed(&mut world) < Duration::from_secs(1));
    // What changed, the two services of which not all checks pass, and around them the summary
    // and the long polls that follow.
    assert!(world.count <= 6, "{}", world.count);
}

#[test]
fn without_any_view_of_health_it_is_found_all_the_same() {
    let mut sim = filled(200);
    (sim.summary_refused, sim.checks_refused) = (true, true);
    let mut world = World::new(sim, 64);
    world.check();
    world.sim.check(150, 0, false);
    world.count = 0;
    assert!(until_listed(&mut world) < Duration::from_secs(2));
    assert!(world.count < 500, "{}", world.count);
}

#[test]
fn a_summary_that_fails_once_is_asked_for_again() {
    let mut world = World::new(filled(200), 64);
    world.ask();
    world.answer_what(|ask| matches!(ask, Ask::View { view: ViewKind::Names, .. }));
    world.ask();
    let summary = |ask: &Ask| matches!(ask, Ask::View { view: ViewKind::Summary, .. });
    let at = world.asked.iter().position(summary).unwrap();
    let (attempt, told) = ("ask".to_owned(), "no".to_owned());
    world.answer(at, Err(ConsulError::Status { attempt, status: 500, told }));
    assert_eq!(world.watch.trouble().map(|t| t.code), Some("consul_status"));
    world.check();
    assert!(world.asked.iter().any(summary), "{:?}", world.asked);
}

/// Has a service with a long poll read as well, and says which.
fn read_beside_its_long_poll(world: &mut World) -> Text {
    world.watch.resync_at = world.now;
    loop {
        world.ask();
        let read = world.asked.iter().find_map(|ask| match ask {
            Ask::Service { name, index: None, .. } => Some(Text::clone(name)),
            _ => None,
        });
        if let Some(name) = read {
            return name;
        }
        if world.asked.contains(&Ask::Revision) {
            world.answer_what(|ask| *ask == Ask::Revision);
        } else {
            world.now = world.watch.wake_at().unwrap();
        }
    }
}

fn is_read(ask: &Ask, name: &Text) -> bool {
    matches!(ask, Ask::Service { name: asked, index: None, .. } if asked == name)
}

fn is_poll(ask: &Ask, name: &Text) -> bool {
    matches!(ask, Ask::Service { name: asked, index: Some(_), .. } if asked == name)
}

#[test]
fn an_answer_that_was_overtaken_changes_nothing() {
    let mut world = World::new(filled(5), 64);
    world.check();
    let name = read_beside_its_long_poll(&mut world);
    let service: u8 = name[1..].parse().unwrap();
    world.sim.put(service, 0, 1);
    let at = world.asked.iter().position(|ask| is_read(ask, &name)).unwrap();
    world.found[at] = world.answer_to(at);
    world.sim.put(service, 0, 2);
    world.answer_what(|ask| is_poll(ask, &name));
    let newest = world.listed.clone();
    assert_eq!(newest, world.sim.listed());
    world.answer_what(|ask| is_read(ask, &name));
    assert_eq!(world.listed, newest);
    world.check();
}

#[test]
fn an_answer_that_equals_the_past_is_not_taken_for_what_is_known() {
    let mut world = World::new(filled(5), 64);
    world.check();
    let name = read_beside_its_long_poll(&mut world);
    let service: u8 = name[1..].parse().unwrap();
    world.sim.put(service, 0, 1);
    world.answer_what(|ask| is_poll(ask, &name));
    world.sim.put(service, 0, 0);
    world.answer_what(|ask| is_read(ask, &name));
    world.check();
}

#[test]
fn a_sweep_does_not_rely_on_a_read_that_began_before_it() {
    let mut world = World::new(filled(200), 64);
    world.check();
    let held = Sim::name(7);
    // Answers all but that service, whose answer is found at once and on its way for long.
    let drive = |world: &mut World| {
        let end = world.now + Duration::from_secs(30);
        while world.now < end {
            world.ask();
            let read = world.asked.iter().position(|ask| is_read(ask, &held));
            if let Some(at) = read.filter(|at| world.found[*at].is_none()) {
                world.found[at] = world.answer_to(at);
            }
            match world.answerable().into_iter().find(|at| world.found[*at].is_none()) {
                Some(at) => {
                    let answer = world.answer_to(at).unwrap();
                    world.answer(at, answer);
                }
                None => world.now = world.watch.wake_at().unwrap().min(end),
            }
        }
    };
    // A sweep for an edit in place of another.
    world.sim.put(9, 0, 9);
    drive(&mut world);
    assert!(world.found.iter().any(Option::is_some));
    // Another sweep, for this one.
    world.sim.put(7, 0, 9);
    drive(&mut world);
    world.answer_what(|ask| is_read(ask, &held));
    assert!(until_listed(&mut world) < Duration::from_secs(1));
}

#[test]
fn an_instance_that_a_streamed_answer_lacks_is_asked_for_again() {
    let mut sim = filled(3);
    sim.put(1, 1, 0);
    let mut world = World::new(sim, 64);
    world.check();
    world.sim.remove(1, 1);
    world.count = 0;
    world.check();
    let read = world.count;
    assert!(read >= 3, "a poll, a read, a poll: {read}");
}

#[test]
fn access_rules_that_hide_instances_remove_nothing() {
    let mut world = World::new(filled(3), 64);
    world.check();
    let before = world.listed.clone();
    world.ask();
    let at = world.asked.iter().position(|ask| matches!(ask, Ask::Service { .. })).unwrap();
    let hidden = Reply::Service {
        index: 2_000_000,
        digest: 1,
        bytes: 2,
        read: Some(ServiceRead::default()),
        trust: Trust::Filtered,
    };
    world.answer(at, Ok(hidden));
    assert_eq!(world.listed, before);
    assert_eq!(world.watch.trouble().map(|t| t.code), Some("consul_filtered"));
    world.check();
}

/// Answers what can be answered at once, without time passing.
fn answer_all(world: &mut World) {
    world.ask();
    while let Some(at) = world.answerable().first() {
        let answer = world.answer_to(*at).unwrap();
        world.answer(*at, answer);
        world.ask();
    }
}

/// As [`answer_all`], for a while.
fn drive(world: &mut World, time: Duration) {
    let end = world.now + time;
    while world.now < end {
        answer_all(world);
        world.now = world.watch.wake_at().map_or(end, |at| at.min(end));
    }
    answer_all(world);
}

fn rate_limited(retry_after: Option<u64>) -> Answered {
    let (attempt, told) = ("ask".to_owned(), "429".to_owned());
    let retry_after = retry_after.map(Duration::from_secs);
    Err(ConsulError::RateLimited { attempt, told, retry_after })
}

#[test]
fn a_rate_limit_is_waited_out() {
    let mut world = World::new(filled(3), 64);
    world.ask();
    world.answer(0, rate_limited(Some(7)));
    world.ask();
    assert!(world.asked.is_empty());
    assert_eq!(world.watch.wake_at(), Some(world.now + Duration::from_secs(7)));
    assert_eq!(world.watch.trouble().map(|t| t.code), Some("consul_rate_limited"));
    world.check();
}

#[test]
fn a_rate_limit_on_one_service_throws_nothing_away() {
    for in_flight in [64, 4] {
        let mut world = World::new(filled(10), in_flight);
        world.check();
        let epoch = world.epoch;
        world.sim.put(3, 1, 0);
        let is_service = |ask: &Ask| matches!(ask, Ask::Service { .. });
        // Few connections: the view tells which service to read.
        if in_flight == 4 {
            world.answer_what(|ask| matches!(ask, Ask::View { .. }));
            world.ask();
        }
        let asked = world.asked.iter().position(is_service).unwrap();
        world.answer(asked, rate_limited(Some(20)));
        let began = world.now;
        world.count = 0;
        world.ask();
        assert_eq!(world.count, 0, "{:?}", world.asked);
        assert_eq!(world.watch.wake_at(), Some(began + Duration::from_secs(20)));
        assert_eq!(world.watch.trouble().map(|t| t.code), Some("consul_rate_limited"));
        world.check();
        assert_eq!(world.epoch, epoch);
    }
}

#[test]
fn a_storm_of_rate_limits_is_met_with_longer_and_longer_pauses() {
    let mut world = World::new(filled(10), 64);
    world.check();
    let mut pauses = Vec::new();
    for service in 0..9 {
        // In between everything is as it should be.
        let name: Text = format!("s{service}").into();
        let at = world
            .asked
            .iter()
            .position(|ask| matches!(ask, Ask::Service { name: asked, .. } if *asked == name));
        world.answer(at.unwrap(), rate_limited(None));
        world.ask();
        pauses.push(world.watch.limited_until(world.now).unwrap() - world.now);
        world.now += pauses[service];
        while world.watch.trouble().is_some() {
            world.ask();
            match world.answerable().first() {
                Some(at) => {
                    let answer = world.answer_to(*at).unwrap();
                    world.answer(*at, answer);
                }
                None => world.now = world.watch.wake_at().unwrap(),
            }
        }
        world.ask();
    }
    assert!(pauses[0] <= Duration::from_millis(200), "{pauses:?}");
    assert!(pauses[8] >= Duration::from_secs(15), "{pauses:?}");
}

#[test]
fn a_failure_of_one_service_is_its_own() {
    let mut world = World::new(filled(10), 64);
    world.check();
    let epoch = world.epoch;
    world.sim.put(3, 1, 0);
    let fail = |world: &mut World, service: u8| {
        // The long poll breaks, then the read does too.
        for _ in 0..2 {
            world.ask();
            let name = Sim::name(service);
            let at = world
                .asked
                .iter()
                .position(|ask| matches!(ask, Ask::Service { name: asked, .. } if *asked == name));
            let attempt = "read".to_owned();
            world.answer(at.unwrap(), Err(ConsulError::NoLeader { attempt }));
        }
    };
    fail(&mut world, 3);
    assert_eq!(world.watch.trouble().map(|t| t.code), Some("consul_no_leader"));
    world.check();
    assert_eq!(world.epoch, epoch);
    // Several in a row are about Consul.
    for service in [1, 2, 3] {
        fail(&mut world, service);
    }
    assert_ne!(world.watch.epoch(), epoch);
    world.check();
}

#[test]
fn a_view_that_access_rules_made_smaller_is_a_doubt() {
    for in_flight in [64, 4] {
        let mut world = World::new(filled(10), in_flight);
        // Until the listing is complete, and after.
        let smaller = |world: &mut World, at: usize| {
            let ask = world.asked[at].clone();
            let answer = world.sim.answer(&ask).unwrap();
            match answer {
                Ok(Reply::View { index, view, bytes, .. }) => {
                    Ok(Reply::View { index, view, bytes, filtered: true })
                }
                other => other,
            }
        };
        for _ in 0..100 {
            world.ask();
            let Some(at) = world.answerable().first().copied() else { break };
            let answer = smaller(&mut world, at);
            world.answer(at, answer);
        }
        assert!(world.watch.is_listed());
        assert_eq!(world.watch.trouble().map(|t| t.code), Some("consul_filtered"));
        assert_eq!(world.listed, world.sim.listed());
        world.sim.put(3, 1, 0);
        world.check();
    }
}
