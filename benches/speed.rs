//! Seconds and memory of quantising, beside gptqmodel's, on a random piece of a Llama
//! of 1.1 billion parameters: `cargo bench --features torch --bench speed -- [--only TEXT]`
//! makes `benches/speed.md` ([`benchmark`]). Each run is a process of its own, one after the
//! other.

#[path = "common/benchmark.rs"]
mod benchmark;
#[path = "common/ids.rs"]
mod ids;
#[path = "common/process.rs"]
mod process;
#[path = "common/random_llama.rs"]
mod random_llama;

use benchmark::{Choice, Found, Page};
use process::said;
use random_llama::Shape;
use serde_json::json;
use std::fmt::Write as _;
use std::path::{Path, PathBuf};
use std::process::Command;
use thimble::pipeline::calibration_sequences;
use thimble::progress::Silent;
use thimble::recipe::{Calibration, TextSource, TokenImportance};
use thimble::runtime;
use thimble::text::Text;

const SHAPE: Shape = Shape { hidden: 2048, ffn: 5632, heads: 32, kv_heads: 4, vocab: 32_000, layers: 4 };
const SEQUENCES: usize = 32;
const LENGTH: usize = 512;

/// What is run on both sides, 4 bits in groups of 128; settings follow the method.
struct Row {
    name: &'static str,
    ours: &'static [&'static str],
    theirs: &'static [&'static str],
    /// Number formats of the forwards: ours, theirs.
    formats: &'static [(&'static str, &'static str)],
    /// At least so many times faster, and at most this share of the memory.
    target: Option<(f64, f64)>,
}

const FORMATS: [(&str, &str); 2] = [("bf16", "bfloat16"), ("f32", "float32")];

/// A new comparison = one row.
const ROWS: [Row; 3] = [
    // As the library has it unless told otherwise, in the model's own format first.
    Row {
        name: "GPTQ, act-order, layers in turn",
        ours: &["gptq", "true_sequential = true", "grid = 'min_max'"],
        theirs: &["gptq", "sym=false", "desc_act=true", "act_group_aware=false", "damp_percent=0.01", "true_sequential=true"],
        formats: &FORMATS,
        target: Some((3.0, 0.5)),
    },
    Row {
        name: "GPTQ, act-order, layers at once",
        ours: &["gptq", "grid = 'min_max'"],
        theirs: &["gptq", "sym=false", "desc_act=true", "act_group_aware=false", "damp_percent=0.01", "true_sequential=false"],
        formats: &FORMATS,
        target: Some((3.0, 0.5)),
    },
    // In one format: the library searches for a quarter of an hour.
    Row { name: "AWQ", ours: &["awq"], theirs: &["awq", "sym=false"], formats: &[FORMATS[0]], target: None },
];

/// What a process says of itself.
struct Cost {
    /// Of one block.
    seconds: f64,
    /// Anonymous memory at its peak.
    bytes: f64,
}

const PAGES: [Page<()>; 1] = [Page { name: "speed", title: "Speed of quantising", target: "bench-speed", parts: &[("speed", compare)] }];

fn main() {
    benchmark::run(&PAGES);
}

fn compare(choice: &Choice<()>) -> Found {
    let data = std::env::var_os("THIMBLE_DATA").map_or_else(|| root().join("../shared/data"), PathBuf::from);
    let work = tempfile::tempdir().unwrap();
    let model = work.path().join("model");
    std::fs::create_dir(&model).unwrap();
    random_llama::write(&model, &SHAPE);
    // Real text, so that activations repeat as they do.
    let tokenizer = data.join("models/house-6m/tokenizer.json");
    std::fs::copy(&tokenizer, model.join("tokenizer.json")).unwrap_or_else(|e| panic!("{e}; THIMBLE_DATA names the data"));
    let text = data.join("text/tinystories/calib.txt");
    let ids = work.path().join("ids.safetensors");
    write_ids(&model, &text, &ids);

    let mut page = format!(
        "A random Llama {} wide, feed-forward {}, {} blocks, to 4 bits in groups of 128 on {SEQUENCES} \
         sequences of {LENGTH} tokens; seconds of a block, and the process's peak of anonymous memory. GPTQ's grids are those of all weights on both sides. gptqmodel 7.7.0 on the same \
         machine and ids, one process after the other.\n\n\
         | method | forwards | ours | gptqmodel | times faster | ours | gptqmodel | share of memory |\n|---|---|---|---|---|---|---|---|\n",
        SHAPE.hidden, SHAPE.ffn, SHAPE.layers
    );
    let (mut figures, mut missed) = (Vec::new(), Vec::new());
    for row in &ROWS {
        for &(format, theirs) in row.formats {
            let name = format!("{} {format}", row.name);
            if !choice.has(&name) {
                continue;
            }
            let ours = ours(&model, row.ours, &text, format, work.path());
            let theirs = theirs_of(&model, row.theirs, &ids, theirs, work.path());
            let (faster, share) = (theirs.seconds / ours.seconds, ours.bytes / theirs.bytes);
            let gigabytes = |bytes: f64| format!("{:.2} GB", bytes / 1e9);
            writeln!(
                page,
                "| {} | {format} | {:.1} s | {:.1} s | {faster:.2} | {} | {} | {share:.2} |",
                row.name,
                ours.seconds,
                theirs.seconds,
                gigabytes(ours.bytes),
                gigabytes(theirs.bytes)
            )
            .unwrap();
            if let Some((least, most)) = row.target
                && (faster < least || share > most)
            {
                missed.push(format!("{name}: {faster:.2} times faster at {share:.2} of the memory; {least} and {most} are the target"));
            }
            figures.push(json!({ "name": name, "seconds": [ours.seconds, theirs.seconds], "bytes": [ours.bytes, theirs.bytes] }));
        }
    }
    page += "\nWith layers at once a block runs twice, in turn once. f32 is bound by libtorch's products, and what all sequences bring to a \
             layer is held in it.\n";
    Found::new(page, json!(figures), "three times as fast at half the memory.", missed)
}

fn write_ids(model: &Path, text: &Path, file: &Path) {
    let model = runtime::open(model, None).unwrap();
    let calibration =
        Calibration { text: TextSource::Model, sequences: SEQUENCES, length: LENGTH, seed: 0, token_importance: TokenImportance::Equal };
    let drawn = calibration_sequences(&model, Some(&Text::open(text).unwrap()), &calibration, 0, &Silent).unwrap();
    ids::write(file, drawn.iter().flatten(), [SEQUENCES, LENGTH]);
}

fn ours(model: &Path, settings: &[&str], text: &Path, format: &str, work: &Path) -> Cost {
    let recipe = work.join("recipe.toml");
    let (method, keys) = (settings[0], settings[1..].join("\n"));
    let out = work.join("ours");
    let text = text.display();
    let text_of_recipe = format!(
        "[calibration]\ntext = '{text}'\nsequences = {SEQUENCES}\nlength = {LENGTH}\n[[stage]]\n[stage.{method}]\n{keys}\nbits = 4\ngroup_size = 128\n\
         skip = ['embeddings']\n[evaluate]\ntext = '{text}'\nwindow = 64\nmax_windows = 1\n"
    );
    std::fs::write(&recipe, text_of_recipe).unwrap();
    let mut run = Command::new(env!("CARGO_BIN_EXE_thimble"));
    run.args(["compress", "--json", "--dtype", format]).arg(&recipe).arg("--model").arg(model).arg("--out").arg(&out);
    let report = said(run);
    std::fs::remove_dir_all(&out).unwrap();
    let seconds = report["stages"][0]["seconds"].as_f64().unwrap();
    Cost { seconds: seconds / SHAPE.layers as f64, bytes: report["peak_memory_bytes"].as_f64().unwrap() }
}

fn theirs_of(model: &Path, settings: &[&str], ids: &Path, format: &str, work: &Path) -> Cost {
    let out = work.join("theirs");
    let mut run = Command::new(root().join(".venv-peers/bin/python"));
    run.current_dir(work).arg(root().join("python-compat/peers/quantize.py")).args([model, ids, &out]);
    run.args(["--bits", "4", "--group-size", "128", "--dtype", format, "--method", settings[0]]);
    run.args(settings[1..].iter().flat_map(|setting| ["--set", setting]));
    let note = said(run);
    std::fs::remove_dir_all(out).unwrap();
    let seconds = note["seconds"].as_f64().unwrap();
    Cost { seconds: seconds / SHAPE.layers as f64, bytes: note["peak_anonymous_bytes"].as_f64().unwrap() }
}

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}
