//! How much a policy may use.

use std::fmt;
use std::time::Duration;

use wasmtime::ResourceLimiter;

/// What a policy may use; beyond each limit its call fails, and nothing else does.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Limits {
    /// All linear memories and tables of one instance of the policy, together. Each worker keeps
    /// one such instance warm.
    pub memory_bytes_max: usize,
    /// Elements of all tables together; their bytes count as memory too.
    pub table_elements_max: usize,
    /// Wall time of one call that decides, of up to `batch_instances_max` instances. A call that is
    /// stopped takes up to 10 ms more, and one instruction more, which may be one that fills or copies
    /// `memory_bytes_max`: wasmtime looks at the deadline before such an instruction and not in it.
    pub time_max: Duration,
    /// Wall time of all calls, on all workers, for everything that is decided together, with the
    /// instances of the policy that are made for them. What is left then is not tried.
    pub work_time_max: Duration,
    /// Memory that is kept of all answers to everything that is decided together: places, findings
    /// and settings. What comes on top is not taken, and the rest is not asked.
    pub work_answer_bytes_max: usize,
    /// Wall time for each of: instantiating, `describe`, `configure`.
    pub configure_time_max: Duration,
    /// What the host copies out of the guest per instance of a call, see [`Limits::output_bytes`].
    pub output_bytes_per_instance_max: usize,
    /// Lines of log. Further ones are dropped and counted.
    pub log_lines_per_minute_max: u32,
    /// Instances of one call.
    pub batch_instances_max: usize,
}

/// What one call may use.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Budget {
    pub(crate) time: Duration,
    pub(crate) output_bytes: usize,
}

/// Allowed to every call beside what its instances are: a description with its JSON Schema, the
/// problems of settings, an error's text, a line of log before it is cut. It is about what is copied
/// for a moment; what is kept of verdicts has limits of its own.
const OUTPUT_BYTES_BASE: usize = 256 << 10;

/// Python components hold 38 core modules, and each is instantiated.
const CORE_INSTANCES_MAX: usize = 200;

/// What is known has one or two: a component's modules share one, and a component inside of another
/// one has its own. Each reserves 4 GiB of address space and takes some of the 65,530 mappings that
/// Linux gives a process, in each store: with ten policies on 16 workers these are 10 TiB of the
/// 128 TiB that there are. A policy could keep others from loading with 200.
const MEMORIES_MAX: usize = 16;

/// What is known has up to three. They lie in ordinary memory, and their elements are counted.
const TABLES_MAX: usize = 64;

/// A reference in a table.
const TABLE_ELEMENT_BYTES: usize = size_of::<usize>();

/// Holds the memories and tables of one store within the limits. All of them together: a component
/// may have many, and wasmtime's own limiter looks at each alone.
#[derive(Debug)]
pub(crate) struct MemoryLimiter {
    bytes_max: usize,
    elements_max: usize,
    bytes: usize,
    elements: usize,
    /// What was refused last, if nothing was granted since: a guest that goes on well without does
    /// not end because of it. One that does not mostly ends in a trap that does not say so.
    refused: Option<Refused>,
}

/// A limit that a guest could not grow beyond.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Refused {
    /// That of memories and tables together, in bytes.
    Bytes(usize),
    /// That of the elements of tables.
    Elements(usize),
}

// === impl Limits ===

impl Default for Limits {
    fn default() -> Self {
        Self {
            // Enough for Python, whose smallest memory is 13 MiB, and for a table of its functions.
            memory_bytes_max: 64 << 20,
            table_elements_max: 200_000,
            // A full batch takes Python 12 ms.
            time_max: Duration::from_millis(50),
            // Twice what 100,000 instances take the slowest language that is known: JavaScript in
            // StarlingMonkey takes 19 to 28 s of a core for them, Python 6.5 s, Rust 0.5 s.
            work_time_max: Duration::from_secs(60),
            // 2.6 KB for each of 100,000 instances. A place is 200 bytes, and one with ten labels of
            // its own some 700.
            work_answer_bytes_max: 256 << 20,
            configure_time_max: Duration::from_secs(1),
            output_bytes_per_instance_max: 4 << 10,
            log_lines_per_minute_max: 200,
            // Larger batches gain nothing: the cost of a call is spread thin, and caches overflow.
            batch_instances_max: 256,
        }
    }
}

impl Limits {
    /// What the host copies out of the guest in a call with this many instances.
    #[must_use]
    pub fn output_bytes(&self, instances: usize) -> usize {
        OUTPUT_BYTES_BASE + self.output_bytes_per_instance_max.saturating_mul(instances)
    }
}

// === impl Refused ===

impl fmt::Display for Refused {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Bytes(max) => write!(f, "memory limit of {max} bytes"),
            Self::Elements(max) => write!(f, "limit of {max} elements in tables"),
        }
    }
}

// === impl MemoryLimiter ===

impl MemoryLimiter {
    pub(crate) fn new(limits: &Limits) -> Self {
        Self {
            bytes_max: limits.memory_bytes_max,
            elements_max: limits.table_elements_max,
            bytes: 0,
            elements: 0,
            refused: None,
        }
    }

    /// What the guest was refused since the last time this was asked.
    pub(crate) fn take_refused(&mut self) -> Option<Refused> {
        self.refused.take()
    }

    /// Whether so much is in use that a fresh store is better: guests do not give memory back.
    pub(crate) fn is_nearly_full(&self) -> bool {
        self.bytes > self.bytes_max / 5 * 4
    }

    fn grow(&mut self, bytes: usize, elements: usize) -> bool {
        let new_bytes = self.bytes.saturating_add(bytes);
        let new_elements = self.elements.saturating_add(elements);
        self.refused = if new_bytes > self.bytes_max {
            Some(Refused::Bytes(self.bytes_max))
        } else if new_elements > self.elements_max {
            Some(Refused::Elements(self.elements_max))
        } else {
            (self.bytes, self.elements) = (new_bytes, new_elements);
            None
        };
        self.refused.is_none()
    }
}

// A growth that fails after it was allowed stays counted. wasmtime reports failures also for growth
// that it never asked about, so giving back what was counted last would let a guest lower the sum.
impl ResourceLimiter for MemoryLimiter {
    fn memory_growing(
        &mut self,
        current: usize,
        desired: usize,
        _maximum: Option<usize>,
    ) -> wasmtime::Result<bool> {
        Ok(self.grow(desired.saturating_sub(current), 0))
    }

    fn table_growing(
        &mut self,
        current: usize,
        desired: usize,
        _maximum: Option<usize>,
    ) -> wasmtime::Result<bool> {
        let elements = desired.saturating_sub(current);
        Ok(self.grow(elements.saturating_mul(TABLE_ELEMENT_BYTES), elements))
    }

    fn instances(&self) -> usize {
        CORE_INSTANCES_MAX
    }

    fn tables(&self) -> usize {
        TABLES_MAX
    }

    fn memories(&self) -> usize {
        MEMORIES_MAX
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn memories_and_tables_count_together() {
        let limits = Limits { memory_bytes_max: 1000, table_elements_max: 50, ..Limits::default() };
        let mut limiter = MemoryLimiter::new(&limits);
        assert!(limiter.memory_growing(0, 400, None).unwrap());
        assert!(limiter.table_growing(0, 50, None).unwrap());
        assert!(!limiter.table_growing(50, 51, None).unwrap(), "too many elements");
        assert_eq!(limiter.take_refused(), Some(Refused::Elements(50)));
        assert!(limiter.memory_growing(0, 200, None).unwrap());
        assert!(!limiter.memory_growing(200, 201, None).unwrap(), "1001 bytes");
        assert_eq!(limiter.take_refused(), Some(Refused::Bytes(1000)));
        assert_eq!(limiter.take_refused(), None);
        assert!(!limiter.memory_growing(200, 300, None).unwrap());
        assert!(limiter.memory_growing(200, 200, None).unwrap(), "it asks for less, and goes on");
        assert_eq!(limiter.take_refused(), None);
        assert!(limiter.is_nearly_full());
    }
}
