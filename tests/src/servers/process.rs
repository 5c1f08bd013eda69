//! Processes, ports and folders. Nothing of them outlives the tests.

use std::fs::{File, OpenOptions};
use std::net::{Ipv4Addr, TcpListener, UdpSocket};
use std::path::{Path, PathBuf};
use std::process::{self, Child, Command, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use crate::watchdog;

/// A server that is not ready by then will not be.
const READY_MAX: Duration = Duration::from_secs(60);
/// After this long a server that was asked to end is ended.
const STOP_MAX: Duration = Duration::from_secs(3);
const POLL: Duration = Duration::from_millis(50);
/// How often a server is started anew that ended before it was ready: somebody else may have
/// taken its port.
const STARTS_MAX: usize = 3;
const TAIL_LINES: usize = 40;

/// A server. Ends when dropped; says the end of its log if that is for a failure.
#[derive(Debug)]
pub struct Server {
    name: &'static str,
    child: Child,
    log: PathBuf,
}

/// The program that `variable` names.
///
/// # Panics
/// There is none.
#[must_use]
pub fn program(variable: &str) -> PathBuf {
    match std::env::var_os(variable).map(PathBuf::from) {
        Some(path) if path.is_file() => path,
        Some(path) => {
            panic!("{variable} names {}, which is no file. Run: make e2e", path.display())
        }
        None => panic!(
            "{variable} is not set. Run `make e2e`, which installs the servers, or: \
             eval \"$(tests/servers/install.sh)\""
        ),
    }
}

/// Starts something by `attempt`, a few times at most.
///
/// # Panics
/// No attempt succeeds.
pub fn started<T>(what: &str, mut attempt: impl FnMut() -> Result<T, String>) -> T {
    let mut problem = String::new();
    for _ in 0..STARTS_MAX {
        match attempt() {
            Ok(started) => return started,
            Err(error) => problem = error,
        }
    }
    panic!("{what} does not start: {problem}");
}

/// Waits until `check` gives something, at most for `limit`.
pub fn wait<T>(limit: Duration, mut check: impl FnMut() -> Option<T>) -> Option<T> {
    let began = Instant::now();
    loop {
        if let Some(value) = check() {
            return Some(value);
        }
        if began.elapsed() >= limit {
            return None;
        }
        thread::sleep(POLL.min(limit));
    }
}

// === ports and folders ===

/// A port that nobody has on any address of this machine, neither for TCP nor for UDP. It is not
/// given out again, and it is not among those that the system gives to outgoing connections.
///
/// # Panics
/// All of them are taken.
#[must_use]
pub fn free_port() -> u16 {
    const FIRST: u32 = 18_000;
    // Linux takes those from 32768 on for outgoing connections.
    const COUNT: u32 = 14_000;
    static NEXT: AtomicU32 = AtomicU32::new(0);
    for _ in 0..COUNT {
        // Two runs at once begin at different places.
        let turn = NEXT.fetch_add(1, Ordering::Relaxed) + process::id() * 101;
        let port = u16::try_from(FIRST + turn % COUNT).expect("a port");
        let address = (Ipv4Addr::UNSPECIFIED, port);
        if TcpListener::bind(address).is_ok() && UdpSocket::bind(address).is_ok() {
            return port;
        }
    }
    panic!("no port is free");
}

/// A new folder that goes when the tests end.
///
/// # Panics
/// It cannot be made.
#[must_use]
pub fn folder() -> PathBuf {
    let folder = tempfile::Builder::new().prefix("landfall-e2e-").tempdir();
    let folder = folder.expect("a temporary folder").keep();
    watchdog::watch_folder(&folder);
    folder
}

// === impl Server ===

impl Server {
    /// Starts `command`; what it prints goes to `name.log` in `folder`.
    ///
    /// # Panics
    /// It cannot be started.
    #[must_use]
    pub fn start(name: &'static str, mut command: Command, folder: &Path) -> Self {
        let log = folder.join(format!("{name}.log"));
        let open = || -> std::io::Result<(File, File)> {
            let file = OpenOptions::new().append(true).create(true).open(&log)?;
            Ok((file.try_clone()?, file))
        };
        let (stdout, stderr) = open().expect("a log file");
        command.stdin(Stdio::null()).stdout(stdout).stderr(stderr);
        let child = command.spawn().unwrap_or_else(|error| panic!("{command:?}: {error}"));
        watchdog::watch_process(child.id());
        Self { name, child, log }
    }

    /// Waits until `is_ready`.
    ///
    /// # Errors
    /// It ends before, or takes too long.
    pub fn ready(mut self, mut is_ready: impl FnMut() -> bool) -> Result<Self, String> {
        let outcome = wait(READY_MAX, || match self.child.try_wait() {
            Ok(Some(status)) => Some(Err(format!("it ended: {status}"))),
            Ok(None) | Err(_) => is_ready().then_some(Ok(())),
        });
        match outcome {
            Some(Ok(())) => Ok(self),
            Some(Err(problem)) => Err(format!("{problem}\n{}", self.tail())),
            None => Err(format!("it is not ready after {READY_MAX:?}\n{}", self.tail())),
        }
    }

    /// Its log so far.
    #[must_use]
    pub fn log(&self) -> String {
        let text = std::fs::read(&self.log).unwrap_or_default();
        String::from_utf8_lossy(&text).into_owned()
    }

    /// The end of its log.
    #[must_use]
    pub fn tail(&self) -> String {
        format!("--- the end of {}.log\n{}", self.name, last_lines(&self.log()))
    }

    /// Ends it at once, as a crash would.
    pub fn kill(&mut self) {
        // It may have ended by itself.
        let _ = self.child.kill();
        let _ = self.child.wait();
        watchdog::forget_process(self.child.id());
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        if thread::panicking() {
            eprintln!("{}", self.tail());
        }
        if !matches!(self.child.try_wait(), Ok(Some(_))) {
            // Its id may be another's once it has ended.
            terminate(self.child.id());
        }
        let ended = wait(STOP_MAX, || self.child.try_wait().ok().flatten());
        if ended.is_none() {
            self.kill();
        }
        watchdog::forget_process(self.child.id());
    }
}

/// The last lines of `text`, each cut to what fits a screen.
#[must_use]
pub fn last_lines(text: &str) -> String {
    let lines: Vec<&str> = text.lines().collect();
    let last = lines.len().saturating_sub(TAIL_LINES);
    let cut = |line: &&str| line.chars().take(400).collect::<String>();
    lines[last..].iter().map(cut).collect::<Vec<_>>().join("\n")
}

/// Asks a process to end.
pub fn terminate(id: u32) {
    // The standard library knows no signals; the shell has `kill` built in.
    let kill = format!("kill -TERM {id}");
    let _ = Command::new("sh").args(["-c", &kill]).stderr(Stdio::null()).status();
}
