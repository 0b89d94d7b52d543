//! Two processes and one output folder: the second stops at once and says who is at work, and a
//! killed one blocks nobody. The files are compared with those of runs that were alone.
#![cfg(all(feature = "torch", unix))]

#[path = "common/binary.rs"]
mod binary;

use binary::{ENVIRONMENT, command, demo, done, refused, signal, start, wait_until};
use serde_json::Value;
use std::path::{Path, PathBuf};
use std::process::{Child, Command};

const RECIPE: &str = "[calibration]\nsequences = 2\nlength = 32\n[[stage]]\n[stage.gptq]\nbits = 4\n\
                      [evaluate]\nwindow = 32\nmax_windows = 2\n";

struct Folder(tempfile::TempDir);

impl Folder {
    fn new() -> Self {
        let folder = Self(tempfile::tempdir().unwrap());
        std::fs::write(folder.at("recipe.toml"), RECIPE).unwrap();
        folder
    }

    fn at(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }

    fn compress(&self, out: &str, bits: usize) -> Command {
        let mut command = command(["compress"]);
        command.arg(self.at("recipe.toml")).arg("--model").arg(demo("model")).arg("--out").arg(self.at(out));
        command.args(["--json", "--threads", "1", "--set", &format!("gptq.bits={bits}")]);
        command
    }

    fn report(&self, out: &str, bits: usize) -> Value {
        serde_json::from_str(&done(&self.compress(out, bits).output().unwrap())).unwrap()
    }

    fn model(&self, out: &str) -> Vec<u8> {
        std::fs::read(self.at(out).join("model.thimble")).unwrap()
    }

    /// A run that has finished a block and was stopped there.
    fn halted(&self, out: &str, bits: usize) -> Child {
        let mut child = start(&mut self.compress(out, bits));
        let block = self.at(out).join(".unfinished/stage-0/blocks.0.part.thimble");
        wait_until(&mut child, "a block is finished", || block.exists());
        signal(&child, "STOP");
        child
    }
}

fn lock(out: &Path) -> PathBuf {
    out.join(".thimble.lock")
}

#[test]
fn a_second_run_stops_at_once_and_says_who_is_at_work() {
    let folder = Folder::new();
    folder.report("alone", 4);
    let mut first = folder.halted("out", 4);
    std::os::unix::fs::symlink(folder.at("out"), folder.at("link")).unwrap();
    let pid = format!("process {}", first.id());
    // The same run again, another recipe, another name of the folder, and one told to start again.
    refused(&folder.compress("out", 4).output().unwrap(), ENVIRONMENT, &[&pid, "out", "ago", "hint: wait"]);
    refused(&folder.compress("out", 3).output().unwrap(), ENVIRONMENT, &[&pid]);
    refused(&folder.compress("link", 3).output().unwrap(), ENVIRONMENT, &[&pid]);
    refused(&folder.compress("out", 3).arg("--fresh").output().unwrap(), ENVIRONMENT, &[&pid]);
    signal(&first, "CONT");
    assert!(first.wait().unwrap().success());
    assert!(folder.model("out") == folder.model("alone"), "the others have changed something of the first");
    assert!(!lock(&folder.at("out")).exists());
}

#[test]
fn a_killed_run_blocks_nobody() {
    let folder = Folder::new();
    folder.report("alone-4", 4);
    folder.report("alone-3", 3);
    for (bits, resumes) in [(4, true), (3, false)] {
        let mut killed = folder.halted("out", 4);
        killed.kill().unwrap();
        killed.wait().unwrap();
        assert!(lock(&folder.at("out")).exists(), "what it has left");
        let resumed = folder.report("out", bits)["resumed_blocks"].as_u64().unwrap();
        assert_eq!(resumed > 0, resumes, "{bits} bits: {resumed} blocks");
        assert!(folder.model("out") == folder.model(&format!("alone-{bits}")), "{bits} bits");
        std::fs::remove_dir_all(folder.at("out")).unwrap();
    }
}

/// Both start in the same moment, again and again: one of them wins, and its model is whole.
#[test]
fn of_two_runs_that_start_together_one_stops() {
    let folder = Folder::new();
    let alone: Vec<_> = [3, 4].map(|bits| (folder.report(&format!("alone-{bits}"), bits), folder.model(&format!("alone-{bits}")))).into();
    let mut together = [3, 4].map(|bits| start(&mut folder.compress("out", bits)));
    let ended = together.each_mut().map(|child| child.wait().unwrap().code());
    // Where the first has ended before the second took the lock, both may succeed.
    assert!(ended.contains(&Some(0)) && ended.iter().all(|code| matches!(code, Some(0 | ENVIRONMENT))), "{ended:?}");
    let model = folder.model("out");
    let whose: Vec<_> = alone.iter().map(|(_, whole)| *whole == model).collect();
    let expected: Vec<_> = ended.iter().map(|code| *code == Some(0)).collect();
    assert!(whose.iter().filter(|same| **same).count() == 1, "a mixture of two runs");
    assert!(whose.iter().zip(&expected).all(|(same, succeeded)| !same || *succeeded), "{whose:?} {ended:?}");
}

/// Two writers of one file do not mix their bytes, and what a killed one has left is written over.
#[test]
fn a_file_has_one_writer_at_a_time() {
    let dir = tempfile::tempdir().unwrap();
    let out = dir.path().join("logits.safetensors");
    let part = std::fs::File::create(dir.path().join("logits.safetensors.part")).unwrap();
    part.lock().unwrap();
    let logits = || command(["logits"]).arg(demo("model")).args(["--ids", "1,2,3", "--out"]).arg(&out).output().unwrap();
    refused(&logits(), ENVIRONMENT, &["logits.safetensors", "in use by"]);
    assert!(!out.exists());
    drop(part);
    done(&logits());
    safetensors::SafeTensors::deserialize(&std::fs::read(&out).unwrap()).unwrap();
}
