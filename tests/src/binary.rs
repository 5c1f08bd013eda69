//! The `landfall` program as its users have it: run to its end, or started and stopped.
//!
//! This package builds the program once more from `host/src/main.rs`, under another name. Cargo
//! then has it ready, and up to date, before any test of this package runs, and with the features
//! that the tests were built with: `Program::new(env!("CARGO_BIN_EXE_landfall-under-test"), ..)`.
//! Calling `cargo build` out of a test would need the network, a lock and a second compilation.

use std::io::{self, Read};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Output, Stdio};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use crate::watchdog;

/// After this long a command is taken to hang. Debug builds compile policies slowly.
const RUN_MAX: Duration = Duration::from_secs(120);
/// After this long a daemon that was asked to stop is taken to hang.
const STOP_MAX: Duration = Duration::from_secs(20);
const POLL: Duration = Duration::from_millis(5);

/// The program, and the folder it is run in.
#[derive(Clone, Debug)]
pub struct Program {
    path: PathBuf,
    folder: PathBuf,
}

/// A daemon that was started. Killed when dropped, or when the tests are.
#[derive(Debug)]
pub struct Running {
    child: Child,
    log: Collected,
}

/// What comes out of a pipe, as it comes.
#[derive(Debug)]
struct Collected {
    bytes: Arc<Mutex<Vec<u8>>>,
    reader: Option<JoinHandle<()>>,
}

// === impl Program ===

impl Program {
    /// The program at `path`, run in `folder`.
    #[must_use]
    pub fn new(path: impl Into<PathBuf>, folder: impl Into<PathBuf>) -> Self {
        Self { path: path.into(), folder: folder.into() }
    }

    /// Where the program is.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Runs it with `args` to its end.
    ///
    /// # Errors
    /// It cannot be started, or does not end.
    pub fn run(&self, args: &[&str]) -> io::Result<Output> {
        output(self.command(args))
    }

    /// Starts it with `args` and leaves it running.
    ///
    /// # Errors
    /// It cannot be started.
    pub fn start(&self, args: &[&str]) -> io::Result<Running> {
        let mut command = self.command(args);
        let mut child = command.stdout(Stdio::null()).stderr(Stdio::piped()).spawn()?;
        watchdog::watch_process(child.id());
        let log = Collected::new(child.stderr.take());
        Ok(Running { child, log })
    }

    fn command(&self, args: &[&str]) -> Command {
        let mut command = Command::new(&self.path);
        command.args(args).current_dir(&self.folder).stdin(Stdio::null());
        command
    }
}

/// Runs `command` to its end and collects what it prints.
///
/// # Errors
/// It cannot be started, or does not end.
pub fn output(mut command: Command) -> io::Result<Output> {
    let spawned = command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = spawned.spawn()?;
    let stdout = Collected::new(child.stdout.take());
    let stderr = Collected::new(child.stderr.take());
    let status = wait(&mut child, RUN_MAX)?;
    Ok(Output { status, stdout: stdout.finish(), stderr: stderr.finish() })
}

// === impl Running ===

impl Running {
    /// What it has logged so far.
    #[must_use]
    pub fn log(&self) -> String {
        String::from_utf8_lossy(&self.log.so_far()).into_owned()
    }

    /// Where it serves its health on 127.0.0.1, once it says so.
    #[must_use]
    pub fn admin_port(&self) -> Option<u16> {
        let log = self.log();
        let (_, rest) = log.split_once("address=127.0.0.1:")?;
        rest.split(|c: char| !c.is_ascii_digit()).next()?.parse().ok()
    }

    /// Its process id.
    #[must_use]
    pub fn id(&self) -> u32 {
        self.child.id()
    }

    /// How it ended; `None` while it runs.
    ///
    /// # Errors
    /// The system does not say.
    pub fn ended(&mut self) -> io::Result<Option<ExitStatus>> {
        self.child.try_wait()
    }

    /// Sends it a signal, such as `HUP`.
    ///
    /// # Errors
    /// There is no shell to do it.
    pub fn signal(&self, name: &str) -> io::Result<()> {
        // The standard library knows no signals; the shell has `kill` built in.
        let kill = format!("kill -{name} {}", self.child.id());
        Command::new("sh").args(["-c", &kill]).status().map(drop)
    }

    /// Asks it to stop, as Kubernetes does, and waits until it has.
    ///
    /// # Errors
    /// It cannot be asked, or does not end.
    pub fn stop(mut self) -> io::Result<ExitStatus> {
        self.signal("TERM")?;
        wait(&mut self.child, STOP_MAX)
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        // It may have ended by itself.
        let _ = self.child.kill();
        let _ = self.child.wait();
        watchdog::forget_process(self.child.id());
    }
}

/// Waits for `child`, but not longer than `limit`; then it is killed.
fn wait(child: &mut Child, limit: Duration) -> io::Result<ExitStatus> {
    let mut waited = Duration::ZERO;
    loop {
        if let Some(status) = child.try_wait()? {
            return Ok(status);
        }
        if waited >= limit {
            child.kill()?;
            child.wait()?;
            let message = format!("it still runs after {} s", limit.as_secs());
            return Err(io::Error::new(io::ErrorKind::TimedOut, message));
        }
        thread::sleep(POLL);
        waited += POLL;
    }
}

// === impl Collected ===

impl Collected {
    fn new(pipe: Option<impl Read + Send + 'static>) -> Self {
        let bytes = Arc::new(Mutex::new(Vec::new()));
        let reader = pipe.map(|mut pipe| {
            let bytes = Arc::clone(&bytes);
            thread::spawn(move || {
                let mut part = [0; 4096];
                // An error ends the pipe as its end does.
                while let Ok(count @ 1..) = pipe.read(&mut part) {
                    let mut bytes = bytes.lock().unwrap_or_else(PoisonError::into_inner);
                    bytes.extend_from_slice(&part[..count]);
                }
            })
        });
        Self { bytes, reader }
    }

    fn so_far(&self) -> Vec<u8> {
        self.bytes.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    fn finish(mut self) -> Vec<u8> {
        if let Some(reader) = self.reader.take() {
            // It has no reason to panic; what it read before is there all the same.
            let _ = reader.join();
        }
        self.so_far()
    }
}
