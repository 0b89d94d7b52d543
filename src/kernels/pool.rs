//! Threads for the decode loop: tasks are handed out through one atomic word, so
//! that starting a job costs about a microsecond, and idle threads sleep.

use crate::error::Result;
use crate::threads::refused;
use std::cell::UnsafeCell;
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering};
use std::sync::{Arc, Condvar, Mutex};
use std::thread::JoinHandle;

type Job = dyn Fn(usize) + Sync;

/// A fixed number of threads, the caller's among them.
pub struct Pool {
    shared: Arc<Shared>,
    workers: Vec<JoinHandle<()>>,
    /// One job at a time.
    busy: Mutex<()>,
}

struct Shared {
    /// Generation (24 bits), tasks of its job (20), next task (20).
    state: AtomicU64,
    done: AtomicU32,
    panicked: AtomicBool,
    job: UnsafeCell<*const Job>,
    stop: AtomicBool,
    sleepers: Mutex<u64>,
    wake: Condvar,
}

// SAFETY: `job` is the only part that is not Sync by itself. It is written by
// `Pool::run` while no task of the previous job is left unfinished, before the
// release store of `state`; it is read only by threads that have claimed a task
// (acquire) which they have not yet reported as done.
unsafe impl Send for Shared {}
// SAFETY: as above.
unsafe impl Sync for Shared {}

const TASK_BITS: u32 = 20;
const TASK_MASK: u64 = (1 << TASK_BITS) - 1;
/// Spins before a thread sleeps: some tens of microseconds, more than lies
/// between two jobs of a decode step.
const SPINS: u32 = 2_000;

impl Pool {
    /// `threads` in all; 1 starts none and runs everything on the caller's. Fails where the
    /// system grants fewer.
    pub fn new(threads: usize) -> Result<Self> {
        let nothing: &'static Job = &|_| ();
        let shared = Arc::new(Shared {
            state: AtomicU64::new(0),
            done: AtomicU32::new(0),
            panicked: AtomicBool::new(false),
            job: UnsafeCell::new(nothing),
            stop: AtomicBool::new(false),
            sleepers: Mutex::new(0),
            wake: Condvar::new(),
        });
        let mut pool = Self { shared, workers: Vec::new(), busy: Mutex::new(()) };
        for _ in 1..threads {
            let shared = pool.shared.clone();
            let worker = std::thread::Builder::new().spawn(move || shared.work());
            pool.workers.push(worker.map_err(|error| refused(threads, &error))?);
        }
        Ok(pool)
    }

    /// Threads, the caller's included.
    pub fn threads(&self) -> usize {
        self.workers.len() + 1
    }

    /// Calls `job` with each of `0..tasks` and returns when all are done. Panics
    /// where a task has panicked. A job must not start another on the same pool: it
    /// would wait for itself.
    pub fn run(&self, tasks: usize, job: &(dyn Fn(usize) + Sync)) {
        if self.workers.is_empty() || tasks < 2 {
            return (0..tasks).for_each(job);
        }
        assert!(tasks as u64 <= TASK_MASK, "too many tasks for one job");
        let _one_at_a_time = self.busy.lock().unwrap_or_else(|e| e.into_inner());
        let shared = &*self.shared;
        // SAFETY: the lifetime is taken off, but this function does not return
        // before `done` has reached `tasks`, and no task can be claimed after that.
        let job: *const Job = unsafe { std::mem::transmute::<&(dyn Fn(usize) + Sync), &'static Job>(job) };
        // SAFETY: the previous job has ended (we hold `busy`), see Shared.
        unsafe { *shared.job.get() = job };
        shared.done.store(0, Ordering::Relaxed);
        let generation = (shared.state.load(Ordering::Relaxed) >> (2 * TASK_BITS)) + 1;
        let state = (generation << (2 * TASK_BITS)) | ((tasks as u64) << TASK_BITS);
        shared.state.store(state, Ordering::SeqCst);
        if *shared.sleepers.lock().unwrap() > 0 {
            shared.wake.notify_all();
        }
        while shared.run_one() {}
        let mut spins = 0;
        while (shared.done.load(Ordering::Acquire) as usize) < tasks {
            spins += 1;
            if spins < SPINS { std::hint::spin_loop() } else { std::thread::yield_now() }
        }
        assert!(!shared.panicked.swap(false, Ordering::Relaxed), "a task of the pool has panicked");
    }
}

impl Pool {
    /// Splits `data` into chunks of `chunk` (the last may be shorter) and calls
    /// `job` with the number and the content of each, in parallel.
    pub fn for_chunks<T: Send>(&self, data: &mut [T], chunk: usize, job: impl Fn(usize, &mut [T]) + Sync) {
        struct Start<T>(*mut T);
        // SAFETY: only used to make disjoint chunks, each on one thread.
        unsafe impl<T: Send> Sync for Start<T> {}
        let (start, len) = (Start(data.as_mut_ptr()), data.len());
        let start = &start;
        self.run(len.div_ceil(chunk), &|i| {
            let from = i * chunk;
            // SAFETY: chunks of different tasks do not overlap, each task runs once,
            // and `data` is borrowed mutably until `run` returns.
            job(i, unsafe { std::slice::from_raw_parts_mut(start.0.add(from), chunk.min(len - from)) });
        });
    }
}

impl Shared {
    fn has_task(&self) -> bool {
        let state = self.state.load(Ordering::SeqCst);
        state & TASK_MASK < (state >> TASK_BITS) & TASK_MASK
    }

    /// Claims and runs a task; false where there is none.
    fn run_one(&self) -> bool {
        let mut state = self.state.load(Ordering::Acquire);
        loop {
            let next = state & TASK_MASK;
            if next >= (state >> TASK_BITS) & TASK_MASK {
                return false;
            }
            match self.state.compare_exchange_weak(state, state + 1, Ordering::AcqRel, Ordering::Acquire) {
                Err(now) => state = now,
                Ok(_) => {
                    // SAFETY: a task of this job is claimed and not done, so the job lives.
                    let job = unsafe { &**self.job.get() };
                    let call = std::panic::AssertUnwindSafe(|| job(next as usize));
                    if let Err(payload) = std::panic::catch_unwind(call) {
                        self.panicked.store(true, Ordering::Relaxed);
                        // Dropping it could panic again, before the task is counted.
                        std::mem::forget(payload);
                    }
                    self.done.fetch_add(1, Ordering::Release);
                    return true;
                }
            }
        }
    }

    fn work(&self) {
        let mut spins = 0;
        while !self.stop.load(Ordering::Relaxed) {
            if self.run_one() {
                spins = 0;
            } else if spins < SPINS {
                spins += 1;
                std::hint::spin_loop();
            } else {
                let mut sleepers = self.sleepers.lock().unwrap();
                *sleepers += 1;
                while !self.has_task() && !self.stop.load(Ordering::Relaxed) {
                    sleepers = self.wake.wait(sleepers).unwrap();
                }
                *sleepers -= 1;
                spins = 0;
            }
        }
    }
}

impl Drop for Pool {
    fn drop(&mut self) {
        self.shared.stop.store(true, Ordering::Relaxed);
        drop(self.shared.sleepers.lock());
        self.shared.wake.notify_all();
        for worker in self.workers.drain(..) {
            let _ = worker.join();
        }
    }
}
