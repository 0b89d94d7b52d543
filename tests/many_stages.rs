//! A recipe of a thousand stages. Alone in its file: processor time is that of this process's
//! children.
#![cfg(feature = "torch")]

#[path = "common/data.rs"]
mod data;

use serde_json::Value;
use std::process::Command;

/// Seconds of processor time of all children that have ended.
fn processor_seconds() -> f64 {
    // SAFETY: the structure is plain numbers, and the call fills it.
    let usage = unsafe {
        let mut usage: libc::rusage = std::mem::zeroed();
        assert_eq!(libc::getrusage(libc::RUSAGE_CHILDREN, &mut usage), 0);
        usage
    };
    let seconds = |time: libc::timeval| time.tv_sec as f64 + 1e-6 * time.tv_usec as f64;
    seconds(usage.ru_utime) + seconds(usage.ru_stime)
}

/// Each of them does nearly nothing on a tiny model, so that what is measured is what a stage
/// costs besides its work. Were that to grow with the stages before it, a thousand would take
/// minutes.
#[test]
fn a_thousand_stages_take_less_than_a_minute() {
    let folder = tempfile::tempdir().unwrap();
    let stages = "[[stage]]\n[stage.sparsify]\nsparsity = 0.1\nmethod = 'magnitude'\n".repeat(1000);
    let recipe = folder.path().join("recipe.toml");
    std::fs::write(&recipe, format!("[calibration]\nsequences = 2\nlength = 16\n{stages}[evaluate]\nwindow = 32\nmax_windows = 2\n"))
        .unwrap();
    let done = Command::new(env!("CARGO_BIN_EXE_thimble"))
        .args(["compress", "--threads", "1", "--json", "--out"])
        .arg(folder.path().join("out"))
        .arg("--model")
        .arg(data::fixture("llama-gqa-tied"))
        .arg(&recipe)
        .output()
        .unwrap();
    assert!(done.status.success(), "{}", String::from_utf8_lossy(&done.stderr));
    let report: Value = serde_json::from_slice(&done.stdout).unwrap();
    assert_eq!(report["stages"].as_array().unwrap().len(), 1000);
    let took = processor_seconds();
    assert!(took < 60.0, "{took} s of processor time");
}
