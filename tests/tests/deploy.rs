//! What is in `deploy/` fits together: the manifest is one, its configuration is legal, and what it
//! names is there.

#![allow(clippy::expect_used, reason = "a test fails by panicking")]

use std::fs;

use landfall_tests::binary::Program;
use landfall_tests::repository::file;
use serde_json::Value;

const LANDFALL: &str = env!("CARGO_BIN_EXE_landfall-under-test");

fn manifests(path: &str) -> Vec<Value> {
    let documents = file(path).text.split("\n---\n");
    documents.map(|document| serde_saphyr::from_str(document).expect("a manifest")).collect()
}

fn of_kind<'a>(manifests: &'a [Value], kind: &str) -> &'a Value {
    manifests.iter().find(|manifest| manifest["kind"] == kind).expect("one of this kind")
}

#[test]
fn the_configuration_in_the_manifest_is_legal() {
    let manifests = manifests("deploy/landfall.yaml");
    let config = &of_kind(&manifests, "ConfigMap")["data"]["landfall.yaml"];
    let folder = tempfile::tempdir().expect("a temporary folder");
    let path = folder.path().join("landfall.yaml");
    fs::write(&path, config.as_str().expect("a text")).expect("the folder takes a file");
    let checked = Program::new(LANDFALL, folder.path()).run(&["check", "-c", "landfall.yaml"]);
    let checked = checked.expect("landfall runs");
    assert!(checked.status.success(), "{}", String::from_utf8_lossy(&checked.stderr));
}

#[test]
fn what_the_manifest_names_is_there() {
    let manifests = manifests("deploy/landfall.yaml");
    let deployment = of_kind(&manifests, "Deployment");
    let pod = &deployment["spec"]["template"]["spec"];
    let container = &pod["containers"][0];
    // The folder in which the program is told to find its configuration has the ConfigMap.
    let mount = &container["volumeMounts"][0];
    assert_eq!(pod["volumes"][0]["name"], mount["name"]);
    let map = &of_kind(&manifests, "ConfigMap")["metadata"];
    assert_eq!(pod["volumes"][0]["configMap"]["name"], map["name"]);
    let folder = mount["mountPath"].as_str().expect("a path");
    assert_eq!(container["args"][2], format!("{folder}/landfall.yaml"));
    // The role is given to the account that it runs as.
    let rbac = self::manifests("deploy/rbac.yaml");
    let account = of_kind(&rbac, "ServiceAccount");
    assert_eq!(account["metadata"]["name"], pod["serviceAccountName"]);
    assert_eq!(account["metadata"]["namespace"], deployment["metadata"]["namespace"]);
}

#[test]
fn the_image_in_the_manifest_is_the_one_that_is_built() {
    let manifests = manifests("deploy/landfall.yaml");
    let pod = &of_kind(&manifests, "Deployment")["spec"]["template"]["spec"];
    let image = pod["containers"][0]["image"].as_str().expect("a name");
    let build = format!("docker build --file deploy/Dockerfile --tag {image} .");
    for path in ["README.md", "deploy/Dockerfile"] {
        assert!(file(path).text.contains(&build), "{path} does not say: {build}");
    }
    let dockerfile = &file("deploy/Dockerfile").text;
    let user = &pod["securityContext"];
    let user = format!("USER {}:{}", user["runAsUser"], user["runAsGroup"]);
    assert!(dockerfile.contains(&user), "it runs as another user than {user}");
    let toolchain = &file("rust-toolchain.toml").text;
    let version = toolchain.lines().find_map(|line| line.strip_prefix("channel = "));
    let version = version.expect("a channel").trim_matches('"');
    assert!(dockerfile.contains(&format!("FROM rust:{version}-")), "it builds with another Rust");
}
