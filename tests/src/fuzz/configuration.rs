//! Configurations: whatever the text says, it is accepted or refused with the place of each problem.

use std::path::Path;

use landfall_runtime::config::{self, Configuration, Problem};

use super::draw::Draw;
use super::{assert_within, mutate};

const SEEDS: [&str; 3] = [
    include_str!("../../../examples/quickstart/landfall.yaml"),
    include_str!("configuration.yaml"),
    "",
];

/// The text of a configuration.
#[must_use]
pub fn text(bytes: &[u8]) -> String {
    let mut draw = Draw::new(bytes);
    let seed = *draw.one_of(&SEEDS);
    let mut text = match config::yaml_to_json(seed) {
        Ok(mut value) if !draw.once_in(3) => {
            mutate::value(&mut value, &mut draw);
            mutate::printed(&value, &mut draw)
        }
        _ => seed.to_owned(),
    }
    .into_bytes();
    mutate::bytes(&mut text, &mut draw);
    // What is no text is refused before it is parsed.
    String::from_utf8_lossy(&text).into_owned()
}

/// Parses the text that `bytes` stand for.
///
/// # Panics
/// A problem stands nowhere in the text, or what was accepted is not accepted when it is printed anew.
pub fn run(bytes: &[u8]) {
    let text = text(bytes);
    match parse(&text) {
        Err(problems) => {
            assert!(!problems.is_empty(), "it was refused without a reason");
            for problem in problems {
                let problem = problem.to_string();
                assert!(!problem.contains('\n'), "a problem is more than a line: {problem:?}");
                let raw = ["invalid type", "invalid value", "missing field", "unknown field"];
                let let_through = raw.iter().any(|raw| problem.contains(&format!(": {raw}")));
                assert!(!let_through, "the schema allows what the types do not: {problem}");
                let mut parts = problem.splitn(3, ':');
                let mut number = || parts.next()?.parse().ok();
                assert_within(&text, number(), number(), &problem);
            }
        }
        Ok(accepted) => {
            let value = config::yaml_to_json(&text).expect("what was accepted is YAML");
            let printed = serde_saphyr::to_string(&value).expect("all that is JSON is YAML");
            assert_eq!(parse(&printed), Ok(accepted), "{printed}");
        }
    }
}

fn parse(text: &str) -> Result<Configuration, Vec<Problem>> {
    config::parse(text, Path::new("/etc/landfall"))
}
