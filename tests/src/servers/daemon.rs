//! Landfall itself, as its users run it.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Output;
use std::thread;
use std::time::Duration;

use serde_json::Value;

use super::http::Http;
use super::process::{last_lines, wait};
use crate::binary::{Program, Running};

/// A debug build compiles policies slowly.
const READY_MAX: Duration = Duration::from_secs(60);
const FILE: &str = "landfall.yaml";
/// What it logs when it knows where it listens.
const LISTENING: &str = "Serving health and metrics.";

/// A daemon. Ends when dropped; says the end of its log if that is for a failure.
#[derive(Debug)]
pub struct Landfall {
    running: Option<Running>,
    /// Health, readiness and metrics.
    pub admin: Http,
}

/// The program and a folder with its configuration.
#[derive(Clone, Debug)]
pub struct Installation {
    program: Program,
    folder: PathBuf,
}

// === impl Installation ===

impl Installation {
    /// The program at `path`, configured in `folder`.
    #[must_use]
    pub fn new(path: &str, folder: &Path) -> Self {
        Self { program: Program::new(path, folder), folder: folder.to_owned() }
    }

    /// Writes the configuration anew. YAML is JSON too.
    ///
    /// # Panics
    /// It cannot be written.
    pub fn configure(&self, config: &Value) {
        let mut config = config.clone();
        config["admin"]["listen"] = "127.0.0.1:0".into();
        let text = serde_json::to_string_pretty(&config).expect("JSON");
        fs::write(self.folder.join(FILE), text).expect("a configuration file");
    }

    /// Runs a verb to its end.
    ///
    /// # Panics
    /// It does not end.
    #[must_use]
    pub fn run(&self, arguments: &[&str]) -> Output {
        let arguments = [arguments, &["-c", FILE]].concat();
        self.program.run(&arguments).expect("the program ends")
    }

    /// Starts the daemon, and does not wait until it is ready.
    ///
    /// # Panics
    /// It does not start.
    #[must_use]
    pub fn start(&self) -> Landfall {
        let arguments = ["--log-format", "json", "--log", "info,landfall_runtime=debug"];
        let arguments = [&arguments[..], &["run", "-c", FILE]].concat();
        let running = self.program.start(&arguments).expect("the program starts");
        let port = wait(READY_MAX, || {
            let lines = lines(&running);
            let line = lines.iter().find(|line| line["message"] == LISTENING)?;
            line["address"].as_str()?.rsplit(':').next()?.parse().ok()
        });
        let Some(port) = port else {
            panic!("Landfall does not serve its health:\n{}", last_lines(&running.log()))
        };
        Landfall { running: Some(running), admin: Http::plain(port) }
    }
}

// === impl Landfall ===

impl Landfall {
    /// Waits until it is ready.
    ///
    /// # Panics
    /// It takes too long.
    #[must_use]
    pub fn ready(self) -> Self {
        if wait(READY_MAX, || self.admin.is_ok("/readyz").then_some(())).is_none() {
            panic!("Landfall is not ready after {READY_MAX:?}: {}", self.readiness());
        }
        self
    }

    /// What `/readyz` says.
    #[must_use]
    pub fn readiness(&self) -> String {
        self.admin.get("/readyz").map_or_else(|problem| problem, |reply| reply.body)
    }

    /// Waits until `/readyz` says something that `fits`.
    #[must_use]
    pub fn says(&self, limit: Duration, fits: impl Fn(&str) -> bool) -> bool {
        wait(limit, || fits(&self.readiness()).then_some(())).is_some()
    }

    /// The lines of its log so far.
    #[must_use]
    pub fn log(&self) -> Vec<Value> {
        self.running.as_ref().map(lines).unwrap_or_default()
    }

    /// The sum of a metric over those of its lines that have all of `labels`, such as
    /// `outcome="done"`.
    ///
    /// # Panics
    /// It does not say.
    #[must_use]
    pub fn metric(&self, name: &str, labels: &[&str]) -> u64 {
        let text = self.admin.get("/metrics").expect("metrics").body;
        let lines = text.lines().filter(|line| {
            line.strip_prefix(name).is_some_and(|rest| rest.starts_with(['{', ' ']))
        });
        let fit = lines.filter(|line| labels.iter().all(|label| line.contains(label)));
        fit.filter_map(|line| line.rsplit_once(' ')?.1.parse::<u64>().ok()).sum()
    }

    /// How long it has computed so far, on all its threads.
    ///
    /// # Panics
    /// The system does not say.
    #[must_use]
    pub fn cpu_time(&self) -> Duration {
        // In hundredths of a second on Linux.
        const TICK: Duration = Duration::from_millis(10);
        let id = self.running.as_ref().expect("it runs").id();
        let stat = fs::read_to_string(format!("/proc/{id}/stat")).expect("its status");
        // The name, in brackets, may have anything in it; utime and stime are the 14th and 15th.
        let fields = stat.rsplit(')').next().unwrap_or_default().split_whitespace();
        let ticks = fields.skip(11).take(2).filter_map(|ticks| ticks.parse::<u32>().ok());
        TICK * ticks.sum()
    }

    /// The most memory that it has had so far, in bytes.
    ///
    /// # Panics
    /// The system does not say.
    #[must_use]
    pub fn memory_max(&self) -> u64 {
        let id = self.running.as_ref().expect("it runs").id();
        let status = fs::read_to_string(format!("/proc/{id}/status")).expect("its status");
        let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:"));
        let kilobytes = line.and_then(|line| line.trim().strip_suffix(" kB"));
        kilobytes.and_then(|number| number.parse::<u64>().ok()).expect("a size") << 10
    }

    /// Asks it to stop and waits until it has.
    ///
    /// # Panics
    /// It does not stop, or not well.
    pub fn stop(mut self) {
        let running = self.running.take().expect("it runs");
        let status = running.stop().expect("it stops");
        assert!(status.success(), "Landfall stopped with {status}");
    }
}

impl Landfall {
    /// Ends it without asking.
    pub fn kill(mut self) {
        // Dropping what runs kills it.
        self.running.take();
    }
}

impl Drop for Landfall {
    fn drop(&mut self) {
        let Some(running) = self.running.take() else { return };
        if thread::panicking() {
            eprintln!("--- the end of Landfall's log\n{}", last_lines(&running.log()));
        }
    }
}

fn lines(running: &Running) -> Vec<Value> {
    let log = running.log();
    log.lines().filter_map(|line| serde_json::from_str(line).ok()).collect()
}
