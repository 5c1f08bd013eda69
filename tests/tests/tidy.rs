//! Checks of the repository itself: the boundaries of ARCHITECTURE.md, and habits that a reader
//! relies on. Each failure says what to do about it.

use std::collections::{BTreeMap, BTreeSet};

use landfall_tests::markdown::{broken, links};
use landfall_tests::repository::{
    RepositoryFile, circle, code_lines, crate_names, dependencies, file, files, has_word,
    host_code, manifests, matches_path, names_home, rust_files,
};

/// Longer ones usually hold two things.
const FILE_LINES_MAX: usize = 700;

/// Every package of the workspace, and which others it may depend on.
const FLOORS: [(&str, &[&str]); 7] = [
    ("host", &["landfall-runtime"]),
    (
        "host/runtime",
        &["landfall-core", "landfall-mesh", "landfall-policy-host", "landfall-registry"],
    ),
    ("host/registry", &["landfall-core"]),
    ("host/policy", &["landfall-core"]),
    ("host/mesh", &["landfall-core"]),
    ("host/core", &[]),
    // Nobody's dependency, so it may see everything.
    (
        "tests",
        &[
            "landfall-core",
            "landfall-mesh",
            "landfall-policy-host",
            "landfall-registry",
            "landfall-runtime",
        ],
    ),
];

/// All that core may depend on. None of them does input or output.
const CORE_DEPENDENCIES: [&str; 5] = ["expect-test", "imbl", "proptest", "sha2", "thiserror"];

/// What code in core must not name, and why.
const CORE_REFUSES: [(&str, &str); 14] = [
    ("std::env", "core has no environment; take the value as an argument"),
    ("std::fs", "core does no input or output; take the contents as an argument"),
    ("std::io", "core does no input or output"),
    ("std::net::Tcp", "core does no input or output"),
    ("std::net::Udp", "core does no input or output"),
    ("std::process", "core starts nothing"),
    ("std::thread", "core starts nothing"),
    ("std::sync::Mutex", "core keeps no shared state; return the new value"),
    ("Instant", "core reads no clock; take a `Time` as an argument"),
    ("SystemTime", "core reads no clock; take a `Time` as an argument"),
    ("HashMap", "its order differs between runs; use BTreeMap or imbl::OrdMap"),
    ("HashSet", "its order differs between runs; use BTreeSet or imbl::OrdSet"),
    ("RandomState", "core draws no random number"),
    ("async fn", "core waits for nothing"),
];

/// Where a hash set is fine all the same: it is asked and never walked.
const CORE_HASHES: [&str; 1] = ["host/core/src/text.rs"];

/// Heavy dependencies, and the only packages below `host` that may name them. deny.toml has the
/// same for what comes with others.
const HOMES: [(&str, &[&str]); 18] = [
    ("anyhow", &["host/runtime"]),
    ("aws-config", &["host/registry"]),
    ("aws-credential-types", &["host/registry"]),
    ("aws-runtime", &["host/registry"]),
    ("aws-sdk-servicediscovery", &["host/registry"]),
    ("aws-smithy-runtime-api", &["host/registry"]),
    ("aws-smithy-types", &["host/registry"]),
    ("axum", &["host/runtime"]),
    ("clap", &["host/runtime"]),
    ("k8s-openapi", &["host/mesh"]),
    ("kube", &["host/mesh"]),
    ("prost", &["host/mesh"]),
    ("reqwest", &["host/registry"]),
    ("schemars", &["host/runtime"]),
    ("tonic", &["host/mesh"]),
    ("wasmtime", &["host/policy"]),
    ("wit-component", &["host/policy"]),
    ("wit-parser", &["host/policy"]),
];

/// Where types may be read from or written to bytes: the edges. What ends in `/` is a folder, and
/// `*` stands for one name.
const SERDE_EDGES: [&str; 5] = [
    "host/registry/src/*/wire.rs",
    "host/registry/src/file/write.rs",
    "host/runtime/src/config/",
    "host/mesh/src/api/",
    "host/mesh/src/mcp/journal.rs",
];

// === The boundaries ===

#[test]
fn packages_depend_downward() {
    let mut problems = Vec::new();
    for (folder, manifest) in manifests() {
        let Some((_, allowed)) = FLOORS.iter().find(|(known, _)| *known == folder) else {
            problems.push(format!("{folder}: give it a floor in FLOORS and in ARCHITECTURE.md"));
            continue;
        };
        for dependency in dependencies(manifest) {
            if dependency.name.starts_with("landfall") && !allowed.contains(&dependency.name) {
                problems
                    .push(format!("{folder}/Cargo.toml:{}: {}", dependency.line, dependency.name));
            }
        }
    }
    check(
        problems,
        "a package depends on one that is not below it. Move what both need to core, or join \
         them in runtime",
    );
}

#[test]
fn core_does_no_io() {
    let mut problems = Vec::new();
    for dependency in dependencies(&file("host/core/Cargo.toml").text) {
        if !CORE_DEPENDENCIES.contains(&dependency.name) {
            problems.push(format!("host/core/Cargo.toml:{}: {}", dependency.line, dependency.name));
        }
    }
    for source in host_code().filter(|file| file.path.starts_with("host/core/")) {
        for (number, line) in code_lines(&source.text) {
            for (word, what_to_do) in CORE_REFUSES {
                let asked = word.starts_with("Hash") && CORE_HASHES.contains(&source.path.as_str());
                if has_word(line, word) && !asked {
                    problems.push(format!("{}:{number}: {word}: {what_to_do}", source.path));
                }
            }
        }
    }
    check(
        problems,
        "core does input or output, or depends on what might. It is pure: the outside comes in \
         as arguments",
    );
}

#[test]
fn heavy_dependencies_have_one_home() {
    let mut problems = Vec::new();
    for (folder, manifest) in manifests().filter(|(folder, _)| *folder != "tests") {
        for dependency in dependencies(manifest) {
            let home = HOMES.iter().find(|(name, _)| *name == dependency.name);
            if let Some((name, homes)) = home
                && !homes.contains(&folder)
            {
                problems.push(format!(
                    "{folder}/Cargo.toml:{}: {name} belongs to {}",
                    dependency.line,
                    homes.join(" and ")
                ));
            }
        }
    }
    check(
        problems,
        "a heavy dependency has left its home. Offer what is needed of it as a function or a \
         type of its home",
    );
}

#[test]
fn exceptions_are_of_something() {
    let named = |home: &str, name: &str| {
        let of_home = manifests().filter(|(folder, _)| *folder == home);
        of_home.flat_map(|(_, manifest)| dependencies(manifest)).any(|found| found.name == name)
    };
    let homes = HOMES.iter().flat_map(|(name, homes)| homes.iter().map(move |home| (name, home)));
    let unused = homes
        .filter(|(name, home)| !named(home, name))
        .map(|(name, home)| format!("HOMES: {home} does not name {name}"));
    let edges = SERDE_EDGES
        .iter()
        .filter(|edge| !host_code().any(|file| matches_path(edge, &file.path)))
        .map(|edge| format!("SERDE_EDGES: there is no {edge}"));
    let hashes = CORE_HASHES
        .iter()
        .filter(|path| !host_code().any(|file| file.path == **path))
        .map(|path| format!("CORE_HASHES: there is no {path}"));
    check(unused.chain(edges).chain(hashes).collect(), "a list here names what is not there");
}

#[test]
fn versions_stand_in_one_place() {
    let mut problems = Vec::new();
    for (folder, manifest) in manifests() {
        for dependency in dependencies(manifest) {
            if !dependency.text.contains("workspace = true") {
                problems
                    .push(format!("{folder}/Cargo.toml:{}: {}", dependency.line, dependency.text));
            }
        }
    }
    check(
        problems,
        "a dependency has a version of its own. Name it under [workspace.dependencies] of \
         /Cargo.toml and write `workspace = true`",
    );
}

#[test]
fn only_edges_are_serialized() {
    let mut problems = Vec::new();
    for source in host_code() {
        if SERDE_EDGES.iter().any(|edge| matches_path(edge, &source.path)) {
            continue;
        }
        let mut derive = false;
        for (number, line) in code_lines(&source.text) {
            derive |= line.contains("derive(");
            let by_hand = line.contains("Serialize for ") || line.contains("Deserialize<'de> for ");
            let derived = derive && (has_word(line, "Serialize") || has_word(line, "Deserialize"));
            if by_hand || derived {
                problems.push(format!("{}:{number}", source.path));
            }
            derive &= !line.contains(")]");
        }
    }
    check(
        problems,
        "a type inside is Serialize or Deserialize. Give the edge a wire type and convert \
         it: what is inside may then change freely",
    );
}

#[test]
fn nothing_is_unbounded() {
    let mut problems = Vec::new();
    for source in host_code() {
        for (number, line) in code_lines(&source.text) {
            if line.contains("unbounded") || line.contains("mpsc::channel()") {
                problems.push(format!("{}:{number}: {}", source.path, line.trim()));
            }
        }
    }
    check(
        problems,
        "a channel has no bound. Give it one, and say beside it what happens when it is full",
    );
}

/// Modules at the top of a crate, each with all files below it.
#[test]
fn modules_have_no_circles() {
    let mut problems = Vec::new();
    for (folder, _) in manifests() {
        let root = format!("{folder}/src/");
        let mut texts: BTreeMap<&str, String> = BTreeMap::new();
        for source in host_code() {
            let Some(inside) = source.path.strip_prefix(&root) else { continue };
            let module = inside.split('/').next().unwrap_or(inside).trim_end_matches(".rs");
            if !matches!(module, "lib" | "main" | "bin") && !inside.starts_with("core/") {
                let text = texts.entry(module).or_default();
                code_lines(&source.text).for_each(|(_, line)| text.extend([line, "\n"]));
            }
        }
        let uses: BTreeMap<&str, BTreeSet<&str>> = texts
            .iter()
            .map(|(module, text)| {
                let used = crate_names(text);
                let used =
                    texts.keys().copied().filter(|name| name != module && used.contains(name));
                (*module, used.collect())
            })
            .collect();
        problems.extend(circle(&uses).map(|path| format!("{folder}: {}", path.join(" uses "))));
    }
    check(
        problems,
        "modules of a crate use each other in a circle. Move what both need below them, or pass \
         it as an argument",
    );
}

// === The habits ===

#[test]
fn files_are_read_in_one_go() {
    let long = rust_files().filter_map(|file| {
        let lines = file.text.lines().count();
        (lines > FILE_LINES_MAX).then(|| format!("{}: {lines} lines", file.path))
    });
    check(
        long.collect(),
        "a file is longer than 700 lines. It usually holds two things: part them",
    );
}

#[test]
fn files_say_what_they_are_for() {
    let silent = rust_files().filter(|file| {
        let first = file.text.lines().next().unwrap_or_default();
        first.strip_prefix("//!").is_none_or(|purpose| purpose.trim().trim_matches('.').is_empty())
    });
    check(
        silent.map(|file| file.path.clone()).collect(),
        "a source file does not begin with `//!` and what it is for",
    );
}

#[test]
fn nothing_is_left_unfinished() {
    let mut problems = Vec::new();
    for source in rust_files().filter(|file| !is_this_file(file)) {
        for (index, line) in source.text.lines().enumerate() {
            let marked = ["todo!(", "unimplemented!(", "FIXME", "XXX", "#[ignore"];
            let todo = line.contains("TODO") && !line.contains("TODO(#");
            if todo || marked.iter().any(|mark| line.contains(mark)) {
                problems.push(format!("{}:{}: {}", source.path, index + 1, line.trim()));
            }
        }
    }
    check(problems, "something is unfinished. Finish it, or open an issue and write TODO(#number)");
}

#[test]
fn nothing_names_one_machine() {
    let mut problems = Vec::new();
    for file in files().iter().filter(|file| !is_this_file(file)) {
        for (index, line) in file.text.lines().enumerate() {
            if ["/root/", "/home/", "/Users/"].iter().any(|home| names_home(line, home)) {
                problems.push(format!("{}:{}: {}", file.path, index + 1, line.trim()));
            }
        }
    }
    check(
        problems,
        "a path of one machine stands in the repository. Use $HOME, a path in the repository or \
         a temporary folder",
    );
}

#[test]
fn what_is_built_is_not_committed() {
    let built = files().iter().map(|file| &file.path).filter(|path| {
        [".wasm", ".wasm.gz", ".wasm.zst", ".cwasm"].iter().any(|end| path.ends_with(end))
            || path.split('/').any(|folder| folder == "target")
    });
    check(
        built.cloned().collect(),
        "something built is in git. Remove it; a component's source, as Rust or as WAT, is built in \
         the test",
    );
}

#[test]
fn links_lead_somewhere() {
    let mut problems = Vec::new();
    for file in files().iter().filter(|file| file.path.ends_with(".md")) {
        for (number, target) in links(&file.text) {
            if let Some(why) = broken(&file.path, &target) {
                problems.push(format!("{}:{number}: {target}: {why}", file.path));
            }
        }
    }
    check(problems, "a link in a document leads nowhere");
}

// === The outcome ===

/// This file names what it forbids.
fn is_this_file(file: &RepositoryFile) -> bool {
    file.path == "tests/tests/tidy.rs"
}

fn check(problems: Vec<String>, what_to_do: &str) {
    assert!(problems.is_empty(), "\n{what_to_do}:\n  {}\n", problems.join("\n  "));
}
