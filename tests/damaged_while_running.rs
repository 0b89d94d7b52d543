//! A model's file that changes while a command reads it: an error that names the file, never a
//! signal, and never numbers of two models.
#![cfg(unix)]

#[path = "common/binary.rs"]
mod binary;

use binary::{BAD_INPUT, command, demo, done, refused, start, wait_until};
use std::io::{Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output};

/// A model that is read for some seconds: its folder, its weights, and a long text.
struct Reading {
    dir: tempfile::TempDir,
}

const WINDOWS: &str = "60";

impl Reading {
    fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        for entry in std::fs::read_dir(demo("model")).unwrap() {
            let path = entry.unwrap().path();
            std::fs::copy(&path, dir.path().join(path.file_name().unwrap())).unwrap();
        }
        let text = std::fs::read_to_string(demo("held-out.txt")).unwrap();
        std::fs::write(dir.path().join("text"), text.repeat(10)).unwrap();
        Self { dir }
    }

    fn weights(&self) -> PathBuf {
        self.dir.path().join("model.safetensors")
    }

    fn eval(&self) -> Command {
        let mut command = command(["eval"]);
        command.arg(self.dir.path()).arg("--text").arg(self.dir.path().join("text"));
        command.args(["--window", "128", "--max-windows", WINDOWS, "--threads", "1", "--json"]);
        command
    }

    /// What an evaluation ends with when something happens while it runs.
    fn while_evaluating(&self, happens: impl FnOnce(&Path)) -> Output {
        let mut child = start(&mut self.eval());
        wait_until_mapped(&mut child, &self.weights());
        assert!(child.try_wait().unwrap().is_none(), "the evaluation has ended too early: nothing was tried");
        happens(&self.weights());
        child.wait_with_output().unwrap()
    }
}

/// Waits until a process has mapped a file, and a little longer, so that it computes.
fn wait_until_mapped(child: &mut Child, file: &Path) {
    let (maps, name) = (format!("/proc/{}/maps", child.id()), file.to_str().unwrap());
    if cfg!(target_os = "linux") {
        wait_until(child, "the file is mapped", || std::fs::read_to_string(&maps).is_ok_and(|maps| maps.contains(name)));
    }
    std::thread::sleep(std::time::Duration::from_millis(300));
}

#[test]
fn a_truncated_file_is_an_error() {
    let reading = Reading::new();
    // To nothing, and to a part in the middle of a page.
    for len in [0, 1_000_001] {
        let output = Reading::new().while_evaluating(|file| std::fs::File::options().write(true).open(file).unwrap().set_len(len).unwrap());
        refused(&output, BAD_INPUT, &["model.safetensors", "truncated while it was being read"]);
        assert!(output.stdout.is_empty());
    }
    // What `cp other.safetensors model.safetensors` does.
    let output = reading.while_evaluating(|file| std::fs::write(file, vec![7; 20_000_000]).unwrap());
    refused(&output, BAD_INPUT, &["model.safetensors", "while it was being read"]);
}

#[test]
fn a_file_that_is_written_over_in_place_is_an_error() {
    let output = Reading::new().while_evaluating(|file| {
        let mut file = std::fs::File::options().write(true).open(file).unwrap();
        file.seek(SeekFrom::Start(5_000_000)).unwrap();
        file.write_all(&[0; 1000]).unwrap();
    });
    refused(&output, BAD_INPUT, &["model.safetensors", "was written to while it was being read"]);
    assert!(output.stdout.is_empty());
}

/// The file that was opened is read on, whatever has its name.
#[test]
fn a_file_that_is_replaced_by_renaming_is_read_to_the_end() {
    let reading = Reading::new();
    let undisturbed = done(&reading.eval().output().unwrap());
    let replaced = reading.while_evaluating(|file| {
        let other = file.with_file_name("other");
        std::fs::write(&other, [0; 1000]).unwrap();
        std::fs::rename(&other, file).unwrap();
    });
    let loss = |text: &str| serde_json::from_str::<serde_json::Value>(text).unwrap()["loss"].clone();
    assert_eq!(loss(&done(&replaced)), loss(&undisturbed));
}

/// A run that goes on for long finds it at the next block, and what is written before stays.
#[cfg(feature = "torch")]
#[test]
fn compressing_a_file_that_changes_is_an_error() {
    let reading = Reading::new();
    let at = |name: &str| reading.dir.path().join(name);
    let recipe = "[calibration]\nsequences = 4\nlength = 64\n[[stage]]\n[stage.gptq]\nbits = 4\n[evaluate]\nwindow = 32\nmax_windows = 2\n";
    std::fs::write(at("recipe.toml"), recipe).unwrap();
    let mut compress = command(["compress"]);
    compress.arg(at("recipe.toml")).arg("--model").arg(reading.dir.path()).arg("--out").arg(at("out"));
    let mut child = start(&mut compress);
    wait_until(&mut child, "a block is finished", || at("out/.unfinished/stage-0/blocks.0.part.thimble").exists());
    std::fs::File::options().write(true).open(reading.weights()).unwrap().write_all(b"x").unwrap();
    refused(&child.wait_with_output().unwrap(), BAD_INPUT, &["model.safetensors", "was written to"]);
    assert!(!at("out/model.thimble").exists());
}
