//! Broken rules of a checkpoint: of the archive, of the pickle in it, and of the tensors that the
//! pickle names. Texts of the file come as [`super::shown`] makes them fit for a message.

use super::globals::Global;
use crate::error::FormatError;

/// Why a file cannot be read.
#[derive(Debug, thiserror::Error)]
pub enum FileError {
    #[error(transparent)]
    Archive(#[from] ArchiveError),
    /// `at` is the byte of the pickle whose opcode failed.
    #[error("its pickle {error} (byte {at})")]
    Opcode { error: PickleError, at: usize },
    #[error("its pickle {0}")]
    Pickle(PickleError),
    #[error("holds two tensors named {0}")]
    TwoTensors(String),
    #[error("tensor {name}: {error}")]
    View { name: String, error: ViewError },
}

impl FormatError for FileError {
    fn is_truncated(&self) -> bool {
        use ArchiveError::*;
        match self {
            Self::Archive(error) => matches!(error, NotACheckpoint { .. } | NotAnArchive | OutsideFile { .. }),
            Self::Opcode { error, .. } | Self::Pickle(error) => matches!(error, PickleError::Truncated),
            Self::TwoTensors(_) | Self::View { .. } => false,
        }
    }
}

/// A zip archive that cannot be viewed, or that `torch.save` did not write. Places are in bytes.
#[derive(Debug, thiserror::Error)]
pub enum ArchiveError {
    #[error("in the format of torch before 1.6, which is not read: save it again with a newer torch, or convert it to safetensors")]
    Legacy,
    #[error("truncated or not a checkpoint of torch.save: it has {bytes} bytes and does not begin as one")]
    NotACheckpoint { bytes: usize },
    #[error("truncated or not a zip archive: it does not end as one")]
    NotAnArchive,
    #[error("a zip archive, but none of torch.save: no data.pkl is in it")]
    NoPickle,
    #[error("holds two files data.pkl")]
    TwoPickles,
    #[error("a TorchScript program: save the model's state_dict instead")]
    TorchScript,
    #[error("its byteorder is {0}: only little is read")]
    ByteOrder(String),
    #[error("holds two files named {0}")]
    TwoFiles(String),
    #[error("its files {0} and {1} overlap")]
    Overlap(String, String),
    #[error("its zip64 end is not where its locator says")]
    Zip64End,
    #[error("its central directory is not before byte {end}, where its end is")]
    DirectoryOutside { end: usize },
    #[error("its central directory is broken at byte {at}")]
    Directory { at: usize },
    #[error("its file {0} is encrypted")]
    Encrypted(String),
    #[error("its file {name} is compressed (method {method}): only stored ones can be viewed")]
    Compressed { name: String, method: u64 },
    #[error("its file {name} is stored, and yet of {len} bytes that take {packed_len}")]
    StoredLength { name: String, len: usize, packed_len: usize },
    #[error("its file {name} has another name at byte {at}")]
    OtherName { name: String, at: usize },
    #[error("truncated or damaged: its file {name} of {len} bytes at byte {at} is not in it")]
    OutsideFile { name: String, len: usize, at: usize },
}

/// A pickle that is broken, or of more than tensors. Messages continue "its pickle".
#[derive(Debug, thiserror::Error)]
pub enum PickleError {
    #[error("is truncated")]
    Truncated,
    #[error("ends {rest} bytes before its file does")]
    Trailing { rest: usize },
    #[error("takes more than {max} steps")]
    Steps { max: usize },
    #[error("is nested deeper than {max}")]
    Depth { max: usize },
    #[error("is of protocol {0}: 2 to 5 are read")]
    Protocol(u8),
    #[error("has the opcode {0:#04x}, which torch.save does not write for tensors")]
    UnknownOpcode(u8),
    #[error("has a text of {len} bytes: {max} at most are read")]
    LongText { len: u64, max: usize },
    #[error("has a text that is not UTF-8")]
    Text,
    #[error("has a name that is no text")]
    Name,
    #[error("has a name without an end")]
    EndlessName,
    #[error("sets a key without a value")]
    KeyWithoutValue,
    #[error("takes from an empty stack")]
    EmptyStack,
    #[error("closes a mark that is not open")]
    NoMark,
    #[error("reads place {0} of its memo, where nothing is")]
    Memo(u32),
    #[error("calls {module}.{name}: refused, a checkpoint may hold tensors only")]
    Refused { module: String, name: String },
    #[error("calls {0}")]
    NotCallable(&'static str),
    #[error("calls {global:?} with {count} arguments that it does not take")]
    Arguments { global: Global, count: usize },
    #[error("appends to {0}")]
    NotAList(&'static str),
    #[error("sets an item of {0}")]
    NotADict(&'static str),
    #[error("is {0}, not a dict of tensors")]
    Root(&'static str),
    #[error("has {found} where {expected} is expected")]
    Kind { found: &'static str, expected: &'static str },
    #[error("has {0} where a size, a stride or an offset is expected")]
    Negative(i64),
    #[error("has a persistent id that is no storage's{}", found.as_ref().map_or(String::new(), |found| format!(": {found}")))]
    PersistentId { found: Option<String> },
    #[error("has a tensor of a type whose storage is not of bytes")]
    TypedStorage,
    #[error("has a tensor of {shape} dimensions with {strides} strides")]
    Strides { shape: usize, strides: usize },
    #[error("has a tensor of {rank} dimensions: {max} at most are read")]
    Rank { rank: usize, max: usize },
    #[error("has a tensor of too many arguments")]
    TensorArguments,
}

/// A tensor whose numbers are not where its pickle says. Offsets and strides count numbers.
#[derive(Debug, thiserror::Error)]
pub enum ViewError {
    #[error("its storage data/{key} is not in the archive")]
    NoStorage { key: String },
    /// `expected` is `None` where the bytes cannot be counted.
    #[error("its storage data/{key} takes {} bytes, its file has {found}", expected.map_or("more than there can be".to_owned(), |n| n.to_string()))]
    StorageSize { key: String, expected: Option<usize>, found: usize },
    #[error("shape {shape:?} with strides {strides:?} from number {offset} is not within its storage data/{key} of {held} numbers")]
    Outside { key: String, shape: Vec<usize>, strides: Vec<usize>, offset: usize, held: usize },
    #[error("shape {shape:?} with strides {strides:?}: tensors that are no plain part of their storage take more bytes than the file")]
    TooLarge { shape: Vec<usize>, strides: Vec<usize> },
}
