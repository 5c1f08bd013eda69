//! Instances as AWS documents them, and what may be gone after which answers.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use expect_test::{Expect, expect};
use landfall_core::registry::{Health, Service};
use tokio::time::Instant;

use super::client::{Catalog, Discovered};
use super::convert::{self, Info, Namespace, Registered};
use super::listing::{Absence, Listing};
use super::testing;

const SETTLE: Duration = Duration::from_secs(90);

fn namespace(name: &str) -> Arc<Namespace> {
    let id = format!("ns-{name}");
    Arc::new(Namespace { id: id.into(), name: name.into(), http_name: name.into() })
}

fn info(name: &str) -> Info {
    Info::new(namespace("prod"), &format!("srv-{name}"), name, true)
}

fn registered(id: &str, health: &str, attributes: &[(&str, &str)]) -> Registered {
    let attributes: HashMap<String, String> =
        attributes.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned())).collect();
    let health = Some(health.to_owned()).filter(|health| !health.is_empty());
    Registered::new(Some(id.to_owned()), health, Some(attributes))
}

fn told(service: &Service) -> String {
    let mut told = String::new();
    for one in service.instances() {
        let ports: Vec<String> = one.ports.iter().map(|port| port.number.to_string()).collect();
        told += &format!("{} {} [{}] {:?}", one.id, one.address, ports.join(" "), one.health);
        for (key, value) in one.meta.iter().chain(one.ext.iter()) {
            told += &format!(" {key}={value}");
        }
        if let Some(locality) = &one.locality {
            told += &format!(" in {}/{}", locality.region, locality.zone);
        }
        told.push('\n');
    }
    told
}

fn check(is_checked: bool, all: &[Registered], expected: Expect) {
    let info = Info { is_checked, ..info("orders") };
    let (service, findings) = convert::service(&info, all, None);
    let findings: String = findings.iter().map(|finding| format!("{finding}\n")).collect();
    expected.assert_eq(&(told(&service) + &findings));
}

// === What an instance becomes ===

#[test]
fn a_task_of_ecs_has_address_port_place_and_metadata() {
    // As ECS registers a task of a service with service discovery.
    let task = registered(
        "d6d8e4b1c2f14d4a",
        "HEALTHY",
        &[
            ("AVAILABILITY_ZONE", "us-east-1b"),
            ("AWS_INIT_HEALTH_STATUS", "UNHEALTHY"),
            ("AWS_INSTANCE_IPV4", "172.16.1.100"),
            ("AWS_INSTANCE_PORT", "8080"),
            ("ECS_CLUSTER_NAME", "tutorial"),
            ("ECS_SERVICE_NAME", "orders"),
            ("ECS_TASK_DEFINITION_FAMILY", "orders"),
            ("REGION", "us-east-1"),
        ],
    );
    check(
        true,
        &[task],
        expect![[r#"
            d6d8e4b1c2f14d4a 172.16.1.100 [8080] Passing AVAILABILITY_ZONE=us-east-1b ECS_CLUSTER_NAME=tutorial ECS_SERVICE_NAME=orders ECS_TASK_DEFINITION_FAMILY=orders REGION=us-east-1 cloud-map.health=HEALTHY in us-east-1/us-east-1b
        "#]],
    );
}

#[test]
fn every_kind_of_address_is_read() {
    let alias = "my-lb-1234567890.us-west-2.elb.amazonaws.com";
    check(
        true,
        &[
            registered("v6", "HEALTHY", &[("AWS_INSTANCE_IPV6", "2001:db8::1")]),
            registered(
                "both",
                "HEALTHY",
                &[("AWS_INSTANCE_IPV6", "2001:db8::1"), ("AWS_INSTANCE_IPV4", "192.0.2.44")],
            ),
            registered("cname", "HEALTHY", &[("AWS_INSTANCE_CNAME", "orders.example.com")]),
            registered("alias", "", &[("AWS_ALIAS_DNS_NAME", alias)]),
            registered(
                "ec2",
                "UNKNOWN",
                &[("AWS_EC2_INSTANCE_ID", "i-0abcdef"), ("AWS_INSTANCE_IPV4", "192.0.2.45")],
            ),
        ],
        expect![[r#"
            alias my-lb-1234567890.us-west-2.elb.amazonaws.com [] Unknown cloud-map.alias=my-lb-1234567890.us-west-2.elb.amazonaws.com
            both 192.0.2.44 [] Passing cloud-map.health=HEALTHY cloud-map.ipv6=2001:db8::1
            cname orders.example.com [] Passing cloud-map.cname=orders.example.com cloud-map.health=HEALTHY
            ec2 192.0.2.45 [] Unknown cloud-map.ec2-instance-id=i-0abcdef cloud-map.health=UNKNOWN
            v6 2001:db8::1 [] Passing cloud-map.health=HEALTHY
        "#]],
    );
}

#[test]
fn without_health_checks_everybody_passes() {
    let of = |id, health| registered(id, health, &[("AWS_INSTANCE_IPV4", "192.0.2.44")]);
    let all = [of("a", "UNKNOWN"), of("b", "UNHEALTHY"), of("c", ""), of("d", "HEALTHY")];
    let healths = |is_checked| -> Vec<Health> {
        let (service, _) = convert::service(&Info { is_checked, ..info("a") }, &all, None);
        service.instances().iter().map(|one| one.health).collect()
    };
    assert_eq!(healths(false), [Health::Passing; 4]);
    let judged = [Health::Unknown, Health::Critical, Health::Unknown, Health::Passing];
    assert_eq!(healths(true), judged);
}

#[test]
fn what_is_wrong_with_one_instance_is_a_finding() {
    let address = ("AWS_INSTANCE_IPV4", "192.0.2.44");
    check(
        false,
        &[
            registered("good", "", &[address]),
            registered("", "", &[address]),
            registered("nowhere", "", &[("AWS_INSTANCE_IPV4", " ")]),
            registered("ec2", "", &[("AWS_EC2_INSTANCE_ID", "i-0abcdef")]),
            registered("port", "", &[address, ("AWS_INSTANCE_PORT", "eighty")]),
            registered("zero", "", &[address, ("AWS_INSTANCE_PORT", "0")]),
            registered("twice", "", &[address, ("stage", "a")]),
            registered("twice", "", &[address, ("stage", "b")]),
        ],
        expect![[r#"
            good 192.0.2.44 [] Passing
            twice 192.0.2.44 [] Passing stage=a
            malformed_instance prod/orders/: it has no identifier; it is left out. Register it again as AWS documents
            malformed_instance prod/orders/nowhere: it has none of AWS_INSTANCE_IPV4, AWS_INSTANCE_IPV6, AWS_INSTANCE_CNAME and AWS_ALIAS_DNS_NAME; it is left out. Register it again as AWS documents
            malformed_instance prod/orders/ec2: Cloud Map knows no address of the EC2 instance i-0abcdef; it is left out. Register it again as AWS documents
            malformed_instance prod/orders/port: port "eighty" is not between 1 and 65535; it is left out. Register it again as AWS documents
            malformed_instance prod/orders/zero: port "0" is not between 1 and 65535; it is left out. Register it again as AWS documents
            duplicate_instance prod/orders/twice: registered more than once with different facts; kept the one at 192.0.2.44. Give each instance an identifier of its own
        "#]],
    );
}

#[test]
fn an_instance_that_cannot_be_read_any_more_stands_as_it_was() {
    let of = |port| {
        let address = ("AWS_INSTANCE_IPV4", "192.0.2.44");
        [registered("a", "HEALTHY", &[address, ("AWS_INSTANCE_PORT", port)])]
    };
    let (before, _) = convert::service(&info("orders"), &of("80"), None);
    let before = Arc::new(before);
    let (after, findings) = convert::service(&info("orders"), &of("eighty"), Some(&before));
    assert_eq!((&after, findings.len()), (&*before, 1));
}

#[test]
fn a_place_without_its_region_is_in_the_region_of_its_name() {
    let address = ("AWS_INSTANCE_IPV4", "192.0.2.44");
    check(
        false,
        &[
            registered("a", "", &[address, ("AVAILABILITY_ZONE", "us-west-2-lax-1a")]),
            registered("b", "", &[address, ("REGION", "us-west-2")]),
        ],
        expect![[r#"
            a 192.0.2.44 [] Passing AVAILABILITY_ZONE=us-west-2-lax-1a in us-west-2/us-west-2-lax-1a
            b 192.0.2.44 [] Passing REGION=us-west-2 in us-west-2/
        "#]],
    );
}

#[tokio::test]
async fn an_answer_of_another_form_is_no_listing() {
    let recorded = include_str!("../../../../tests/fixtures/cloudmap/discovered.json");
    let (service, findings) = testing::discovered(recorded.into()).await.unwrap();
    assert_eq!((service.instances().len(), findings.len()), (3, 0));
    for body in ["", "{}", "[]", "null", r#"{"Instances": null}"#, &recorded[..400], "<html>"] {
        let error = testing::discovered(body.into()).await.unwrap_err();
        assert_eq!(error.code(), "cloud_map_malformed", "{body}: {error}");
    }
}

// === What may be gone ===

struct World {
    listing: Listing,
    now: Instant,
}

impl World {
    /// With these services, of one instance each.
    fn new(names: &[&str]) -> Self {
        let mut world = Self { listing: Listing::default(), now: Instant::now() };
        world.listed(names);
        for name in names {
            assert_eq!(world.read(name, 1), Ok(false));
        }
        world
    }

    fn after(&mut self, secs: u64) -> &mut Self {
        self.now += Duration::from_secs(secs);
        self
    }

    fn listed(&mut self, names: &[&str]) -> Vec<String> {
        let services = names.iter().map(|name| info(name)).collect();
        let catalog = Catalog { services, missing: Vec::new() };
        let to_read = self.listing.listed(catalog, self.now);
        to_read.iter().map(|key| key.name.to_string()).collect()
    }

    fn read(&mut self, name: &str, instances: usize) -> Result<bool, Absence> {
        let of = |n| registered(&format!("{name}-{n}"), "", &[("AWS_INSTANCE_IPV4", "192.0.2.1")]);
        let instances = (0..instances).map(of).collect();
        let discovered = Discovered { revision: Some(1), instances };
        self.listing.read(&info(name).key, discovered, SETTLE, self.now)
    }

    fn absent(&mut self, name: &str) -> Absence {
        self.listing.absent(&info(name).key, SETTLE, self.now)
    }

    fn seen(&self) -> Vec<String> {
        self.listing.snapshot().services.keys().map(|key| key.name.to_string()).collect()
    }
}

#[test]
fn a_service_goes_when_neither_listed_nor_discovered() {
    let mut world = World::new(&["a", "b"]);
    assert_eq!(world.after(30).listed(&["a"]), ["b"]);
    assert_eq!(world.read("b", 1), Ok(true));
    assert_eq!(world.seen(), ["a", "b"]);
    assert_eq!(world.absent("b"), Absence::Gone);
    assert_eq!(world.seen(), ["a"]);
    // Or has no instance to lose.
    world.after(30).listed(&["a", "b"]);
    assert_eq!(world.read("b", 1), Ok(false));
    world.after(30).listed(&["a"]);
    assert_eq!(world.read("b", 0), Err(Absence::Gone));
    assert_eq!((world.seen(), world.listing.missing()), (vec!["a".to_owned()], 0));
}

#[test]
fn a_service_that_is_listed_is_not_gone_for_not_being_discovered() {
    let mut world = World::new(&["a", "b"]);
    assert_eq!(world.absent("b"), Absence::Unsure);
    assert_eq!(world.absent("b"), Absence::Contradiction);
    assert_eq!(world.seen(), ["a", "b"]);
    assert_eq!(world.read("b", 1), Ok(true));
    assert_eq!(world.absent("b"), Absence::Unsure);
}

#[test]
fn a_listing_without_anything_that_was_there_is_waited_for() {
    let mut world = World::new(&["a", "b"]);
    let until = world.after(30).now + SETTLE;
    assert_eq!(world.listed(&[]), ["a", "b"]);
    assert_eq!([world.absent("a"), world.absent("b")], [Absence::KeptUntil(until); 2]);
    // What is new does not show that it is the same registry.
    for _ in 0..2 {
        assert!(world.after(10).listed(&["c"]).starts_with(&["a".to_owned(), "b".to_owned()]));
        world.read("c", 1).unwrap();
        assert_eq!(world.absent("a"), Absence::KeptUntil(until));
    }
    assert_eq!((world.seen().len(), world.listing.missing()), (3, 2));
    // What was there before does.
    world.after(10).listed(&["b", "c"]);
    assert_eq!(world.absent("a"), Absence::Gone);
    assert_eq!((world.seen().len(), world.listing.missing()), (2, 0));
    // And so does time, in which somebody answered.
    world.after(10).listed(&[]);
    world.absent("b");
    world.after(80);
    world.listing.nobody_answered(world.now);
    assert_eq!(
        world.after(80).absent("b"),
        Absence::KeptUntil(world.now + Duration::from_secs(10))
    );
    assert_eq!(world.after(10).absent("b"), Absence::Gone);
}

#[test]
fn of_a_namespace_that_is_not_there_everything_stands() {
    let mut world = World::new(&["a", "b"]);
    let catalog = Catalog { services: Vec::new(), missing: vec!["prod".to_owned()] };
    assert!(world.listing.listed(catalog, world.now).is_empty());
    assert_eq!(world.seen(), ["a", "b"]);
}

#[test]
fn a_service_that_was_made_anew_is_read_anew() {
    let mut world = World::new(&["a", "b"]);
    let again = Info { id: "srv-another".into(), ..info("a") };
    let catalog = Catalog { services: vec![again, info("b")], missing: Vec::new() };
    let to_read = world.listing.listed(catalog, world.now);
    assert_eq!(to_read, [info("a").key]);
}

#[test]
fn a_revision_that_goes_down_is_a_change() {
    let mut world = World::new(&["a"]);
    let key = info("a").key;
    assert!(!world.listing.is_changed(&key, 1));
    assert!(world.listing.is_changed(&key, 7));
    assert!(!world.listing.is_changed(&key, 7));
    assert!(world.listing.is_changed(&key, 6));
    assert!(!world.listing.is_changed(&info("gone").key, 6));
}
