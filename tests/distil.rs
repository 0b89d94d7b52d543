//! Stages that make students and train them, through the whole pipeline.
#![cfg(feature = "torch")]

#[path = "common/compress.rs"]
mod common;
#[path = "common/data.rs"]
mod data;

use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};
use tempfile::TempDir;
use thimble::random::Random;
use thimble::report::{CompressReport, End};

/// A model of random weights, and token ids to train on.
struct Folder(TempDir);

impl Folder {
    fn new() -> Self {
        let folder = Self(tempfile::tempdir().unwrap());
        let random = Random::new(1, 0);
        // What follows a token is one of few, so that there is something to learn.
        let ids = (0..6000u64).scan(1u64, |last, i| {
            *last = 3 + (*last * 7 + random.below(3, i)) % 90;
            Some(*last as u16)
        });
        let bytes: Vec<u8> = ids.flat_map(u16::to_le_bytes).collect();
        std::fs::write(folder.path("ids.bin"), bytes).unwrap();
        folder
    }

    fn path(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }

    fn recipe(&self, stages: &str) -> String {
        format!("{stages}\n[evaluate]\nwindow = 32\nmax_windows = 4\nactivations = 'f32'\n")
    }

    /// A distilling stage: its own keys, and those of training.
    fn distil(&self, keys: &str, training: &str) -> String {
        let ids = self.path("ids.bin");
        format!(
            "[[stage]]\n[stage.distil]\n{keys}\n[stage.distil.training]\ntext = ['{}']\nlength = 16\nbatch = 8\nmicro_batch = 3\n\
             held_out = 8\nlearning_rate = 0.01\n{training}\n",
            ids.display()
        )
    }

    fn run(&self, stages: &str, out: &str) -> thimble::Result<CompressReport> {
        let out = self.path(out);
        std::fs::create_dir_all(&out).unwrap();
        common::run(&self.recipe(stages), &teacher(), &out)
    }
}

fn teacher() -> PathBuf {
    data::fixture("llama-gqa-tied")
}

const STUDENT: &str = "[[stage]]\n[stage.student]\nlayers = 'first'\nn_layers = 1\n";

fn held_out(report: &CompressReport) -> (f64, f64) {
    let lines = report.stages.iter().flat_map(|stage| &stage.training).flat_map(|training| &training.lines);
    let seen: Vec<f64> = lines.filter_map(|line| line.held_out).collect();
    (seen[0], seen[seen.len() - 1])
}

#[test]
fn a_student_learns_and_comes_nearer_to_its_teacher() {
    let folder = Folder::new();
    let before = folder.run(STUDENT, "untrained").unwrap();
    let stages = format!("{STUDENT}{}", folder.distil("divergence = 'forward_kl'", "tokens = 20000\nevaluate_every = 40"));
    let after = folder.run(&stages, "trained").unwrap();
    let kl = |report: &CompressReport| report.after.divergence.as_ref().unwrap().kl_mean;
    assert!(kl(&after) < 0.8 * kl(&before), "{} before, {} after", kl(&before), kl(&after));
    let (first, last) = held_out(&after);
    assert!(last < first, "{first} to {last}");
    let training = &after.stages[1].training[0];
    assert_eq!((training.end, training.lines.len()), (End::Finished, 157));
    assert!(after.files.iter().any(|file| file.ends_with("training-1.csv")));
    // What ships is in 16 bits.
    assert!(after.footprint.bits_per_weight < 17.0);
}

/// Every objective runs, lowers its own loss, and gives the same weights again.
#[test]
fn every_objective_learns_and_repeats() {
    let folder = Folder::new();
    let objectives = [
        ("ce_weight = 1.0\nkd_weight = 0.0", ""),
        ("divergence = { skewed_reverse_kl = 0.1 }\ntemperature = 2.0", "optimizer = 'sgd'\nlearning_rate = 0.5"),
        (
            "kd_weight = 0.0\nembedding = 1.0\nhidden = { loss = 'mean_square', weight = 1.0 }\nattention = { loss = 'scores', weight = 0.1 }",
            "",
        ),
        ("hidden = { loss = 'last_cosine', weight = 1.0 }\nce_weight = 0.5", "ema_decay = 0.9"),
        ("on_policy = { method = 'gkd', prompt = 4 }\ndivergence = { jensen_shannon = 0.5 }", ""),
        ("on_policy = { method = 'minillm', prompt = 4 }\ndivergence = 'reverse_kl'\nce_weight = 0.1", ""),
        ("divergence = 'forward_kl'", "trainable = { rank = 4, targets = ['*.attn.*'] }"),
        ("divergence = 'forward_kl'", "trainable = 'norms'\ncheckpointing = true"),
    ];
    for (keys, training) in objectives {
        let rate = if training.contains("learning_rate") { "" } else { "learning_rate = 0.01\n" };
        let distil =
            folder.distil(keys, &format!("tokens = 6000\nevaluate_every = 47\n{training}")).replace("learning_rate = 0.01\n", rate);
        let [report, _] = ["once", "again"].map(|out| folder.run(&format!("{STUDENT}{distil}"), out).unwrap());
        let lines = &report.stages[1].training[0].lines;
        let mean = |lines: &[thimble::report::Line]| lines.iter().map(|line| line.loss).sum::<f64>() / lines.len() as f64;
        let (first, last) = (mean(&lines[..8]), mean(&lines[lines.len() - 8..]));
        assert!(last < first, "{keys}\n{training}: {first} to {last}");
        let [once, again] = ["once", "again"].map(|out| std::fs::read(folder.path(out).join("model.thimble")).unwrap());
        assert!(once == again, "{keys}\n{training}: a second run gives other bytes");
    }
}

/// Blocks one after the other, each alone; then all together.
#[test]
fn progressive_transfer_trains_one_block_at_a_time() {
    let folder = Folder::new();
    let keys = "hidden = { loss = 'normalised_mean_square', weight = 1.0 }\nattention = { loss = 'distributions', weight = 1.0 }\nprogressive = 0.5";
    let random = "[[stage]]\n[stage.student]\ninitialise = 'random'\n";
    let report = folder.run(&format!("{random}{}", folder.distil(keys, "tokens = 12000\nevaluate_every = 0")), "out").unwrap();
    let training = &report.stages[1].training;
    let names: Vec<&str> = training.iter().map(|t| t.name.as_str()).collect();
    assert_eq!(names, ["block 0", "block 1", "all together"]);
    assert_eq!(training.iter().map(|t| t.lines.len()).collect::<Vec<_>>(), [24, 24, 47]);
    for block in &training[..2] {
        let parts: Vec<&str> = block.lines[0].parts.iter().map(|(name, _)| name.as_str()).collect();
        assert_eq!(parts, ["attention", "hidden"]);
        assert!(block.lines[23].loss < block.lines[0].loss, "{}", block.name);
    }
}

/// With all tokens but one in the cache it says what the teacher says; it is made once,
/// and again where the teacher is another.
#[test]
fn a_cached_teacher_is_the_teacher() {
    let folder = Folder::new();
    let cache = folder.path("teacher.cache");
    let cached = |top: usize| format!("cache = {{ file = '{}', top_k = {top} }}", cache.display());
    let distil = |keys: &str, teacher: &str| format!("{STUDENT}{}", folder.distil(&format!("{keys}\n{teacher}"), "tokens = 4000"));
    let online = folder.run(&distil("", ""), "online").unwrap();
    let read = folder.run(&distil(&cached(95), ""), "cached").unwrap();
    let modified = || std::fs::metadata(&cache).unwrap().modified().unwrap();
    let made = modified();
    let ((_, a), (_, b)) = (held_out(&online), held_out(&read));
    assert!((a / b - 1.0).abs() < 0.01, "{a} by the teacher, {b} by what it said");
    folder.run(&distil(&cached(95), "temperature = 1.0"), "again").unwrap();
    assert_eq!(modified(), made, "it is made once");
    let other = format!("teacher = '{}'", data::fixture("llama-relu").display());
    folder.run(&distil(&cached(95), &other), "other").unwrap();
    assert_ne!(modified(), made, "another teacher says something else");
    let few = folder.run(&distil(&cached(8), ""), "few").unwrap();
    let lines = &few.stages[1].training[0].lines;
    assert!(lines[lines.len() - 1].loss < lines[0].loss, "{} to {}", lines[0].loss, lines[lines.len() - 1].loss);
}

/// How many sequences go through the model together changes nothing but rounding.
#[test]
fn micro_batches_are_one_batch() {
    let folder = Folder::new();
    let lines = |micro: usize| {
        let keys = "ce_weight = 0.5\nembedding = 0.1\nattention = { loss = 'distributions', weight = 0.1 }";
        let distil = folder.distil(keys, "tokens = 1500").replace("micro_batch = 3", &format!("micro_batch = {micro}"));
        let report = folder.run(&format!("{STUDENT}{distil}"), &micro.to_string()).unwrap();
        report.stages[1].training[0].lines.iter().map(|line| line.loss).collect::<Vec<_>>()
    };
    let (one, eight) = (lines(1), lines(8));
    assert!(one.len() == 12 && one.iter().zip(&eight).all(|(a, b)| (a / b - 1.0).abs() < 1e-4), "{one:?}, {eight:?}");
}

/// A text that changes under its name is another run, in whatever stage it is.
#[test]
fn a_changed_text_is_another_run() {
    let folder = Folder::new();
    let stages = format!("{STUDENT}{}", folder.distil("", "tokens = 2000"));
    // Something that is no model lies where the cache is to be: it is not written over.
    let cache = folder.path("precious.bin");
    std::fs::write(&cache, "precious").unwrap();
    let with_cache =
        stages.replace("[stage.distil.training]", &format!("cache = {{ file = '{}' }}\n[stage.distil.training]", cache.display()));
    let error = folder.run(&with_cache, "out").err().unwrap().to_string();
    assert!(error.contains("not written over") && std::fs::read(&cache).unwrap() == b"precious", "{error}");
    let key = || std::fs::read(folder.path("out/.unfinished/key")).unwrap();
    let before = key();
    let ids: Vec<u8> = std::fs::read(folder.path("ids.bin")).unwrap().chunks_exact(2).rev().flatten().copied().collect();
    std::fs::write(folder.path("ids.bin"), ids).unwrap();
    folder.run(&with_cache, "out").err().unwrap();
    assert_ne!(key(), before);
}

/// A rate that no weights survive: the best state is restored, and that is said.
#[test]
fn a_run_that_diverges_is_stopped_and_its_best_state_restored() {
    let folder = Folder::new();
    let untrained = folder.run(STUDENT, "untrained").unwrap();
    let distil = folder.distil("ce_weight = 1.0", "tokens = 60000\nevaluate_every = 1000\nclip = 0\nweight_decay = 0\nwarmup = 0");
    let report = folder.run(&format!("{STUDENT}{}", distil.replace("learning_rate = 0.01", "learning_rate = 1e18")), "out").unwrap();
    let training = &report.stages[1].training[0];
    assert_eq!(training.end, End::Diverged);
    assert!(training.lines.len() < 60, "{} steps", training.lines.len());
    assert_eq!(report.after.perplexity, untrained.after.perplexity);
    let page = std::fs::read_to_string(folder.path("out/report.html")).unwrap();
    assert!(page.contains("rose suddenly") && page.contains("<polyline"));
}

#[test]
fn training_stops_where_nothing_gets_better() {
    let folder = Folder::new();
    let distil =
        folder.distil("ce_weight = 1.0\nkd_weight = 0.0", "tokens = 60000\nevaluate_every = 5\npatience = 3\nschedule = 'constant'");
    let report = folder.run(&format!("{STUDENT}{}", distil.replace("0.01", "1e-30")), "out").unwrap();
    let training = &report.stages[1].training[0];
    assert_eq!(training.end, End::NoProgress);
    assert!(training.lines.len() <= 30, "{} steps", training.lines.len());
}

/// Killed at ten random moments, and at last let run: bit for bit the model of a run that
/// was never stopped.
#[test]
fn a_killed_training_goes_on_bit_for_bit() {
    let folder = Folder::new();
    let keys = "ce_weight = 0.3\nhidden = { loss = 'mean_square', weight = 0.1 }";
    let training = "tokens = 60000\nevaluate_every = 25\nema_decay = 0.95\nsave_minutes = 0.002";
    let recipe = folder.path("recipe.toml");
    std::fs::write(&recipe, folder.recipe(&format!("{STUDENT}{}", folder.distil(keys, training)))).unwrap();
    let start = |out: &str| -> Child {
        let mut run = Command::new(env!("CARGO_BIN_EXE_thimble"));
        run.arg("compress").arg(&recipe).arg("--model").arg(teacher()).arg("--out").arg(folder.path(out));
        run.args(["--threads", "1"]).stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap()
    };
    let begin = Instant::now();
    assert!(start("whole").wait().unwrap().success());
    let whole = begin.elapsed();
    let random = Random::new(std::process::id().into(), 0);
    let (mut finished, mut saved) = (0, 0);
    let state = folder.path("killed/.unfinished/stage-1/phase-0.state.safetensors");
    for kill in 0..10 {
        let mut child = start("killed");
        std::thread::sleep(Duration::from_secs_f64(0.6 * whole.as_secs_f64() * random.uniform(kill)));
        let _ = child.kill();
        finished += u32::from(child.wait().unwrap().success());
        saved += u32::from(state.exists());
    }
    assert!(finished < 10 && saved > 0, "{finished} runs ended before they were killed, {saved} had saved a state");
    assert!(start("killed").wait().unwrap().success());
    let bytes = |out: &str| std::fs::read(folder.path(out).join("model.thimble")).unwrap();
    assert!(bytes("killed") == bytes("whole"), "a resumed training gives other bytes");
}

/// Ctrl-C saves the state and says so by its exit code, and the same command goes on.
#[cfg(unix)]
#[test]
fn an_interrupted_training_loses_nothing() {
    let folder = Folder::new();
    let recipe = folder.path("recipe.toml");
    let training = "tokens = 60000\nevaluate_every = 0\nsave_minutes = 60";
    std::fs::write(&recipe, folder.recipe(&format!("{STUDENT}{}", folder.distil("", training)))).unwrap();
    let start = |out: &str| {
        let mut run = Command::new(env!("CARGO_BIN_EXE_thimble"));
        run.arg("compress").arg(&recipe).arg("--model").arg(teacher()).arg("--out").arg(folder.path(out));
        run.args(["--threads", "1"]).stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap()
    };
    let mut child = start("stopped");
    // The token cache is the last thing that is made before training.
    let tokens = || {
        let entries = std::fs::read_dir(folder.path("stopped/.unfinished")).into_iter().flatten().flatten();
        entries.into_iter().any(|entry| entry.file_name().to_string_lossy().starts_with("tokens-"))
    };
    while !tokens() {
        assert!(child.try_wait().unwrap().is_none(), "it has ended by itself");
        std::thread::sleep(Duration::from_millis(2));
    }
    std::thread::sleep(Duration::from_millis(150));
    assert!(Command::new("kill").args(["-INT", &child.id().to_string()]).status().unwrap().success());
    assert_eq!(child.wait().unwrap().code(), Some(130));
    let left: Vec<_> = std::fs::read_dir(folder.path("stopped/.unfinished/stage-1")).unwrap().map(|e| e.unwrap().file_name()).collect();
    assert!(left.iter().any(|name| name.to_string_lossy().ends_with(".state.safetensors")), "{left:?}");
    for out in ["stopped", "whole"] {
        assert!(start(out).wait().unwrap().success());
    }
    let bytes = |out: &str| std::fs::read(folder.path(out).join("model.thimble")).unwrap();
    assert!(bytes("stopped") == bytes("whole"), "an interrupted training gives other bytes");
}

/// A packed model teaches, and a narrower student is compared with it through learned
/// matrices.
#[test]
fn a_narrower_student_learns_from_a_packed_teacher() {
    let folder = Folder::new();
    folder.run("[[stage]]\n[stage.rtn]\nbits = 8\ngroup_size = 32\n", "packed").unwrap();
    let keys =
        format!("teacher = '{}'\nembedding = 0.5\nhidden = {{ loss = 'mean_square', weight = 0.5 }}", folder.path("packed").display());
    let student = "[[stage]]\n[stage.student]\nhidden_size = 24\nintermediate_size = 32\n";
    let report = folder.run(&format!("{student}{}", folder.distil(&keys, "tokens = 8000\nevaluate_every = 20")), "out").unwrap();
    let (first, last) = held_out(&report);
    assert!(last < 0.9 * first, "{first} to {last}");
    let parts: Vec<&str> = report.stages[1].training[0].lines[0].parts.iter().map(|(name, _)| name.as_str()).collect();
    assert_eq!(parts, ["embedding", "hidden", "soft"]);
}

#[test]
fn what_cannot_be_is_refused_before_anything_is_read() {
    let folder = Folder::new();
    let cases = [
        ("[[stage]]\n[stage.student]\n".to_owned(), "it would be its teacher"),
        ("[[stage]]\n[stage.student]\nlayers = [0, 7]\n".to_owned(), "7"),
        ("[[stage]]\n[stage.distil]\n".to_owned(), "names nothing to train on"),
        (folder.distil("kd_weight = 0.0", ""), "every loss has weight 0"),
        (folder.distil("temperature = 0.0", ""), "temperature 0"),
        (folder.distil("divergence = { jensen_shannon = 1.0 }", ""), "between 0 and 1"),
        (folder.distil("progressive = 0.5", ""), "nothing to match"),
        (
            folder.distil("progressive = 1.0\nce_weight = 0.5\nhidden = { loss = 'mean_square', weight = 1.0 }", ""),
            "hard and embedding are learnt by all together",
        ),
        (folder.distil("kd_weight = 0.0\nce_weight = 1.0\ncache = { file = 'x' }", ""), "the teacher is not asked"),
        (folder.distil("", "momentum = 0.5"), "momentum is for optimizer = \"sgd\""),
        (folder.distil("", "optimizer = 'sgd'\nbetas = [0.9, 0.99]"), "betas and epsilon are for optimizer = \"adamw\""),
        (folder.distil("", "schedule = 'constant'\nmin_lr_ratio = 0.5"), "it does not fall"),
        (folder.distil("layers = [0]", ""), "the student has 2 blocks"),
        (folder.distil("cache = { file = 'x', top_k = 96 }", ""), "below the vocabulary"),
        (folder.distil("on_policy = { method = 'minillm' }", ""), "reverse_kl"),
        (folder.distil("on_policy = { method = 'gkd', prompt = 99 }", ""), "prompt must be"),
        (folder.distil("", "freeze = ['*']"), "nothing left to train"),
        (folder.distil("", "freeze = ['nothing']"), "names no parameter"),
        (folder.distil("", "trainable = { rank = 0 }"), "rank"),
        (folder.distil("", "patience = 1\nevaluate_every = 0"), "patience"),
        (folder.distil("", "warmup = 1.0"), "warmup"),
        (folder.distil("", "trainable = { rank = 1000000 }"), "rank must be from 1 to"),
        (folder.distil("", "save_minutes = 1e300"), "save_minutes"),
        (folder.distil("divergence = 'reverse_kl'\ntemperature = 2.0\non_policy = { method = 'minillm' }", ""), "temperature 1"),
        (folder.distil("layers = [0, 9]\nhidden = { loss = 'mean_square', weight = 1.0 }", ""), "has no block 9"),
        (format!("[[stage]]\n[stage.rtn]\n{}", folder.distil("", "")), "comes behind a stage that quantises"),
    ];
    for (stages, reason) in cases {
        let error = folder.run(&stages, "out").err().unwrap_or_else(|| panic!("{stages} is not refused")).to_string();
        assert!(error.contains(reason), "{stages}\n{error}");
    }
}

/// A recipe that makes a student, trains and quantises it in one go.
#[test]
fn a_trained_student_is_quantised() {
    let folder = Folder::new();
    let stages = format!("{STUDENT}{}[[stage]]\n[stage.gptq]\nbits = 4\ngroup_size = 32\n", folder.distil("", "tokens = 4000"));
    let recipe = format!("[calibration]\nsequences = 4\nlength = 32\n{stages}");
    let report = folder.run(&recipe, "out").unwrap();
    let methods: Vec<&str> = report.stages.iter().map(|stage| stage.method.as_str()).collect();
    assert_eq!(methods, ["student", "distil", "gptq"]);
    assert!(Path::new(&report.files[0]).exists() && report.after.perplexity.is_finite());
}
