//! Every command in the documents is run, in order, in a copy of the examples; what a document
//! shows of its output must be in it. A command that this test does not know fails it.

#![allow(clippy::expect_used, clippy::panic, reason = "a test fails by panicking")]
#![allow(clippy::disallowed_methods, reason = "what is promised of time is measured")]

use std::collections::{BTreeMap, HashMap};
use std::fs;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::thread;
use std::time::{Duration, Instant};

use landfall_tests::binary::{Program, Running, output};
use landfall_tests::markdown::{Item, first_missing, items};
use landfall_tests::repository::{file, files, root};
use tempfile::TempDir;

const LANDFALL: &str = env!("CARGO_BIN_EXE_landfall-under-test");
const QUICKSTART: &str = "examples/quickstart";
/// What the documents promise for an edit to show.
const EDIT_SHOWS_MAX: Duration = Duration::from_secs(1);
/// A debug build compiles a policy before the first resource is written.
const START_MAX: Duration = Duration::from_secs(60);
const POLL: Duration = Duration::from_millis(10);

#[test]
fn commands_do_what_documents_say() {
    let mut problems = Vec::new();
    for document in files().iter().filter(|file| has_commands(&file.path)) {
        match items(&document.text) {
            Err(problem) => problems.push(format!("{}: {problem}", document.path)),
            Ok(items) if items.is_empty() => {}
            Ok(items) => {
                let mut scene = Scene::new();
                // The first failure of a document makes those after it mean nothing.
                let failed = items.iter().find_map(|item| scene.follow(item).err());
                let failed = failed.or_else(|| scene.end().err());
                problems.extend(failed.map(|problem| format!("{}: {problem}", document.path)));
            }
        }
    }
    assert!(problems.is_empty(), "\na document is wrong:\n  {}\n", problems.join("\n  "));
}

/// The configuration that README.md shows is one to begin with: it needs no cluster and no registry.
#[test]
fn the_configuration_of_the_readme_runs() {
    let shown = items(&file("README.md").text).expect("README.md can be read").into_iter();
    let mut files = shown.filter_map(|item| match item {
        Item::File(_, path, text) => Some((path, text)),
        Item::Command(..) | Item::Shown(..) => None,
    });
    let (path, text) = files.next().expect("README.md has a configuration");
    let scene = Scene::new();
    let text = format!("{text}\nadmin: {{listen: \"127.0.0.1:0\"}}\n");
    fs::write(scene.path(&path), text).expect("a configuration can be written");
    let program = Program::new(LANDFALL, scene.folder.path());
    let mut daemon = program.start(&["run", "-c", &path]).expect("landfall starts");
    let published = scene.path("out/mesh-registry/serviceentry-orders.by-hand.mesh.yaml");
    let started = Instant::now();
    while !published.exists() {
        let ended = daemon.ended().expect("the system knows");
        assert!(ended.is_none() && started.elapsed() < START_MAX, "{ended:?}:\n{}", daemon.log());
        thread::sleep(POLL);
    }
    assert!(daemon.stop().expect("it stops").success());
}

#[test]
fn schema_is_fresh() {
    let program = Program::new(LANDFALL, root());
    let printed = program.run(&["check", "--schema"]).expect("landfall runs");
    assert!(printed.status.success(), "{}", text(&printed));
    let mut committed = files().iter().filter(|file| file.path == "landfall.schema.json");
    assert!(
        committed.any(|file| file.text.as_bytes() == printed.stdout),
        "landfall.schema.json is not what the configuration's types say; run `make schema`"
    );
}

fn has_commands(path: &str) -> bool {
    let example = path.starts_with("examples/") && path.ends_with("/README.md");
    example || path == "README.md" || path == "CONTRIBUTING.md"
}

/// A copy of the examples as a reader has them after `git clone`, and what runs there.
struct Scene {
    folder: TempDir,
    daemon: Option<Running>,
    /// What each command printed when it was last run.
    printed: HashMap<String, String>,
}

/// How a command of a document is followed.
enum Way {
    /// Run as it is.
    Run,
    /// Run as it is; it changes what the daemon reads.
    Edit,
    /// Start the daemon.
    Start,
    /// Not run here, but this target of the Makefile must be there.
    Target(String),
    /// Not run here, for it needs a cluster or a Docker, but the files it names must be there.
    Cluster,
    /// The copy is there already.
    Nothing,
}

fn way(command: &str) -> Option<Way> {
    let words: Vec<&str> = command.split_whitespace().collect();
    Some(match words.as_slice() {
        ["make", "run"] => Way::Start,
        ["make", target] => Way::Target((*target).to_owned()),
        [".ci/run"] => Way::Target("test".to_owned()),
        ["git", "clone", ..] | ["cd", _] => Way::Nothing,
        // The built program is on the path here.
        ["export", path] if path.starts_with("PATH=") => Way::Nothing,
        ["sed", "-i", ..] => Way::Edit,
        ["landfall", "check" | "plan" | "explain" | "snapshot", ..] | ["cat" | "ls" | "cp", ..] => {
            Way::Run
        }
        ["landfall", "--help"] | ["landfall", _, "--help"] => Way::Run,
        ["kubectl" | "helm" | "docker", ..] | ["landfall", "adopt", ..] => Way::Cluster,
        _ => return None,
    })
}

impl Scene {
    fn new() -> Self {
        let folder = tempfile::tempdir().expect("a temporary folder");
        for part in ["examples", "deploy"] {
            copy(&root().join(part), &folder.path().join(part))
                .expect("the examples can be copied");
        }
        let bin = folder.path().join("bin");
        fs::create_dir(&bin).expect("a folder can be made");
        symlink(LANDFALL, bin.join("landfall")).expect("a link can be made");
        let scene = Self { folder, daemon: None, printed: HashMap::new() };
        listen_anywhere(&scene.path("examples")).expect("the examples can be read");
        scene
    }

    fn path(&self, inside: &str) -> PathBuf {
        self.folder.path().join(inside)
    }

    /// Does what the document says. An error names the line and what was not as it says.
    fn follow(&mut self, item: &Item) -> Result<(), String> {
        match item {
            Item::File(number, path, text) => {
                let path = self.path(path);
                let made = path.parent().map_or(Ok(()), fs::create_dir_all);
                made.and_then(|()| fs::write(path, text))
                    .map_err(|error| format!("line {number}: {error}"))
            }
            Item::Command(number, command) => {
                self.command(command).map_err(|why| format!("line {number}: {command}: {why}"))
            }
            Item::Shown(number, command, lines) => {
                self.shown(command, lines).map_err(|why| format!("line {number}: {why}"))
            }
        }
    }

    fn command(&mut self, command: &str) -> Result<(), String> {
        let unknown = "no test knows how to run this; teach `way` in tests/tests/readme.rs";
        match way(command).ok_or(unknown)? {
            Way::Nothing => Ok(()),
            Way::Target(target) => {
                let makefile = &file("Makefile").text;
                let known = makefile.lines().any(|line| line.starts_with(&format!("{target}:")));
                if known { Ok(()) } else { Err("the Makefile has no such target".to_owned()) }
            }
            Way::Cluster => {
                let mut paths =
                    command.split_whitespace().filter(|word| word.starts_with("deploy/"));
                paths
                    .find(|path| !root().join(path).exists())
                    .map_or(Ok(()), |path| Err(format!("{path} is missing")))
            }
            Way::Run => self.run(command),
            Way::Edit => self.edit(command),
            Way::Start => self.start(command),
        }
    }

    /// Runs `command` and keeps what it prints. A difference is a success where it is asked for.
    fn run(&mut self, command: &str) -> Result<(), String> {
        let done = self.shell(command)?;
        let printed = text(&done);
        self.printed.insert(command.to_owned(), printed.clone());
        let differs = command.contains("--exit-code") && done.status.code() == Some(2);
        if done.status.success() || differs {
            Ok(())
        } else {
            Err(format!("ended with {}:\n{printed}", done.status))
        }
    }

    fn shell(&self, command: &str) -> Result<Output, String> {
        let path = std::env::var("PATH").unwrap_or_default();
        let mut shell = Command::new("sh");
        shell.args(["-eu", "-c", command]).current_dir(self.folder.path());
        shell.env("PATH", format!("{}:{path}", self.path("bin").display()));
        output(shell).map_err(|error| error.to_string())
    }

    /// Runs `command`, which must change the resources in the promised time while the daemon runs.
    fn edit(&mut self, command: &str) -> Result<(), String> {
        let before = self.resources();
        self.run(command)?;
        let edited = Instant::now();
        while self.daemon.is_some() && self.resources() == before {
            if edited.elapsed() > EDIT_SHOWS_MAX {
                let log = self.daemon.as_ref().map(Running::log).unwrap_or_default();
                return Err(format!("did not show within {EDIT_SHOWS_MAX:?}; the log:\n{log}"));
            }
            thread::sleep(POLL);
        }
        Ok(())
    }

    /// Starts the daemon as `make run` does and waits until the resources are as planned.
    fn start(&mut self, command: &str) -> Result<(), String> {
        let built = fs::read_dir(self.path(QUICKSTART).join("policies"));
        if !built.is_ok_and(|mut policies| policies.next().is_some()) {
            return Err("the policies are not built; run `make plugins`".to_owned());
        }
        let arguments = run_arguments();
        let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
        let program = Program::new(LANDFALL, self.folder.path());
        let mut daemon = program.start(&arguments).map_err(|error| error.to_string())?;
        let plan = format!("landfall plan -c {QUICKSTART}/landfall.yaml --exit-code");
        let started = Instant::now();
        loop {
            if self.shell(&plan)?.status.code() == Some(0) && !self.resources().is_empty() {
                break;
            }
            let ended = daemon.ended().map_err(|error| error.to_string())?;
            if ended.is_some() || started.elapsed() > START_MAX {
                return Err(format!("wrote no resources; the log:\n{}", daemon.log()));
            }
            thread::sleep(POLL);
        }
        self.printed.insert(command.to_owned(), daemon.log());
        self.daemon = Some(daemon);
        Ok(())
    }

    fn shown(&mut self, command: &str, lines: &[String]) -> Result<(), String> {
        if let (Some(Way::Start), Some(daemon)) = (way(command), &self.daemon) {
            self.printed.insert(command.to_owned(), daemon.log());
        }
        let printed = self.printed.get(command);
        let printed = printed.ok_or_else(|| format!("nothing above runs `{command}`"))?;
        first_missing(lines, printed).map_or(Ok(()), |missing| {
            Err(format!("`{command}` does not print\n{missing}\nbut\n{printed}"))
        })
    }

    /// The files that the daemon of the quickstart wrote, with their contents.
    fn resources(&self) -> BTreeMap<PathBuf, Vec<u8>> {
        let mut found = BTreeMap::new();
        let mut folders = vec![self.path(QUICKSTART).join("out")];
        while let Some(folder) = folders.pop() {
            // What is being renamed is missed now and found with the next look.
            for entry in fs::read_dir(folder).into_iter().flatten().flatten() {
                let path = entry.path();
                if path.is_dir() {
                    folders.push(path);
                } else if path.extension().is_some_and(|end| end == "yaml")
                    && let Ok(bytes) = fs::read(&path)
                {
                    found.insert(path, bytes);
                }
            }
        }
        found
    }

    /// Stops the daemon. It must end well.
    fn end(&mut self) -> Result<(), String> {
        let Some(daemon) = self.daemon.take() else { return Ok(()) };
        let status = daemon.stop().map_err(|error| format!("SIGTERM: {error}"))?;
        if status.success() { Ok(()) } else { Err(format!("SIGTERM: ended with {status}")) }
    }
}

/// The arguments with which `make run` starts the program.
fn run_arguments() -> Vec<String> {
    let makefile = &file("Makefile").text;
    let recipe = makefile.lines().find_map(|line| line.strip_prefix("\texec $(LANDFALL) "));
    let recipe = recipe.expect("the Makefile's `run` executes $(LANDFALL)");
    recipe.replace("$(QUICKSTART)", QUICKSTART).split_whitespace().map(str::to_owned).collect()
}

/// Lets every configuration in `folder` listen on a free port: another daemon may run here.
fn listen_anywhere(folder: &Path) -> std::io::Result<()> {
    for entry in fs::read_dir(folder)? {
        let configuration = entry?.path().join("landfall.yaml");
        let Ok(text) = fs::read_to_string(&configuration) else { continue };
        let kept = text.lines().filter(|line| !line.starts_with("admin:"));
        let kept: String = kept.map(|line| format!("{line}\n")).collect();
        fs::write(configuration, kept + "admin: { listen: \"127.0.0.1:0\" }\n")?;
    }
    Ok(())
}

/// Copies a folder, without what a daemon wrote there.
fn copy(from: &Path, to: &Path) -> std::io::Result<()> {
    fs::create_dir_all(to)?;
    for entry in fs::read_dir(from)? {
        let entry = entry?;
        let target = to.join(entry.file_name());
        if !entry.path().is_dir() {
            fs::copy(entry.path(), target)?;
        } else if entry.file_name() != "out" {
            copy(&entry.path(), &target)?;
        }
    }
    Ok(())
}

/// All that a command printed.
fn text(done: &Output) -> String {
    String::from_utf8_lossy(&done.stdout).into_owned() + &String::from_utf8_lossy(&done.stderr)
}
