//! What Eureka's answers mean. The fixtures were recorded from Spring Cloud's server 2025.1.2.

use std::time::Duration;

use expect_test::{Expect, expect};
use landfall_core::registry::{Health, Snapshot};
use landfall_core::time::Time;
use proptest::prelude::*;
use serde_json::{Value, json};
use tokio::time::Instant;

use super::convert::{Reading, answer, counted};
use super::listing::{Keep, Listing, Server};

const EMPTY: &[u8] = include_bytes!("../../../../tests/fixtures/eureka/empty-full.json");
const ONE: &[u8] = include_bytes!("../../../../tests/fixtures/eureka/full-one-instance.json");
const FULL: &[u8] = include_bytes!("../../../../tests/fixtures/eureka/full.json");
const QUIRKS: &[u8] = include_bytes!("../../../../tests/fixtures/eureka/quirks-app.json");
const ADDED: &[u8] = include_bytes!("../../../../tests/fixtures/eureka/delta-after-add.json");
const STATUS: &[u8] = include_bytes!("../../../../tests/fixtures/eureka/delta-after-status.json");
const METADATA: &[u8] =
    include_bytes!("../../../../tests/fixtures/eureka/delta-after-metadata.json");
const DELETED: &[u8] = include_bytes!("../../../../tests/fixtures/eureka/delta-after-delete.json");
const FULL_DELETED: &[u8] =
    include_bytes!("../../../../tests/fixtures/eureka/full-after-delete.json");
const READDED: &[u8] = include_bytes!("../../../../tests/fixtures/eureka/delta-delete-readd.json");
const EVICTED: &[u8] =
    include_bytes!("../../../../tests/fixtures/eureka/delta-after-eviction.json");

/// As in the fixtures.
const LEASE: Duration = Duration::from_secs(90);
const KEEP: Keep = Keep { least: LEASE, most: Duration::from_secs(600) };

impl Listing {
    fn of(body: &[u8]) -> Self {
        let mut listing = Self::default();
        listing.read_full(body, Server::Another, Instant::now());
        listing
    }

    fn read_full(&mut self, body: &[u8], server: Server, now: Instant) {
        let read = answer(body, Reading::default()).unwrap();
        self.full(read.entries, &read.twice, KEEP, server, now);
    }

    /// Returns the server's digest.
    fn read_changes(&mut self, body: &[u8]) -> String {
        let read = answer(body, Reading::default()).unwrap();
        self.changes(read.entries);
        read.hash.unwrap()
    }

    fn ids(&self) -> Vec<String> {
        let services = self.snapshot().services.values();
        let instances = services.flat_map(|s| s.instances().iter().map(|i| (&s.key, &i.id)));
        instances.map(|(key, id)| format!("{key}/{id}")).collect()
    }
}

fn written(listing: &Listing) -> String {
    let mut text = Vec::new();
    crate::file::write(listing.snapshot(), &mut text).unwrap();
    let mut text = String::from_utf8(text).unwrap();
    for finding in listing.findings() {
        text.push_str(&format!("{finding}\n"));
    }
    text
}

fn check(body: &[u8], want: Expect) {
    want.assert_eq(&written(&Listing::of(body)));
}

/// An application `A` of these instances.
fn of_instances(instances: Value) -> Vec<u8> {
    let application = json!([{"name": "A", "instance": instances}]);
    json!({"applications": {"application": application}}).to_string().into_bytes()
}

/// The recorded instance with `change` made to it.
fn changed(change: impl Fn(&mut Value)) -> Value {
    let mut full: Value = serde_json::from_slice(ONE).unwrap();
    let instance = &mut full["applications"]["application"][0]["instance"][0];
    change(instance);
    instance.take()
}

fn quirks() -> Vec<u8> {
    let app: Value = serde_json::from_slice(QUIRKS).unwrap();
    json!({"applications": {"application": [app["application"]]}}).to_string().into_bytes()
}

#[test]
fn a_registry_as_spring_cloud_writes_it() {
    check(
        FULL,
        expect![[r#"
        services:
          - name: orders
            instances:
              - id: 10.0.0.1:orders:8080
                address: "10.0.0.1"
                ports: [{name: http, port: 8080, protocol: http}]
                health: passing
                weight: 10
                meta: {version: v1, weight: "10", zone: zone-a}
                ext: {eureka.host-name: orders-1.local, eureka.secure-vip: orders, eureka.status: UP, eureka.vip: orders}
                locality: {zone: zone-a}
              - id: 10.0.0.2:orders:8080
                address: "10.0.0.2"
                ports: [{name: http, port: 8080, protocol: http}, {name: https, port: 8443, protocol: https}]
                health: passing
                meta: {management.port: "8081", zone: zone-b}
                ext: {eureka.host-name: orders-2.local, eureka.secure-vip: orders, eureka.status: UP, eureka.vip: orders}
                locality: {zone: zone-b}
              - id: 10.0.0.3:orders:8080
                address: "10.0.0.3"
                ports: [{name: https, port: 8443, protocol: https}]
                health: passing
                ext: {eureka.host-name: orders-3.local, eureka.secure-vip: orders, eureka.status: UP, eureka.vip: orders}
          - name: payments
            instances:
              - id: 10.0.1.1:payments:8080
                address: "10.0.1.1"
                ports: [{name: http, port: 8080, protocol: http}]
                health: passing
                weight: 10
                meta: {version: v1, weight: "10", zone: zone-a}
                ext: {eureka.host-name: payments-1.local, eureka.secure-vip: payments, eureka.status: UP, eureka.vip: payments}
                locality: {zone: zone-a}
    "#]],
    );
}

#[test]
fn odd_registrations() {
    check(
        &quirks(),
        expect![[r#"
        services:
          - name: quirk
            instances:
              - id: q1
                address: "10.9.0.1"
                ports: [{name: http, port: 8080, protocol: http}]
                health: critical
                ext: {eureka.host-name: q1.local, eureka.status: STARTING, eureka.vip: "quirk,quirk-alt"}
              - id: q3
                address: "10.9.0.3"
                health: critical
                meta: {a: b, b: "true", "n": "1", nested: "{", u: é}
                ext: {eureka.host-name: q3.local, eureka.status: UNKNOWN, eureka.vip: quirk}
              - id: q4
                address: "10.9.0.4"
                ports: [{name: http, port: 7001, protocol: http}]
                health: passing
                meta: {empty: "", "n": "1", u: é & <x>}
                ext: {eureka.host-name: q4.local, eureka.status: UP, eureka.vip: quirk}
                locality: {region: us-east-1, zone: us-east-1c}
    "#]],
    );
}

#[test]
fn nothing_is_registered() {
    assert_eq!(Listing::of(EMPTY).snapshot(), &Snapshot::default());
    for empty in [
        r#"{"applications":{}}"#,
        r#"{"applications":{"application":null}}"#,
        r#"{"applications":{"application":""}}"#,
        r#"{"applications":{"application":[{"name":"A"}]}}"#,
        r#"{"applications":{"application":{"name":"A","instance":[]}}}"#,
    ] {
        assert_eq!(Listing::of(empty.as_bytes()).snapshot(), &Snapshot::default(), "{empty}");
    }
}

#[test]
fn what_is_no_listing_is_refused() {
    for no in [
        "",
        "{}",
        "[]",
        "null",
        r#"{"applications":null}"#,
        r#"{"applications":{"application":3}}"#,
        r#"{"applications":{"application":"A"}}"#,
        r#"{"applications":{"application":[{"instance":[]}]}}"#,
        r#"{"applications":{"application":[{"name":"A","instance":"i"}]}}"#,
        r#"{"application":{"name":"A"}}"#,
        r#"{"applications":{"application":[{"name":"A","instance":[{}"#,
    ] {
        assert!(answer(no.as_bytes(), Reading::default()).is_err(), "{no}");
    }
}

#[test]
fn json_that_was_made_from_xml_says_the_same() {
    let want = written(&Listing::of(ONE));
    let mut full: Value = serde_json::from_slice(ONE).unwrap();
    let apps = &mut full["applications"];
    apps["versions__delta"] = json!(1);
    let mut app = apps["application"][0].take();
    let mut instance = app["instance"][0].take();
    instance["port"] = json!({"$": "8080", "@enabled": true});
    instance["securePort"] = json!({"$": "443", "@enabled": "FALSE"});
    instance["lastUpdatedTimestamp"] = json!(1_795_358_472_624_u64);
    instance["leaseInfo"]["lastRenewalTimestamp"] = json!("1795358472623");
    let overridden = instance["overriddenStatus"].take();
    instance["overriddenstatus"] = overridden;
    instance.as_object_mut().unwrap().retain(|key, _| key != "overriddenStatus");
    instance["metadata"]["@class"] = json!("java.util.Collections$SynchronizedMap");
    instance["metadata"]["weight"] = json!(10);
    app["instance"] = instance;
    apps["application"] = app;
    assert_eq!(written(&Listing::of(full.to_string().as_bytes())), want);
}

#[test]
fn as_little_as_can_be_said() {
    check(
        &of_instances(json!([
            {"hostName": "h1", "status": "UP", "port": 80, "metadata": ""},
            {"instanceId": "i2", "ipAddr": "10.0.0.2"},
            {"instanceId": "i3", "ipAddr": "fd00::3", "status": "up", "port": {"$": 1},
             "securePort": {"$": 2}, "overriddenStatus": null, "dataCenterInfo": null,
             "leaseInfo": null, "metadata": null, "vipAddress": null},
            {"instanceId": "i4", "ipAddr": "10.0.0.4", "status": "SLEEPING",
             "overriddenstatus": "OUT_OF_SERVICE", "appGroupName": "G", "port": null,
             "securePort": {"$": 443, "@enabled": "true"},
             "metadata": {"weight": "much", "zone": " ", "deep": {"a": 1}, "flag": true}},
        ])),
        expect![[r#"
            services:
              - name: a
                instances:
                  - id: h1
                    address: h1
                    ports: [{name: http, port: 80, protocol: http}]
                    health: passing
                    ext: {eureka.host-name: h1, eureka.status: UP}
                  - id: i2
                    address: "10.0.0.2"
                    health: critical
                  - id: i3
                    address: fd00::3
                    ports: [{name: http, port: 1, protocol: http}]
                    health: passing
                    ext: {eureka.status: up}
                  - id: i4
                    address: "10.0.0.4"
                    ports: [{name: https, port: 443, protocol: https}]
                    health: critical
                    meta: {flag: "true", weight: much, zone: " "}
                    ext: {eureka.app-group: G, eureka.overridden-status: OUT_OF_SERVICE, eureka.status: SLEEPING}
        "#]],
    );
}

#[test]
fn a_malformed_instance_harms_no_other() {
    check(
        &of_instances(json!([
            {"instanceId": "good", "ipAddr": "10.0.0.1", "status": "UP"},
            {"instanceId": "far", "ipAddr": "10.0.0.1", "port": {"$": 65536, "@enabled": "true"}},
            {"instanceId": "word", "ipAddr": "10.0.0.1", "port": {"$": "http"}},
            {"instanceId": "nowhere", "status": "UP"},
            {"ipAddr": "10.0.0.1"},
            {"instanceId": "list", "ipAddr": ["10.0.0.1"]},
            7,
        ])),
        expect![[r#"
            services:
              - name: a
                instances:
                  - id: good
                    address: "10.0.0.1"
                    health: passing
                    ext: {eureka.status: UP}
            malformed_instance a/: invalid type: integer `7`, expected struct Instance at line 1 column 1; it is left out. Register it again as Eureka documents
            malformed_instance a/far: port 65536 is not between 1 and 65535; it is left out. Register it again as Eureka documents
            malformed_instance a/list: a list or an object stands for text at line 1 column 43; it is left out. Register it again as Eureka documents
            malformed_instance a/nowhere: it has neither an ipAddr nor a hostName; it is left out. Register it again as Eureka documents
            malformed_instance a/word: a port is not a whole number at line 1 column 61; it is left out. Register it again as Eureka documents
            duplicate_instance a/: listed more than once with different facts; kept the newest. Give each instance an instanceId of its own
        "#]],
    );
}

#[test]
fn the_name_of_the_host_may_go_first() {
    let reading = Reading { prefer_hostname: true, ..Reading::default() };
    let read = answer(ONE, reading).unwrap();
    assert_eq!(&*read.entries[0].facts.as_ref().unwrap().address, "orders-1.local");
}

#[test]
fn an_instance_whose_lease_is_old_is_critical() {
    let renewed = Time::from_millis(1_795_358_472_623);
    for (before, health, stale) in [
        (renewed, Health::Passing, None),
        (renewed.plus(Duration::from_millis(1)), Health::Critical, Some("true")),
    ] {
        let reading = Reading { stale_before: Some(before), ..Reading::default() };
        let read = answer(ONE, reading).unwrap();
        let instance = read.entries[0].facts.as_ref().unwrap();
        let said = instance.ext.get("eureka.stale").map(|said| &**said);
        assert_eq!((instance.health, said), (health, stale));
    }
}

#[test]
fn zones_of_amazon_have_regions() {
    for (zone, region) in [
        ("us-east-1c", "us-east-1"),
        ("ap-southeast-12b", "ap-southeast-12"),
        ("us-gov-west-1a", "us-gov-west-1"),
        ("us-west-2-lax-1a", "us-west-2"),
        ("us-east-1-wl1-bos-wlz-1", "us-east-1"),
        ("rack", ""),
        ("rack-", ""),
    ] {
        let instance = changed(|instance| {
            instance["dataCenterInfo"]["metadata"] = json!({"availability-zone": zone});
        });
        let read = answer(&of_instances(json!([instance])), Reading::default()).unwrap();
        let place = read.entries[0].facts.as_ref().unwrap().locality.clone().unwrap();
        assert_eq!((&*place.region, &*place.zone), (region, zone));
    }
}

#[test]
fn digests_count() {
    assert_eq!(counted("DOWN_1_UP_3_"), Some(4));
    assert_eq!(counted("OUT_OF_SERVICE_12_"), Some(12));
    assert_eq!(counted(""), None);
    assert_eq!(counted("UP_3"), None);
    assert_eq!(counted("UP_99999999999999999999_"), None);
}

#[test]
fn changes_lead_to_what_the_server_has() {
    let mut listing = Listing::of(ONE);
    assert_eq!(listing.hash(), "UP_1_");
    for delta in [ADDED, STATUS, METADATA, DELETED] {
        let hash = listing.read_changes(delta);
        assert_eq!(listing.hash(), hash);
        // Told again it says nothing new.
        let before = listing.snapshot().clone();
        listing.read_changes(delta);
        assert_eq!((listing.hash(), listing.snapshot()), (hash, &before));
    }
    assert_eq!(listing.snapshot(), Listing::of(FULL_DELETED).snapshot());
    assert_eq!(listing.read_changes(READDED), listing.hash());
    assert_eq!(listing.ids(), ["orders/10.0.0.1:orders:8080", "orders/10.0.0.2:orders:8080"]);
    // Of somebody who was never known.
    listing.read_changes(EVICTED);
    assert_eq!(listing.ids().len(), 2);
}

#[test]
fn services_that_did_not_change_are_shared() {
    let mut listing = Listing::of(FULL);
    let before = listing.snapshot().clone();
    listing.read_full(FULL, Server::Same, Instant::now());
    assert!(before.services.ptr_eq(&listing.snapshot().services));
    listing.read_changes(STATUS);
    let changed: Vec<_> = before.services.diff(&listing.snapshot().services).collect();
    assert_eq!(changed.len(), 1);
}

#[test]
fn nothing_goes_back() {
    let mut listing = Listing::of(FULL);
    listing.read_changes(METADATA);
    let newest = listing.snapshot().clone();
    // Changes from an older cache.
    listing.read_changes(STATUS);
    listing.read_changes(ADDED);
    assert_eq!(listing.snapshot(), &newest);
    // A full answer from an older cache, once; another of the same is what the server has.
    listing.read_full(FULL, Server::Same, Instant::now());
    assert_eq!(listing.snapshot(), &newest);
    listing.read_full(FULL, Server::Same, Instant::now());
    assert_eq!(listing.snapshot(), Listing::of(FULL).snapshot());
    // Another server's clock says nothing of this one's.
    listing.read_changes(METADATA);
    listing.read_full(FULL, Server::Another, Instant::now());
    assert_eq!(listing.snapshot(), Listing::of(FULL).snapshot());
}

/// `ONE` as a server lists it that started anew and took it up again.
fn one_taken_up_anew() -> Vec<u8> {
    of_orders(changed(|instance| {
        instance["lastUpdatedTimestamp"] = json!("1795358999000");
        instance["leaseInfo"]["registrationTimestamp"] = json!(1_795_358_999_000_u64);
    }))
}

fn of_orders(instance: Value) -> Vec<u8> {
    let application = json!([{"name": "ORDERS", "instance": [instance]}]);
    json!({"applications": {"application": application}}).to_string().into_bytes()
}

#[test]
fn what_a_new_server_does_not_list_is_kept_for_a_lease() {
    let mut listing = Listing::of(FULL);
    let now = Instant::now();
    for seconds in [0, 60, 89] {
        listing.read_full(EMPTY, Server::Same, now + Duration::from_secs(seconds));
        assert_eq!((listing.ids().len(), listing.missing(), listing.hash()), (4, 4, String::new()));
        assert!(listing.is_empty());
    }
    assert_eq!(listing.missing_until(), Some(now + LEASE));
    // One registers again, and one is heard of as a change.
    listing.read_full(&one_taken_up_anew(), Server::Same, now + Duration::from_secs(89));
    assert_eq!((listing.missing(), listing.hash()), (3, "UP_1_".to_owned()));
    let mut second = listing.read_changes(STATUS);
    assert_eq!((listing.missing(), listing.hash()), (0, std::mem::take(&mut second)));
    // From now on for as long again, for another server.
    listing.read_full(ONE, Server::Another, now + LEASE);
    assert_eq!(listing.missing(), 3);
    listing.read_full(ONE, Server::Same, now + LEASE + LEASE);
    assert_eq!((listing.missing(), listing.ids().len()), (0, 1));
}

#[test]
fn what_a_server_that_remembers_does_not_list_has_left() {
    for (server, missing) in [(Server::Same, 0), (Server::Another, 1)] {
        let mut listing = Listing::of(FULL);
        listing.read_full(FULL_DELETED, server, Instant::now());
        assert_eq!((listing.missing(), listing.ids().len()), (missing, 3 + missing));
    }
}

#[test]
fn what_a_new_server_remembers_is_only_since_it_began() {
    let mut listing = Listing::of(FULL);
    let now = Instant::now();
    for seconds in [0, 30] {
        let at = now + Duration::from_secs(seconds);
        listing.read_full(&one_taken_up_anew(), Server::Same, at);
        assert_eq!((listing.missing(), listing.ids().len()), (3, 4), "after {seconds} s");
    }
}

#[test]
fn what_a_new_server_told_as_a_change_is_no_memory() {
    let mut listing = Listing::of(FULL);
    let read = answer(&one_taken_up_anew(), Reading::default()).unwrap();
    listing.changes(read.entries);
    listing.read_full(&one_taken_up_anew(), Server::Same, Instant::now());
    assert_eq!((listing.missing(), listing.ids().len()), (3, 4));
}

#[test]
fn time_in_which_nobody_answers_is_no_evidence() {
    let mut listing = Listing::of(FULL);
    let now = Instant::now();
    listing.read_full(EMPTY, Server::Same, now);
    listing.nobody_answered(now + LEASE);
    listing.read_full(EMPTY, Server::Same, now + LEASE);
    assert_eq!(listing.missing(), 4);
    listing.read_full(EMPTY, Server::Same, now + LEASE + LEASE);
    assert_eq!((listing.missing(), listing.ids().len()), (0, 0));
}

#[test]
fn a_longer_lease_is_waited_for_within_bounds() {
    for (lease_secs, kept_secs) in [(30_u64, 90), (360, 360), (86_400, 600)] {
        let mut listing = Listing::of(&of_orders(changed(|instance| {
            instance["leaseInfo"]["durationInSecs"] = json!(lease_secs);
        })));
        let now = Instant::now();
        listing.read_full(EMPTY, Server::Same, now);
        assert_eq!(listing.missing_until(), Some(now + Duration::from_secs(kept_secs)));
    }
}

#[test]
fn what_cannot_be_read_any_more_stands_as_it_was() {
    let mut listing = Listing::of(ONE);
    let before = listing.snapshot().clone();
    let unreadable = |at: &str| {
        changed(|instance| {
            instance["lastUpdatedTimestamp"] = json!(at);
            instance["ipAddr"] = json!({"v4": "10.0.0.1"});
        })
    };
    listing.read_full(&of_orders(unreadable("1795358999000")), Server::Same, Instant::now());
    assert_eq!((listing.snapshot(), listing.findings().len()), (&before, 1));
    let found = listing.findings()[0].to_string();
    assert!(found.contains("its last legal registration stands"), "{found}");
    let read = answer(&of_orders(unreadable("1795358999001")), Reading::default()).unwrap();
    listing.changes(read.entries);
    assert_eq!((listing.snapshot(), listing.findings().len()), (&before, 1));
    listing.read_full(&one_taken_up_anew(), Server::Another, Instant::now());
    assert_eq!((listing.snapshot(), listing.findings().len()), (&before, 0));
}

#[test]
fn what_is_missing_and_told_to_be_deleted_is_gone() {
    let mut listing = Listing::of(FULL);
    listing.read_full(ONE, Server::Another, Instant::now());
    assert_eq!(listing.missing(), 3);
    listing.read_changes(READDED);
    assert_eq!(listing.ids(), ["orders/10.0.0.1:orders:8080", "orders/10.0.0.2:orders:8080"]);
    assert_eq!((listing.missing(), listing.hash()), (0, "UP_2_".to_owned()));
}

#[test]
fn the_newest_of_those_with_one_identifier_is_kept() {
    let older = changed(|i| i["lastUpdatedTimestamp"] = json!("5"));
    let newer = changed(|i| i["ipAddr"] = json!("10.0.0.9"));
    for pair in [json!([older, newer]), json!([newer, older])] {
        let listing = Listing::of(&of_instances(pair));
        let text = written(&listing);
        assert!(text.contains("10.0.0.9") && text.contains("duplicate_instance"), "{text}");
        assert_eq!(listing.ids().len(), 1);
    }
    let same = changed(|_| ());
    let listing = Listing::of(&of_instances(json!([same, same])));
    assert_eq!((listing.ids().len(), listing.findings().len()), (1, 0));
}

fn never_panics(bytes: &[u8]) {
    if let Ok(read) = answer(bytes, Reading::default()) {
        let mut listing = Listing::of(FULL);
        listing.changes(read.entries);
        let _ = (listing.hash(), read.hash.as_deref().and_then(counted));
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(512))]

    #[test]
    fn no_bytes_break_the_reader(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
        never_panics(&bytes);
    }

    #[test]
    fn no_damage_to_an_answer_breaks_the_reader(
        which in prop::sample::select(vec![FULL, DELETED, EMPTY]),
        at in any::<prop::sample::Index>(),
        len in 0..30_usize,
        with in "[-0-9eE.\"\\[\\]{}:,a-z\\\\]{0,10}",
    ) {
        let mut bytes = which.to_vec();
        let at = at.index(bytes.len());
        let end = (at + len).min(bytes.len());
        bytes.splice(at..end, with.into_bytes());
        never_panics(&bytes);
    }

    /// However changes come, in whatever order: the digest counts what is listed.
    #[test]
    fn the_digest_counts_what_is_listed(
        steps in prop::collection::vec((0..7_usize, any::<bool>()), 0..12),
    ) {
        let mut listing = Listing::default();
        let now = Instant::now();
        for (step, (which, full)) in steps.into_iter().enumerate() {
            let body = [EMPTY, ONE, FULL, FULL_DELETED, STATUS, DELETED, READDED][which];
            if full && which < 4 {
                let now = now + Duration::from_secs(step as u64 * 40);
                listing.read_full(body, Server::Same, now);
            } else {
                listing.read_changes(body);
            }
            let listed = listing.ids().len() - listing.missing();
            prop_assert_eq!(counted(&listing.hash()).unwrap_or(0), listed);
        }
    }
}
