//! Text that is given out token by token is, put together, what all tokens make at once.

#[path = "common/damage.rs"]
mod damage;
#[path = "common/data.rs"]
mod data;

use damage::{copy_with_tokenizer, edit_json};
use serde_json::{Value, json};
use std::path::{Path, PathBuf};
use std::process::Command;
use thimble::random::Random;
use thimble::text::Tokenizer;

fn made(name: &str, json: &Value) -> (String, Tokenizer) {
    (name.to_owned(), Tokenizer::from_file(json.to_string().into_bytes(), Path::new(name)).unwrap())
}

/// Tokenizers of every way to decode: bytes, pieces with bytes to fall back to, words, sub-words
/// with a mark at their beginning or end, and two decoders one after the other.
fn tokenizers() -> Vec<(String, Tokenizer)> {
    let beginnings: Value = serde_json::from_str(include_str!("data/beginnings.json")).unwrap();
    let (bytes, pieces) = (&beginnings["tokenizers"]["byte-level"], &beginnings["tokenizers"]["pieces"]);
    let with = |json: &Value, decoder: Value| {
        let mut json = json.clone();
        json["decoder"] = decoder;
        json
    };
    let metaspace = json!({ "type": "Metaspace", "replacement": "▁", "prepend_scheme": "always", "split": true });
    let mixed =
        json!({ "type": "Sequence", "decoders": [{ "type": "Replace", "pattern": { "String": "q" }, "content": "Ġ" }, bytes["decoder"]] });
    let word_piece = json!({ "type": "WordPiece", "prefix": "t", "cleanup": true });
    let mut all = vec![
        made("byte-level", bytes),
        made("pieces", pieces),
        made("words", &damage::tokenizer(96)),
        made("metaspace", &with(pieces, metaspace)),
        made("word-piece", &with(pieces, word_piece)),
        made("suffix", &with(pieces, json!({ "type": "BPEDecoder", "suffix": "e" }))),
        made("mixed", &with(bytes, mixed)),
    ];
    let committed = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/data/tokenizers");
    let files = [
        "bpe.model",
        "bpe-symbols.model",
        "unigram.model",
        "unigram-bytes.model",
        "opt/vocab.json",
        "qwen2/vocab.json",
        "xglm/sentencepiece.bpe.model",
    ];
    let mut files: Vec<PathBuf> = files.iter().map(|name| committed.join(name)).collect();
    if let Some(shared) = data::shared("streams") {
        let names = [
            "llama2/tokenizer.model",
            "llama2/tokenizer.bin",
            "gpt2/vocab.json",
            "gpt-neox-20b/20B_tokenizer.json",
            "t5/tokenizer.json",
            "rwkv-world/rwkv_vocab_v20230424.txt",
        ];
        files.extend(names.map(|name| shared.join("tokenizers").join(name)));
        files.extend(
            ["house-6m", "stories260K/hf", "babyllama-tok105/hf"].map(|name| shared.join("models").join(name).join("tokenizer.json")),
        );
    }
    all.extend(files.into_iter().map(|path| (path.display().to_string(), Tokenizer::open(&path).unwrap())));
    all
}

/// Pieces, each before the next token is known.
fn streamed(tokenizer: &Tokenizer, ids: &[u32]) -> String {
    let mut stream = tokenizer.stream();
    let mut text: String = ids.iter().map(|&id| stream.push(id).unwrap()).collect();
    text.push_str(&stream.finish().unwrap());
    text
}

#[test]
fn pieces_together_are_the_whole() {
    const TEXTS: [&str; 5] =
        ["Once upon a time.\n\n  Two 🙂🙂 smiles\n", "naïve Größe мир 世界 e\u{301}", "\u{fffd} and \u{fffd}\u{fffd}", " a", "🙂"];
    for (name, tokenizer) in tokenizers() {
        let words: Vec<u32> = tokenizer.words().into_keys().collect();
        // Bytes are few among many words: runs of them are drawn too.
        let bytes: Vec<u32> = tokenizer
            .words()
            .into_iter()
            .filter(|(_, word)| word.text.starts_with("<0x") || word.text.chars().count() == 1)
            .map(|(id, _)| id)
            .collect();
        for seed in 0..400u64 {
            let random = Random::new(seed, 11);
            let below = |k: u64, n: usize| random.below(n as u64, k) as usize;
            let mut ids = Vec::new();
            for k in 0..1 + below(0, 24) as u64 {
                let from = if below(3 * k + 1, 2) == 0 || bytes.is_empty() { &words } else { &bytes };
                // Some ids are of no token.
                ids.push(if below(3 * k + 2, 40) == 0 { u32::MAX } else { from[below(3 * k + 3, from.len())] });
            }
            assert_eq!(streamed(&tokenizer, &ids), tokenizer.decode(&ids).unwrap(), "{name}: {ids:?}");
        }
        for text in TEXTS {
            let ids = tokenizer.encode(text).unwrap();
            // Cut anywhere, so within characters too.
            for end in 0..=ids.len() {
                assert_eq!(streamed(&tokenizer, &ids[..end]), tokenizer.decode(&ids[..end]).unwrap(), "{name}: {:?}", &ids[..end]);
            }
        }
    }
}

/// A text is given out as it comes, not at its end.
#[test]
fn whole_characters_are_given_at_once() {
    let text = "The big dog sat. 🙂 It was warm";
    for (name, tokenizer) in tokenizers().into_iter().filter(|(name, _)| !name.contains("words")) {
        let ids = tokenizer.encode(text).unwrap();
        let mut stream = tokenizer.stream();
        let given: String = ids[..ids.len() - 1].iter().map(|&id| stream.push(id).unwrap()).collect();
        let all = tokenizer.decode(&ids).unwrap();
        let last = all.chars().count() - given.chars().count();
        assert!(last <= 12, "{name}: {last} characters of {all:?} are held back");
    }
}

/// Time grows with the length: a text of so many tokens that decoding all of them at each one would take hours.
#[test]
fn long_texts_are_streamed_in_linear_time() {
    for (name, tokenizer) in tokenizers().into_iter().take(7) {
        let words: Vec<u32> = tokenizer.words().into_keys().collect();
        let random = Random::new(7, 1);
        let mut stream = tokenizer.stream();
        let start = std::time::Instant::now();
        // Bytes, of which none completes a character, are the worst case.
        let lone = tokenizer.id("<0xE2>").or(tokenizer.id("â")).unwrap_or(words[5]);
        for i in 0..40_000 {
            stream.push(if i < 20_000 { words[random.below(words.len() as u64, i) as usize] } else { lone }).unwrap();
        }
        stream.finish().unwrap();
        assert!(start.elapsed().as_secs() < 20, "{name}: {:?}", start.elapsed());
    }
}

/// `run` prints what `run --json` says, behind the prompt, with a tokenizer most of whose tokens are bytes.
#[test]
fn run_prints_what_its_json_says() {
    let (_dir, model) = copy_with_tokenizer("llama-gqa-tied");
    let bytes = (0..93).map(|i| [0xE2, 0x9F, 0x99, 0xC3, 0xA9, 0xF0, 0x82, 0x0A, 0x41][i % 9] ^ if i < 9 { 0 } else { (i / 9) as u8 });
    let mut vocabulary =
        serde_json::Map::from_iter([("<unk>", 0), ("<s>", 1), ("</s>", 2)].map(|(token, id)| (token.to_owned(), json!(id))));
    let mut tokens: Vec<String> = Vec::new();
    for byte in bytes {
        let token = format!("<0x{byte:02X}>");
        if !tokens.contains(&token) {
            tokens.push(token);
        }
    }
    tokens.extend(["▁".into(), "w".into(), "é".into()]);
    tokens.extend((0..).map(|i| format!("x{i}")).take(93 - tokens.len().min(93)));
    vocabulary.extend(tokens.into_iter().take(93).zip(3..).map(|(token, id): (String, u64)| (token, id.into())));
    let decoders = json!([{ "type": "Replace", "pattern": { "String": "▁" }, "content": " " }, { "type": "ByteFallback" }, { "type": "Fuse" }, { "type": "Strip", "content": " ", "start": 1, "stop": 0 }]);
    edit_json(&model.join("tokenizer.json"), |tokenizer| {
        tokenizer["model"] = json!({ "type": "BPE", "vocab": vocabulary, "merges": [], "unk_token": "<unk>", "byte_fallback": true });
        tokenizer["pre_tokenizer"] = Value::Null;
        tokenizer["decoder"] = json!({ "type": "Sequence", "decoders": decoders });
    });
    let tokenizer = Tokenizer::find(&model).unwrap().unwrap();
    let mut replaced = 0;
    for seed in 0..30 {
        let run = |more: &[&str]| {
            let args = [
                "run",
                model.to_str().unwrap(),
                "--prompt",
                "w\u{e9}w",
                "--temperature",
                "3",
                "--top-p",
                "1",
                "--max-tokens",
                "14",
                "--seed",
            ];
            let done = Command::new(env!("CARGO_BIN_EXE_thimble")).args(args).arg(seed.to_string()).args(more).output().unwrap();
            assert!(done.status.success(), "{}", String::from_utf8_lossy(&done.stderr));
            String::from_utf8(done.stdout).unwrap()
        };
        let report: Value = serde_json::from_str(&run(&["--json"])).unwrap();
        let all: Vec<u32> = [&report["prompt_ids"], &report["ids"]]
            .iter()
            .flat_map(|ids| serde_json::from_value::<Vec<u32>>((*ids).clone()).unwrap())
            .collect();
        let (printed, whole) = (run(&[]), tokenizer.decode(&all).unwrap());
        assert_eq!(printed.strip_suffix('\n'), Some(&*whole), "{all:?}");
        assert_eq!(whole, format!("wéw{}", report["text"].as_str().unwrap()), "{all:?}");
        replaced += usize::from(whole.ends_with('\u{fffd}'));
    }
    assert!(replaced > 3, "{replaced} texts end within a character");
}
