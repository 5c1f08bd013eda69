//! What files say, and what is noticed of their changes.

mod watching;

use std::fs;
use std::sync::Arc;

use expect_test::{Expect, expect};
use landfall_core::pairs::Pairs;
use landfall_core::registry::{
    Health, Instance, InstancePort, Locality, Service, ServiceKey, Snapshot,
};
use landfall_core::text::Text;
use proptest::prelude::*;

use super::*;

fn written(snapshot: &Snapshot) -> String {
    let mut bytes = Vec::new();
    write(snapshot, &mut bytes).unwrap();
    String::from_utf8(bytes).unwrap()
}

/// What `text` lists, written again, then the findings; or why it is refused.
fn check(text: &str, want: Expect) {
    let got = match parse("r.yaml", text) {
        Ok((snapshot, findings)) => {
            let again = written(&snapshot);
            assert_eq!(parse("again.yaml", &again).unwrap().0, snapshot, "{again}");
            findings.iter().fold(again, |all, finding| format!("{all}{finding}\n"))
        }
        Err(error) => format!("{}: {error}\n", error.code()),
    };
    want.assert_eq(&got);
}

#[test]
fn all_that_can_be_said() {
    check(
        r#"
services:
  - name: orders
    group: shop
    partition: p
    datacenter: eu-1
    meta: {team: shop}
    ext: {consul.x: "1"}
    instances:
      - id: orders-1
        address: 10.0.0.1
        ports: [{name: http, port: 8080, protocol: http}, {port: 9090}]
        health: warning
        weight: 5
        tags: [v2, v1, v2]
        meta: {version: v1, "yes": "no", n: 1.10, empty: ""}
        ext: {consul.node: n1}
        locality: {region: eu, zone: eu-1a, subzone: r1}
      - address: "::1"
        port: 80
"#,
        expect![[r#"
            services:
              - name: orders
                datacenter: eu-1
                partition: p
                group: shop
                meta: {team: shop}
                ext: {consul.x: "1"}
                instances:
                  - id: "[::1]:80"
                    address: "::1"
                    port: 80
                    health: passing
                  - id: orders-1
                    address: "10.0.0.1"
                    ports: [{name: http, port: 8080, protocol: http}, {port: 9090}]
                    health: warning
                    weight: 5
                    tags: [v1, v2]
                    meta: {empty: "", "n": "1.10", version: v1, "yes": "no"}
                    ext: {consul.node: n1}
                    locality: {region: eu, zone: eu-1a, subzone: r1}
        "#]],
    );
}

#[test]
fn json_is_read_too() {
    check(
        r#"{"services": [{"name": "a", "instances": [{"address": "10.0.0.1", "port": 80}]}]}"#,
        expect![[r#"
            services:
              - name: a
                instances:
                  - id: 10.0.0.1:80
                    address: "10.0.0.1"
                    port: 80
                    health: passing
        "#]],
    );
}

/// JSON has a reader of its own, which must neither take more nor tell less.
#[test]
fn json_is_refused_as_yaml_is() {
    let refused = |text: &str| parse("r.json", text).unwrap_err().to_string();
    for (text, want) in [
        (r#"{"services": [{"nam": "a"}]}"#, "r.json:1:16: unknown key `nam`"),
        (r#"{"services": [], "services": []}"#, "r.json:1:18: the key `services` is given twice"),
        (r#"{"services": [{"name": "a", "meta": {"x": "1", "x": "2"}}]}"#, "`x` is given twice"),
        (r#"{"services": ["#, "r.json:1:"),
        (r#"{"services": []} {}"#, "r.json:1:"),
    ] {
        assert!(refused(text).contains(want), "{text}: {}", refused(text));
    }
    let bad = r#"{"services": [{"name": "a", "instances": [{"address": "", "port": 80}]}]}"#;
    let (_, findings) = parse("r.json", bad).unwrap();
    assert!(findings[0].message.starts_with("r.json:1:43: its address is empty"), "{findings:?}");
    // A number where a text is expected: YAML takes it as written.
    let number = r#"{"services": [{"name": "a", "meta": {"version": 1.10}}]}"#;
    let (snapshot, _) = parse("r.json", number).unwrap();
    let meta = &snapshot.services.values().next().unwrap().meta;
    assert_eq!(meta.get("version").map(|v| &**v), Some("1.10"));
}

#[test]
fn json_that_is_no_yaml_is_read_with_a_malformed_instance_too() {
    let long = "k".repeat(2000);
    for key in ["\u{7f}", &long] {
        let text = format!(
            r#"{{"services": [{{"name": "a", "meta": {{"{key}": ""}}, "instances": [{{"address": ""}}]}}]}}"#
        );
        let (snapshot, findings) = parse("r.json", &text).unwrap();
        assert_eq!(snapshot.services.len(), 1);
        let message = &findings[0].message;
        assert_eq!(findings.len(), 1);
        assert!(message.contains("its address is empty"), "{message}");
    }
}

#[test]
fn empty_listings_are_written_out() {
    check(
        "services: []\n",
        expect![[r#"
        services: []
    "#]],
    );
    check(
        "",
        expect![[r#"
            file_syntax: r.yaml:1:1: the file ends too early. Correct the file
        "#]],
    );
    check(
        "services:\n",
        expect![[r#"
            file_syntax: r.yaml:1:9: a list is expected. Correct the file
        "#]],
    );
    check(
        "{}",
        expect![[r#"
        file_syntax: r.yaml:1:1: missing field `services`. Correct the file
    "#]],
    );
    check(
        "services:\n  - name: a\n",
        expect![[r#"
        services:
          - name: a
            instances: []
    "#]],
    );
}

#[test]
fn bad_instances_are_findings() {
    check(
        r#"
services:
  - name: a
    instances:
      - {address: "", port: 80}
      - {address: 10.0.0.1, port: 99999}
      - {address: 10.0.0.2, port: 0, health: up}
      - {address: 10.0.0.3, port: 80, weight: -1}
      - {address: 10.0.0.4, port: 80, ports: [{port: 81}]}
      - {address: 10.0.0.5, port: 80}
"#,
        expect![[r#"
            services:
              - name: a
                instances:
                  - id: 10.0.0.5:80
                    address: "10.0.0.5"
                    port: 80
                    health: passing
            malformed_instance a/:80: r.yaml:5:9: its address is empty; it is left out
            malformed_instance a/10.0.0.1:99999: r.yaml:6:9: port 99999 is not between 1 and 65535; it is left out
            malformed_instance a/10.0.0.2:0: r.yaml:7:9: port 0 is not between 1 and 65535 and health "up" is none of passing, warning, critical, maintenance, unknown; it is left out
            malformed_instance a/10.0.0.3:80: r.yaml:8:9: weight -1 is not between 0 and 4294967295; it is left out
            malformed_instance a/10.0.0.4:80: r.yaml:9:9: it has both `port` and `ports`; it is left out
        "#]],
    );
}

#[test]
fn services_and_instances_listed_twice() {
    check(
        r#"
services:
  - {name: a, meta: {x: "1"}, instances: [{id: i, address: 10.0.0.1}]}
  - {name: a, meta: {x: "2", y: "3"}, instances: [{id: i, address: 10.0.0.2}, {id: j, address: 10.0.0.3}]}
"#,
        expect![[r#"
            services:
              - name: a
                meta: {x: "1", "y": "3"}
                instances:
                  - id: i
                    address: "10.0.0.1"
                    health: passing
                  - id: j
                    address: "10.0.0.3"
                    health: passing
            service_twice a: listed again in r.yaml; its instances were joined. List a service in one place, or tell the places apart by group or datacenter
            duplicate_instance a/i: registered more than once with different facts; kept the one at 10.0.0.1. Give each instance an identifier of its own
        "#]],
    );
}

#[test]
fn what_is_refused() {
    check(
        "services:\n  - nam: a\n",
        expect![[r#"
        file_syntax: r.yaml:2:5: unknown key `nam` (did you mean `name`?). Correct the file
    "#]],
    );
    check(
        "services:\n  - name: a\n    instances:\n      - adress: x\n",
        expect![[r#"
        file_syntax: r.yaml:4:9: unknown key `adress` (did you mean `address`?). Correct the file
    "#]],
    );
    check(
        "servces: []\n",
        expect![[r#"
        file_syntax: r.yaml:1:1: unknown key `servces` (did you mean `services`?). Correct the file
    "#]],
    );
    check(
        "services:\n  - name: a\n    zzzzzzz: 1\n",
        expect![[r#"
        file_syntax: r.yaml:3:5: unknown key `zzzzzzz` (known are name, datacenter, partition, group, meta, ext, instances). Correct the file
    "#]],
    );
    check(
        "services:\n  - name: a\n    instances: [{address: x, port: http}]\n",
        expect![[r#"
            file_syntax: r.yaml:3:36: this is not a whole number. Correct the file
        "#]],
    );
    check(
        "services:\n  - name: a\n    instances: [{port: 80}]\n",
        expect![[r#"
        file_syntax: r.yaml:3:18: missing field `address`. Correct the file
    "#]],
    );
    check(
        "services: [\n",
        expect![[r#"
        file_syntax: r.yaml:1:11: unclosed bracket '['. Correct the file
    "#]],
    );
    check(
        "services: []\n---\nservices: []\n",
        expect![[r#"
            file_syntax: r.yaml:3:1: a second document begins; one file is one. Correct the file
        "#]],
    );
    check(
        "services: []\nservices: []\n",
        expect![[r#"
            file_syntax: r.yaml:2:1: the key `services` is given twice. Correct the file
        "#]],
    );
    check(
        "services:\n  - name: a\n    meta: {x: 1, x: 2}\n",
        expect![[r#"
            file_syntax: r.yaml:3:18: the key `x` is given twice. Correct the file
        "#]],
    );
    check(
        "a: &a [*a]\n",
        expect![[r#"
        file_syntax: r.yaml:1:1: unknown key `a` (known are services). Correct the file
    "#]],
    );
}

fn text() -> impl Strategy<Value = Text> {
    prop_oneof![
        "[a-z0-9.-]{0,12}",
        ".{0,12}",
        prop::sample::select(vec![
            "",
            "~",
            "null",
            "true",
            "yes",
            "1",
            "1.0",
            "0x1f",
            "1e3",
            ".inf",
            "-",
            "- a",
            "a: b",
            "#",
            " a",
            "a ",
            "a\nb",
            "a\r\nb",
            "\t",
            "\u{0}",
            "\u{85}",
            "\u{feff}",
            "\u{2028}",
            "'",
            "\"",
            "\\",
            "[",
            "{",
            "*a",
            "&a",
            "!a",
            "%a",
            "@a",
            "`a",
            "<<",
            "=",
            "2020-01-01",
            "\u{1f600}",
            "\u{7f}",
            "0o7",
            "+1",
            "\u{e000}",
            "---",
            "...",
            "? a",
            "a #b",
            "1_000",
        ])
        .prop_map(str::to_owned),
    ]
    .prop_map(Text::from)
}

fn pairs() -> impl Strategy<Value = Pairs> {
    prop::collection::vec((text(), text()), 0..4).prop_map(|pairs| pairs.into_iter().collect())
}

fn words() -> impl Strategy<Value = Vec<Text>> {
    prop::collection::btree_set(text(), 0..4).prop_map(|words| words.into_iter().collect())
}

fn instance() -> impl Strategy<Value = Instance> {
    let id = text().prop_filter("an empty one is replaced", |id| !id.is_empty());
    let address =
        text().prop_map(|a| Text::from(a.trim())).prop_filter("refused", |a| !a.is_empty());
    let port = (text(), 1..=u16::MAX, text()).prop_map(|(name, number, protocol)| InstancePort {
        name,
        number,
        protocol,
    });
    let place = (text(), text(), text()).prop_map(|(region, zone, subzone)| Locality {
        region,
        zone,
        subzone,
    });
    (
        (id, address, prop::collection::vec(port, 0..3)),
        (prop::sample::select(Health::ALL.to_vec()), any::<u32>(), words()),
        (pairs(), pairs(), prop::option::of(place)),
    )
        .prop_map(|((id, address, ports), (health, weight, tags), (meta, ext, locality))| {
            Instance { id, address, ports, health, weight, tags, meta, ext, locality }
        })
}

fn snapshot() -> impl Strategy<Value = Snapshot> {
    let key = (text(), text(), text(), text()).prop_map(|(datacenter, partition, group, name)| {
        ServiceKey { datacenter, partition, group, name }
    });
    let service = (key, pairs(), pairs(), prop::collection::vec(instance(), 0..3)).prop_map(
        |(key, meta, ext, instances)| {
            let instances = instances.into_iter().map(Into::into).collect();
            let (service, _) = Service::new(key.clone(), meta, ext, instances);
            (key, Arc::new(service))
        },
    );
    prop::collection::vec(service, 0..4)
        .prop_map(|services| Snapshot { services: services.into_iter().collect() })
}

proptest! {
    #[test]
    fn what_is_written_reads_back_the_same(snapshot in snapshot()) {
        let text = written(&snapshot);
        let (read, findings) = parse("r.yaml", &text).map_err(|e| TestCaseError::fail(format!("{e}\n{text}")))?;
        prop_assert_eq!(&read, &snapshot, "{}", text);
        prop_assert!(findings.is_empty(), "{:?}", findings);
        prop_assert_eq!(written(&read), text);
    }

    #[test]
    fn no_text_breaks_the_reader(text in ".{0,200}") {
        let _ = parse("r.yaml", &text);
    }

    #[test]
    fn no_damage_to_a_listing_breaks_the_reader(
        snapshot in snapshot(), at in any::<prop::sample::Index>(), with in ".{0,3}"
    ) {
        let mut text = written(&snapshot);
        let at = text.char_indices().map(|(i, _)| i).nth(at.index(text.chars().count())).unwrap_or(0);
        let end = text[at..].chars().next().map_or(at, |c| at + c.len_utf8());
        text.replace_range(at..end, &with);
        let _ = parse("r.yaml", &text);
    }
}

/// Ten thousand instances; a hundred thousand take a debug build a minute.
#[test]
fn a_large_listing() {
    let instance = |s: usize, i: usize| Instance {
        ports: vec![InstancePort { name: "http".into(), number: 8080, protocol: "http".into() }],
        tags: vec!["blue".into(), "v1".into()],
        meta: [("version", "1.2.3"), ("team", "shop"), ("build", "1234567890")]
            .into_iter()
            .collect(),
        ext: [("consul.node", "node-17")].into_iter().collect(),
        locality: Some(Locality { region: "eu".into(), zone: "eu-1a".into(), subzone: "".into() }),
        ..Instance::new(format!("svc-{s}-{i}"), format!("10.{}.{}.{i}", s / 250, s % 250))
    };
    let services = (0..1000).map(|s| {
        let key = ServiceKey { name: format!("svc-{s}").into(), ..ServiceKey::default() };
        let instances = (0..10).map(|i| instance(s, i).into()).collect();
        let service = Service::new(key.clone(), Pairs::default(), Pairs::default(), instances).0;
        (key, Arc::new(service))
    });
    let snapshot = Snapshot { services: services.collect() };
    let (read, findings) = parse("r.yaml", &written(&snapshot)).unwrap();
    assert!(read == snapshot && findings.is_empty());
}

#[test]
fn all_files_together_have_a_bound() {
    let folder = tempfile::tempdir().unwrap();
    let text = "services: []\n";
    fs::write(folder.path().join("a.yaml"), text).unwrap();
    let last = fs::File::create(folder.path().join("b.yaml")).unwrap();
    // Each of them is smaller than the bound. Nothing is stored of what was never written.
    last.set_len(BYTES_MAX - text.len() as u64 + 1).unwrap();
    let error = Files::default().read(folder.path(), None, Instant::now()).unwrap_err();
    let what = "has more than 256 MiB; split it over several sources";
    assert!(error.to_string().ends_with(what), "{error}");
}
