//! Paths that are not UTF-8 in every command, and outputs that would replace an input.
#![cfg(target_os = "linux")] // where file names are any bytes

#[path = "common/binary.rs"]
mod binary;

use binary::{ENVIRONMENT, USAGE, command, demo, done, refused};
use serde_json::Value;
use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

const RECIPE: &str = "[calibration]\nsequences = 2\nlength = 32\n[[stage]]\n[stage.rtn]\nbits = 4\n\
                      [evaluate]\nwindow = 32\nmax_windows = 2\n";

/// A folder with a copy of the demo model and a text, all of them under names with a byte that
/// is no UTF-8.
struct Odd(tempfile::TempDir);

impl Odd {
    fn new() -> Self {
        let odd = Self(tempfile::tempdir().unwrap());
        std::fs::create_dir_all(odd.at("model")).unwrap();
        for entry in std::fs::read_dir(demo("model")).unwrap() {
            let path = entry.unwrap().path();
            std::fs::copy(&path, odd.at("model").join(path.file_name().unwrap())).unwrap();
        }
        std::fs::copy(demo("held-out.txt"), odd.at("text")).unwrap();
        std::fs::write(odd.at("recipe"), RECIPE).unwrap();
        std::fs::write(odd.at("task"), r#"{"query": "Once upon", "choices": ["a time", "a cat"], "gold": 0}"#).unwrap();
        odd
    }

    /// `name`, a byte 255, in a folder of such a name.
    fn at(&self, name: &str) -> PathBuf {
        self.0.path().join(OsStr::from_bytes(b"folder\xff")).join(OsStr::from_bytes(&[name.as_bytes(), b"\xff"].concat()))
    }

    fn compress(&self, out: &Path) -> Command {
        let mut command = command(["compress"]);
        command.arg(self.at("recipe")).arg("--model").arg(self.at("model")).arg("--out").arg(out).arg("--json");
        command
    }
}

fn json(output: &Output) -> Value {
    serde_json::from_str(&done(output)).unwrap()
}

#[test]
fn every_command_takes_paths_that_are_not_utf8() {
    let odd = Odd::new();
    let (model, text) = (odd.at("model"), odd.at("text"));
    let plain = json(
        &command(["eval", "--window", "64", "--max-windows", "2", "--json"])
            .arg(demo("model"))
            .arg("--text")
            .arg(demo("held-out.txt"))
            .output()
            .unwrap(),
    );
    let eval = |extra: &[&OsStr]| {
        let mut command = command(["eval", "--window", "64", "--max-windows", "2", "--json"]);
        json(&command.arg(&model).arg("--text").arg(&text).args(extra).output().unwrap())
    };
    assert_eq!(eval(&[])["loss"], plain["loss"]);
    let tokenizer = model.join("tokenizer.json");
    let with = eval(&["--reference".as_ref(), model.as_ref(), "--tokenizer".as_ref(), tokenizer.as_ref()]);
    assert_eq!((&with["loss"], with["kl_max"].as_f64()), (&plain["loss"], Some(0.0)));
    let (task, items) = (odd.at("task"), odd.at("items"));
    let tasks = json(&command(["eval", "--json", "--tasks"]).arg(&task).arg("--items").arg(&items).arg(&model).output().unwrap());
    assert!(tasks["tasks"].as_object().unwrap().len() == 1 && items.exists());

    let logits = odd.at("logits");
    let report = json(&command(["logits", "--ids", "1,2", "--json", "--out"]).arg(&logits).arg(&model).output().unwrap());
    assert!(logits.exists() && report["files"][0].as_str().unwrap().ends_with("logits\u{fffd}"), "{report}");
    done(&command(["run", "--max-tokens", "3", "--json"]).arg(&model).output().unwrap());
    done(&command(["bench", "--prompt-tokens", "4", "--gen-tokens", "2", "--repeat", "1", "--json"]).arg(&model).output().unwrap());
    done(&command(["inspect", "--json"]).arg(&model).output().unwrap());
    assert_eq!(json(&command(["verify", "--json"]).arg(&model).output().unwrap())["ok"], true);
    // And in what is said of them.
    let absent = command(["inspect"]).arg(odd.at("absent")).output().unwrap();
    refused(&absent, binary::BAD_INPUT, &["absent\u{fffd}"]);
}

#[cfg(feature = "torch")]
#[test]
fn compress_takes_paths_that_are_not_utf8() {
    let odd = Odd::new();
    for (out, format) in [("native", "native"), ("hf", "hf")] {
        // A method that leaves what the format holds.
        let keeps = format!(
            "[evaluate]\nwindow = 32\nmax_windows = 2\n[output]\nformat = \"{format}\"\n[calibration]\nsequences = 2\nlength = 32\n"
        );
        let stage = if format == "hf" { "[[stage]]\n[stage.prune_depth]\nlayers = 1\n" } else { "[[stage]]\n[stage.rtn]\nbits = 4\n" };
        std::fs::write(odd.at("recipe"), keeps + stage).unwrap();
        let out = odd.at(out);
        let mut compress = odd.compress(&out);
        compress.arg("--calibration").arg(odd.at("text")).arg("--eval-text").arg(odd.at("text"));
        compress.arg("--tokenizer").arg(odd.at("model").join("tokenizer.json"));
        let report = json(&compress.output().unwrap());
        let files = report["files"].as_array().unwrap();
        assert!(files.iter().all(|file| file.as_str().unwrap().contains('\u{fffd}')) && files.len() >= 4, "{files:?}");
        assert!(out.join("report.json").exists());
        assert_eq!(json(&command(["verify", "--json"]).arg(&out).output().unwrap())["ok"], true);
    }
}

fn snapshot(dir: &Path) -> Vec<(PathBuf, Vec<u8>)> {
    let mut files: Vec<_> = std::fs::read_dir(dir).unwrap().map(|e| e.unwrap().path()).filter(|path| path.is_file()).collect();
    files.sort();
    files.into_iter().map(|path| (path.clone(), std::fs::read(&path).unwrap())).collect()
}

/// Under the name they were given, and under another.
#[test]
fn outputs_do_not_replace_inputs() {
    let odd = Odd::new();
    let (model, text, task) = (odd.at("model"), odd.at("text"), odd.at("task"));
    let link = odd.0.path().join("link");
    std::os::unix::fs::symlink(&model, &link).unwrap();
    let before = (snapshot(&model), snapshot(model.parent().unwrap()));
    for name in ["model.safetensors", "tokenizer.json", "config.json"] {
        for folder in [&model, &link] {
            let out = folder.join(name);
            let output = command(["logits", "--ids", "1,2", "--out"]).arg(&out).arg(&model).output().unwrap();
            refused(&output, USAGE, &["--out", name, "overwritten"]);
        }
    }
    let eval = |items: &Path| {
        let mut command = command(["eval", "--window", "64", "--max-windows", "1"]);
        command.arg(&model).arg("--text").arg(&text).arg("--tasks").arg(&task).arg("--items").arg(items).output().unwrap()
    };
    refused(&eval(&text), USAGE, &["--items", "--text"]);
    refused(&eval(&task), USAGE, &["--items", "--tasks"]);
    refused(&eval(&link.join("model.safetensors")), USAGE, &["--items", "the model"]);
    assert!(before == (snapshot(&model), snapshot(model.parent().unwrap())), "something was written");
}

#[cfg(feature = "torch")]
#[test]
fn compress_does_not_replace_its_inputs() {
    let odd = Odd::new();
    let out = odd.at("out");
    std::fs::create_dir(&out).unwrap();
    // Inputs in the output folder, under names that are written there.
    std::fs::copy(odd.at("text"), out.join("report.json")).unwrap();
    std::fs::write(out.join("report.html"), RECIPE).unwrap();
    std::fs::copy(demo("model/tokenizer.json"), out.join("tokenizer.json")).unwrap();
    let before = snapshot(&out);
    let with = |args: &[&OsStr]| odd.compress(&out).args(args).output().unwrap();
    refused(&with(&["--calibration".as_ref(), out.join("report.json").as_ref()]), USAGE, &["--out", "report.json", "calibration text"]);
    refused(&with(&["--eval-text".as_ref(), out.join("report.json").as_ref()]), USAGE, &["--out", "held-out text"]);
    let mut own = command(["compress"]);
    own.arg(out.join("report.html")).arg("--model").arg(odd.at("model")).arg("--out").arg(&out);
    refused(&own.output().unwrap(), USAGE, &["--out", "report.html", "the recipe"]);
    refused(&odd.compress(&odd.at("model")).output().unwrap(), USAGE, &["model's own folder"]);
    assert!(before == snapshot(&out), "something was written");
    // Where nothing would be replaced, inputs may lie there: a tokenizer, for a native file.
    done(&with(&["--tokenizer".as_ref(), out.join("tokenizer.json").as_ref()]));
}

/// As a user who may not: root may read everything.
fn as_nobody(command: &mut Command) -> &mut Command {
    use std::os::unix::process::CommandExt;
    command.uid(65_534).gid(65_534)
}

#[test]
fn what_may_not_be_read_is_said() {
    let odd = Odd::new();
    let model = odd.at("model");
    let inspect = |model: &Path| as_nobody(command(["inspect"]).arg(model)).output();
    let open = |path: &Path, mode| std::fs::set_permissions(path, std::fs::Permissions::from_mode(mode)).unwrap();
    open(odd.0.path(), 0o755);
    open(model.parent().unwrap(), 0o755);
    match inspect(&model) {
        Ok(output) if output.status.success() => (),
        other => return eprintln!("skipped: cannot run as another user: {other:?}"),
    }
    let denied = |output: Output, name: &str| refused(&output, ENVIRONMENT, &[name, "Permission denied", "hint: you need permission"]);
    // A folder that may not be entered, one that may not be listed, and each file.
    for mode in [0o000, 0o444] {
        open(&model, mode);
        denied(inspect(&model).unwrap(), "model");
    }
    open(&model, 0o711);
    denied(as_nobody(command(["run", "--max-tokens", "1"]).arg(&model)).output().unwrap(), "model");
    open(&model, 0o755);
    for name in ["model.safetensors", "config.json"] {
        open(&model.join(name), 0o000);
        denied(inspect(&model).unwrap(), name);
        open(&model.join(name), 0o644);
    }
    let eval = |text: &Path| as_nobody(command(["eval", "--max-windows", "1"]).arg(&model).arg("--text").arg(text)).output().unwrap();
    open(&odd.at("text"), 0o000);
    denied(eval(&odd.at("text")), "text");
    if cfg!(feature = "torch") {
        open(&odd.at("recipe"), 0o000);
        denied(as_nobody(&mut odd.compress(&odd.at("out"))).output().unwrap(), "recipe");
        open(&odd.at("recipe"), 0o644);
        let output = as_nobody(&mut odd.compress(&odd.at("out"))).output().unwrap();
        refused(&output, ENVIRONMENT, &["cannot create", "Permission denied"]);
    }
    let logits = odd.at("logits");
    let output = as_nobody(command(["logits", "--ids", "1,2", "--out"]).arg(&logits).arg(&model)).output().unwrap();
    refused(&output, ENVIRONMENT, &["cannot write", "logits", "Permission denied"]);
}
