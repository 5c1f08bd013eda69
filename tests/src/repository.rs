//! The repository as text: its files, what its manifests name, and what of a source file is code.

#![allow(clippy::expect_used, clippy::panic, reason = "a test fails by panicking")]

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::OnceLock;

/// A file of the repository.
#[derive(Debug)]
pub struct RepositoryFile {
    /// From the top of the repository, with `/`.
    pub path: String,
    /// Empty when it is no text.
    pub text: String,
}

/// A line of a manifest that names a dependency.
#[derive(Debug)]
pub struct Dependency<'a> {
    /// The name it has in the manifest.
    pub name: &'a str,
    /// The number of the line.
    pub line: usize,
    /// The line.
    pub text: &'a str,
}

/// The top of the repository.
#[must_use]
pub fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().expect("the package stands in the repository")
}

/// A policy that is built beside the quickstart.
///
/// # Panics
/// It is not.
#[must_use]
pub fn component(name: &str) -> PathBuf {
    let path = root().join("examples/quickstart/policies").join(format!("{name}.wasm"));
    assert!(path.exists(), "the policies are not built; run `make plugins`");
    path
}

/// Every file that is in git or would be with the next commit.
///
/// # Panics
/// Git is missing, or the tests do not stand in a repository.
#[must_use]
pub fn files() -> &'static [RepositoryFile] {
    static FILES: OnceLock<Vec<RepositoryFile>> = OnceLock::new();
    FILES.get_or_init(|| {
        let listed = Command::new("git")
            .args(["ls-files", "-z", "--cached", "--others", "--exclude-standard"])
            .current_dir(root())
            .output()
            .expect("git lists the repository's files");
        assert!(listed.status.success(), "{}", String::from_utf8_lossy(&listed.stderr));
        let names = String::from_utf8(listed.stdout).expect("names of files are UTF-8");
        let mut paths: Vec<&str> = names.split_terminator('\0').collect();
        paths.sort_unstable();
        paths.dedup();
        // What git still lists but was deleted cannot be read.
        let read = |path: &str| {
            let bytes = fs::read(root().join(path)).ok()?;
            Some(RepositoryFile {
                path: path.to_owned(),
                text: String::from_utf8(bytes).unwrap_or_default(),
            })
        };
        paths.into_iter().filter_map(read).collect()
    })
}

/// The file at `path`.
///
/// # Panics
/// It is missing.
#[must_use]
pub fn file(path: &str) -> &'static RepositoryFile {
    let found = files().iter().find(|file| file.path == path);
    found.unwrap_or_else(|| panic!("{path} is missing"))
}

/// Every source file in Rust.
pub fn rust_files() -> impl Iterator<Item = &'static RepositoryFile> {
    files().iter().filter(|file| file.path.ends_with(".rs"))
}

/// The daemon's own code, without unit tests that have a file of their own.
pub fn host_code() -> impl Iterator<Item = &'static RepositoryFile> {
    rust_files().filter(|file| {
        file.path.starts_with("host/")
            && file.path.contains("/src/")
            && !file.path.ends_with("/tests.rs")
    })
}

/// The packages of the daemon's workspace: the folder, and its manifest.
pub fn manifests() -> impl Iterator<Item = (&'static str, &'static str)> {
    files().iter().filter_map(|file| {
        let folder = file.path.strip_suffix("/Cargo.toml")?;
        let inside = folder.starts_with("host") || folder == "tests";
        inside.then_some((folder, file.text.as_str()))
    })
}

/// What stands under any `dependencies` heading of a manifest.
#[must_use]
pub fn dependencies(manifest: &str) -> Vec<Dependency<'_>> {
    let mut found = Vec::new();
    let mut listed = false;
    for (index, text) in manifest.lines().enumerate() {
        let (text, line) = (text.trim(), index + 1);
        if let Some(heading) = text.strip_prefix('[') {
            let heading = heading.trim_end_matches(']');
            listed = heading.ends_with("dependencies");
            if let Some((_, name)) = heading.split_once("dependencies.") {
                found.push(Dependency { name, line, text });
            }
        } else if listed && !text.is_empty() && !text.starts_with('#') {
            let name = text.split(['=', '.']).next().unwrap_or(text).trim().trim_matches('"');
            found.push(Dependency { name, line, text });
        }
    }
    found
}

/// The lines of a source file that are neither comments nor unit tests, with their numbers.
pub fn code_lines(text: &str) -> impl Iterator<Item = (usize, &str)> {
    let lines: Vec<&str> = text.lines().collect();
    // Unit tests stand at the end. A test module in a file of its own is only named.
    let end = (0..lines.len()).find(|&index| {
        lines[index] == "#[cfg(test)]"
            && !lines.get(index + 1).is_some_and(|next| next.ends_with(';'))
    });
    let end = end.unwrap_or(lines.len());
    let numbered = lines.into_iter().take(end).enumerate();
    numbered
        .map(|(index, line)| (index + 1, line))
        .filter(|(_, line)| !line.trim_start().starts_with("//"))
}

/// Whether `word` stands in `line` with no letter or digit on either side.
#[must_use]
pub fn has_word(line: &str, word: &str) -> bool {
    let is_part = |c: char| c.is_alphanumeric() || c == '_';
    // A module stands for all that is in it, and a prefix of names for all of them.
    let prefix = word.contains("::");
    line.match_indices(word).any(|(at, _)| {
        let before = line[..at].chars().next_back().is_some_and(is_part);
        let after = line[at + word.len()..].chars().next().is_some_and(is_part);
        !before && (prefix || !after)
    })
}

/// Whether `path` is the file or lies in the folder that `pattern` names.
#[must_use]
pub fn matches_path(pattern: &str, path: &str) -> bool {
    let folder = pattern.ends_with('/');
    let wanted: Vec<&str> = pattern.trim_end_matches('/').split('/').collect();
    let have: Vec<&str> = path.split('/').collect();
    let long_enough = if folder { have.len() > wanted.len() } else { have.len() == wanted.len() };
    long_enough && wanted.iter().zip(&have).all(|(wanted, have)| *wanted == "*" || wanted == have)
}

/// The first names behind each `crate::` of a source text.
#[must_use]
pub fn crate_names(text: &str) -> BTreeSet<&str> {
    let mut names = BTreeSet::new();
    for (at, found) in text.match_indices("crate::") {
        // A macro's `$crate` is a name of its users.
        if text[..at].ends_with('$') {
            continue;
        }
        let rest = &text[at + found.len()..];
        if let Some(group) = rest.strip_prefix('{') {
            names.extend(group_names(group));
        } else {
            names.extend(first_name(rest));
        }
    }
    names
}

/// The first name of each path in a group of imports, whose opening brace is already read.
fn group_names(group: &str) -> Vec<&str> {
    let mut names = Vec::new();
    let mut depth = 0;
    let mut begins = true;
    for (at, c) in group.char_indices() {
        match c {
            '{' => depth += 1,
            '}' if depth == 0 => break,
            '}' => depth -= 1,
            ',' if depth == 0 => begins = true,
            _ if begins && !c.is_whitespace() => {
                names.extend(first_name(&group[at..]));
                begins = false;
            }
            _ => {}
        }
    }
    names
}

fn first_name(path: &str) -> Option<&str> {
    let end = path.find(|c: char| !c.is_alphanumeric() && c != '_').unwrap_or(path.len());
    (end > 0).then(|| &path[..end])
}

/// One circle in a graph, as the way around it.
#[must_use]
pub fn circle<'a>(uses: &BTreeMap<&'a str, BTreeSet<&'a str>>) -> Option<Vec<&'a str>> {
    fn walk<'a>(
        at: &'a str,
        uses: &BTreeMap<&'a str, BTreeSet<&'a str>>,
        way: &mut Vec<&'a str>,
        done: &mut BTreeSet<&'a str>,
    ) -> Option<Vec<&'a str>> {
        if let Some(start) = way.iter().position(|name| *name == at) {
            return Some(way[start..].iter().copied().chain([at]).collect());
        }
        if done.contains(at) {
            return None;
        }
        way.push(at);
        let found = uses.get(at)?.iter().find_map(|next| walk(next, uses, way, done));
        way.pop();
        done.insert(at);
        found
    }
    let mut done = BTreeSet::new();
    uses.keys().find_map(|name| walk(name, uses, &mut Vec::new(), &mut done))
}

/// Whether `line` names the home folder of somebody below `homes`. A place holder such as
/// `/home/$USER/` is nobody's.
#[must_use]
pub fn names_home(line: &str, homes: &str) -> bool {
    line.match_indices(homes).any(|(at, _)| {
        let inside = line[..at].chars().next_back().is_some_and(|c| c.is_alphanumeric());
        let user = line[at + homes.len()..].chars().next();
        !inside && user.is_some_and(|c| c.is_alphanumeric() || c == '.')
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn dependencies_are_found_under_every_heading() {
        let manifest = r#"
            [package]
            name = "a"
            [dependencies]
            b = { workspace = true }
            # no
            c.workspace = true
            [target.'cfg(unix)'.dev-dependencies]
            d = "1"
            [dependencies.e]
            version = "1"
            [lints]
            f = 1
        "#;
        let names: Vec<&str> =
            dependencies(manifest).iter().map(|dependency| dependency.name).collect();
        assert_eq!(names, ["b", "c", "d", "e"]);
    }

    #[test]
    fn circles_are_found() {
        let names = crate_names(
            "use crate::a::X;\nuse crate::{\n    b::{Y, Z},\n    c,\n};\n$crate::d::e!()",
        );
        assert_eq!(names, BTreeSet::from(["a", "b", "c"]));
        let graph = |edges: &[(&'static str, &'static str)]| {
            let mut uses: BTreeMap<&str, BTreeSet<&str>> = BTreeMap::new();
            for (from, to) in edges {
                uses.entry(from).or_default().insert(to);
                uses.entry(to).or_default();
            }
            uses
        };
        assert_eq!(circle(&graph(&[("a", "b"), ("a", "c"), ("b", "c")])), None);
        assert_eq!(
            circle(&graph(&[("a", "b"), ("b", "c"), ("c", "b")])),
            Some(vec!["b", "c", "b"])
        );
    }

    #[test]
    fn words_and_paths_are_matched_whole() {
        assert!(has_word("fn f(at: Instant)", "Instant"));
        assert!(!has_word("fn f(at: &Instance, of: Instantly)", "Instant"));
        assert!(has_word("use std::net::TcpStream;", "std::net::Tcp"));
        assert!(matches_path("host/registry/src/*/wire.rs", "host/registry/src/file/wire.rs"));
        assert!(!matches_path("host/registry/src/*/wire.rs", "host/registry/src/wire.rs"));
        assert!(matches_path("host/mesh/src/api/", "host/mesh/src/api/print.rs"));
        assert!(!matches_path("host/mesh/src/api/", "host/mesh/src/apiary/print.rs"));
        assert!(names_home(&["see /home", "jo", "x"].join("/"), "/home/"));
        assert!(!names_home("see /home/$USER/x", "/home/"));
    }

    #[test]
    fn unit_tests_are_no_code() {
        let text =
            "use a;\n// b\n#[cfg(test)]\nmod fakes;\nfn c() {}\n#[cfg(test)]\nmod tests {\n}\n";
        let lines: Vec<usize> = code_lines(text).map(|(number, _)| number).collect();
        assert_eq!(lines, [1, 3, 4, 5]);
    }
}
