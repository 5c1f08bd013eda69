//! The engine that compiles and runs guests, and the thread that stops them.
//!
//! Invariant: no guest runs without a deadline. A running guest looks at its deadline with every
//! tick, and somebody else must give those; here the engine owns that somebody, and
//! [`PolicyEngine::running`], which every call holds, keeps it awake.

use std::fmt;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use wasmtime::{Config, Engine, OptLevel, Store, UpdateDeadline};

use crate::clock;

/// One per process: compiles policies and runs them within their limits.
pub struct PolicyEngine {
    engine: Engine,
    ticker: Arc<Ticker>,
    thread: Option<JoinHandle<()>>,
}

/// How an engine is made.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct EngineSettings {
    /// How linear memories lie in the address space.
    pub address_space: AddressSpace,
}

/// How linear memories lie in the address space.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum AddressSpace {
    /// `Wide` if the process may, else `Narrow`.
    #[default]
    Auto,
    /// Each memory reserves 4 GiB, so that no access needs a check.
    Wide,
    /// Memories reserve what they use, and accesses are checked. Slower; for processes whose
    /// address space is limited.
    Narrow,
}

/// No engine could be made.
#[derive(Debug, thiserror::Error)]
pub enum EngineError {
    /// The processor or the settings are not supported.
    #[error("failed to configure the WebAssembly engine for this machine")]
    Configure(#[source] Box<dyn std::error::Error + Send + Sync>),
    /// Memories do not fit.
    #[error(
        "failed to reserve address space for a policy's memory; raise the process's limit on \
         virtual memory (ulimit -v), or use a narrow address space"
    )]
    AddressSpace(#[source] Box<dyn std::error::Error + Send + Sync>),
    /// The operating system gives no thread.
    #[error("failed to start the thread that stops policies at their time limit")]
    Thread(#[source] std::io::Error),
}

/// Proof that ticks are given; deadlines hold while it lives.
pub(crate) struct Running<'a>(&'a Ticker);

#[derive(Default)]
struct Ticker {
    running: AtomicUsize,
    ended: AtomicBool,
    lock: Mutex<()>,
    wake: Condvar,
}

/// How exactly guests are stopped, but for instructions that fill or copy memory, which are not
/// interrupted. The budget is their limit + 10 ms.
const TICK: Duration = Duration::from_millis(1);

/// The stack of guests. wasmtime's default, written down because the workers' stacks contain it.
pub(crate) const WASM_STACK_BYTES_MAX: usize = 512 << 10;

// === impl PolicyEngine ===

impl PolicyEngine {
    /// Makes the engine and starts the thread that stops guests.
    ///
    /// # Errors
    /// The machine is not supported, or gives no thread or address space.
    pub fn start(settings: EngineSettings) -> Result<Arc<Self>, EngineError> {
        let engine = match settings.address_space {
            AddressSpace::Wide => probed(false)?,
            AddressSpace::Narrow => probed(true)?,
            AddressSpace::Auto => probed(false).or_else(|error| match error {
                EngineError::AddressSpace(_) => probed(true),
                error => Err(error),
            })?,
        };
        let ticker = Arc::new(Ticker::default());
        let thread = thread::Builder::new()
            .name("landfall-ticker".to_owned())
            .spawn({
                let (ticker, engine) = (Arc::clone(&ticker), engine.clone());
                move || ticker.run(&engine)
            })
            .map_err(EngineError::Thread)?;
        Ok(Arc::new(Self { engine, ticker, thread: Some(thread) }))
    }

    pub(crate) fn wasmtime(&self) -> &Engine {
        &self.engine
    }

    /// Keeps ticks coming.
    pub(crate) fn running(&self) -> Running<'_> {
        if self.ticker.running.fetch_add(1, Ordering::SeqCst) == 0 {
            self.ticker.notify();
        }
        Running(&self.ticker)
    }
}

impl Drop for PolicyEngine {
    fn drop(&mut self) {
        self.ticker.ended.store(true, Ordering::SeqCst);
        self.ticker.notify();
        if let Some(thread) = self.thread.take() {
            // Its panic would have been reported by its own thread.
            let _ = thread.join();
        }
    }
}

impl fmt::Debug for PolicyEngine {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("PolicyEngine").finish_non_exhaustive()
    }
}

impl Drop for Running<'_> {
    fn drop(&mut self) {
        self.0.running.fetch_sub(1, Ordering::SeqCst);
    }
}

// === impl Ticker ===

impl Ticker {
    /// Gives ticks while something runs, and sleeps while nothing does.
    fn run(&self, engine: &Engine) {
        loop {
            let mut guard = self.lock.lock().unwrap_or_else(PoisonError::into_inner);
            while self.running.load(Ordering::SeqCst) == 0 {
                if self.ended.load(Ordering::SeqCst) {
                    return;
                }
                guard = self.wake.wait(guard).unwrap_or_else(PoisonError::into_inner);
            }
            drop(guard);
            while self.running.load(Ordering::SeqCst) > 0 {
                thread::sleep(TICK);
                engine.increment_epoch();
            }
        }
    }

    /// Taking the lock keeps a wake-up from falling between the ticker's look and its sleep.
    fn notify(&self) {
        drop(self.lock.lock().unwrap_or_else(PoisonError::into_inner));
        self.wake.notify_one();
    }
}

/// Has the guest of `store` look at each tick whether `is_over`. Ticks themselves are not counted:
/// when the ticker is late they come too late, and then too many at once.
pub(crate) fn stop_when<T: 'static>(
    store: &mut Store<T>,
    is_over: impl Fn(&T, Instant) -> bool + Send + Sync + 'static,
) {
    store.epoch_deadline_callback(move |context| {
        Ok(if is_over(context.data(), clock::now()) {
            UpdateDeadline::Interrupt
        } else {
            UpdateDeadline::Continue(1)
        })
    });
}

/// An engine in which a memory can really be made.
fn probed(narrow: bool) -> Result<Engine, EngineError> {
    let engine = Engine::new(&config(narrow))
        .map_err(|e| EngineError::Configure(e.into_boxed_dyn_error()))?;
    let mut store = Store::new(&engine, ());
    wasmtime::Memory::new(&mut store, wasmtime::MemoryType::new(1, None))
        .map_err(|e| EngineError::AddressSpace(e.into_boxed_dyn_error()))?;
    Ok(engine)
}

fn config(narrow: bool) -> Config {
    let mut config = Config::new();
    // Memories are allocated on demand and not from a pool: a pool makes instantiating faster by
    // some 10 µs, and workers keep instances warm, so that it happens once in 10,000 calls.
    // A call costs a third with it off, and policies are synchronous.
    config.concurrency_support(false);
    config.cranelift_opt_level(OptLevel::Speed);
    config.epoch_interruption(true);
    config.max_wasm_stack(WASM_STACK_BYTES_MAX);
    // Equal input must give equal output on every machine.
    config.cranelift_nan_canonicalization(true);
    config.relaxed_simd_deterministic(true);
    // What policies do not need they cannot misuse. Threads, garbage collection, exceptions and
    // stack switching are not even compiled in.
    config.shared_memory(false);
    config.wasm_memory64(false);
    // Several memories stay allowed: what wasmtime itself puts between the components inside of a
    // component needs them, and it panics where they are off. Limits count all of them together.
    config.wasm_multi_memory(true);
    // wasmtime lays out what a module's memories begin with as one image, zeros between segments
    // included, while it compiles. By default it does so for whatever spans less than 16 MiB, and a
    // hundred memories of two bytes each make gigabytes of a few kilobytes. With zero it does so
    // only where at least half of the image is data, so that an image is at most twice the bytes.
    config.memory_guaranteed_dense_image_size(0);
    // Debug information in a policy is not parsed, whatever the environment says.
    config.wasm_backtrace_details(wasmtime::WasmBacktraceDetails::Disable);
    if narrow {
        config.memory_reservation(0);
        config.memory_guard_size(64 << 10);
        config.memory_reservation_for_growth(1 << 20);
    }
    config
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ticks_come_while_something_runs() {
        let engine = PolicyEngine::start(EngineSettings::default()).unwrap();
        for _ in 0..3 {
            let running = engine.running();
            let limit = clock::now() + Duration::from_millis(20);
            let mut store = Store::new(engine.wasmtime(), limit);
            stop_when(&mut store, |limit, now| now >= *limit);
            let looping = wat::parse_str(r#"(module (func (export "f") (loop br 0)))"#).unwrap();
            let module = wasmtime::Module::new(engine.wasmtime(), looping).unwrap();
            store.set_epoch_deadline(1);
            let instance = wasmtime::Instance::new(&mut store, &module, &[]).unwrap();
            let f = instance.get_typed_func::<(), ()>(&mut store, "f").unwrap();
            f.call(&mut store, ()).unwrap_err();
            assert!(clock::now() >= limit);
            drop(running);
            // Long enough for the ticker to fall asleep.
            thread::sleep(Duration::from_millis(5));
        }
    }

    /// Components for JavaScript are made of several, each with a memory of its own.
    #[test]
    fn components_inside_of_a_component_may_call_each_other() {
        let realloc =
            r#"(func (export "realloc") (param i32 i32 i32 i32) (result i32) i32.const 0)"#;
        let text = format!(
            r#"(component
              (component $a
                (core module $m (memory (export "mem") 1) (func (export "f") (param i32 i32)) {realloc})
                (core instance $i (instantiate $m))
                (func (export "f") (param "s" string)
                  (canon lift (core func $i "f") (memory (core memory $i "mem")) (realloc (core func $i "realloc")))))
              (component $b
                (import "f" (func $f (param "s" string)))
                (core module $m (memory (export "mem") 1) {realloc})
                (core instance $i (instantiate $m))
                (core func $f (canon lower (func $f) (memory (core memory $i "mem")) (realloc (core func $i "realloc"))))
                (core module $n (import "" "f" (func (param i32 i32))))
                (core instance (instantiate $n (with "" (instance (export "f" (func $f)))))))
              (instance $a (instantiate $a))
              (instance (instantiate $b (with "f" (func $a "f")))))"#
        );
        let engine = PolicyEngine::start(EngineSettings::default()).unwrap();
        let bytes = wat::parse_str(text).unwrap();
        wasmtime::component::Component::from_binary(engine.wasmtime(), &bytes).unwrap();
    }

    #[test]
    fn sparse_memories_take_no_more_than_their_data() {
        let engine = PolicyEngine::start(EngineSettings::default()).unwrap();
        let compiled_len = |data: &str| {
            let bytes = wat::parse_str(format!("(module (memory 256) {data})")).unwrap();
            wasmtime::Module::new(engine.wasmtime(), bytes).unwrap().serialize().unwrap().len()
        };
        let sparse = compiled_len(r#"(data (i32.const 0) "a") (data (i32.const 16000000) "a")"#);
        assert!(sparse < 1 << 20, "{sparse}");
        // What is dense still is an image that new instances map.
        let dense = compiled_len(&format!(r#"(data (i32.const 0) "{}")"#, "a".repeat(1 << 20)));
        assert!((1 << 20..1 << 21).contains(&dense), "{dense}");
    }

    #[test]
    fn every_address_space_works() {
        for address_space in [AddressSpace::Wide, AddressSpace::Narrow] {
            PolicyEngine::start(EngineSettings { address_space }).unwrap();
        }
    }
}
