//! The allocator of the program: where the system has no more memory, the program says so and
//! ends with an exit code, and is not aborted.

use crate::error::ENVIRONMENT;
use std::alloc::{GlobalAlloc, Layout, System};

/// The system's allocator, which ends the process with a message and exit code 4 where it fails.
///
/// For programs, as their `#[global_allocator]`: nothing can be caught, and nobody is asked.
pub struct ExitWhenExhausted;

// SAFETY: every call is passed on to the system's allocator as it is; where that fails, the
// process ends, which is neither unwinding nor a return.
unsafe impl GlobalAlloc for ExitWhenExhausted {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        // SAFETY: the caller's promises are those of the inner function.
        allocated(unsafe { System.alloc(layout) }, layout.size())
    }

    unsafe fn alloc_zeroed(&self, layout: Layout) -> *mut u8 {
        // SAFETY: as above.
        allocated(unsafe { System.alloc_zeroed(layout) }, layout.size())
    }

    unsafe fn realloc(&self, start: *mut u8, layout: Layout, size: usize) -> *mut u8 {
        // SAFETY: as above.
        allocated(unsafe { System.realloc(start, layout, size) }, size)
    }

    unsafe fn dealloc(&self, start: *mut u8, layout: Layout) {
        // SAFETY: as above.
        unsafe { System.dealloc(start, layout) }
    }
}

#[inline]
fn allocated(start: *mut u8, size: usize) -> *mut u8 {
    if start.is_null() {
        exit(size)
    }
    start
}

/// Writes the message without allocating, and ends the process.
#[cold]
fn exit(size: usize) -> ! {
    let mut digits = [0u8; 20];
    let digits = decimal(size, &mut digits);
    let message: [&[u8]; 3] = [
        b"\nerror: out of memory: ",
        digits,
        b" bytes more were needed\nhint: what was written before is sound; free some memory, raise its limit, or use a smaller model or window\n",
    ];
    #[cfg(unix)]
    for part in message {
        // SAFETY: pointer and length are of one slice. That nobody may listen is no matter.
        let _ = unsafe { libc::write(libc::STDERR_FILENO, part.as_ptr().cast(), part.len()) };
    }
    #[cfg(unix)]
    // SAFETY: it ends the process and runs nothing more of it, so that no destructor or handler
    // can ask for memory again.
    unsafe {
        libc::_exit(ENVIRONMENT.into())
    }
    #[cfg(not(unix))]
    {
        let _ = message.iter().try_for_each(|part| std::io::Write::write_all(&mut std::io::stderr(), part));
        std::process::exit(ENVIRONMENT.into())
    }
}

/// A number in decimal, at the end of the buffer.
fn decimal(mut number: usize, buffer: &mut [u8; 20]) -> &[u8] {
    let mut at = buffer.len();
    loop {
        at -= 1;
        buffer[at] = b'0' + (number % 10) as u8;
        number /= 10;
        if number == 0 {
            return &buffer[at..];
        }
    }
}

#[cfg(test)]
mod tests {
    use super::decimal;

    #[test]
    fn numbers_are_written_without_allocating() {
        for number in [0, 7, 10, 4_096_000, usize::MAX] {
            assert_eq!(decimal(number, &mut [0; 20]), number.to_string().as_bytes());
        }
    }
}
