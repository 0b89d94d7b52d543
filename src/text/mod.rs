//! Text to token ids and back, and the corpus that a model is trained on.

mod added;
mod byte_level;
mod charsmap;
pub mod corpus;
mod cuts;
mod fairseq;
mod guard;
mod hugging_face;
mod llama2c;
mod model_proto;
mod protobuf;
mod sentencepiece;
mod world;

use crate::error::{Error, Result};
use crate::pattern::matches;
use added::Beside;
pub(crate) use added::optional_json;
use hugging_face::HuggingFace;
use sentencepiece::Vocabulary;
use std::path::{Path, PathBuf};
use world::World;

/// What a file holds, or what is wrong with it.
type Sound<T> = std::result::Result<T, String>;

/// A tokenizer, whatever it was read from.
pub struct Tokenizer {
    kind: Kind,
    file: Vec<u8>,
    path: PathBuf,
    bos: Option<u32>,
    eos: Option<u32>,
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

const NOT_JSON: &str = "not a valid tokenizer.json";

impl Tokenizer {
    /// What can be opened, for messages.
    pub const READABLE: &str = "tokenizer.json, sentencepiece's tokenizer.model, vocab.json with merges.txt beside it, \
         rwkv_vocab_v20230424.txt or llama2.c's tokenizer.bin";

    /// Opens a file of any kind, told apart by content. A sentencepiece model and
    /// a vocab.json are read with what lies beside them.
    pub fn open(path: &Path) -> Result<Self> {
        let bytes = std::fs::read(path).map_err(Error::io("read", path))?;
        if is_json(&bytes) && byte_level::recognises(&bytes) {
            let json = byte_level::tokenizer_json(&bytes, path)?;
            return Self::converted(&json, path);
        }
        if let Some(vocabulary) = llama2c::read(&bytes) {
            return Self::from_vocabulary(&vocabulary, &[], path);
        }
        if !is_json(&bytes) && model_proto::recognises(&bytes) {
            return Self::open_sentencepiece(&bytes, path);
        }
        Self::from_file(bytes, path)
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
            let world = World::read(&file).map_err(|reason| Error::format(path, format!("not a sound world vocabulary: {reason}")))?;
            (Kind::World(world), Some(world::END_OF_TEXT))
        } else {
            let reason = format!("not a tokenizer that is known: neither {}", Self::READABLE);
            return Err(Error::format(path, reason));
        };
        Ok(Self { kind, file, path: path.to_owned(), bos: end, eos: end })
    }

    fn open_sentencepiece(bytes: &[u8], path: &Path) -> Result<Self> {
        let error = |reason| Error::format(path, format!("not a sentencepiece model that can be read: {reason}"));
        let beside = Beside::read(path)?;
        let mut vocabulary = model_proto::read(bytes).map_err(error)?;
        if beside.model_type() == Some(fairseq::FAMILY) {
            vocabulary = fairseq::reorder(vocabulary).map_err(error)?;
        }
        let ids = vocabulary.ids();
        let added = beside.tokens(|token| ids.get(token).copied())?;
        Self::from_vocabulary(&vocabulary, &added, path)
    }

    fn from_vocabulary(vocabulary: &Vocabulary, added: &[added::Added], path: &Path) -> Result<Self> {
        let json = sentencepiece::tokenizer_json(vocabulary, added);
        let json = json.map_err(|reason| Error::format(path, format!("not a vocabulary that can be read: {reason}")))?;
        Ok(Self { bos: vocabulary.bos, eos: vocabulary.eos, ..Self::converted(&json, path)? })
    }

    fn converted(json: &serde_json::Value, path: &Path) -> Result<Self> {
        let file = json.to_string().into_bytes();
        let kind = Kind::HuggingFace(Box::new(HuggingFace::read(&file, path, "cannot be put as a tokenizer.json")?));
        Ok(Self { kind, file, path: path.to_owned(), bos: None, eos: None })
    }

    /// The ids of a text, without special tokens around it.
    pub fn encode(&self, text: &str) -> Result<Vec<u32>> {
        match &self.kind {
            Kind::HuggingFace(inner) => inner.encode(text, &self.path),
            Kind::World(world) => Ok(world.encode(text)),
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

    /// Fails where another one's ids are not these: two models can then not be compared, nor
    /// learn from each other. A sample of letters, numbers and signs tells.
    pub fn check_same(&self, other: &Self) -> Result<()> {
        const SAMPLE: &str =
            "Once upon a time, Lily saw 3 big trees (and 1,024 ants)!\n\tdef f(x): return x**2 # \"naïve\"; Größe, мир, 世界.";
        if self.encode(SAMPLE)? == other.encode(SAMPLE)? {
            return Ok(());
        }
        let reason = format!("gives text other ids than {} does: the models must have one tokenizer", self.path.display());
        Err(Error::format(&other.path, reason))
    }

    /// Fails where a token has no row in an embedding of `vocab_size`.
    pub fn check_vocabulary(&self, vocab_size: usize) -> Result<()> {
        let last = match &self.kind {
            Kind::HuggingFace(inner) => inner.last(),
            Kind::World(world) => world.last(),
        };
        match last {
            Some((token, id)) if id as usize >= vocab_size => {
                let reason = format!(
                    "token {token:?} has id {id}, but the model's embedding has {vocab_size} rows: this tokenizer belongs to another model"
                );
                Err(Error::format(&self.path, reason))
            }
            _ => Ok(()),
        }
    }
}

/// A text that begins with `{`. (sentencepiece models have zero bytes; to some a
/// length would give such a beginning.)
fn is_json(bytes: &[u8]) -> bool {
    bytes.trim_ascii_start().first() == Some(&b'{') && !bytes.contains(&0)
}

/// The first file of that name in a folder, by the alphabet.
fn file_named(dir: &Path, name: &str) -> Option<PathBuf> {
    let fits = |path: &PathBuf| path.file_name().and_then(|n| n.to_str()).is_some_and(|n| matches(name, n));
    std::fs::read_dir(dir).ok()?.flatten().map(|entry| entry.path()).filter(fits).min()
}
