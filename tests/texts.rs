//! Texts as people have them: with byte-order marks, in other encodings, from standard input,
//! and longer than memory.

#[path = "common/data.rs"]
mod data;

use serde_json::Value;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use tempfile::TempDir;

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

fn demo_model() -> PathBuf {
    root().join("assets/demo/model")
}

fn held_out() -> String {
    std::fs::read_to_string(root().join("assets/demo/held-out.txt")).unwrap()
}

fn thimble(args: &[&str], input: &[u8]) -> Output {
    let mut child = Command::new(env!("CARGO_BIN_EXE_thimble"))
        .args(args)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let mut to = child.stdin.take().unwrap();
    let input = input.to_vec();
    // It may stop before it has read all.
    let writer = std::thread::spawn(move || drop(to.write_all(&input)));
    let done = child.wait_with_output().unwrap();
    writer.join().unwrap();
    done
}

fn perplexity(args: &[&str], input: &[u8]) -> f64 {
    let done = thimble(&[args, &["--json"]].concat(), input);
    assert!(done.status.success(), "{args:?}: {}", String::from_utf8_lossy(&done.stderr));
    let report: Value = serde_json::from_slice(&done.stdout).unwrap();
    report["perplexity"].as_f64().or_else(|| report["after"]["perplexity"].as_f64()).unwrap()
}

fn refused(args: &[&str], code: i32, says: &[&str]) {
    let done = thimble(args, b"");
    let error = String::from_utf8_lossy(&done.stderr).into_owned();
    assert_eq!(done.status.code(), Some(code), "{args:?}: {error}");
    assert!(says.iter().all(|word| error.contains(word)), "{args:?}: {says:?} is not in {error}");
}

struct Folder(TempDir);

impl Folder {
    fn new() -> Self {
        Self(tempfile::tempdir().unwrap())
    }

    fn put(&self, name: &str, content: impl AsRef<[u8]>) -> String {
        let path = self.0.path().join(name);
        std::fs::write(&path, content).unwrap();
        path.to_str().unwrap().to_owned()
    }

    #[cfg(feature = "torch")]
    fn path(&self, name: &str) -> String {
        self.0.path().join(name).to_str().unwrap().to_owned()
    }
}

const MARK: &str = "\u{feff}";

fn utf16(text: &str) -> Vec<u8> {
    format!("{MARK}{text}").encode_utf16().flat_map(u16::to_le_bytes).collect()
}

/// A mark would be a token of its own, before all others.
#[test]
fn a_byte_order_mark_changes_no_figure() {
    let folder = Folder::new();
    let model = demo_model();
    let model = model.to_str().unwrap();
    let eval = |text: &str| perplexity(&["eval", model, "--text", text, "--window", "64", "--max-windows", "4"], b"");
    let expected = eval(&folder.put("plain.txt", held_out()));
    assert_eq!(eval(&folder.put("marked.txt", format!("{MARK}{}", held_out()))), expected);
    // Only at the beginning is it none of the text's.
    assert_ne!(
        eval(&folder.put("inside.txt", format!("Once {MARK}{}", held_out()))),
        eval(&folder.put("i.txt", format!("Once {}", held_out())))
    );
    let item = r#"{"context": "Once upon a", "continuation": "time"}"#;
    let tasks = |name: &str, content: String| {
        let done = thimble(&["eval", model, "--tasks", &folder.put(name, content), "--json"], b"");
        let mut report: Value =
            serde_json::from_slice(&done.stdout).unwrap_or_else(|_| panic!("{}", String::from_utf8_lossy(&done.stderr)));
        report["tasks"].as_object_mut().unwrap().remove("item").unwrap()
    };
    assert_eq!(tasks("item.jsonl", item.into()), tasks("item.jsonl", format!("{MARK}{item}\r\n")));
}

#[test]
fn other_encodings_are_refused_by_name() {
    let folder = Folder::new();
    let model = demo_model();
    let model = model.to_str().unwrap();
    let texts = [
        (folder.put("utf16.txt", utf16(&held_out())), "UTF-16"),
        (folder.put("bare.txt", &utf16(&held_out())[2..]), "UTF-16"),
        (folder.put("utf32.txt", held_out().chars().flat_map(|c| (c as u32).to_be_bytes()).collect::<Vec<_>>()), "UTF-32"),
        (folder.put("latin.txt", b"sound, and then \xe9t\xe9"), "byte 16"),
    ];
    for (text, says) in &texts {
        refused(&["eval", model, "--text", text, "--window", "64"], 3, &[text, says, "convert it to UTF-8"]);
        refused(&["eval", model, "--tasks", text], 3, &[text, says, "convert it to UTF-8"]);
    }
}

#[test]
fn standard_input_is_a_text() {
    let folder = Folder::new();
    let model = demo_model();
    let options = ["eval", model.to_str().unwrap(), "--window", "64", "--max-windows", "4", "--text"];
    let text = folder.put("plain.txt", held_out());
    let from_file = perplexity(&[&options[..], &[&text]].concat(), b"");
    assert_eq!(perplexity(&[&options[..], &["-"]].concat(), held_out().as_bytes()), from_file);
    // Some pieces are read, and not all: what comes later need not be a text.
    let endless = [held_out().repeat(200).into_bytes(), b"\xff".repeat(1 << 22)].concat();
    assert_eq!(perplexity(&[&options[..], &["-"]].concat(), &endless), from_file);
    let done = thimble(&[&options[..], &["-"]].concat(), b"short");
    let error = String::from_utf8_lossy(&done.stderr).into_owned();
    assert!(done.status.code() == Some(2) && error.contains("less than one window of 64"), "{error}");
}

#[cfg(feature = "torch")]
mod compressing {
    use super::*;
    use thimble::random::Random;

    const RECIPE: &str = "[calibration]\nsequences = 4\nlength = 32\n[[stage]]\n[stage.rtn]\nbits = 8\n\
                          [evaluate]\nwindow = 64\nmax_windows = 2\nactivations = 'f32'\n";

    fn compress(folder: &Folder, out: &str, more: &[&str], input: &[u8]) -> Value {
        let (recipe, model, out) = (folder.put("r.toml", format!("{MARK}{RECIPE}")), demo_model(), folder.path(out));
        let args = ["compress", &recipe, "--model", model.to_str().unwrap(), "--out", &out, "--json"];
        let done = thimble(&[&args[..], more].concat(), input);
        assert!(done.status.success(), "{}", String::from_utf8_lossy(&done.stderr));
        serde_json::from_slice(&done.stdout).unwrap()
    }

    fn written(folder: &Folder, out: &str) -> Vec<u8> {
        std::fs::read(Path::new(&folder.path(out)).join("model.thimble")).unwrap()
    }

    /// A recipe with a mark; each of its texts from a file and from standard input.
    #[test]
    fn recipes_take_texts_from_standard_input() {
        let folder = Folder::new();
        let (plain, marked) = (folder.put("plain.txt", held_out()), folder.put("marked.txt", format!("{MARK}{}", held_out())));
        let text = held_out();
        let runs = [
            ("files", vec!["--calibration", &plain, "--eval-text", &plain]),
            ("marked", vec!["--calibration", &marked, "--eval-text", &marked]),
            ("calibration", vec!["--calibration", "-", "--eval-text", &plain]),
            ("evaluation", vec!["--calibration", &plain, "--eval-text", "-"]),
        ];
        let figures = |(out, more): &(&str, Vec<&str>)| compress(&folder, out, more, text.as_bytes())["after"].clone();
        let found: Vec<Value> = runs.iter().map(figures).collect();
        assert!(found.iter().all(|after| *after == found[0]), "{found:#?}");
        let model = demo_model();
        let both = [
            "compress",
            &folder.path("r.toml"),
            "--model",
            model.to_str().unwrap(),
            "--out",
            &folder.path("o"),
            "--calibration",
            "-",
            "--eval-text",
            "-",
        ];
        refused(&both, 2, &["standard input"]);
        refused(&["compress", &folder.put("r16.toml", utf16(RECIPE)), "--model", "m", "--out", "o"], 2, &["r16.toml", "UTF-16"]);
        refused(
            &[
                "compress",
                &folder.path("r.toml"),
                "--model",
                model.to_str().unwrap(),
                "--out",
                &folder.path("o"),
                "--set",
                "evaluate.window=4096",
            ],
            2,
            &["window 4096"],
        );
        let short = folder.put("short.txt", "Once upon a time");
        refused(
            &["compress", &folder.path("r.toml"), "--model", model.to_str().unwrap(), "--out", &folder.path("o"), "--eval-text", &short],
            2,
            &["[evaluate] window"],
        );
        assert!(!written(&folder, "files").is_empty());
    }

    /// The sequences of a text are those of its ids held at once.
    #[test]
    fn calibration_lies_where_the_seed_says() {
        use thimble::recipe::{Calibration, TextSource, TokenImportance};
        let folder = Folder::new();
        let path = folder.put("text.txt", held_out().repeat(12));
        let model = thimble::runtime::open(&demo_model(), None).unwrap();
        let recipe = Calibration { text: TextSource::Model, sequences: 9, length: 48, seed: 7, token_importance: TokenImportance::Equal };
        let text = thimble::text::Text::open(Path::new(&path)).unwrap();
        let found = thimble::pipeline::calibration_sequences(&model, Some(&text), &recipe, 1, &thimble::progress::Silent).unwrap();
        let ids = model.tokenizer().unwrap().encode(&std::fs::read_to_string(&path).unwrap()).unwrap();
        let text_tokens = |sequence: &[u32]| sequence[sequence.len() - 47..].to_vec();
        let mut places: Vec<usize> = (0..ids.len() / 47).collect();
        Random::new(7, 1).shuffle(&mut places, 9);
        for (sequence, place) in found.iter().zip(places) {
            assert_eq!(text_tokens(sequence), ids[place * 47..(place + 1) * 47]);
        }
        assert_eq!(found.len(), 9);
    }

    /// Anonymous memory: of a text of 8 MB whose tokens are all counted, a run keeps little.
    /// Encoded at once it would take some 700 MB.
    #[test]
    fn memory_of_a_long_calibration_text() {
        let folder = Folder::new();
        let text = held_out();
        let [short, long] = [text.len(), 8 << 20].map(|size| folder.put(&format!("{size}.txt"), text.repeat(size / text.len())));
        let peak = |out: &str, calibration: &str| {
            compress(&folder, out, &["--calibration", calibration, "--eval-text", &short], b"")["peak_memory_bytes"].as_u64().unwrap()
        };
        let (short, long) = (peak("short", &short), peak("long", &long));
        assert!(long < short + (128 << 20), "{short} bytes with a short text, {long} with a long one");
    }
}
