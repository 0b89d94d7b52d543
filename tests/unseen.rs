//! Inputs that calibration did not meet, or met on a handful of tokens: on a text that uses them, no
//! method loses more than it would without calibration.
#![cfg(feature = "torch")]

#[path = "common/compress.rs"]
mod compress;
#[path = "common/tiny.rs"]
mod tiny;

use std::path::Path;
use thimble::report::{LayerReport, StageReport};
use tiny::{HIDDEN, INNER, Tiny, VOCABULARY, text};

/// First of the words whose hidden states fire half of the neurons.
const RARE: usize = 50;
/// A component of hidden states that no layer writes: 0 for common words, 3 for rare ones.
const MARK: usize = 0;

/// A Llama with ReLU. Rare words are common ones with a mark, and half of the neurons read the mark
/// alone, so that they are zero on every text without rare words.
fn model() -> Tiny {
    let mut model = Tiny::new(2, "relu");
    for word in 0..VOCABULARY {
        let embeddings = model.values("model.embed_tokens.weight");
        if word >= RARE {
            let common = (3 + word - RARE) * HIDDEN;
            embeddings.copy_within(common..common + HIDDEN, word * HIDDEN);
        }
        embeddings[word * HIDDEN + MARK] = if word >= RARE { 3.0 } else { 0.0 };
    }
    for layer in 0..2 {
        let p = format!("model.layers.{layer}.");
        model.values(&format!("{p}self_attn.o_proj.weight"))[MARK * HIDDEN..][..HIDDEN].fill(0.0);
        model.values(&format!("{p}mlp.down_proj.weight"))[MARK * INNER..][..INNER].fill(0.0);
        for neuron in 0..INNER / 2 {
            let row = &mut model.values(&format!("{p}mlp.gate_proj.weight"))[neuron * HIDDEN..][..HIDDEN];
            let strength = row[1].abs();
            row.fill(0.0);
            row[MARK] = 2.0 * strength + 0.1;
        }
    }
    model
}

/// Any word, by a random number from 0 to 1.
fn any(u: f64) -> usize {
    3 + (u * (VOCABULARY - 3) as f64) as usize
}

struct Bench {
    dir: tempfile::TempDir,
}

impl Bench {
    /// `rare` words in the text of the calibration, and half of those of the evaluation.
    fn new(rare: usize) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let model_dir = dir.path().join("model");
        std::fs::create_dir(&model_dir).unwrap();
        model().write(&model_dir);
        // All of the text is calibrated on, so that the rare words are among it.
        let common = text(1, 1024, |u| 3 + (u * (RARE - 3) as f64) as usize);
        let mut words: Vec<&str> = common.split(' ').collect();
        (0..rare).for_each(|i| words[100 + 211 * i] = "w60");
        std::fs::write(dir.path().join("calibration.txt"), words.join(" ")).unwrap();
        std::fs::write(dir.path().join("all-words.txt"), text(3, 1024, any)).unwrap();
        std::fs::write(dir.path().join("evaluation.txt"), text(2, 2000, any)).unwrap();
        Self { dir }
    }

    /// Mean KL and the stage's report.
    fn run(&self, stage: &str) -> (f64, StageReport) {
        self.run_on("calibration.txt", stage)
    }

    /// The same, calibrated on another text.
    fn run_on(&self, calibration: &str, stage: &str) -> (f64, StageReport) {
        let recipe = format!(
            "[calibration]\ntext = \"{calibration}\"\nsequences = 16\nlength = 64\n[[stage]]\n{stage}\n\
             [evaluate]\ntext = \"evaluation.txt\"\nwindow = 64\nactivations = \"f32\"\n"
        );
        let out = tempfile::tempdir_in(self.dir.path()).unwrap();
        // Paths are relative to the recipe's folder.
        let recipe = recipe.replace("text = \"", &format!("text = \"{}/", self.dir.path().display()));
        let mut report = compress::run(&recipe, &self.dir.path().join("model"), out.path()).unwrap();
        (report.after.divergence.unwrap().kl_mean, report.stages.remove(0))
    }
}

fn layer<'a>(stage: &'a StageReport, name: &str) -> &'a LayerReport {
    stage.layers.iter().find(|layer| layer.name == name).unwrap()
}

/// KL of a stage against that of the same without calibration, on a text that fires all neurons.
fn no_worse(bench: &Bench, what: &str, plain: &str, stage: &str) -> StageReport {
    let (plain, _) = bench.run(plain);
    let (kl, report) = bench.run(stage);
    println!("{what}: KL {kl:.6}, without calibration {plain:.6}: {:.2}", kl / plain);
    assert!(kl <= 1.1 * plain, "{what}: KL {kl}, without calibration {plain}");
    report
}

#[test]
fn quantisers_lose_no_more_than_rounding_on_inputs_that_calibration_never_met() {
    let bench = Bench::new(0);
    for bits in [3, 4, 8] {
        let size = format!("bits = {bits}\ngroup_size = 32\n");
        for stage in [
            "[stage.gptq]\n",
            "[stage.gptq]\nact_order = false\n",
            "[stage.gptq]\nstatic_groups = true\n",
            "[stage.gptq]\nrescale = \"smooth\"\n",
            "[stage.awq]\n",
            "[stage.rtn]\ngrid = \"least_error\"\nimportance = true\n",
        ] {
            let what = format!("{} at {bits} bits", stage.trim().replace('\n', ", "));
            let report = no_worse(&bench, &what, &format!("[stage.rtn]\n{size}"), &format!("{stage}{size}"));
            for block in 0..2 {
                let unseen = layer(&report, &format!("blocks.{block}.ffn.down")).unseen_inputs.unwrap();
                assert!(unseen.never >= INNER / 2 && unseen.share >= 0.5, "{what}: {unseen:?}");
                assert_eq!(layer(&report, &format!("blocks.{block}.attn.q")).unseen_inputs.unwrap().never, 1, "{what}");
            }
        }
    }
    no_worse(&bench, "ternary", "[stage.ternary]\nsolver = \"absmean\"\n", "[stage.ternary]\n");
}

#[test]
fn quantisers_lose_no_more_than_rounding_on_inputs_of_a_handful_of_tokens() {
    let bench = Bench::new(4);
    for bits in [4, 8] {
        let size = format!("bits = {bits}\ngroup_size = 32\n");
        for stage in ["[stage.gptq]\n", "[stage.awq]\n"] {
            let what = format!("{} at {bits} bits", stage.trim());
            let report = no_worse(&bench, &what, &format!("[stage.rtn]\n{size}"), &format!("{stage}{size}"));
            let unseen = layer(&report, "blocks.0.ffn.down").unseen_inputs.unwrap();
            assert!(unseen.rarely >= INNER / 2 - 8, "{what}: {unseen:?}");
        }
    }
}

/// Weights are judged by their magnitudes where nothing is known of what they meet: that costs little
/// more than to know it, or than to judge all of them so.
#[test]
fn sparsifiers_keep_weights_of_inputs_that_calibration_missed() {
    for rare in [0, 4] {
        let bench = Bench::new(rare);
        for sparsity in ["sparsity = 0.3\n", "pattern = \"2:4\"\n"] {
            let stage = |method: &str| format!("[stage.sparsify]\nmethod = \"{method}\"\n{sparsity}");
            for method in ["wanda", "sparsegpt"] {
                let what = format!("{method}, {}, {rare} rare words", sparsity.trim());
                let (kl, report) = bench.run(&stage(method));
                assert!(layer(&report, "blocks.1.ffn.down").unseen_inputs.is_some(), "{what}");
                let (informed, _) = bench.run_on("all-words.txt", &stage(method));
                let (magnitude, _) = bench.run(&stage("magnitude"));
                println!("{what}: KL {kl:.6}, calibrated on all words {informed:.6}, by magnitude {magnitude:.6}");
                assert!(kl <= 1.25 * informed.max(magnitude), "{what}: KL {kl}, {informed} by all words, {magnitude} by magnitude");
            }
        }
    }
}

/// A model whose inputs are all met says nothing of them.
#[test]
fn met_inputs_are_not_reported() {
    let dir = tempfile::tempdir().unwrap();
    Tiny::new(1, "silu").write(dir.path());
    let out = tempfile::tempdir().unwrap();
    let recipe = "[calibration]\nsequences = 8\nlength = 64\n[[stage]]\n[stage.gptq]\nbits = 4\ngroup_size = 32\n[evaluate]\nwindow = 32\n";
    let report = compress::run(recipe, Path::new(dir.path()), out.path()).unwrap();
    let json = serde_json::to_string(&report).unwrap();
    assert!(!json.contains("unseen") && !json.contains("null"), "{json}");
}
