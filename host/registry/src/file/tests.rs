//! What files say, and what is noticed of their changes.

use std::fs;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use expect_test::{Expect, expect};
use landfall_core::pairs::Pairs;
use landfall_core::registry::{
    Health, Instance, InstancePort, Locality, Service, ServiceKey, Snapshot, SourceName,
    SourceState,
};
use landfall_core::text::Text;
use landfall_core::time::Time;
use proptest::prelude::*;
use tokio::sync::watch;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::*;

// === Reading ===

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
            file_syntax: r.yaml:1:1: the file ends too early. The last good listing stands
        "#]],
    );
    check(
        "services:\n",
        expect![[r#"
            file_syntax: r.yaml:1:9: a list is expected. The last good listing stands
        "#]],
    );
    check(
        "{}",
        expect![[r#"
        file_syntax: r.yaml:1:1: missing field `services`. The last good listing stands
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
        file_syntax: r.yaml:2:5: unknown key `nam` (did you mean `name`?). The last good listing stands
    "#]],
    );
    check(
        "services:\n  - name: a\n    instances:\n      - adress: x\n",
        expect![[r#"
        file_syntax: r.yaml:4:9: unknown key `adress` (did you mean `address`?). The last good listing stands
    "#]],
    );
    check(
        "servces: []\n",
        expect![[r#"
        file_syntax: r.yaml:1:1: unknown key `servces` (did you mean `services`?). The last good listing stands
    "#]],
    );
    check(
        "services:\n  - name: a\n    zzzzzzz: 1\n",
        expect![[r#"
        file_syntax: r.yaml:3:5: unknown key `zzzzzzz` (known are name, datacenter, partition, group, meta, ext, instances). The last good listing stands
    "#]],
    );
    check(
        "services:\n  - name: a\n    instances: [{address: x, port: http}]\n",
        expect![[r#"
            file_syntax: r.yaml:3:36: this is not a whole number. The last good listing stands
        "#]],
    );
    check(
        "services:\n  - name: a\n    instances: [{port: 80}]\n",
        expect![[r#"
        file_syntax: r.yaml:3:18: missing field `address`. The last good listing stands
    "#]],
    );
    check(
        "services: [\n",
        expect![[r#"
        file_syntax: r.yaml:1:11: unclosed bracket '['. The last good listing stands
    "#]],
    );
    check(
        "services: []\n---\nservices: []\n",
        expect![[r#"
            file_syntax: r.yaml:3:1: a second document begins; one file is one. The last good listing stands
        "#]],
    );
    check(
        "services: []\nservices: []\n",
        expect![[r#"
            file_syntax: r.yaml:2:1: the key `services` is given twice. The last good listing stands
        "#]],
    );
    check(
        "services:\n  - name: a\n    meta: {x: 1, x: 2}\n",
        expect![[r#"
            file_syntax: r.yaml:3:18: the key `x` is given twice. The last good listing stands
        "#]],
    );
    check(
        "a: &a [*a]\n",
        expect![[r#"
        file_syntax: r.yaml:1:1: unknown key `a` (known are services). The last good listing stands
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
        id: format!("svc-{s}-{i}").into(),
        address: format!("10.{}.{}.{i}", s / 250, s % 250).into(),
        ports: vec![InstancePort { name: "http".into(), number: 8080, protocol: "http".into() }],
        health: Health::Passing,
        weight: 1,
        tags: vec!["blue".into(), "v1".into()],
        meta: [("version", "1.2.3"), ("team", "shop"), ("build", "1234567890")]
            .into_iter()
            .collect(),
        ext: [("consul.node", "node-17")].into_iter().collect(),
        locality: Some(Locality { region: "eu".into(), zone: "eu-1a".into(), subzone: "".into() }),
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

// === Watching ===

struct Watched {
    state: watch::Receiver<SourceState>,
    _stop: tokio_util::sync::DropGuard,
}

impl Watched {
    fn start(path: &Path, poll: Duration) -> Self {
        let (out, state) =
            Publisher::new(SourceName::parse("file").unwrap(), || Time::from_millis(1));
        let stop = CancellationToken::new();
        let source = File::new(FileSettings { path: path.to_owned(), poll });
        tokio::spawn(Box::new(source).run(out, stop.clone()));
        Self { state, _stop: stop.drop_guard() }
    }

    /// Waits until the names of all services are `names` and the code of the doubt is `doubt`.
    async fn until(&mut self, names: &[&str], doubt: Option<&str>) -> Duration {
        let began = Instant::now();
        let fits = |state: &SourceState| {
            let listed = state.snapshot.as_ref().is_some_and(|snapshot| {
                snapshot.services.keys().map(|key| &*key.name).eq(names.iter().copied())
            });
            listed && state.doubt.as_ref().map(|d| d.code) == doubt
        };
        let waited = timeout(Duration::from_secs(10), self.state.wait_for(fits)).await;
        let timed_out = waited.is_err();
        drop(waited);
        if timed_out {
            panic!("waited for {names:?} {doubt:?}, have {:?}", self.state.borrow());
        }
        began.elapsed()
    }
}

fn listing(names: &[&str]) -> String {
    let lines =
        names.iter().map(|name| format!("  - name: {name}\n    instances: [{{address: a}}]\n"));
    format!("services:\n{}", lines.collect::<String>())
}

// Longer than any test: what is noticed is noticed by having been told.
const NO_POLL: Duration = Duration::from_secs(600);
// A loaded machine takes its time; the budget is 100 ms.
const SOON: Duration = Duration::from_millis(1500);

#[tokio::test(flavor = "multi_thread")]
async fn edits_of_one_file() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("r.yaml");
    fs::write(&path, listing(&["a"])).unwrap();
    let mut watched = Watched::start(&path, NO_POLL);
    watched.until(&["a"], None).await;
    // Renamed into place.
    let beside = folder.path().join("r.yaml.new");
    fs::write(&beside, listing(&["a", "b"])).unwrap();
    fs::rename(&beside, &path).unwrap();
    assert!(watched.until(&["a", "b"], None).await < SOON);
    // Written in place.
    fs::write(&path, listing(&["b"])).unwrap();
    assert!(watched.until(&["b"], None).await < SOON);
    // Broken, then mended.
    fs::write(&path, "services:\n  - name: c\n    instnces: []\n").unwrap();
    assert!(watched.until(&["b"], Some("file_syntax")).await < SOON);
    let message = watched.state.borrow().doubt.clone().unwrap().message;
    assert!(
        message.contains("r.yaml:3:5: unknown key `instnces` (did you mean `instances`?)"),
        "{message}"
    );
    fs::write(&path, listing(&["c"])).unwrap();
    watched.until(&["c"], None).await;
    // Gone is not empty.
    fs::remove_file(&path).unwrap();
    watched.until(&["c"], Some("file_missing")).await;
    fs::write(&path, "services: []\n").unwrap();
    watched.until(&[], None).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_file_that_is_being_written_is_not_read() {
    use std::io::Write;
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("r.yaml");
    fs::write(&path, listing(&["a", "b"])).unwrap();
    let mut watched = Watched::start(&path, NO_POLL);
    watched.until(&["a", "b"], None).await;
    let whole = listing(&["a", "b", "c"]);
    let (part, rest) = whole.split_at(listing(&["a"]).len());
    watched.state.mark_unchanged();
    let mut file = fs::File::create(&path).unwrap();
    file.write_all(part.as_bytes()).unwrap();
    tokio::time::sleep(Duration::from_millis(300)).await;
    assert!(!watched.state.has_changed().unwrap(), "{:?}", watched.state.borrow());
    file.write_all(rest.as_bytes()).unwrap();
    drop(file);
    watched.until(&["a", "b", "c"], None).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_folder_of_files() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("registry");
    let mut watched = Watched::start(&path, Duration::from_millis(50));
    watched
        .state
        .wait_for(|s| s.doubt.as_ref().is_some_and(|d| d.code == "file_missing"))
        .await
        .unwrap();
    fs::create_dir(&path).unwrap();
    watched
        .state
        .wait_for(|s| s.doubt.as_ref().is_some_and(|d| d.code == "file_none"))
        .await
        .unwrap();
    fs::write(path.join("1.yaml"), listing(&["a"])).unwrap();
    watched.until(&["a"], None).await;
    fs::write(path.join("2.json"), r#"{"services": [{"name": "b"}]}"#).unwrap();
    fs::write(path.join(".3.yaml"), "no listing").unwrap();
    fs::write(path.join("readme.txt"), "no listing").unwrap();
    watched.until(&["a", "b"], None).await;
    // The first file breaks: the other's changes wait with it.
    fs::write(path.join("1.yaml"), "services: [").unwrap();
    watched.until(&["a", "b"], Some("file_syntax")).await;
    fs::write(path.join("1.yaml"), listing(&["a", "c"])).unwrap();
    watched.until(&["a", "b", "c"], None).await;
    fs::remove_file(path.join("2.json")).unwrap();
    watched.until(&["a", "c"], None).await;
    fs::remove_file(path.join("1.yaml")).unwrap();
    watched.until(&["a", "c"], Some("file_none")).await;
}

#[cfg(unix)]
#[tokio::test(flavor = "multi_thread")]
async fn kubernetes_swaps_a_link() {
    use std::os::unix::fs::symlink;
    let folder = tempfile::tempdir().unwrap();
    let at = |name: &str| folder.path().join(name);
    fs::create_dir(at("..1")).unwrap();
    fs::write(at("..1").join("r.yaml"), listing(&["a"])).unwrap();
    symlink("..1", at("..data")).unwrap();
    symlink("..data/r.yaml", at("r.yaml")).unwrap();
    let mut file = Watched::start(&at("r.yaml"), NO_POLL);
    let mut all = Watched::start(folder.path(), NO_POLL);
    file.until(&["a"], None).await;
    all.until(&["a"], None).await;
    for (old, new, names) in [("..1", "..2", &["b"]), ("..2", "..3", &["c"])] {
        fs::create_dir(at(new)).unwrap();
        fs::write(at(new).join("r.yaml"), listing(names)).unwrap();
        symlink(new, at("..data_tmp")).unwrap();
        fs::rename(at("..data_tmp"), at("..data")).unwrap();
        fs::remove_dir_all(at(old)).unwrap();
        assert!(file.until(names, None).await < SOON);
        all.until(names, None).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn polling_notices_too() {
    let folder = tempfile::tempdir().unwrap();
    let target = folder.path().join("elsewhere");
    fs::create_dir(&target).unwrap();
    let path = folder.path().join("late/r.yaml");
    let mut watched = Watched::start(&path, Duration::from_millis(50));
    watched.state.wait_for(|s| s.doubt.is_some()).await.unwrap();
    // Nothing watched the folder, for it was not there.
    fs::create_dir(folder.path().join("late")).unwrap();
    fs::write(&path, listing(&["a"])).unwrap();
    watched.until(&["a"], None).await;
    let since = watched.state.borrow().since;
    assert_eq!(since, Time::from_millis(1));
}

#[tokio::test(flavor = "multi_thread")]
async fn polling_goes_on_where_the_operating_system_refuses_to_tell() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("r.yaml");
    fs::write(&path, listing(&["a"])).unwrap();
    let (out, state) = Publisher::new(SourceName::parse("file").unwrap(), || Time::from_millis(1));
    let stop = CancellationToken::new();
    let mut watched = Watched { state, _stop: stop.clone().drop_guard() };
    let metrics = Arc::clone(out.metrics());
    let refused = super::watch::Watch::refused(&path);
    let poll = Duration::from_millis(300);
    let source = File::new(FileSettings { path: path.clone(), poll });
    tokio::spawn(async move {
        let _stopped = stop.run_until_cancelled(source.watch(refused, &out)).await;
    });
    watched.until(&["a"], None).await;
    fs::write(&path, listing(&["a", "b"])).unwrap();
    let took = watched.until(&["a", "b"], None).await;
    // Looking all the time would have seen it sooner.
    assert!(took > Duration::from_millis(200), "{took:?}");
    // Looking is not reading.
    tokio::time::sleep(3 * poll).await;
    assert_eq!(metrics.requests(), 2);
}

#[cfg(target_os = "linux")]
#[tokio::test(flavor = "multi_thread")]
async fn a_writer_that_takes_long_is_a_doubt() {
    use std::io::Write;
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("r.yaml");
    fs::write(&path, listing(&["a", "b"])).unwrap();
    let mut watched = Watched::start(&path, NO_POLL);
    watched.until(&["a", "b"], None).await;
    // Others' files beside it are written for as long as they like.
    let mut other = fs::File::create(folder.path().join("other.yaml")).unwrap();
    other.write_all(b"services: []").unwrap();
    let mut file = fs::File::create(&path).unwrap();
    file.write_all(listing(&["a"]).as_bytes()).unwrap();
    watched.until(&["a", "b"], Some("file_unsettled")).await;
    tokio::time::sleep(Duration::from_millis(300)).await;
    watched.until(&["a", "b"], Some("file_unsettled")).await;
    drop(file);
    assert!(watched.until(&["a"], None).await < SOON);
    drop(other);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_file_that_is_written_at_the_start_is_waited_for() {
    use std::io::Write;
    for poll in [NO_POLL, Duration::from_millis(20)] {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("r.yaml");
        let mut file = fs::File::create(&path).unwrap();
        let names: Vec<String> = (0..60).map(|n| format!("s{n:02}")).collect();
        let whole = listing(&names.iter().map(String::as_str).collect::<Vec<_>>());
        file.write_all(b"services:\n").unwrap();
        let mut watched = Watched::start(&path, poll);
        for line in whole.split_inclusive('\n').skip(1) {
            file.write_all(line.as_bytes()).unwrap();
            tokio::time::sleep(Duration::from_millis(8)).await;
        }
        assert_eq!(watched.state.borrow().snapshot, None);
        drop(file);
        watched.until(&names.iter().map(String::as_str).collect::<Vec<_>>(), None).await;
    }
}

#[tokio::test(start_paused = true)]
async fn two_looks_must_agree_where_nobody_tells() {
    use std::io::Write;
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("r.yaml");
    let (out, state) = Publisher::new(SourceName::parse("file").unwrap(), || Time::from_millis(1));
    let source = File::new(FileSettings::new(&path));
    let refused = super::watch::Watch::refused(&path);
    for (lines, doubt) in [(20, None), (150, Some("file_unsettled"))] {
        let mut file = fs::File::create(&path).unwrap();
        let writing = async {
            for line in 0..lines {
                writeln!(file, "# {line}").unwrap();
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
            Instant::now()
        };
        let settling = async {
            source.settle(&refused, Noticed::Found, &out).await;
            Instant::now()
        };
        let (written, settled) = tokio::join!(writing, settling);
        assert!(settled > written, "{lines}");
        assert_eq!(state.borrow().doubt.as_ref().map(|d| d.code), doubt);
    }
}

#[cfg(unix)]
#[tokio::test(flavor = "multi_thread")]
async fn a_pipe_is_not_waited_for() {
    let folder = tempfile::tempdir().unwrap();
    fs::write(folder.path().join("a.yaml"), listing(&["a"])).unwrap();
    let mut watched = Watched::start(folder.path(), NO_POLL);
    watched.until(&["a"], None).await;
    let pipe = folder.path().join("b.yaml");
    let made = std::process::Command::new("mkfifo").arg(&pipe).status().unwrap();
    assert!(made.success());
    watched.until(&["a"], Some("file_not_regular")).await;
    fs::remove_file(&pipe).unwrap();
    watched.until(&["a"], None).await;
    assert_eq!(super::read(&folder.path().join("a.yaml")).unwrap().0.services.len(), 1);
}
