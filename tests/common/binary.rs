//! The binary as a shell starts it.
#![allow(dead_code)] // each test file uses some of it

use std::ffi::OsStr;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::time::{Duration, Instant};

pub const USAGE: i32 = 2;
pub const BAD_INPUT: i32 = 3;
pub const ENVIRONMENT: i32 = 4;

pub fn demo(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("assets/demo").join(name)
}

pub fn command<S: AsRef<OsStr>>(args: impl IntoIterator<Item = S>) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_thimble"));
    // It would add to what users see.
    command.args(args).env_remove("RUST_BACKTRACE");
    command
}

pub fn run<S: AsRef<OsStr>>(args: impl IntoIterator<Item = S>) -> Output {
    command(args).output().unwrap()
}

/// Starts it with both outputs captured.
pub fn start(command: &mut Command) -> Child {
    command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap()
}

/// What it prints, where it succeeds.
#[track_caller]
pub fn done(output: &Output) -> String {
    assert!(output.status.success(), "{:?}: {}", output.status, stderr(output));
    String::from_utf8(output.stdout.clone()).unwrap()
}

/// Fails with an exit code and one error, which says all of `says`.
#[track_caller]
pub fn refused(output: &Output, code: i32, says: &[&str]) {
    let message = stderr(output);
    assert_eq!(output.status.code(), Some(code), "{:?}: {message}", output.status);
    assert_eq!(message.lines().filter(|line| line.starts_with("error:")).count(), 1, "{message}");
    assert!(!message.contains("panicked") && !message.contains("internal error"), "{message}");
    for part in says {
        assert!(message.contains(part), "{part:?} is not in\n{message}");
    }
}

pub fn stderr(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}

/// Waits until something is there, while a process runs.
#[track_caller]
pub fn wait_until(child: &mut Child, what: &str, there: impl Fn() -> bool) {
    let start = Instant::now();
    while !there() {
        assert!(child.try_wait().unwrap().is_none(), "the process has ended before {what}");
        assert!(start.elapsed() < Duration::from_secs(120), "it took too long until {what}");
        std::thread::sleep(Duration::from_millis(1));
    }
}

/// Sends a signal by its name.
pub fn signal(child: &Child, name: &str) {
    let done = Command::new("kill").args([&format!("-{name}"), &child.id().to_string()]).status().unwrap();
    assert!(done.success(), "kill -{name}");
}
