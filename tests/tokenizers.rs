//! Tokenizers of every kind against the Python libraries that they are meant for:
//! what those made of texts is in `tests/data/tokenizations.json`, written by
//! `python-compat/write_tokenizations.py`.

#[path = "common/damage.rs"]
mod damage;
#[path = "common/data.rs"]
mod data;

use damage::file;
use serde_json::{Value, json};
use sha2::{Digest, Sha256};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};
use thimble::quant::native::{self, Notes};
use thimble::random::Random;
use thimble::text::Tokenizer;

/// Most that reading a whole text may take.
const PATIENCE: Duration = Duration::from_secs(20);

fn committed(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/data").join(name)
}

fn expected() -> Value {
    serde_json::from_slice(&std::fs::read(committed("tokenizations.json")).unwrap()).unwrap()
}

/// Those whose files are committed, and the others where the data is there.
fn each(test: &str, mut check: impl FnMut(&str, &Tokenizer, &Value)) {
    let shared = data::shared(test);
    for (name, entry) in expected()["tokenizers"].as_object().unwrap() {
        let file = entry["file"].as_str().unwrap();
        let path = [Some(committed(file)), shared.as_ref().map(|dir| dir.join(file))].into_iter().flatten().find(|p| p.exists());
        if let Some(path) = path {
            check(name, &Tokenizer::open(&path).unwrap(), entry);
        }
    }
}

fn ids(value: &Value) -> Vec<u32> {
    value.as_array().unwrap().iter().map(|id| id.as_u64().unwrap() as u32).collect()
}

fn digest(bytes: impl AsRef<[u8]>) -> String {
    Sha256::digest(bytes).iter().map(|byte| format!("{byte:02x}")).collect()
}

fn digest_of_ids(ids: &[u32]) -> String {
    digest(ids.iter().flat_map(|id| id.to_le_bytes()).collect::<Vec<u8>>())
}

/// A file of text, or the `text` of every line of a .jsonl.
fn whole_text(path: &Path) -> String {
    let text = std::fs::read_to_string(path).unwrap();
    if path.extension().is_none_or(|e| e != "jsonl") {
        return text;
    }
    let texts = text.lines().map(|line| serde_json::from_str::<Value>(line).unwrap()["text"].as_str().unwrap().to_owned());
    texts.collect::<Vec<_>>().join("\n")
}

#[test]
fn tricky_texts_as_in_python() {
    let mut wrong = Vec::new();
    let mut count = 0;
    each("tricky_texts_as_in_python", |name, tokenizer, entry| {
        for case in entry["strings"].as_array().unwrap() {
            let text = case["text"].as_str().unwrap();
            let (found, expected) = (tokenizer.encode(text).unwrap(), ids(&case["ids"]));
            count += 1;
            if found != expected {
                wrong.push(format!("{name}: {text:?}: found {found:?}, expected {expected:?}"));
            }
            let decoded = tokenizer.decode(&expected).unwrap();
            if case["decoded"].as_str().is_some_and(|expected| expected != decoded) {
                wrong.push(format!("{name}: decoded {decoded:?}, expected {}", case["decoded"]));
            }
        }
    });
    assert!(wrong.is_empty(), "{} of {count}:\n{}", wrong.len(), wrong.join("\n"));
}

#[test]
fn runs_of_one_thing_as_in_python() {
    let runs = expected()["runs"].clone();
    let mut wrong = Vec::new();
    each("runs_of_one_thing_as_in_python", |name, tokenizer, entry| {
        let mut all = Vec::new();
        for run in runs["of"].as_array().unwrap() {
            for n in 1..=runs["up_to"].as_u64().unwrap() as usize {
                all.extend(tokenizer.encode(&run.as_str().unwrap().repeat(n)).unwrap());
            }
        }
        if entry["runs"] != json!({ "count": all.len(), "sha256": digest_of_ids(&all) }) {
            wrong.push(format!("{name}: {} ids, expected {}", all.len(), entry["runs"]["count"]));
        }
    });
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn whole_texts_as_in_python() {
    let Some(shared) = data::shared("whole_texts_as_in_python") else { return };
    let mut wrong = Vec::new();
    each("whole_texts_as_in_python", |name, tokenizer, entry| {
        for (file, expected) in entry["whole"].as_object().unwrap() {
            let text = whole_text(&shared.join(file));
            let start = Instant::now();
            let found = tokenizer.encode(&text).unwrap();
            let encoding = start.elapsed();
            let decoded = tokenizer.decode(&found).unwrap();
            println!("{name}: {file}: {} ids, encoded in {encoding:.2?}, decoded in {:.2?}", found.len(), start.elapsed() - encoding);
            assert!(start.elapsed() < PATIENCE, "{name}: {file}: {:?}", start.elapsed());
            let first = ids(&expected["first"]);
            if !found.starts_with(&first) || expected["count"] != found.len() || expected["sha256"] != digest_of_ids(&found) {
                wrong.push(format!("{name}: {file}: {} ids, expected {}", found.len(), expected["count"]));
            }
            if !expected["decoded_sha256"].is_null() && expected["decoded_sha256"] != digest(&decoded) {
                wrong.push(format!("{name}: {file}: decoded to another text"));
            }
            if expected["gives_back"] == true && decoded != text {
                wrong.push(format!("{name}: {file}: does not give the text back"));
            }
        }
    });
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

const MODELS: [&str; 4] = ["bpe.model", "bpe-symbols.model", "unigram.model", "unigram-bytes.model"];

/// A folder with copies of committed files.
fn folder_of(files: &[&str]) -> tempfile::TempDir {
    let dir = tempfile::tempdir().unwrap();
    for name in files {
        let from = committed("tokenizers").join(name);
        std::fs::copy(&from, dir.path().join(from.file_name().unwrap())).unwrap();
    }
    dir
}

#[test]
fn folders_hold_tokenizers_of_many_names() {
    let same = |files: &[&str], other: &str| {
        let dir = folder_of(files);
        let found = Tokenizer::find(dir.path()).unwrap().map(|t| t.file().to_vec());
        let expected = Tokenizer::open(&committed("tokenizers").join(other)).unwrap();
        assert!(found.as_deref() == Some(expected.file()), "{files:?}: not {other}");
    };
    same(&["xglm/sentencepiece.bpe.model"], "unigram.model");
    same(&["xglm/sentencepiece.bpe.model", "xglm/config.json"], "xglm/sentencepiece.bpe.model");
    same(&["xglm/sentencepiece.bpe.model", "opt/vocab.json", "opt/merges.txt"], "unigram.model");
    let opt = ["opt/vocab.json", "opt/merges.txt", "opt/special_tokens_map.json", "opt/added_tokens.json", "opt/tokenizer_config.json"];
    same(&opt, "opt/vocab.json");
    for (name, model) in [("tokenizer.model", "bpe.model"), ("spiece.model", "unigram.model")] {
        let dir = tempfile::tempdir().unwrap();
        std::fs::copy(committed("tokenizers").join(model), dir.path().join(name)).unwrap();
        assert!(Tokenizer::find(dir.path()).unwrap().is_some(), "{name}");
    }
    // A vocab.json by itself belongs to other kinds.
    assert!(Tokenizer::find(folder_of(&["opt/vocab.json"]).path()).unwrap().is_none());
    assert!(Tokenizer::find(folder_of(&[]).path()).unwrap().is_none());
}

/// A world vocabulary of every byte and some words.
fn world() -> String {
    let byte = |b: u16| format!("{} b'\\x{b:02x}' 1\n", b + 1);
    let words = ["'the'", "' the'", "'th'", "' there'", "'\\u4f60'", "b'\\xe4\\xbd'"];
    let lengths = [3, 4, 2, 6, 3, 2];
    let words = words.iter().zip(lengths).zip(257..).map(|((word, length), id)| format!("{id} {word} {length}\n"));
    (0..256).map(byte).chain(words).collect()
}

#[test]
fn a_world_vocabulary_takes_the_longest_token() {
    let dir = tempfile::tempdir().unwrap();
    let path = file(dir.path().join("rwkv_vocab_small.txt"), world());
    let tokenizer = Tokenizer::find(dir.path()).unwrap().expect("the only file there");
    assert_eq!(tokenizer.encode("the there thx the你佡").unwrap(), [257, 260, 33, 259, 121, 258, 261, 262, 0xa1 + 1]);
    assert_eq!(tokenizer.decode(&[0, 258, 262, 1 + 0xa1, 260, 262, 9999]).unwrap(), " the佡 there\u{fffd}");
    assert_eq!((tokenizer.bos(), tokenizer.eos(), tokenizer.id("the")), (Some(0), Some(0), None));
    let again = Tokenizer::from_file(tokenizer.file().to_vec(), &path).unwrap();
    assert_eq!(again.encode(" there").unwrap(), [260]);
    assert_eq!((tokenizer.prefix(), tokenizer.words().last_key_value().unwrap().0), (&[][..], &262));
}

/// What a configuration lacks, the tokenizer's file may say; and a native file
/// keeps a tokenizer of any kind.
#[test]
fn models_with_tokenizers_of_other_kinds() {
    let (dir, model) = damage::copy_of("llama-gqa-tied");
    let letters = (0..93).map(|i| piece(&char::from_u32(0x3b1 + i).unwrap().to_string(), -1.0, 1)).collect::<Vec<_>>();
    file(model.join("tokenizer.model"), sentencepiece(&letters, &[0x18, 1], &[0x18, 0]));
    let opened = |path: &Path| thimble::runtime::open(path, None).unwrap();
    let special = opened(&model).spec().special.clone();
    damage::edit_json(&model.join("config.json"), |config| {
        config.as_object_mut().unwrap().retain(|key, _| !["bos_token_id", "eos_token_id"].contains(&key.as_str()));
    });
    let told = opened(&model);
    assert_eq!((told.spec().special.bos, &told.spec().special.eos[..]), (Some(1), &[2][..]), "the configuration said {special:?}");
    assert_eq!(told.tokenizer().unwrap().encode("αβγ").unwrap(), [3, 4, 5]);

    // Named, it says the same; another one's ids are others.
    let named = thimble::runtime::open(&model, Some(&model.join("tokenizer.model"))).unwrap();
    assert_eq!(named.spec().special, told.spec().special);
    told.tokenizer().unwrap().check_same(named.tokenizer().unwrap()).unwrap();
    let other = Tokenizer::open(&committed("tokenizers").join("bpe.model")).unwrap();
    let error = told.tokenizer().unwrap().check_same(&other).unwrap_err().to_string();
    assert!(error.contains("bpe.model: token 3 is") && error.contains("tokenizer.model"), "{error}");

    let native = dir.path().join("model.thimble");
    native::write_model(&native, &*told.store, told.tokenizer.as_ref().map(|t| t.file()), &Notes::default()).unwrap();
    let packed = opened(&native);
    assert_eq!(packed.spec().special, told.spec().special);
    assert_eq!(packed.tokenizer().unwrap().encode("γβα").unwrap(), [5, 4, 3]);

    native::write_model(&native, &*told.store, Some(world().as_bytes()), &Notes::default()).unwrap();
    let beyond = opened(&native);
    assert_eq!(beyond.tokenizer().unwrap().encode("!?").unwrap(), [34, 64]);
    let error = beyond.tokenizer().unwrap().encode("!the").unwrap_err().to_string();
    assert!(error.contains("\"the\" (id 257; token 2 of the text, line 1, character 2)") && error.contains("96 rows"), "{error}");
    native::write_model(&native, &*told.store, Some(b"1 'a'"), &Notes::default()).unwrap();
    let error = thimble::runtime::open(&native, None).map(|_| ()).unwrap_err().to_string();
    assert!(error.contains("model.thimble") && error.contains("world vocabulary"), "{error}");
}

/// A template in a file of its own, as transformers writes it since 4.43, wins.
#[test]
fn chat_templates_are_found() {
    let (_dir, model) = damage::copy_of("llama-gqa-tied");
    let template = || thimble::runtime::open_weights(&model).unwrap().notes.chat_template;
    assert_eq!(template(), Value::Null);
    file(model.join("tokenizer_config.json"), json!({ "chat_template": "{{ old }}" }).to_string());
    assert_eq!(template(), "{{ old }}");
    file(model.join("chat_template.jinja"), "{{ new }}");
    assert_eq!(template(), "{{ new }}");
}

#[track_caller]
fn is_refused(what: &str, path: &Path, says: &[&str]) {
    let error = Tokenizer::open(path).map(|_| ()).expect_err(what);
    assert_eq!(i32::from(error.exit_code()), 3, "{what}: {error}");
    for part in says {
        assert!(error.to_string().contains(part), "{what}: {part:?} is not in\n{error}");
    }
}

#[test]
fn files_cut_anywhere_are_refused() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("tokenizer.model");
    for model in MODELS {
        let whole = std::fs::read(committed("tokenizers").join(model)).unwrap();
        for length in 0..whole.len() {
            std::fs::write(&path, &whole[..length]).unwrap();
            is_refused(&format!("{length} bytes of {model}"), &path, &["tokenizer.model"]);
        }
    }
    let whole = world();
    let path = dir.path().join("rwkv_vocab.txt");
    for length in (0..whole.rfind("256 ").unwrap() + 11).step_by(7) {
        std::fs::write(&path, &whole[..length]).unwrap();
        is_refused(&format!("{length} bytes of a world vocabulary"), &path, &["rwkv_vocab.txt"]);
    }
}

/// `THIMBLE_DAMAGES` = how many for each file.
#[test]
fn random_damage_is_refused_or_read() {
    let count = std::env::var("THIMBLE_DAMAGES").map_or(200, |n| n.parse().unwrap());
    let world_dir = tempfile::tempdir().unwrap();
    let world = file(world_dir.path().join("world.txt"), world());
    let opt = folder_of(&["opt/vocab.json", "opt/merges.txt", "opt/special_tokens_map.json", "opt/added_tokens.json"]);
    let vocab = opt.path().join("vocab.json");
    let models = folder_of(&MODELS);
    let mut files: Vec<(PathBuf, PathBuf)> = MODELS.map(|m| models.path().join(m)).map(|p| (p.clone(), p)).into();
    files.push((world.clone(), world));
    files.extend(std::fs::read_dir(opt.path()).unwrap().map(|entry| (vocab.clone(), entry.unwrap().path())));
    for (stream, (opened, path)) in (1..).zip(files) {
        let random = Random::new(5, stream);
        let sound = std::fs::read(&path).unwrap();
        let mut refused = 0;
        for i in 0..count {
            let draw = |k: u64, below: usize| random.below(below as u64, 16 * i + k) as usize;
            let mut bytes = sound.clone();
            for k in 0..1 + draw(0, 4) as u64 {
                let at = draw(2 * k + 1, bytes.len());
                bytes[at] ^= 1 << draw(2 * k + 2, 8);
            }
            std::fs::write(&path, bytes).unwrap();
            let read = || {
                let tokenizer = Tokenizer::open(&opened)?;
                tokenizer.decode(&tokenizer.encode("Once upon a time, \t ｶﾞ é <sep>🙂")?)
            };
            if let Err(error) = read() {
                assert_eq!(i32::from(error.exit_code()), 3, "{error}");
                refused += 1;
            }
        }
        std::fs::write(&path, sound).unwrap();
        println!("{}: {refused} of {count} refused", path.display());
    }
}

/// A field of a message, of bytes.
fn field(number: u8, bytes: &[u8]) -> Vec<u8> {
    let length = bytes.len();
    [&[number << 3 | 2, length as u8 | 0x80, (length >> 7) as u8 | 0x80, (length >> 14) as u8], bytes].concat()
}

fn piece(text: &str, score: f32, kind: u8) -> Vec<u8> {
    field(1, &[field(1, text.as_bytes()), vec![0x15], score.to_le_bytes().to_vec(), vec![0x18, kind]].concat())
}

/// A tokenizer.model: three special pieces, then those.
fn sentencepiece(pieces: &[Vec<u8>], trainer: &[u8], normalizer: &[u8]) -> Vec<u8> {
    let special = [piece("<unk>", 0.0, 2), piece("<s>", 0.0, 3), piece("</s>", 0.0, 3)];
    [special.concat(), pieces.concat(), field(2, trainer), field(3, normalizer)].concat()
}

#[test]
fn models_that_make_no_sense_are_refused() {
    let dir = tempfile::tempdir().unwrap();
    let model = |pieces: &[Vec<u8>], trainer: &[u8], normalizer: &[u8]| {
        file(dir.path().join("x.model"), sentencepiece(pieces, trainer, normalizer))
    };
    let (bpe, unigram) = ([0x18, 2], [0x18, 1]);
    let a = || piece("a", -1.0, 1);
    for kind in [bpe, unigram] {
        let sound = Tokenizer::open(&model(&[a(), piece("\u{2581}", -2.0, 1)], &kind, &[])).unwrap();
        assert_eq!(sound.encode("a</s>a a").unwrap(), [4, 3, 2, 4, 3, 4, 3]);
        // No ids at all, and ids that no piece has.
        let none = [&kind[..], &[0xc8, 2, 9, 0xd0, 2], &[0xff; 9], &[1]].concat();
        let none = Tokenizer::open(&model(&[a()], &none, &[])).unwrap();
        assert_eq!((sound.bos(), sound.eos(), none.bos(), none.eos()), (Some(1), Some(2), None, None));
    }
    let map = |bytes: &[u8]| field(2, bytes);
    let huge = u32::MAX.to_le_bytes();
    let trie = [&8u32.to_le_bytes()[..], &[0xff; 8], b"a\0"].concat();
    let long = "a".repeat(600);
    type Case<'a> = (&'a str, &'a [Vec<u8>], &'a [u8], &'a [u8], &'a str);
    let cases: [Case; 15] = [
        ("words", &[a()], &[0x18, 3], &[], "type word"),
        ("characters", &[a()], &[0x18, 4], &[], "type char"),
        ("another type", &[a()], &[0x18, 9], &[], "type 9"),
        ("a type of another kind", &[a()], &field(3, b"x"), &[], "trainer_spec is broken"),
        ("blanks behind words", &[a()], &[0x18, 2, 0xc0, 1, 1], &[], "treat_whitespace_as_suffix"),
        ("a piece twice", &[a(), a()], &bpe, &[], "piece 4, \"a\", is there twice"),
        ("an empty piece", &[piece("", 0.0, 1)], &bpe, &[], "piece 3, \"\", is empty"),
        ("no number", &[piece("a", f32::NAN, 1)], &unigram, &[], "not finite"),
        ("an unused piece", &[piece("a", 0.0, 5)], &unigram, &[], "unused"),
        ("a piece of no kind", &[piece("a", 0.0, 7)], &unigram, &[], "piece 3 is broken"),
        ("two unknown ones", &[piece("a", 0.0, 2)], &unigram, &[], "second unknown"),
        ("a long piece", &[piece(&long, 0.0, 1)], &bpe, &[], "600 bytes"),
        ("a charsmap of one byte", &[a()], &unigram, &map(b"x"), "precompiled_charsmap"),
        ("a huge trie", &[a()], &unigram, &map(&[&huge[..], b"1234"].concat()), "trie of 4294967295 bytes"),
        ("no trie", &[a()], &unigram, &map(&[0; 8]), "trie of 0 bytes"),
    ];
    for (what, pieces, trainer, normalizer, says) in cases {
        is_refused(what, &model(pieces, trainer, normalizer), &["x.model", says]);
    }
    // What only a text brings to light is an error then.
    let broken = Tokenizer::open(&model(&[a()], &unigram, &map(&trie))).unwrap();
    assert!(broken.encode("\u{ff}a").unwrap_err().to_string().contains("x.model: cannot encode"));
    let unknown = [piece("a", 0.0, 1), field(2, &bpe), field(3, &[])].concat();
    is_refused("no unknown piece", &file(dir.path().join("x.model"), unknown), &["x.model", "none of 1 pieces"]);
    let endless = [&[0x0a, 3, 0x0a, 1, b'a', 0x0a][..], &[0xff; 9], &[1]].concat();
    is_refused("a length of 64 bits", &file(dir.path().join("x.model"), endless), &["x.model", "broken after 1 pieces"]);
}

/// Spelled out, the name of a byte or of a special token is a text, however far
/// into a text it stands.
#[test]
fn names_of_bytes_are_texts() {
    for model in ["bpe.model", "bpe-symbols.model", "unigram-bytes.model"] {
        let tokenizer = Tokenizer::open(&committed("tokenizers").join(model)).unwrap();
        for before in ["", "a a ", &"The cat sat. ".repeat(120_000)] {
            let text = format!("{before}<0x0A>");
            let back = tokenizer.decode(&tokenizer.encode(&text).unwrap()).unwrap();
            assert!(back == text, "{model}: behind {} bytes", before.len());
        }
    }
}

#[test]
fn two_files_that_do_not_fit_are_refused() {
    let dir = folder_of(&["opt/vocab.json", "opt/merges.txt"]);
    let (vocab, merges) = (dir.path().join("vocab.json"), dir.path().join("merges.txt"));
    let sound = |name: &str| std::fs::read_to_string(committed("tokenizers/opt").join(name)).unwrap();
    let with = |name: &str, content: &str| {
        std::fs::write(&vocab, sound("vocab.json")).unwrap();
        std::fs::write(&merges, sound("merges.txt")).unwrap();
        std::fs::write(dir.path().join(name), content).unwrap();
    };
    let line = sound("merges.txt").lines().count() + 1;
    let add = |extra: &str| format!("{}{extra}", sound("merges.txt"));
    let tokens = |extra: &str| sound("vocab.json").replacen('{', &format!("{{{extra},"), 1);
    let at_line = format!("line {line}");
    let cases: [(&str, String, &[&str]); 14] = [
        ("merges.txt", add("a xyz\n"), &["merges.txt", &at_line, "\"xyz\"", "not in the vocab.json"]),
        ("merges.txt", add("x y\n"), &["merges.txt", &at_line, "\"xy\""]),
        ("merges.txt", add("a b c\n"), &["merges.txt", &at_line, "expected two tokens", "a b c"]),
        ("merges.txt", add("ab\n"), &["merges.txt", &at_line, "expected two tokens"]),
        ("merges.txt", String::new(), &["merges.txt", "no merges"]),
        ("vocab.json", tokens("\"one\": 5"), &["vocab.json", "\"one\"", "both have id 5"]),
        ("vocab.json", tokens("\"one\": 4294967296"), &["vocab.json", "\"one\"", "32 bits", "4294967296"]),
        ("vocab.json", tokens("\"one\": -1"), &["vocab.json", "\"one\"", "-1"]),
        ("vocab.json", tokens("\"one\": 360.5"), &["vocab.json", "\"one\"", "360.5"]),
        ("vocab.json", "{\"a\": 0".into(), &["vocab.json", "not a valid vocab.json"]),
        ("vocab.json", "{}".into(), &["vocab.json", "not a valid tokenizer.json"]),
        ("vocab.json", String::new(), &["vocab.json", "neither"]),
        ("added_tokens.json", "{\"one\": 5}".into(), &["vocab.json", "\"one\"", "5", "taken"]),
        ("added_tokens.json", "{\"<pad>\": 500}".into(), &["vocab.json", "<pad>", "500"]),
    ];
    for (name, content, says) in cases {
        with(name, &content);
        is_refused(&format!("{name}: {}", says.join(" ")), &vocab, says);
    }
    with("added_tokens.json", "[1]");
    is_refused("a list", &vocab, &["added_tokens.json", "object"]);
    with("added_tokens.json", "{\"one\": 4294967296}");
    is_refused("a long id", &vocab, &["added_tokens.json", "\"one\"", "4294967296"]);
    with("added_tokens.json", "{\"far\": 4000000000}");
    assert_eq!(Tokenizer::open(&vocab).unwrap().encode("far").unwrap(), [4_000_000_000]);
    std::fs::remove_file(dir.path().join("added_tokens.json")).unwrap();
    let config = "tokenizer_config.json";
    for (content, says) in [
        ("{\"tokenizer_class\": \"CLIPTokenizer\"}", "CLIPTokenizer"),
        ("{\"added_tokens_decoder\": {\"x\": {\"content\": \"a\"}}}", "\"x\""),
        ("{\"added_tokens_decoder\": {\"400\": {}}}", "400"),
        ("{", "not JSON"),
    ] {
        with(config, content);
        is_refused(content, &vocab, &[config, says]);
    }
    with(config, "{}");
    std::fs::remove_file(&merges).unwrap();
    is_refused("no merges.txt", &vocab, &["vocab.json", "needs merges.txt beside it"]);
}

#[test]
fn world_vocabularies_that_make_no_sense_are_refused() {
    let dir = tempfile::tempdir().unwrap();
    let cases = [
        ("1 'a' 1\n1 'b' 1\n", "line 2: id 1 is there twice"),
        ("1 'a' 1\n2 'a' 1\n", "line 2: the token of id 2 is that of id 1"),
        ("1 'a' 2\n", "line 1: the token is of 1 bytes, but the line says 2"),
        ("4294967296 'a' 1\n", "32 bits"),
        ("0 'a' 1\n", "above 0"),
        ("1 '' 0\n", "no literal"),
        ("1 'a\n", "expected an id"),
        ("1 'a' 1\nxyz\n", "line 2: expected an id"),
        ("1 'a' 1\n", "the byte 0x00"),
    ];
    for (content, says) in cases {
        is_refused(content, &file(dir.path().join("rwkv_vocab.txt"), content), &["rwkv_vocab.txt", says]);
    }
    let far = file(dir.path().join("far.txt"), format!("{}4294967295 'far' 3\n", world()));
    assert_eq!(Tokenizer::open(&far).unwrap().encode("far").unwrap(), [u32::MAX]);
}

#[test]
fn other_files_are_refused_by_what_can_be_read() {
    let Some(shared) = data::shared("other_files_are_refused_by_what_can_be_read") else { return };
    let bert = shared.join("tokenizers/bert-base-uncased/vocab.txt");
    is_refused(
        "BERT's",
        &bert,
        &["vocab.txt", "neither", "tokenizer.json", "tokenizer.model", "vocab.json", "rwkv_vocab", "tokenizer.bin"],
    );
}
