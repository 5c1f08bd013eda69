//! Lines for Landfall's log, the one thing that a policy can do besides answering.
//!
//! Landfall adds the policy's name, cuts long lines and drops floods, so a line per instance is too many. Natively the
//! lines go to standard error, and to a buffer that a test reads with [`take`].

pub use crate::bindings::base::landfall::policy::log::Level;

/// Writes one line. The macros [`error!`](crate::error), [`warn!`](crate::warn), [`info!`](crate::info),
/// [`debug!`](crate::debug) and [`trace!`](crate::trace) format one.
pub fn write(level: Level, message: &str) {
    #[cfg(target_family = "wasm")]
    crate::bindings::base::landfall::policy::log::write(level, message);
    #[cfg(not(target_family = "wasm"))]
    native::write(level, message);
}

/// Takes the lines that this thread has written, the oldest first. Native only.
///
/// The newest 1,000 are kept.
#[cfg(not(target_family = "wasm"))]
#[must_use]
pub fn take() -> Vec<(Level, String)> {
    native::take()
}

/// Logs a formatted line that says why nothing works.
#[macro_export]
macro_rules! error {
    ($($argument:tt)+) => { $crate::log::write($crate::log::Level::Error, &format!($($argument)+)) };
}

/// Logs a formatted line that an operator should act upon.
#[macro_export]
macro_rules! warn {
    ($($argument:tt)+) => { $crate::log::write($crate::log::Level::Warn, &format!($($argument)+)) };
}

/// Logs a formatted line that an operator may want to know.
#[macro_export]
macro_rules! info {
    ($($argument:tt)+) => { $crate::log::write($crate::log::Level::Info, &format!($($argument)+)) };
}

/// Logs a formatted line for the policy's author.
#[macro_export]
macro_rules! debug {
    ($($argument:tt)+) => { $crate::log::write($crate::log::Level::Debug, &format!($($argument)+)) };
}

/// Logs a formatted line for the policy's author, in detail.
#[macro_export]
macro_rules! trace {
    ($($argument:tt)+) => { $crate::log::write($crate::log::Level::Trace, &format!($($argument)+)) };
}

#[cfg(not(target_family = "wasm"))]
mod native {
    use std::cell::RefCell;
    use std::collections::VecDeque;

    use super::Level;

    /// More lines than any test looks at; a loop that logs must not fill the memory.
    const LINES_MAX: usize = 1000;

    thread_local! {
        // Each test runs on a thread of its own, so tests do not see each other's lines.
        static LINES: RefCell<VecDeque<(Level, String)>> = const { RefCell::new(VecDeque::new()) };
    }

    #[allow(clippy::print_stderr, reason = "the test harness captures what is printed this way")]
    pub(super) fn write(level: Level, message: &str) {
        eprintln!("{level:?}: {message}");
        LINES.with_borrow_mut(|lines| {
            if lines.len() == LINES_MAX {
                lines.pop_front();
            }
            lines.push_back((level, message.to_owned()));
        });
    }

    pub(super) fn take() -> Vec<(Level, String)> {
        LINES.take().into()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_test_sees_the_lines_of_its_thread() {
        crate::warn!("{} is draining", "pay-1");
        std::thread::spawn(|| crate::info!("elsewhere")).join().unwrap();
        assert_eq!(take(), [(Level::Warn, "pay-1 is draining".to_owned())]);
        assert_eq!(take(), []);
    }
}
