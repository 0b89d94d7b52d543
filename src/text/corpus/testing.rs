//! What the tests of corpora share.

use super::cache::{self, Found};
use super::read::{READING, Stream};
use super::*;
use std::sync::Mutex;

/// More than any tokenizer here has, and too many for ids of two bytes.
pub const VOCABULARY: usize = 70_000;

/// A sentencepiece tokenizer, which knows what ends a text.
pub fn tokenizer() -> Tokenizer {
    other_tokenizer("bpe.model")
}

/// One of those among the test data.
pub fn other_tokenizer(name: &str) -> Tokenizer {
    Tokenizer::open(&Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/data/tokenizers").join(name)).unwrap()
}

/// A corpus whose tokens are their places.
pub fn corpus(tokens: usize, unscored: &[Range<usize>]) -> Corpus {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("corpus.safetensors");
    let stream = Stream { ids: (0..tokens as u32).collect(), unscored: unscored.to_vec() };
    cache::write(&path, &stream, VOCABULARY, "key").unwrap();
    match cache::open(&path, "key").unwrap() {
        Found::Fitting(corpus) => corpus,
        _ => panic!("what was written does not fit"),
    }
}

/// A folder with one source and a cache.
pub struct Folder(pub tempfile::TempDir);

impl Folder {
    /// With a file of that name.
    pub fn with(name: &str, content: impl AsRef<[u8]>) -> Self {
        let folder = Self(tempfile::tempdir().unwrap());
        std::fs::create_dir(folder.0.path().join("sources")).unwrap();
        folder.put(name, content);
        folder
    }

    /// Puts a file there.
    pub fn put(&self, name: &str, content: impl AsRef<[u8]>) {
        std::fs::write(self.0.path().join("sources").join(name), content).unwrap();
    }

    /// Where the cache is.
    pub fn cache(&self) -> PathBuf {
        self.0.path().join("corpus.safetensors")
    }

    /// The corpus, and whether files were tokenised for it.
    pub fn open(&self, tokenizer: Option<&Tokenizer>, vocab_size: usize) -> Result<(Corpus, bool)> {
        let heard = Heard::default();
        let corpus = Corpus::open_or_build(&[self.0.path().join("sources")], tokenizer, vocab_size, &self.cache(), &heard)?;
        let begun = heard.0.into_inner().unwrap();
        Ok((corpus, begun.iter().any(|what| what == READING)))
    }

    /// Ids and which of them are scored.
    pub fn tokens(&self, tokenizer: Option<&Tokenizer>) -> (Vec<u32>, Vec<bool>) {
        let (corpus, _) = self.open(tokenizer, VOCABULARY).unwrap();
        (corpus.ids(0..corpus.len()).collect(), corpus.scored(0..corpus.len()))
    }

    /// What is said of files that are refused.
    pub fn refusal(&self, tokenizer: Option<&Tokenizer>) -> String {
        self.open(tokenizer, 1000).err().expect("it is to be refused").to_string()
    }
}

/// Remembers what has begun.
#[derive(Default)]
struct Heard(Mutex<Vec<String>>);

impl Progress for Heard {
    fn begin(&self, what: &str, _steps: u64, _unit: crate::progress::Unit) {
        self.0.lock().unwrap().push(what.to_owned());
    }
    fn advance(&self, _steps: u64) {}
    fn end(&self) {}
}
