//! Nothing is sent that Kubernetes or Istio would refuse, and nothing legal is held back: what
//! Landfall thinks of an object is what the API server and Istio's own validation think.

use std::collections::BTreeSet;
use std::fs;
use std::time::{Duration, Instant};

use landfall_mesh::api::{ApiVersion, MeshObject, Owner, from_yaml, to_json};
use landfall_mesh::testing::{self, Dice};
use landfall_mesh::validate::{Rule, Violation, validate};
use landfall_tests::servers::cluster::yaml_safe;
use landfall_tests::servers::process::{folder, wait};
use landfall_tests::servers::{Cluster, Judgment, judge};
use serde_json::{Value, json};

use crate::mutations::{self, METADATA, TABLE};
use crate::{Place, world};

/// So many services are promised to be taken.
const SERVICES: usize = 10_000;
/// Services with everything that policies can set, in every shape.
const EDITED_SERVICES: usize = 4_000;
const MUTANTS: usize = 4_000;
/// It takes less than a minute where nothing else runs.
const COLD_START_MAX: Duration = Duration::from_secs(150);
/// Long enough for a write that should not be.
const QUIET: Duration = Duration::from_secs(4);
/// Failures that are printed; more would not help anybody.
const SHOWN: usize = 10;

#[test]
fn everything_emitted_is_taken() {
    // A cluster of its own, for to empty one of 10,000 objects takes longer than to start one.
    let folder = folder();
    let cluster = Cluster::bare(&folder);
    cluster.install_our_crds();
    cluster.install_rbac();
    let place = Place::new("emitted", &folder);
    cluster.create_namespace(&place.namespace);
    let file = place.folder.join("registry.json");
    fs::write(&file, yaml_safe(&hostile_registry().to_string())).expect("a registry file");
    let mut config = place.config(&cluster, &json!({"file": {"path": file}}));
    config["defaults"]["labels"] = json!({"version": "{meta.version}"});
    place.installation.configure(&config);
    let began = Instant::now();
    let output = place.installation.run(&["plan", "--output", "yaml"]);
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let text = String::from_utf8(output.stdout).expect("text");
    let documents = text.split("---\n").filter(|document| !document.is_empty());
    let objects: Vec<Value> =
        documents.map(|document| serde_saphyr::from_str(document).expect("YAML")).collect();
    place.print(format_args!(
        "plan of {SERVICES} hostile services: {} objects, {} KB, in {:?}",
        objects.len(),
        text.len() >> 10,
        began.elapsed()
    ));
    let hosts: BTreeSet<String> = objects.iter().map(|o| o["spec"]["hosts"].to_string()).collect();
    assert_eq!(hosts.len(), SERVICES, "each service has a host of its own");
    let judged = all_judged(&place, text.into_bytes());
    assert_eq!(judged, objects.len());

    // And then in earnest.
    let began = Instant::now();
    let landfall = place.installation.start();
    let settled = || {
        let held = landfall.metric("landfall_sink_objects", &[]);
        let failed = landfall.metric("landfall_steps_total", &["outcome=\"refused\""]);
        assert_eq!(failed, 0, "the API server refuses what Landfall sends");
        (held == objects.len() as u64).then_some(())
    };
    let written = wait(COLD_START_MAX, settled);
    let held = landfall.metric("landfall_sink_objects", &[]);
    assert!(written.is_some(), "{held} of {} written within {COLD_START_MAX:?}", objects.len());
    let took = began.elapsed();
    let computed = landfall.cpu_time();
    place.print(format_args!(
        "cold start: {held} objects written to kube-apiserver in {took:?}, Landfall computed {computed:?}"
    ));
    landfall.stop();
    let writes = cluster.writes("serviceentries");
    let landfall = place.installation.start().ready();
    std::thread::sleep(QUIET);
    let writes = cluster.writes("serviceentries") - writes;
    place.print(format_args!("restart with {held} objects: {writes} writes"));
    assert_eq!(writes, 0, "requests that write after a restart");
    landfall.stop();
}

#[test]
fn everything_that_policies_can_set_is_taken() {
    let mut world = world();
    let place = world.place("edited-all");
    let cluster = world.cluster();
    let objects: Vec<Value> =
        testing::objects(20_261_122, EDITED_SERVICES).iter().map(manifest).collect();
    place.print(format_args!("{EDITED_SERVICES} edited services: {} objects", objects.len()));
    let lines: Vec<String> = objects.iter().map(Value::to_string).collect();
    // The namespaces that policies chose exist in no test; whether one could is asked for itself.
    let namespaces: BTreeSet<String> =
        objects.iter().map(|o| o["metadata"]["namespace"].to_string()).collect();
    let namespaces: Vec<Value> = namespaces
        .iter()
        .map(|name| serde_json::from_str(name).expect("a text"))
        .map(|name: Value| json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name}}))
        .collect();
    refused_none(&place, cluster, &namespaces);
    let moved: Vec<Value> = objects.iter().map(|object| moved_to(object, &place)).collect();
    let judged = all_judged(&place, lines.join("\n").into_bytes());
    assert_eq!(judged, objects.len());
    refused_none(&place, cluster, &moved);
}

#[test]
fn verdicts_agree() {
    let mut world = world();
    let place = world.place("verdicts");
    let cluster = world.cluster();
    let mut objects: Vec<(String, MeshObject)> = Vec::new();
    let plain = TABLE.iter().map(|(kind, spec)| (*kind, "", *spec));
    let service = |metadata| ("ServiceEntry", metadata, "{hosts: [a.b], resolution: STATIC}");
    let endpoint = |metadata| ("WorkloadEntry", metadata, "{address: 10.0.0.1}");
    let marked = METADATA.iter().flat_map(|metadata| [service(*metadata), endpoint(*metadata)]);
    for (kind, metadata, spec) in plain.chain(marked) {
        let text = format!(
            "apiVersion: networking.istio.io/v1\nkind: {kind}\nmetadata: {{name: a.b, namespace: {}, {metadata}}}\nspec: {spec}",
            place.namespace
        );
        let object = from_yaml(&text).unwrap_or_else(|error| panic!("{spec}: {error:?}")).object;
        objects.push((format!("{kind} {metadata} {spec}"), object));
    }
    let table_len = objects.len();
    let mut dice = Dice::new(3);
    let base = testing::objects(5, 400);
    for _ in 0..MUTANTS {
        let mut object = dice.one_of(&base).clone();
        let what = mutations::mutate(&mut object, &mut dice);
        objects.push((what.to_owned(), object));
    }
    let manifests: Vec<Value> = objects.iter().map(|(_, object)| manifest(object)).collect();
    let lines: Vec<String> = manifests.iter().map(Value::to_string).collect();
    let judgments = judge(lines.join("\n").into_bytes());
    assert_eq!(judgments.len(), manifests.len());
    let began = Instant::now();
    let moved: Vec<Value> = manifests.iter().map(|object| moved_to(object, &place)).collect();
    let replies = cluster.judge(&moved);
    let took = began.elapsed();
    let (mut legal, mut disagreements) = (0, Vec::new());
    for (index, (what, object)) in objects.iter().enumerate() {
        let ours = validate(object).err().unwrap_or_default();
        let (judgment, reply) = (&judgments[index], &replies[index]);
        let refused = !judgment.errors.is_empty() || reply.status >= 400;
        legal += usize::from(!refused);
        if refused == ours.is_empty() && (refused || !ours.iter().all(is_stricter)) {
            let ours: Vec<String> = ours.iter().map(ToString::to_string).collect();
            let said = if reply.status >= 400 { reply.body.as_str() } else { "taken" };
            disagreements.push(format!(
                "{what}: {}\n  landfall: {ours:?}\n  istio: {:?}\n  API server: {said}",
                cut(&manifests[index].to_string()),
                judgment.errors
            ));
        }
    }
    place.print(format_args!(
        "{table_len} illegal and legal ones by hand and {MUTANTS} by chance, {legal} of all legal: \
         {} disagreements (the API server took {took:?})",
        disagreements.len()
    ));
    let count = disagreements.len();
    disagreements.truncate(3 * SHOWN);
    assert!(count == 0, "{count} disagreements, such as\n{}", disagreements.join("\n"));
}

/// Where Landfall refuses what nobody else does, on purpose.
fn is_stricter(violation: &Violation) -> bool {
    const RULES: [(Rule, &str, &str); 5] = [
        // Istio takes a zone, with which an address means something on one machine only.
        (Rule::Addresses, "spec.addresses", "%"),
        (Rule::Endpoints, "spec", "%"),
        // Istio compares endpoint labels with those of Kubernetes, which are shorter and have no
        // prefix in upper case; it does not check either.
        (Rule::Labels, "spec", "is not legal"),
        // It selects nothing, and Istio only warns.
        (Rule::Selector, "spec.workloadSelector", "nothing would be selected"),
        (Rule::Resolution, "spec.resolution", "NONE takes no selector"),
    ];
    RULES.iter().any(|(rule, field, message)| {
        violation.rule == *rule
            && violation.field.starts_with(field)
            && violation.message.contains(message)
    })
}

/// Istio's validation has nothing against any of them. Says how many there are.
fn all_judged(place: &Place, text: Vec<u8>) -> usize {
    let began = Instant::now();
    let judgments = judge(text);
    let bad: Vec<&Judgment> = judgments.iter().filter(|j| !j.errors.is_empty()).collect();
    place.print(format_args!(
        "Istio's validation: {} objects, {} refused, in {:?}",
        judgments.len(),
        bad.len(),
        began.elapsed()
    ));
    assert!(bad.is_empty(), "{} refused: {:#?}", bad.len(), &bad[..bad.len().min(SHOWN)]);
    judgments.len()
}

/// The API server would take all of them.
fn refused_none(place: &Place, cluster: &Cluster, objects: &[Value]) {
    let began = Instant::now();
    let replies = cluster.judge(objects);
    let bad: Vec<(String, String)> = replies
        .iter()
        .zip(objects)
        .filter(|(reply, _)| reply.status >= 300)
        .map(|(reply, object)| {
            (cut(&object.to_string()), format!("{} {}", reply.status, reply.body))
        })
        .collect();
    place.print(format_args!(
        "kube-apiserver: {} objects, {} refused, in {:?}",
        objects.len(),
        bad.len(),
        began.elapsed()
    ));
    assert!(bad.is_empty(), "{} refused: {:#?}", bad.len(), &bad[..bad.len().min(SHOWN)]);
}

fn manifest(object: &MeshObject) -> Value {
    let owner = Owner::parse("e2e").expect("an owner");
    to_json(object, &owner, ApiVersion::V1).expect("a manifest")
}

/// The object in the test's own namespace, for the one that it names exists in no test.
fn moved_to(object: &Value, place: &Place) -> Value {
    let mut object = object.clone();
    object["metadata"]["namespace"] = place.namespace.clone().into();
    object
}

fn cut(text: &str) -> String {
    const LEN_MAX: usize = 1500;
    text.chars().take(LEN_MAX).collect()
}

/// Services with hostile names, each different from all others.
fn hostile_registry() -> Value {
    let mut dice = Dice::new(10_000);
    let mut names = BTreeSet::new();
    while names.len() < SERVICES {
        let word = dice.word();
        let number = dice.below(1 << 20);
        let name = if names.contains(&word) || word.is_empty() {
            format!("{word}{}{number}", dice.one_of(&testing::HOSTILE))
        } else {
            word
        };
        names.insert(name);
    }
    let services: Vec<Value> =
        names
            .into_iter()
            .map(|name| {
                let instances: Vec<Value> = (0..1 + dice.below(3))
                .map(|n| json!({
                    "id": format!("{n}{}", dice.word()),
                    "address": format!("10.{}.{}.{}", dice.below(256), dice.below(256), n + 1),
                    "ports": [
                        {"name": dice.word(), "port": 1 + dice.below(65_535)},
                        {"name": "metrics", "port": 9090, "protocol": "http"},
                    ],
                    "meta": {"version": dice.word()},
                    "tags": [dice.word()],
                    "locality": {"region": dice.word(), "zone": dice.word()},
                }))
                .collect();
                json!({"name": name, "instances": instances})
            })
            .collect();
    json!({"services": services})
}
