//! Text to token ids and back, and the corpus that a model is trained on.

mod added;
mod byte_level;
mod charsmap;
pub mod corpus;
mod cuts;
mod decode_stream;
mod error;
mod fairseq;
mod guard;
mod hugging_face;
mod llama2c;
mod model_proto;
mod prefix;
mod protobuf;
pub mod read;
mod rows;
mod sentencepiece;
mod source;
pub mod stream;
mod words;
mod world;

pub use decode_stream::{TextStream, behind};
pub use words::Word;

use crate::error::{Error, Result};
use crate::input;
use crate::pattern::matches;
use crate::progress::Silent;
use added::Beside;
use error::TokenizerError;
use hugging_face::HuggingFace;
use prefix::Prefix;
use read::TextReader;
use sentencepiece::Vocabulary;
pub use source::{Ids, Text};
use std::path::{Path, PathBuf};
use stream::{Token, TokenStream};
use world::World;

/// A tokenizer, whatever it was read from.
pub struct Tokenizer {
    kind: Kind,
    file: Vec<u8>,
    path: PathBuf,
    bos: Option<u32>,
    eos: Option<u32>,
    /// Put before a text.
    prefix: Vec<u32>,
    /// Rows of the model's embedding, where they are known.
    rows: Option<usize>,
}

enum Kind {
    HuggingFace(Box<HuggingFace>),
    World(World),
}

/// Names of files that hold a tokenizer, best first, with what must lie beside
/// them. A `*` stands for anything.
const CANDIDATES: [(&str, Option<&str>); 6] = [
    ("tokenizer.json", None),
    ("tokenizer.model", None),
    ("spiece.model", None),
    ("sentencepiece.bpe.model", None),
    ("vocab.json", Some(byte_level::MERGES)),
    ("rwkv_vocab*.txt", None),
];

/// Bytes of a text that are encoded at once at most.
const LONG: usize = 1 << 20;

const NOT_JSON: &str = "not a valid tokenizer.json";

impl Tokenizer {
    /// What can be opened, for messages.
    pub const READABLE: &str = "tokenizer.json, sentencepiece's tokenizer.model, vocab.json with merges.txt beside it, \
         rwkv_vocab_v20230424.txt or llama2.c's tokenizer.bin";

    /// Opens a file of any kind, told apart by content. A sentencepiece model and
    /// a vocab.json are read with what lies beside them.
    pub fn open(path: &Path) -> Result<Self> {
        let mut bytes = input::read(path)?;
        if path.extension().is_some_and(|e| e == "json") {
            bytes.drain(..input::mark_len(&bytes, path)?);
        }
        if is_json(&bytes) && byte_level::recognises(&bytes) {
            let json = byte_level::tokenizer_json(&bytes, path)?;
            return Self::converted(&json, path)?.beside(&Beside::read(path)?, |prefix| prefix.of_vocabulary(None, byte_level::CLASS));
        }
        if let Some(vocabulary) = llama2c::read(&bytes) {
            return Ok(Self::from_vocabulary(&vocabulary, &[], path)?.with_prefix(vocabulary.bos.into_iter().collect()));
        }
        if !is_json(&bytes) && model_proto::recognises(&bytes) {
            return Self::open_sentencepiece(&bytes, path);
        }
        let post_processor = post_processor(&bytes);
        Self::from_file(bytes, path)?.beside(&Beside::config_of(path)?, |prefix| prefix.of_tokenizer_json(&post_processor))
    }

    /// With the prefix that the files beside it tell.
    fn beside(self, beside: &Beside, prefix: impl FnOnce(Prefix) -> Vec<u32>) -> Result<Self> {
        match self.kind {
            Kind::HuggingFace(_) => {
                let ids = prefix(Prefix { beside, id: &|token| self.id(token), path: &self.path });
                Ok(self.with_prefix(ids))
            }
            Kind::World(_) => Ok(self),
        }
    }

    /// With a prefix, which becomes the template of its tokenizer.json where that says another:
    /// the file stands for itself.
    fn with_prefix(mut self, ids: Vec<u32>) -> Self {
        if let (Kind::HuggingFace(inner), true) = (&self.kind, ids != self.prefix)
            && let Ok(mut json) = serde_json::from_slice::<serde_json::Value>(&self.file)
        {
            json["post_processor"] = prefix::post_processor(&ids, |id| inner.token(id));
            self.file = json.to_string().into_bytes();
        }
        self.prefix = ids;
        self
    }

    /// Opens the tokenizer in a folder, where there is one.
    pub fn find(dir: &Path) -> Result<Option<Self>> {
        // A folder that may not be listed is not one without a tokenizer.
        std::fs::read_dir(dir).map_err(Error::io("read", dir))?;
        for (name, other) in CANDIDATES {
            let there = other.is_none_or(|other| dir.join(other).exists());
            if let Some(path) = file_named(dir, name).filter(|_| there) {
                return Self::open(&path).map(Some);
            }
        }
        Ok(None)
    }

    /// From the bytes of a file that stands for itself, as [`Tokenizer::file`]
    /// gives them; `path` is for messages.
    pub fn from_file(file: Vec<u8>, path: &Path) -> Result<Self> {
        let (kind, end) = if is_json(&file) {
            (Kind::HuggingFace(Box::new(HuggingFace::read(&file, path, NOT_JSON)?)), None)
        } else if world::recognises(&file) {
            let world = World::read(&file).map_err(|error| Error::broken(path, TokenizerError::World(error)))?;
            (Kind::World(world), Some(world::END_OF_TEXT))
        } else {
            let reason = format!("not a tokenizer that is known: neither {}", Self::READABLE);
            return Err(Error::format(path, reason));
        };
        let prefix = prefix::template(&post_processor(&file)).unwrap_or_default();
        Ok(Self { kind, file, path: path.to_owned(), bos: end, eos: end, prefix, rows: None })
    }

    fn open_sentencepiece(bytes: &[u8], path: &Path) -> Result<Self> {
        let error = |error| Error::broken(path, TokenizerError::Sentencepiece(error));
        let beside = Beside::read(path)?;
        let mut vocabulary = model_proto::read(bytes).map_err(error)?;
        if beside.model_type() == Some(fairseq::FAMILY) {
            vocabulary = fairseq::reorder(vocabulary).map_err(error)?;
        }
        let ids = vocabulary.ids();
        let added = beside.tokens(|token| ids.get(token).copied())?;
        let class = if beside.model_type() == Some(fairseq::FAMILY) { fairseq::CLASS } else { sentencepiece::CLASS };
        let tokenizer = Self::from_vocabulary(&vocabulary, &added, path)?;
        tokenizer.beside(&beside, |prefix| prefix.of_vocabulary(vocabulary.bos, class))
    }

    fn from_vocabulary(vocabulary: &Vocabulary, added: &[added::Added], path: &Path) -> Result<Self> {
        let json = sentencepiece::tokenizer_json(vocabulary, added);
        let json = json.map_err(|error| Error::broken(path, TokenizerError::Vocabulary(error)))?;
        Ok(Self { bos: vocabulary.bos, eos: vocabulary.eos, ..Self::converted(&json, path)? })
    }

    fn converted(json: &serde_json::Value, path: &Path) -> Result<Self> {
        let file = json.to_string().into_bytes();
        let kind = Kind::HuggingFace(Box::new(HuggingFace::read(&file, path, "cannot be put as a tokenizer.json")?));
        Ok(Self { kind, file, path: path.to_owned(), bos: None, eos: None, prefix: Vec::new(), rows: None })
    }

    /// The ids of a text, without special tokens around it. A long text is encoded in pieces (see
    /// [`stream`]), whose ids are those of the whole. Fails where a token has no row in the model's
    /// embedding ([`Tokenizer::limit_to`]).
    pub fn encode(&self, text: &str) -> Result<Vec<u32>> {
        self.encode_from(text, &self.path)
    }

    /// Ids of a text from a file; errors name the file.
    pub fn encode_from(&self, text: &str, origin: &Path) -> Result<Vec<u32>> {
        if text.len() > LONG {
            return TokenStream::new(self, TextReader::of(text, origin)).first(None, &Silent);
        }
        let ids = self.encode_any(text)?;
        self.check_rows(&ids, self.rows(), text, origin)?;
        Ok(ids)
    }

    fn encode_any(&self, text: &str) -> Result<Vec<u32>> {
        match &self.kind {
            Kind::HuggingFace(inner) => inner.encode(text, &self.path),
            Kind::World(world) => Ok(world.encode(text)),
        }
    }

    /// Ids with the byte range of each token. The whole text is encoded at once.
    fn tokens(&self, text: &str) -> Result<Vec<Token>> {
        match &self.kind {
            Kind::HuggingFace(inner) => inner.tokens(text, &self.path),
            Kind::World(world) => Ok(world.tokens(text).collect()),
        }
    }

    /// The text of ids, without special tokens.
    pub fn decode(&self, ids: &[u32]) -> Result<String> {
        match &self.kind {
            Kind::HuggingFace(inner) => inner.decode(ids, &self.path),
            Kind::World(world) => Ok(world.decode(ids)),
        }
    }

    /// The id of a token; a world vocabulary knows none by a name.
    pub fn id(&self, token: &str) -> Option<u32> {
        match &self.kind {
            Kind::HuggingFace(inner) => inner.id(token),
            Kind::World(_) => None,
        }
    }

    /// What begins a text, where the file says so (a tokenizer.json does not).
    pub fn bos(&self) -> Option<u32> {
        self.bos
    }

    /// The tokens that go before a text: none, BOS, or several. transformers puts them where
    /// `add_special_tokens` is true.
    pub fn prefix(&self) -> &[u32] {
        &self.prefix
    }

    /// What ends a text, where the file says so.
    pub fn eos(&self) -> Option<u32> {
        self.eos
    }

    /// Says what ends a text where the file does not: the model may.
    pub fn default_eos(&mut self, eos: Option<u32>) {
        self.eos = self.eos.or(eos);
    }

    /// The file it was read from.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The bytes of a file with all of it: a tokenizer.json, or a world vocabulary.
    pub fn file(&self) -> &[u8] {
        &self.file
    }
}

/// A text that begins with `{`. (sentencepiece models have zero bytes; to some a
/// length would give such a beginning.)
fn is_json(bytes: &[u8]) -> bool {
    bytes.trim_ascii_start().first() == Some(&b'{') && !bytes.contains(&0)
}

/// The post-processor of a tokenizer.json, `null` where there is none.
fn post_processor(file: &[u8]) -> serde_json::Value {
    #[derive(serde::Deserialize)]
    struct Part {
        post_processor: serde_json::Value,
    }
    serde_json::from_slice(file).map_or(serde_json::Value::Null, |part: Part| part.post_processor)
}

/// The first file of that name in a folder, by the alphabet.
fn file_named(dir: &Path, name: &str) -> Option<PathBuf> {
    let fits = |path: &PathBuf| path.file_name().and_then(|n| n.to_str()).is_some_and(|n| matches(name, n));
    std::fs::read_dir(dir).ok()?.flatten().map(|entry| entry.path()).filter(fits).min()
}
