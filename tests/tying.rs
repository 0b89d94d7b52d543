//! Weights that say otherwise than their configuration does: whether the head is the
//! embedding, and how wide each block is. All against transformers (see
//! `python-compat/write_openings.py`).

#[cfg(feature = "torch")]
#[path = "common/compress.rs"]
mod compress;
#[path = "common/damage.rs"]
mod damage;
#[path = "common/data.rs"]
mod data;
#[path = "common/openings.rs"]
mod openings;

use damage::{copy_of, edit_json, edit_tensors};
use openings::{WEIGHTS, assert_close, expected, is_refused, logits, warns};
use serde_json::Value;
#[cfg(feature = "torch")]
use serde_json::json;
use std::path::{Path, PathBuf};
use thimble::runtime;

const CONFIG: &str = "config.json";

fn rows() -> Vec<Value> {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/data/tying.json");
    let rows: Vec<Value> = serde_json::from_slice(&std::fs::read(path).unwrap()).unwrap();
    assert!(rows.len() >= 60, "rows are missing");
    rows
}

/// A fixture edited as a row says: see `EDITS` in the script.
fn edited(row: &Value) -> (tempfile::TempDir, PathBuf) {
    let text = |key: &str| row[key].as_str().unwrap();
    let (dir, model) = copy_of(text("fixture"));
    edit_json(&model.join(CONFIG), |config| config["tie_word_embeddings"] = true.into());
    edit_tensors(&model.join(WEIGHTS), |tensors| {
        let (embedding, head) = (text("embedding"), text("head"));
        let (dtype, shape, bytes) = (tensors.dtype(embedding), tensors.shape(embedding), tensors.bytes(embedding).to_vec());
        if tensors.names().iter().any(|name| name == head) {
            tensors.remove(head);
        }
        let row_bytes = bytes.len() / shape[0];
        let bytes = match text("edit") {
            "differs" => bytes.chunks_exact(row_bytes).rev().flatten().copied().collect(),
            _ => bytes,
        };
        if text("edit") == "head_alone" {
            tensors.remove(embedding);
        }
        tensors.insert(head, &dtype, &shape, &bytes);
    });
    (dir, model)
}

/// A head that is there and differs is a head of its own, one that equals is stored once, and
/// an embedding under the head's name alone is found, in every family.
#[test]
fn weights_decide_whether_the_head_is_tied_as_in_transformers() {
    for row in rows() {
        let what = format!("{} {}", row["fixture"], row["edit"]);
        let (_dir, folder) = edited(&row);
        let model = runtime::open(&folder, None).unwrap_or_else(|e| panic!("{what}: {e}"));
        assert_eq!(model.spec().tied, row["tied"].as_bool().unwrap(), "{what}");
        let (ids, _) = expected(&folder);
        let logits = logits(&model, &ids);
        let last: Vec<f32> = row["logits"].as_array().unwrap().iter().map(|x| x.as_f64().unwrap() as f32).collect();
        assert_close(&what, &logits[logits.len() - last.len()..], &last);
    }
}

#[test]
fn a_head_that_differs_is_warned_of() {
    let row = |edit: &str| rows().into_iter().find(|row| row["edit"] == edit && row["fixture"] == "qwen2-tied").unwrap();
    let (_dir, model) = edited(&row("differs"));
    warns("a head that differs", &model, &["lm_head.weight", "differs from model.embed_tokens.weight", "tie_word_embeddings"]);
    for edit in ["equals", "head_alone"] {
        let (_dir, model) = edited(&row(edit));
        let output = openings::inspect(&model);
        assert!(output.status.success() && output.stderr.is_empty(), "{edit}: {}", String::from_utf8_lossy(&output.stderr));
    }
}

/// transformers fills a head that is neither there nor tied with random numbers.
#[test]
fn a_head_that_is_neither_there_nor_tied_is_refused() {
    let (_dir, model) = copy_of("llama-gqa-tied");
    edit_json(&model.join(CONFIG), |config| config["tie_word_embeddings"] = false.into());
    is_refused("no head", &model, &["lm_head.weight is missing", "set \"tie_word_embeddings\" to true"]);
}

/// Compressed and written for other libraries, the head stays what it was opened as.
#[cfg(feature = "torch")]
#[test]
fn an_untied_head_is_packed_as_one() {
    let row = rows().into_iter().find(|row| row["edit"] == "differs" && row["fixture"] == "gpt_neox-parallel").unwrap();
    let (dir, folder) = edited(&row);
    let (ids, _) = expected(&folder);
    let source = runtime::open(&folder, None).unwrap();
    let before = logits(&source, &ids);
    let out = dir.path().join("small");
    std::fs::create_dir(&out).unwrap();
    compress::run("[[stage]]\n[stage.rtn]\nbits = 8\ngroup_size = 32\n[evaluate]\nwindow = 16\nmax_windows = 2\n", &folder, &out).unwrap();
    let after = logits(&runtime::open(&out, None).unwrap(), &ids);
    let scale = before.iter().fold(0.0f32, |m, x| m.max(x.abs()));
    let difference = before.iter().zip(&after).fold(0.0f32, |m, (a, b)| m.max((a - b).abs()));
    // As far as 8 bits take the fixture's own head; the embedding as the head is all of it away.
    assert!(difference < 0.05 * scale, "8 bits are {difference} of {scale} away");

    use thimble::export::Format;
    let format = thimble::export::HuggingFace::of(&source).unwrap();
    let written = dir.path().join("written");
    std::fs::create_dir(&written).unwrap();
    format.write(&*format.shipped(source.store.clone()).unwrap(), &Default::default(), &written).unwrap();
    let config: Value = serde_json::from_slice(&std::fs::read(written.join(CONFIG)).unwrap()).unwrap();
    assert_eq!(config["tie_word_embeddings"], json!(false));
    assert_close("written again", &logits(&runtime::open(&written, None).unwrap(), &ids), &before);
}

/// Blocks of other widths than the configuration says: fewer heads and kv heads, a narrower
/// feed-forward; in matrices of their own, and in one that holds q, k and v.
#[test]
fn widths_that_differ_by_block_are_those_of_the_tensors() {
    for (name, heads, width) in [("llama", (2, 1), 20), ("gpt2", (3, 3), 85)] {
        let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/data/uneven").join(name);
        let model = openings::opens_as_transformers(name, &folder);
        let [first, second] = &model.spec().blocks[..] else { panic!("{name}: two blocks") };
        let attention = second.attention().unwrap();
        assert_eq!(((attention.n_heads, attention.n_kv_heads), second.feed_forward().unwrap().width), (heads, width), "{name}");
        assert!(first.feed_forward().unwrap().width > width, "{name}");
        warns(name, &folder, &["widths differ by block", "block 1", &format!("feed-forward {width}")]);
    }
}

/// One width for all blocks that is not the configuration's is no pruning.
#[test]
fn widths_that_are_wrong_everywhere_are_refused() {
    let (_dir, model) = copy_of("llama-gqa-tied");
    edit_json(&model.join(CONFIG), |config| config["intermediate_size"] = 40.into());
    is_refused("another width", &model, &["[40, 36]", "[44, 36]"]);
    // Nor are heads that cannot share their kv heads.
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/data/uneven/llama");
    let (_dir, model) = copy_of("llama-gqa-tied");
    for file in [CONFIG, WEIGHTS] {
        std::fs::copy(folder.join(file), model.join(file)).unwrap();
    }
    edit_tensors(&model.join(WEIGHTS), |tensors| {
        for name in ["model.layers.1.self_attn.k_proj.weight", "model.layers.1.self_attn.v_proj.weight"] {
            tensors.remove(name);
            tensors.insert(name, "F32", &[3 * 8, 32], &[0; 4 * 3 * 8 * 32]);
        }
    });
    is_refused("heads that do not share", &model, &["model.layers.1."]);
}
