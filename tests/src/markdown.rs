//! Documents in Markdown: their links and where these lead, and the commands they tell a reader to
//! run.

use std::fs;
use std::path::{Component, Path, PathBuf};

use crate::repository::root;

/// Something in a document that a test can follow. All begin with the number of their line.
#[derive(Debug, PartialEq, Eq)]
pub enum Item {
    /// A line of a block marked `sh`.
    Command(usize, String),
    /// A block behind `<!-- shown: COMMAND -->`: what COMMAND prints. A line `...` stands for any
    /// number of lines, and `…` for any part of one.
    Shown(usize, String, Vec<String>),
    /// A block behind `<!-- file: PATH -->`: the file that the commands below it need.
    File(usize, String, String),
}

/// The targets of a document's links, with the numbers of their lines.
#[must_use]
pub fn links(markdown: &str) -> Vec<(usize, String)> {
    let mut found = Vec::new();
    for (number, line) in prose_lines(markdown) {
        let line = without_code(line);
        for (at, opening) in line.match_indices("](") {
            let rest = &line[at + opening.len()..];
            let target = rest.split([')', ' ']).next().unwrap_or_default();
            found.push((number, target.to_owned()));
        }
        // [label]: target
        if let Some((label, target)) = line.split_once("]: ")
            && label.starts_with('[')
        {
            found.push((number, target.trim().to_owned()));
        }
    }
    found
}

/// A document's lines outside of fenced blocks.
fn prose_lines(markdown: &str) -> impl Iterator<Item = (usize, &str)> {
    let mut fenced = false;
    markdown.lines().enumerate().filter_map(move |(index, line)| {
        let fence = line.trim_start().starts_with("```");
        fenced ^= fence;
        (!fence && !fenced).then_some((index + 1, line))
    })
}

/// `line` with what stands in backticks left out.
fn without_code(line: &str) -> String {
    line.split('`').step_by(2).collect::<Vec<_>>().join("``")
}

/// Why a link from the document `from` does not lead anywhere. What lies outside of the repository
/// is not looked at.
#[must_use]
pub fn broken(from: &str, target: &str) -> Option<&'static str> {
    if target.starts_with("https:") || target.starts_with("http:") || target.starts_with("mailto:")
    {
        return None;
    }
    let (path, anchor) =
        target.split_once('#').map_or((target, None), |(path, anchor)| (path, Some(anchor)));
    if path.starts_with('/') {
        return Some("write it relative to the document");
    }
    let document = if path.is_empty() { Some(PathBuf::from(from)) } else { joined(from, path) };
    let Some(document) = document else { return Some("it leaves the repository") };
    if !root().join(&document).exists() {
        return Some("there is no such file");
    }
    let anchor = anchor?;
    let text = fs::read_to_string(root().join(&document)).unwrap_or_default();
    let known = prose_lines(&text).any(|(_, line)| {
        let heading = line.trim_start_matches('#');
        heading.len() < line.len() && heading.starts_with(' ') && slug(heading) == anchor
    });
    (!known).then_some("the file has no such heading")
}

/// `target` as seen from the document `from`, without `..`. `None` when it leaves the repository.
fn joined(from: &str, target: &str) -> Option<PathBuf> {
    let mut path = PathBuf::from(from);
    path.pop();
    for part in Path::new(target).components() {
        match part {
            Component::ParentDir => {
                if !path.pop() {
                    return None;
                }
            }
            Component::Normal(name) => path.push(name),
            Component::CurDir | Component::RootDir | Component::Prefix(_) => {}
        }
    }
    Some(path)
}

/// The anchor that forges give a heading.
fn slug(heading: &str) -> String {
    let kept =
        heading.trim().chars().filter(|c| c.is_alphanumeric() || matches!(c, ' ' | '-' | '_'));
    kept.flat_map(char::to_lowercase).map(|c| if c == ' ' { '-' } else { c }).collect()
}

/// What a test can follow in a document, from top to bottom. Comments in blocks of commands are
/// left out, and lines that end in a backslash are joined with the next.
///
/// # Errors
/// A block of commands that is marked as another language, or a mark without a block.
pub fn items(markdown: &str) -> Result<Vec<Item>, String> {
    let mut items = Vec::new();
    let mut mark: Option<(&str, &str)> = None;
    let mut lines = markdown.lines().zip(1..);
    while let Some((line, number)) = lines.next() {
        let line = line.trim_start();
        let Some(language) = line.strip_prefix("```") else {
            if let Some(found) = marked(line) {
                mark = Some(found);
            } else if let Some((kind, of)) = mark
                && !line.is_empty()
            {
                return Err(format!("line {number}: put the block of `{kind}: {of}` here"));
            }
            continue;
        };
        let block: Vec<(&str, usize)> =
            lines.by_ref().take_while(|(line, _)| line.trim() != "```").collect();
        let text = || block.iter().map(|(line, _)| (*line).to_owned());
        match (mark.take(), language.trim()) {
            (Some(("shown", command)), _) => {
                items.push(Item::Shown(number, command.to_owned(), text().collect()));
            }
            (Some((_, path)), _) => {
                let text = text().map(|line| line + "\n").collect();
                items.push(Item::File(number, path.to_owned(), text));
            }
            (None, "sh") => items.extend(commands(&block)),
            (None, "bash" | "shell" | "console") => {
                return Err(format!(
                    "line {number}: mark commands as `sh`, so that a test runs them"
                ));
            }
            (None, _) => {}
        }
    }
    match mark {
        Some((kind, of)) => Err(format!("`{kind}: {of}` has no block")),
        None => Ok(items),
    }
}

/// The kind and the value of a mark that says what the next block is.
fn marked(line: &str) -> Option<(&str, &str)> {
    let inside = line.strip_prefix("<!--")?.strip_suffix("-->")?.trim();
    let (kind, of) = inside.split_once(": ")?;
    matches!(kind, "shown" | "file").then_some((kind, of.trim()))
}

fn commands(block: &[(&str, usize)]) -> Vec<Item> {
    let mut found = Vec::new();
    let mut begun: Option<(usize, String)> = None;
    for (line, number) in block {
        let line = line.trim();
        if begun.is_none() && (line.is_empty() || line.starts_with('#')) {
            continue;
        }
        let (start, mut text) = begun.take().unwrap_or_else(|| (*number, String::new()));
        text.push_str(line);
        if let Some(open) = text.strip_suffix('\\') {
            begun = Some((start, open.to_owned()));
        } else {
            found.push(Item::Command(start, text));
        }
    }
    found.extend(begun.map(|(start, text)| Item::Command(start, text)));
    found
}

/// The first of the `shown` lines that `printed` does not have behind those before it.
#[must_use]
pub fn first_missing<'a>(shown: &'a [String], printed: &str) -> Option<&'a str> {
    let mut rest = printed.lines();
    let wanted = shown.iter().map(String::as_str).filter(|line| !line.trim().is_empty());
    wanted.filter(|line| line.trim() != "...").find(|wanted| !rest.any(|line| alike(wanted, line)))
}

/// Whether the parts of `wanted` around each `…` stand in `line`, in order, from end to end.
fn alike(wanted: &str, line: &str) -> bool {
    let (wanted, line) = (wanted.trim_end(), line.trim_end());
    let Some((first, others)) = wanted.split_once('…') else { return wanted == line };
    let (middle, last) = others.rsplit_once('…').unwrap_or(("", others));
    let inside = line.strip_prefix(first).and_then(|line| line.strip_suffix(last));
    let Some(mut rest) = inside else { return false };
    middle.split('…').all(|part| {
        let found = rest.split_once(part).map(|(_, behind)| behind);
        rest = found.unwrap_or_default();
        found.is_some()
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn links_are_found_and_followed() {
        let text =
            "# A\nsee [x](y.md#z), `[no](no)`\n```\n[no](no)\n```\n[l]: https://example.com\n";
        assert_eq!(links(text), [(2, "y.md#z".to_owned()), (6, "https://example.com".to_owned())]);
        assert_eq!(broken("host/core/a.md", "../../Cargo.toml"), None);
        assert_eq!(
            broken("host/core/a.md", "../../../Cargo.toml"),
            Some("it leaves the repository")
        );
        assert_eq!(broken("a.md", "no-such-file.md"), Some("there is no such file"));
        assert_eq!(slug(" What `make run` does: A & B"), "what-make-run-does-a--b");
    }

    #[test]
    fn items_are_found_in_order() {
        let text = [
            "```sh\n# why\nmake run\na \\\n  b\n```\n",
            "<!-- shown: make run -->\n\n```text\nx\n```\n",
            "<!-- file: a.yaml -->\n```yaml\nk: v\n```\n```rust\nno\n```\n",
        ]
        .concat();
        let expected = [
            Item::Command(3, "make run".to_owned()),
            Item::Command(4, "a b".to_owned()),
            Item::Shown(9, "make run".to_owned(), vec!["x".to_owned()]),
            Item::File(13, "a.yaml".to_owned(), "k: v\n".to_owned()),
        ];
        assert_eq!(items(&text), Ok(expected.into()));
        assert!(items("```bash\nls\n```\n").is_err());
        assert!(items("<!-- shown: ls -->\ntext\n").is_err());
        assert!(items("<!-- shown: ls -->\n").is_err());
    }

    #[test]
    fn shown_lines_are_looked_for_in_order() {
        let missing = |shown: &[&str], printed: &str| {
            let shown: Vec<String> = shown.iter().map(|line| (*line).to_owned()).collect();
            first_missing(&shown, printed).map(str::to_owned)
        };
        let printed = "at 12:01 a\nb\nc=1 d\n";
        assert_eq!(missing(&["at … a", "...", "c=… d"], printed), None);
        assert_eq!(missing(&["b", "at … a"], printed), Some("at … a".to_owned()));
        assert_eq!(missing(&["c=1"], printed), Some("c=1".to_owned()));
        assert_eq!(missing(&["c=1…"], printed), None);
        assert_eq!(missing(&["c=…e"], printed), Some("c=…e".to_owned()));
        assert_eq!(missing(&["a…b…d"], "a 1 b d d"), None);
        assert_eq!(missing(&["a…bc…cd"], "a bcd"), Some("a…bc…cd".to_owned()));
    }
}
