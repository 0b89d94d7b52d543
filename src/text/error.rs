//! Broken rules of the files that tokenizers are read from, a type for each kind of file.

use crate::error::FormatError;
use std::str::Utf8Error;

/// A world vocabulary of RWKV that is not sound.
#[derive(Debug, thiserror::Error)]
pub enum WorldError {
    #[error("not UTF-8: {0}")]
    NotUtf8(#[from] Utf8Error),
    #[error("line {line}: {error}")]
    Line { line: usize, error: WorldLineError },
    #[error("{tokens} tokens, none of which is the byte {byte:#04x} (truncated?)")]
    NoByte { tokens: usize, byte: u8 },
}

/// A line of it that is not an id, a literal and its length, or not the only one of its kind.
#[derive(Debug, thiserror::Error)]
pub enum WorldLineError {
    #[error("expected an id, a literal and its length")]
    Fields,
    #[error("expected an id of 32 bits above 0 in {0:?}")]
    Id(String),
    #[error("{0} is no literal of a token")]
    Literal(String),
    #[error("the token is of {found} bytes, but the line says {says}")]
    Length { found: usize, says: String },
    #[error("the token of id {id} is that of id {other}")]
    SameToken { id: u32, other: u32 },
    #[error("id {0} is there twice")]
    SameId(u32),
}

/// A sentencepiece model, or another scored vocabulary, that cannot be put as a tokenizer.json.
#[derive(Debug, thiserror::Error)]
pub enum VocabularyError {
    #[error("broken after {pieces} pieces (truncated?)")]
    Cut { pieces: usize },
    #[error("{pieces} pieces, but not both a trainer_spec and a normalizer_spec (truncated?)")]
    NoSpecs { pieces: usize },
    #[error("piece {0} is broken")]
    BrokenPiece(usize),
    #[error("its {0} is broken")]
    BrokenSpec(&'static str),
    #[error("a model of {0}; unigram and bpe can be read")]
    Algorithm(String),
    #[error("treat_whitespace_as_suffix is set, which cannot be read")]
    WhitespaceAsSuffix,
    #[error("config.json says {family}; expected it to begin with the pieces {pieces}")]
    Order { family: &'static str, pieces: String },
    #[error("its precompiled_charsmap of {bytes} bytes does not hold a trie of {trie} bytes")]
    Charsmap { bytes: usize, trie: usize },
    #[error("piece {id}, {text:?}, {rule}")]
    Piece { id: usize, text: String, rule: PieceRule },
    #[error("piece {id} is of {bytes} bytes; expected at most {max}")]
    LongPiece { id: usize, bytes: usize, max: usize },
    #[error("none of {pieces} pieces is the unknown one")]
    NoUnknown { pieces: usize },
    #[error("the added token {token:?} has id {id}, where {taken} are taken")]
    AddedBeyond { token: String, id: u32, taken: usize },
    #[error(transparent)]
    Added(#[from] AddedError),
}

/// What is wrong with a piece.
#[derive(Clone, Copy, Debug, thiserror::Error)]
pub enum PieceRule {
    #[error("is empty")]
    Empty,
    #[error("has a score that is not finite")]
    Score,
    #[error("is there twice")]
    Twice,
    #[error("is marked as unused, which cannot be read")]
    Unused,
    #[error("is a second unknown piece")]
    SecondUnknown,
}

/// A token beside a vocabulary whose id or text is another's.
#[derive(Debug, thiserror::Error)]
pub enum AddedError {
    #[error("the token {token:?} has id {found}, but {id} beside the vocabulary")]
    OtherId { token: String, found: serde_json::Value, id: u32 },
    #[error("the added token {token:?} has id {id}, which is taken")]
    Taken { token: String, id: u32 },
}

/// GPT-2's vocab.json and merges.txt that do not belong together, or are not sound.
#[derive(Debug, thiserror::Error)]
pub enum ByteLevelError {
    #[error("not a valid vocab.json: {0}")]
    NotJson(#[from] serde_json::Error),
    #[error("not a valid tokenizer.json; a vocab.json needs {0} beside it, which is not there")]
    NoMerges(&'static str),
    #[error("token {token:?}: expected an id of 32 bits, found {found}")]
    Id { token: String, found: serde_json::Value },
    #[error("tokens {other:?} and {token:?} both have id {id}")]
    SameId { other: String, token: String, id: u32 },
    #[error("line {line}: expected two tokens with a blank between, found {found:?}")]
    Merge { line: usize, found: String },
    #[error("line {line}: token {token:?} is not in the vocab.json beside it")]
    UnknownToken { line: usize, token: String },
    #[error("holds no merges")]
    Empty,
    #[error(
        "tokenizer_config.json names a {0}, which cannot be read from this file; known are GPT2Tokenizer, CodeGenTokenizer, RobertaTokenizer, BartTokenizer and Qwen2Tokenizer"
    )]
    Class(String),
    #[error(transparent)]
    Added(#[from] AddedError),
}

impl FormatError for ByteLevelError {}

/// The error of one kind of tokenizer's file, behind the kind that was taken for it.
#[derive(Debug, thiserror::Error)]
pub enum TokenizerError {
    #[error("not a sound world vocabulary: {0}")]
    World(#[from] WorldError),
    #[error("not a sentencepiece model that can be read: {0}")]
    Sentencepiece(VocabularyError),
    #[error("not a vocabulary that can be read: {0}")]
    Vocabulary(VocabularyError),
}

impl FormatError for TokenizerError {
    fn is_truncated(&self) -> bool {
        match self {
            Self::World(error) => matches!(error, WorldError::NoByte { .. }),
            Self::Sentencepiece(error) | Self::Vocabulary(error) => {
                matches!(error, VocabularyError::Cut { .. } | VocabularyError::NoSpecs { .. })
            }
        }
    }
}
