//! What is kept, and doubted, of a registry that lost its past.

use super::*;

/// A registry that lost its data, and what is still listed then. It is found out by an answer that
/// `first` chooses, or by who was cut off.
fn lose_all(world: &mut World, first: impl Fn(&Ask) -> bool) {
    world.sim.services.clear();
    world.sim.restore();
    let at = world.asked.iter().position(first).unwrap();
    let mut without_index = world.asked[at].clone();
    if let Ask::View { index, .. } | Ask::Service { index, .. } = &mut without_index {
        *index = None;
    }
    let answer = world.sim.answer(&without_index).unwrap();
    world.answer(at, answer);
}

fn is_view(ask: &Ask) -> bool {
    matches!(ask, Ask::View { .. })
}

#[test]
fn what_a_registry_lost_is_kept_for_a_while_and_what_it_gets_is_listed() {
    // In both ways to watch, whoever is the first to learn of it.
    for (in_flight, by_view) in [(64, true), (64, false), (4, true)] {
        let mut sim = filled(10);
        sim.put(3, 1, 0);
        let mut world = World::new(sim, in_flight);
        world.check();
        let before = world.listed.clone();
        let is_poll_of_3 = |ask: &Ask| is_poll(ask, &Sim::name(3));
        lose_all(&mut world, |ask| if by_view { is_view(ask) } else { is_poll_of_3(ask) });
        // What that has asked is answered before the views wake.
        world.ask();
        if let Some(read) = world.asked.iter().position(|ask| is_read(ask, &Sim::name(3))) {
            let answer = world.answer_to(read).unwrap();
            world.answer(read, answer);
        }
        drive(&mut world, SETTLE / 2);
        assert_eq!(world.listed, before);
        let trouble = world.watch.trouble().unwrap();
        assert_eq!(trouble.code, "consul_reset");
        assert!(trouble.message.contains("10 services lack"), "{}", trouble.message);
        // One instance of two is back, elsewhere; one service is new.
        world.sim.put(3, 0, 7);
        world.sim.put(50, 0, 0);
        drive(&mut world, SETTLE / 4);
        let instances = [(0, (7, true)), (1, (0, true))].into();
        let merged = Sim::service(3, &instances);
        assert_eq!(world.listed.get(&merged.key), Some(&merged));
        assert_eq!(world.listed.len(), 11);
        assert!(world.watch.trouble().unwrap().message.contains("10 services lack"));
        world.sim.put(3, 1, 0);
        drive(&mut world, SETTLE / 8);
        assert!(world.watch.trouble().unwrap().message.contains("9 services lack"));
        // What did not come back is gone at last.
        drive(&mut world, SETTLE / 4);
        assert_eq!(world.listed, world.sim.listed());
        world.check();
    }
}

#[test]
fn a_loss_while_nobody_is_there_is_noticed_afterwards() {
    for in_flight in [64, 4] {
        let mut world = World::new(filled(10), in_flight);
        world.check();
        let before = world.listed.clone();
        // The connection breaks, and nobody answers for a while.
        for _ in 0..2 {
            let at = world.asked.iter().position(is_view).unwrap();
            world.answer(at, Err(ConsulError::NoLeader { attempt: "read".to_owned() }));
            world.now = world.watch.wake_at().unwrap_or(world.now);
            world.ask();
        }
        assert_eq!(world.watch.trouble().map(|t| t.code), Some("consul_no_leader"));
        world.sim.services.clear();
        world.sim.restore();
        drive(&mut world, SETTLE / 2);
        assert_eq!(world.listed, before);
        assert_eq!(world.watch.trouble().map(|t| t.code), Some("consul_reset"));
        world.check();
    }
}

#[test]
fn an_empty_registry_is_doubted_at_the_start_for_a_while() {
    let empty = Some("consul_empty");
    for in_flight in [64, 4] {
        let mut world = World::new(Sim::new(), in_flight);
        drive(&mut world, SETTLE / 4);
        let code = |world: &World| world.watch.trouble().map(|trouble| trouble.code);
        assert!(world.watch.is_listed() && world.listed.is_empty());
        assert_eq!(code(&world), empty);
        // What comes is listed at once, and says nothing of what did not come yet. What goes again
        // is kept, as after any loss.
        world.sim.put(3, 0, 0);
        world.sim.put(4, 0, 0);
        drive(&mut world, SETTLE / 4);
        let both = world.sim.listed();
        assert_eq!((&world.listed, code(&world)), (&both, empty));
        world.sim.remove(4, 0);
        drive(&mut world, SETTLE / 4);
        assert_eq!((&world.listed, code(&world)), (&both, empty));
        drive(&mut world, SETTLE / 2);
        assert_eq!((&world.listed, code(&world)), (&world.sim.listed(), None));
        world.check();
    }
}

#[test]
fn a_registry_that_stays_empty_is_believed_in_the_end() {
    let mut world = World::new(Sim::new(), 64);
    drive(&mut world, SETTLE * 2);
    assert_eq!(world.watch.trouble(), None);
    world.check();
    // From then on it is as any other that was heard.
    world.sim.put(3, 0, 0);
    drive(&mut world, SETTLE / 8);
    world.sim.remove(3, 0);
    drive(&mut world, SETTLE / 8);
    assert_eq!(world.watch.trouble(), None);
    assert!(world.listed.is_empty());
}

#[test]
fn a_registry_that_is_emptied_once_it_was_heard_is_believed() {
    let mut world = World::new(filled(1), 64);
    world.check();
    world.sim.remove(0, 0);
    drive(&mut world, SETTLE / 8);
    assert_eq!(world.watch.trouble(), None);
    assert!(world.listed.is_empty());
}

#[test]
fn a_scope_that_came_into_being_lately_may_be_empty() {
    let mut world = World::new(Sim::new(), 64);
    world.watch = world.watch.without_past();
    drive(&mut world, SETTLE / 8);
    assert!(world.watch.is_listed());
    assert_eq!(world.watch.trouble(), None);
}
