//! Machines that lack threads, memory or instructions: a message and exit code 4.
#![cfg(target_os = "linux")]

#[path = "common/binary.rs"]
mod binary;

use binary::{ENVIRONMENT, command, demo, done, refused};
use std::process::{Command, Output};
use thimble::kernels;

/// Runs the binary under limits that a shell sets.
fn limited(limits: &str, args: &[&str]) -> Command {
    let mut command = Command::new("bash");
    command.args(["-c", &format!("{limits}; exec \"$0\" \"$@\""), env!("CARGO_BIN_EXE_thimble")]);
    command.args(args).env_remove("RUST_BACKTRACE");
    command
}

/// As a user of whom no other process is, since limits count all of a user's.
fn as_new_user(command: &mut Command) -> std::io::Result<Output> {
    use std::os::unix::process::CommandExt;
    let id = 100_000 + std::process::id() % 100_000;
    command.uid(id).gid(id).output()
}

fn model() -> String {
    demo("model").to_str().unwrap().to_owned()
}

#[test]
fn where_no_thread_can_be_started_it_is_said() {
    let model = model();
    let text = demo("held-out.txt").to_str().unwrap().to_owned();
    let inspect = ["inspect", &model];
    match as_new_user(&mut limited("ulimit -u 100", &inspect)) {
        Ok(output) if output.status.success() => (),
        other => return eprintln!("skipped: cannot run as another user: {other:?}"),
    }
    let eval = ["eval", &model, "--text", &text, "--window", "32", "--max-windows", "1"];
    let mut commands =
        vec![inspect.to_vec(), eval.to_vec(), vec!["run", &model, "--max-tokens", "2"], vec!["bench", &model, "--gen-tokens", "2"]];
    if cfg!(feature = "torch") {
        commands.push([&eval[..], &["--backend", "torch"]].concat());
    }
    for args in &commands {
        for threads in ["1", "8"] {
            let args = [&args[..], &["--threads", threads]].concat();
            let output = as_new_user(&mut limited("ulimit -u 1", &args)).unwrap();
            refused(&output, ENVIRONMENT, &["cannot start", "threads", "ulimit -u"]);
        }
    }
    // Enough for a pool, and not for a second: whatever is refused its threads says so.
    for limit in [2, 5, 7, 9] {
        for args in &commands[1..] {
            let args = [&args[..], &["--threads", "4"]].concat();
            let output = as_new_user(&mut limited(&format!("ulimit -u {limit}"), &args)).unwrap();
            if !output.status.success() {
                refused(&output, ENVIRONMENT, &["threads", "ulimit -u"]);
            }
        }
    }
}

/// Address space is what a shell can limit. Whichever allocation fails, at whatever moment.
#[test]
fn where_there_is_no_memory_it_is_said() {
    let model = model();
    let text = demo("held-out.txt").to_str().unwrap().to_owned();
    let eval = ["eval", &model, "--text", &text, "--window", "512", "--max-windows", "2", "--threads", "2"];
    // What the libraries take before `main` begins.
    let starts = |kib: &usize| limited(&format!("ulimit -v {kib}"), &["--version"]).output().unwrap().status.success();
    let (mut too_little, mut enough) = (0, 8_000_000);
    assert!(starts(&enough), "some limit is enough to start");
    while enough - too_little > 5_000 {
        let middle = (too_little + enough) / 2;
        *(if starts(&middle) { &mut enough } else { &mut too_little }) = middle;
    }
    let mut refusals = 0;
    for backend in if cfg!(feature = "torch") { &["native", "torch"][..] } else { &["native"] } {
        let args = [&eval[..], &["--backend", backend]].concat();
        for more in [0, 10_000, 25_000, 50_000, 100_000, 200_000] {
            let output = limited(&format!("ulimit -v {}", enough + more), &args).output().unwrap();
            if output.status.success() {
                break;
            }
            refusals += 1;
            let message = binary::stderr(&output);
            assert_eq!(output.status.code(), Some(ENVIRONMENT), "{backend}, {more}: {message}");
            let says = ["out of memory", "cannot start", "annot allocate memory", "lack of threads or memory"];
            assert!(says.iter().any(|words| message.contains(words)), "{backend}, {more}: {message}");
            assert!(!message.contains("panicked") && !message.contains("internal error"), "{backend}, {more}: {message}");
        }
    }
    assert!(refusals > 0, "no limit was too low: nothing was tried");
}

#[test]
fn instruction_sets_that_are_not_there_are_said() {
    let names: Vec<_> = kernels::supported().map(|kernels| kernels.isa).collect();
    for isa in ["", " ", "AVX2", "sse2", "\u{fffd}"] {
        let mut bench = command(["bench", &model(), "--prompt-tokens", "4", "--gen-tokens", "2"]);
        refused(&bench.env("THIMBLE_ISA", isa).output().unwrap(), ENVIRONMENT, &["THIMBLE_ISA", &names.join(", ")]);
    }
    for isa in names {
        done(&command(["bench", &model(), "--prompt-tokens", "4", "--gen-tokens", "2"]).env("THIMBLE_ISA", isa).output().unwrap());
    }
}
