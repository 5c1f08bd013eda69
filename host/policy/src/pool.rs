//! The threads that guests run on.
//!
//! Invariant: every piece of work ends with a result for each thing asked about, whatever a guest
//! does and should the host panic over it.

use std::fmt;
use std::panic::{self, AssertUnwindSafe};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, mpsc};
use std::thread::{self, JoinHandle};

use crate::bench::Bench;
use crate::engine::WASM_STACK_BYTES_MAX;

/// The threads that guests run on, each with its own warm instances. They end when this is dropped.
pub struct Workers {
    threads: Vec<Worker>,
}

struct Worker {
    jobs: Option<mpsc::SyncSender<Job>>,
    thread: Option<JoinHandle<()>>,
}

type Job = Arc<dyn Fn(&mut Bench) + Send + Sync>;

/// Jobs that wait for a worker, of as many callers. A further caller waits until there is room.
const JOBS_MAX: usize = 16;

/// The host's own frames below and above a guest's.
const HOST_STACK_BYTES: usize = 4 << 20;

// === impl Workers ===

impl Workers {
    /// Starts so many threads; at least one. Should the operating system give fewer, those do the
    /// work.
    ///
    /// # Errors
    /// It gives none.
    pub fn start(threads: usize) -> std::io::Result<Arc<Self>> {
        let mut workers = Vec::new();
        let mut refusal = None;
        for number in 0..threads.max(1) {
            match Worker::start(number) {
                Ok(worker) => workers.push(worker),
                Err(error) => refusal = Some(error),
            }
        }
        match refusal {
            Some(error) if workers.is_empty() => Err(error),
            _ => Ok(Arc::new(Self { threads: workers })),
        }
    }

    /// How many there are.
    #[must_use]
    pub fn count(&self) -> usize {
        self.threads.len()
    }

    /// Does `tasks` tasks on all threads. The results are in the order of tasks; one that panicked
    /// has none.
    pub(crate) fn run<R: Send + 'static>(
        &self,
        tasks: usize,
        prepare: impl Fn(&mut Bench) + Send + Sync + 'static,
        task: impl Fn(&mut Bench, usize) -> R + Send + Sync + 'static,
    ) -> Vec<Option<R>> {
        let mut results: Vec<Option<R>> = std::iter::repeat_with(|| None).take(tasks).collect();
        if tasks == 0 {
            return results;
        }
        // Room for every result, so that no worker ever waits for the caller.
        let (sender, receiver) = mpsc::sync_channel(tasks);
        let next = AtomicUsize::new(0);
        let job: Job = Arc::new(move |bench| {
            prepare(bench);
            loop {
                let number = next.fetch_add(1, Ordering::Relaxed);
                if number >= tasks {
                    break;
                }
                // A guest is taken out of the bench while it runs, so a panic leaves no half of one.
                let result = panic::catch_unwind(AssertUnwindSafe(|| task(bench, number))).ok();
                // The caller waits for exactly these; it is gone only if it panicked itself.
                if sender.send((number, result)).is_err() {
                    break;
                }
            }
        });
        for worker in &self.threads {
            if let Some(jobs) = &worker.jobs {
                // A thread that is gone leaves its share to the others.
                let _ = jobs.send(Arc::clone(&job));
            }
        }
        // Ours would keep the channel open if every thread were gone.
        drop(job);
        for (number, result) in receiver.iter().take(tasks) {
            results[number] = result;
        }
        results
    }
}

impl Drop for Workers {
    fn drop(&mut self) {
        for worker in &mut self.threads {
            worker.jobs = None;
        }
        for worker in &mut self.threads {
            if let Some(thread) = worker.thread.take() {
                // Its panic would have been reported by its own thread.
                let _ = thread.join();
            }
        }
    }
}

impl fmt::Debug for Workers {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Workers").field("count", &self.count()).finish()
    }
}

// === impl Worker ===

impl Worker {
    fn start(number: usize) -> std::io::Result<Self> {
        let (jobs, inbox) = mpsc::sync_channel::<Job>(JOBS_MAX);
        let thread = thread::Builder::new()
            .name(format!("landfall-guest-{number}"))
            .stack_size(HOST_STACK_BYTES + WASM_STACK_BYTES_MAX)
            .spawn(move || {
                let mut bench = Bench::default();
                for job in inbox {
                    job(&mut bench);
                }
            })?;
        Ok(Self { jobs: Some(jobs), thread: Some(thread) })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn results_are_in_order_and_panics_harm_only_their_task() {
        let workers = Workers::start(3).unwrap();
        for _ in 0..2 {
            let results = workers.run(
                100,
                |_| (),
                |_, number| {
                    assert!(number % 10 != 3, "a panic on purpose");
                    number
                },
            );
            let want: Vec<_> = (0..100).map(|n| (n % 10 != 3).then_some(n)).collect();
            assert_eq!(results, want);
        }
        assert!(workers.run(0, |_| (), |_, _| ()).is_empty());
    }
}
