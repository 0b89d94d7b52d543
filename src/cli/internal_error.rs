//! A panic, as users see it: one message that says where, and that it is not their fault, or
//! what the machine lacked.

use std::panic::PanicHookInfo;
use std::sync::OnceLock;

/// The first panic; those that follow from it say nothing more.
static FIRST: OnceLock<String> = OnceLock::new();

/// Panics are kept for [`message`] and not printed. With `RUST_BACKTRACE` set, faults are printed
/// too, with the backtrace.
pub fn keep_panics() {
    let backtrace = std::env::var_os("RUST_BACKTRACE").is_some_and(|value| value != "0");
    let print = std::panic::take_hook();
    std::panic::set_hook(Box::new(move |info| {
        let text = info.payload_as_str().unwrap_or("unknown reason");
        let shortage = shortage(text);
        if backtrace && shortage.is_none() {
            print(info);
        }
        let _ = FIRST.set(shortage.unwrap_or_else(|| fault(info, text)));
    }));
}

/// Message for the user after a panic.
pub fn message() -> String {
    FIRST.get().cloned().unwrap_or_else(|| "internal error".into())
}

fn fault(info: &PanicHookInfo, text: &str) -> String {
    let place = info.location().map_or(String::new(), |place| format!(" at {}:{}", place.file(), place.line()));
    let first = text.lines().next().unwrap_or_default();
    format!(
        "internal error{place}: {first}\nThis is a fault of thimble: please report it with this message and the command; what was written before is sound"
    )
}

/// What libtorch (through tch, which panics) and the standard library say where the machine has
/// no more memory or threads.
fn shortage(text: &str) -> Option<String> {
    const MEMORY: [&str; 4] = ["can't allocate memory", "out of memory", "std::bad_alloc", "Cannot allocate memory"];
    const THREADS: [&str; 2] = ["ThreadPoolBuildError", "failed to spawn thread"];
    let has = |signs: &[&str]| signs.iter().any(|sign| text.contains(sign));
    let asked = text.split("you tried to allocate ").nth(1).and_then(|rest| rest.split(' ').next());
    let asked = asked.map_or(String::new(), |bytes| format!(": {bytes} bytes more were needed"));
    match () {
        () if has(&MEMORY) => Some(format!("out of memory{asked}; what was written before is sound, and a rerun resumes from there")),
        () if has(&THREADS) => Some("no more threads can be started: raise the limit (ulimit -u), or set --threads 1".into()),
        () => None,
    }
}

#[cfg(test)]
mod tests {
    use super::shortage;

    #[test]
    fn shortages_are_told_from_faults() {
        let libtorch = "called `Result::unwrap()` on an `Err` value: Torch(\"[enforce fail at alloc_cpu.cpp:124] err == 0. \
            DefaultCPUAllocator: can't allocate memory: you tried to allocate 4096000 bytes. Error code 12 (Cannot allocate memory)\")";
        assert!(shortage(libtorch).unwrap().starts_with("out of memory: 4096000 bytes"));
        assert!(shortage("CUDA out of memory. Tried to allocate 2 GiB").is_some());
        let rayon =
            "ThreadPoolBuildError { kind: IOError(Os { code: 11, kind: WouldBlock, message: \"Resource temporarily unavailable\" }) }";
        assert!(shortage(rayon).unwrap().contains("ulimit -u"));
        assert!(shortage("index out of bounds: the len is 3 but the index is 3").is_none());
    }
}
