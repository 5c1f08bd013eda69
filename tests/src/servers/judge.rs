//! What Istio's own code thinks of objects; see `tests/servers/istiod/judge`.

use std::io::{BufRead, BufReader, Write};
use std::process::{Command, Stdio};
use std::thread;

use serde_json::Value;

use super::process::program;

/// What is wrong with one object.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Judgment {
    /// As `kind namespace/name`.
    pub object: String,
    /// Why Istio or the CRDs would refuse it; empty if they would not.
    pub errors: Vec<String>,
    /// What Istio would only mention.
    pub warnings: Vec<String>,
}

/// Judges objects, which are JSON or a YAML stream, by Istio's validation and its CRDs.
///
/// # Panics
/// The judge cannot be run, or cannot read them.
#[must_use]
pub fn judge(objects: Vec<u8>) -> Vec<Judgment> {
    let mut command = Command::new(program("LANDFALL_ISTIO_JUDGE"));
    command.arg("-crds").arg(program("LANDFALL_ISTIO_CRDS"));
    let mut child =
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().expect("the judge");
    let mut stdin = child.stdin.take().expect("a pipe");
    // It answers while it still reads.
    let writer = thread::spawn(move || stdin.write_all(&objects));
    let lines = BufReader::new(child.stdout.take().expect("a pipe")).lines();
    let judgments = lines.map(|line| judgment(&line.expect("a line"))).collect();
    let status = child.wait().expect("the judge ends");
    assert!(status.success(), "the judge could not read the objects: {status}");
    writer.join().expect("no panic").expect("the judge reads everything");
    judgments
}

fn judgment(line: &str) -> Judgment {
    let line: Value = serde_json::from_str(line).expect("a judgment");
    let list = |key: &str| -> Vec<String> {
        let list = line[key].as_array().map(Vec::as_slice).unwrap_or_default();
        list.iter().map(|text| text.as_str().unwrap_or_default().to_owned()).collect()
    };
    let word = |key: &str| line[key].as_str().unwrap_or_default();
    Judgment {
        object: format!("{} {}/{}", word("kind"), word("namespace"), word("name")),
        errors: list("errors"),
        warnings: list("warnings"),
    }
}
