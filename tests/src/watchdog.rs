//! Ends what tests started and did not end themselves.
//!
//! The tests may end in any way, by an interrupt or by being killed, and no destructor runs then;
//! nor does one run for what is shared by all of them. The watchdog reads what to end from a pipe,
//! which the system closes when the tests are over.

#![allow(clippy::expect_used, reason = "part of tests: without a watchdog they should not go on")]

use std::io::Write;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::{Mutex, OnceLock, PoisonError};

const WATCHDOG: &str = r#"
trap '' INT TERM HUP
processes=
while read -r word rest; do
    case $word in
    start) processes="$processes $rest" ;;
    end)
        left=
        for process in $processes; do
            [ "$process" = "$rest" ] || left="$left $process"
        done
        processes=$left
        ;;
    folder) set -- "$@" "$rest" ;;
    esac
done
if [ -n "$processes" ]; then
    kill -TERM $processes
    sleep 1
    kill -KILL $processes
fi
[ $# -eq 0 ] || rm -rf -- "$@"
"#;

/// Ends the process with this id when the tests end.
///
/// # Panics
/// The watchdog cannot be started.
pub fn watch_process(id: u32) {
    tell(&format!("start {id}"));
}

/// The process ended; its id may become another's.
///
/// # Panics
/// The watchdog cannot be started.
pub fn forget_process(id: u32) {
    tell(&format!("end {id}"));
}

/// Removes this folder when the tests end.
///
/// # Panics
/// The watchdog cannot be started.
pub fn watch_folder(folder: &Path) {
    tell(&format!("folder {}", folder.display()));
}

fn tell(line: &str) {
    static WATCHING: OnceLock<Mutex<Child>> = OnceLock::new();
    let watching = WATCHING.get_or_init(|| {
        let mut command = Command::new("sh");
        command.args(["-c", WATCHDOG]).stdin(Stdio::piped());
        // Whoever reads what the tests print need not wait for it.
        command.stdout(Stdio::null()).stderr(Stdio::null());
        Mutex::new(command.spawn().expect("sh"))
    });
    let watching = watching.lock().unwrap_or_else(PoisonError::into_inner);
    let mut pipe = watching.stdin.as_ref().expect("a pipe");
    writeln!(pipe, "{line}").expect("the watchdog lives as long as the tests");
}
