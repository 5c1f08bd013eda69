//! An allocator for short-lived guests that allocate much and keep little.
//!
//! Every string that crosses the boundary is an allocation, so what one costs decides how fast a policy is: this makes
//! `canary` a sixth faster than Rust's own allocator. Blocks have sizes that are powers of two. What is freed goes to a
//! list of its size and is given out again from there; nothing is ever joined, split or given back to the host. The price
//! is up to twice the memory, in a guest that Landfall replaces now and then anyway.

#![allow(unsafe_code, reason = "an allocator hands out raw memory")]

use std::alloc::{GlobalAlloc, Layout};
use std::cell::UnsafeCell;
use std::ptr::null_mut;

/// The smallest block: two words, and the strictest alignment that the canonical ABI or Rust's types ask for.
const SMALLEST_LOG2: u32 = 4;

/// The largest block. More than this at once is refused, as is what the host's limit does not allow.
const LARGEST_LOG2: u32 = 30;

const CLASSES: usize = (LARGEST_LOG2 - SMALLEST_LOG2 + 1) as usize;

/// WebAssembly's page: what `memory.grow` counts in.
const PAGE: usize = 64 << 10;

/// A guest's memory.
pub(crate) struct Allocator(UnsafeCell<State>);

struct State {
    /// For each size the blocks that are free: each begins with the address of the next.
    free: [*mut u8; CLASSES],
    /// Memory that has never been given out.
    fresh: usize,
    fresh_end: usize,
}

#[cfg(target_feature = "atomics")]
compile_error!(
    "the allocator is for one thread; build landfall-policy without its feature `allocator`"
);

// SAFETY: without the threads proposal a component runs on one thread.
#[cfg(target_family = "wasm")]
unsafe impl Sync for Allocator {}

#[cfg(target_family = "wasm")]
#[global_allocator]
static ALLOCATOR: Allocator = Allocator::new();

/// The class whose blocks hold the layout, for their size is a power of two and their address a multiple of it, or of a
/// page. What asks for more than that gets a class that does not exist.
#[inline]
fn class(layout: Layout) -> usize {
    if layout.align() > PAGE {
        return CLASSES;
    }
    let size = layout.size().max(layout.align()).max(1 << SMALLEST_LOG2);
    (usize::BITS - (size - 1).leading_zeros() - SMALLEST_LOG2) as usize
}

/// Takes pages from the host, and says at which address they begin.
#[cfg(target_family = "wasm")]
fn grow(pages: usize) -> Option<usize> {
    match std::arch::wasm32::memory_grow::<0>(pages) {
        usize::MAX => None,
        page => Some(page * PAGE),
    }
}

/// For tests, which run natively: takes them from the system, and keeps them for ever.
#[cfg(not(target_family = "wasm"))]
fn grow(pages: usize) -> Option<usize> {
    let layout = Layout::from_size_align(pages * PAGE, PAGE).ok()?;
    // SAFETY: the layout is not empty.
    let memory = unsafe { std::alloc::System.alloc(layout) };
    (!memory.is_null()).then_some(memory as usize)
}

// === impl Allocator ===

impl Allocator {
    const fn new() -> Self {
        Self(UnsafeCell::new(State { free: [null_mut(); CLASSES], fresh: 0, fresh_end: 0 }))
    }
}

// SAFETY: a block is on a free list or given out, never both; `class` is a function of the layout alone, so a block
// returns to the list that it came from; blocks are as large and as aligned as the layout asks (`State::carve`).
unsafe impl GlobalAlloc for Allocator {
    #[inline]
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        let class = class(layout);
        // SAFETY: one thread, and nothing below calls back.
        let state = unsafe { &mut *self.0.get() };
        let Some(head) = state.free.get_mut(class) else { return null_mut() };
        let block = *head;
        if block.is_null() {
            return state.carve(class);
        }
        // SAFETY: free blocks hold the address of the next one.
        *head = unsafe { block.cast::<*mut u8>().read() };
        block
    }

    #[inline]
    unsafe fn dealloc(&self, block: *mut u8, layout: Layout) {
        // SAFETY: as above.
        let state = unsafe { &mut *self.0.get() };
        if let Some(head) = state.free.get_mut(class(layout)) {
            // SAFETY: the block is ours again, and large and aligned enough for an address.
            unsafe { block.cast::<*mut u8>().write(*head) };
            *head = block;
        }
    }

    #[inline]
    unsafe fn realloc(&self, block: *mut u8, layout: Layout, size: usize) -> *mut u8 {
        // SAFETY: the caller vouches for the new size.
        let grown = unsafe { Layout::from_size_align_unchecked(size, layout.align()) };
        if class(grown) == class(layout) {
            return block;
        }
        // SAFETY: two different blocks, of which both hold what is copied.
        unsafe {
            let new = self.alloc(grown);
            if !new.is_null() {
                new.copy_from_nonoverlapping(block, layout.size().min(size));
                self.dealloc(block, layout);
            }
            new
        }
    }
}

// === impl State ===

impl State {
    /// Takes a block from memory that was never used, and more memory from the host when that is at its end.
    #[cold]
    #[inline(never)]
    fn carve(&mut self, class: usize) -> *mut u8 {
        let size = 1 << (class as u32 + SMALLEST_LOG2);
        // Near the end of the address space, which 32 bits have, neither the block nor its end need have an address.
        let Some((at, end)) = self
            .fresh
            .checked_next_multiple_of(PAGE.min(size))
            .and_then(|at| Some((at, at.checked_add(size)?)))
        else {
            return null_mut();
        };
        if let Some(missing) = end.checked_sub(self.fresh_end).filter(|missing| *missing > 0) {
            let pages = missing.div_ceil(PAGE);
            let Some(grown) = grow(pages) else { return null_mut() };
            let apart = grown != self.fresh_end;
            // The very last page ends where no address is; the block in it is lost then.
            self.fresh_end = grown.saturating_add(pages * PAGE);
            if apart {
                // The first time, and should anything else ever grow the memory: what was left over is lost.
                self.fresh = grown;
                return self.carve(class);
            }
        }
        self.fresh = end;
        at as *mut u8
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_block_reaches_beyond_the_last_address() {
        let allocator = Allocator::new();
        // SAFETY: nobody else knows the allocator.
        let state = unsafe { &mut *allocator.0.get() };
        let end = usize::MAX - (PAGE - 1);
        (state.fresh, state.fresh_end) = (end, end);
        let half = (PAGE / 2).ilog2() - SMALLEST_LOG2;
        assert!(state.carve(CLASSES - 1).is_null(), "its end wraps around");
        state.fresh = usize::MAX - 7;
        assert!(state.carve(half as usize).is_null(), "its beginning wraps around");
    }

    /// A block with the byte that it was filled with.
    struct Block {
        at: *mut u8,
        layout: Layout,
        byte: u8,
    }

    impl Block {
        #[track_caller]
        fn check(&self) {
            assert_eq!(self.at as usize % self.layout.align(), 0, "{:?}", self.layout);
            // SAFETY: the block was written when it was made.
            let bytes = unsafe { std::slice::from_raw_parts(self.at, self.layout.size()) };
            assert!(
                bytes.iter().all(|byte| *byte == self.byte),
                "{:?} was overwritten",
                self.layout
            );
        }
    }

    #[test]
    fn blocks_do_not_overlap() {
        let allocator = Allocator::new();
        // A generator that is good enough to mix sizes: Knuth's constants for 64 bits.
        let mut seed: u64 = 1;
        let mut random = |below: u64| {
            seed = seed
                .wrapping_mul(6_364_136_223_846_793_005)
                .wrapping_add(1_442_695_040_888_963_407);
            (seed >> 33) % below
        };
        let mut blocks: Vec<Block> = Vec::new();
        for step in 0..20_000_u32 {
            let bits = random(14);
            let size = random(2 << bits) as usize + 1;
            let byte = step as u8;
            match random(5) {
                0 | 1 => {
                    let layout = Layout::from_size_align(size, 1 << random(7)).unwrap();
                    // SAFETY: the layout is not empty, and the block is as large as it says.
                    let at = unsafe { allocator.alloc(layout) };
                    assert!(!at.is_null());
                    unsafe { at.write_bytes(byte, size) };
                    blocks.push(Block { at, layout, byte });
                }
                2 if !blocks.is_empty() => {
                    let index = random(blocks.len() as u64) as usize;
                    let old = blocks.swap_remove(index);
                    old.check();
                    // SAFETY: the block is given out with this layout, and what grew is written before it is read.
                    let at = unsafe { allocator.realloc(old.at, old.layout, size) };
                    assert!(!at.is_null());
                    let kept =
                        Layout::from_size_align(size.min(old.layout.size()), old.layout.align())
                            .unwrap();
                    Block { at, layout: kept, ..old }.check();
                    unsafe { at.write_bytes(byte, size) };
                    let layout = Layout::from_size_align(size, old.layout.align()).unwrap();
                    blocks.push(Block { at, layout, byte });
                }
                _ if !blocks.is_empty() => {
                    let block = blocks.swap_remove(random(blocks.len() as u64) as usize);
                    block.check();
                    // SAFETY: the block is given out with this layout.
                    unsafe { allocator.dealloc(block.at, block.layout) };
                }
                _ => (),
            }
        }
        blocks.iter().for_each(Block::check);
    }

    #[test]
    fn what_is_freed_is_used_again() {
        let allocator = Allocator::new();
        let layout = Layout::from_size_align(3 << 20, 8).unwrap();
        // SAFETY: each block is given back once, with its layout.
        unsafe {
            let first = allocator.alloc(layout);
            allocator.dealloc(first, layout);
            let second = allocator.alloc(layout);
            assert_eq!(first, second);
            allocator.dealloc(second, layout);
        }
    }

    #[test]
    fn what_no_guest_can_have_is_refused() {
        let allocator = Allocator::new();
        for (size, align) in [((1 << 30) + 1, 1), (1, 2 * PAGE)] {
            let layout = Layout::from_size_align(size, align).unwrap();
            // SAFETY: the layout is not empty.
            assert!(unsafe { allocator.alloc(layout) }.is_null());
        }
    }
}
