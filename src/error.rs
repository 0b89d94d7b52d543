//! The one error type of the library. Every variant names what is wrong, where,
//! and what was expected, so that the message alone tells how to mend it.

use std::io::ErrorKind;
use std::path::{Path, PathBuf};

/// Exit code of what this machine or this build lacks: threads, memory, permission.
pub const ENVIRONMENT: u8 = 4;

/// Result of everything fallible in this crate.
pub type Result<T> = std::result::Result<T, Error>;

/// What can go wrong, grouped by who can mend it (see [`Error::exit_code`]).
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The command line asks for something impossible.
    #[error("{0}")]
    Usage(String),
    /// The recipe is not valid, or not for this model.
    #[error("recipe {path}: {reason}")]
    Recipe {
        /// The recipe's file.
        path: PathBuf,
        /// What is wrong, with the line where it is known.
        reason: String,
    },
    /// A file is not what its kind says it is.
    #[error("{path}: {reason}")]
    Format {
        /// The file.
        path: PathBuf,
        /// The invariant that is broken.
        reason: String,
    },
    /// A file ends before what it holds does.
    #[error("{path}: {reason}")]
    Truncated {
        /// The file.
        path: PathBuf,
        /// Expected and found sizes, or the part that is cut.
        reason: String,
    },
    /// A tensor that the model needs is absent.
    #[error("{path}: tensor {name} is missing")]
    MissingTensor {
        /// Name in the file.
        name: String,
        /// The checkpoint.
        path: PathBuf,
    },
    /// A weight that the model needs is absent; the checkpoint has other names instead.
    #[error("{path}: tensor {name} is missing; {instead}")]
    MissingWeight {
        /// Name that was looked for.
        name: String,
        /// The checkpoint.
        path: PathBuf,
        /// Names in the checkpoint that come near, or the key of the configuration that is wrong.
        instead: String,
    },
    /// Tensors of no elements in place of weights.
    #[error("{path}: tensor {name} is empty ({shape:?}), as are {count} of {total} tensors")]
    EmptyTensors {
        /// The first of them that the model needs.
        name: String,
        /// The checkpoint.
        path: PathBuf,
        /// Its sizes.
        shape: Vec<usize>,
        /// Number of empty tensors.
        count: usize,
        /// Number of tensors in the checkpoint.
        total: usize,
    },
    /// An index names shards that are not there.
    #[error("{index}: {} of its {total} shards are not there: {}", missing.len(), few(missing))]
    MissingShards {
        /// The list of shards.
        index: PathBuf,
        /// File names.
        missing: Vec<String>,
        /// Number of shards that the index names.
        total: usize,
    },
    /// Weights of an adapter, alone or inside a model that they are not merged into.
    #[error("{path}: {found}: merge it into the model first")]
    Adapter {
        /// The folder.
        path: PathBuf,
        /// Kind and base model of the adapter, and where it was found.
        found: String,
    },
    /// A Git LFS pointer in place of a file that was not downloaded.
    #[error("{path}: a Git LFS pointer, not the file itself{}", size.map_or(String::new(), |size| format!(": {} are missing", bytes(size))))]
    LfsPointer {
        /// The file.
        path: PathBuf,
        /// Bytes of the file that the pointer stands for.
        size: Option<u64>,
    },
    /// A symbolic link whose target is gone.
    #[error("{path} links to {target}, which is not there")]
    DanglingLink {
        /// The link.
        path: PathBuf,
        /// Its target, as it is written in the link.
        target: PathBuf,
    },
    /// A tensor has another shape or type than the model's configuration says.
    #[error("{path}: tensor {name}: expected {expected}, found {found}")]
    TensorMismatch {
        /// Name in the file.
        name: String,
        /// The checkpoint.
        path: PathBuf,
        /// What the configuration asks for.
        expected: String,
        /// What the file holds.
        found: String,
    },
    /// A weight in a number format that weights are not read in, such as 8-bit floats.
    #[error("{path}: tensor {name}: expected F64, F32, F16 or BF16, found {found}")]
    UnreadFormat {
        /// Name in the file.
        name: String,
        /// The checkpoint.
        path: PathBuf,
        /// Its number format.
        found: String,
    },
    /// A tensor holds NaN or infinite values.
    #[error("{path}: tensor {name} has {count} NaN or infinite values, the first at index {first}")]
    NonFinite {
        /// Name in the file.
        name: String,
        /// The checkpoint.
        path: PathBuf,
        /// How many.
        count: usize,
        /// Flat index of the first.
        first: usize,
    },
    /// `config.json` names a family that is not known.
    #[error("{path}: unknown model_type \"{found}\"{nearest}; known are {known}")]
    UnknownModelType {
        /// The configuration.
        path: PathBuf,
        /// What it says.
        found: String,
        /// What family comes near, and what differs.
        nearest: String,
        /// The families there are.
        known: String,
    },
    /// A token id that the model's vocabulary does not have.
    #[error("token id {id} at position {position} is out of range: the vocabulary has {vocab_size} tokens")]
    TokenOutOfRange {
        /// The id.
        id: u32,
        /// Its place in the input.
        position: usize,
        /// Size of the vocabulary.
        vocab_size: usize,
    },
    /// Finite weights whose sums are not finite any more.
    #[error("{0}")]
    Overflow(String),
    /// An operation on the file system failed.
    #[error("cannot {action} {path}: {source}")]
    Io {
        /// What was tried, such as "read".
        action: &'static str,
        /// On which file.
        path: PathBuf,
        /// The system's answer.
        source: std::io::Error,
    },
    /// Another process is writing there.
    #[error("{path}: in use by {holder}")]
    Busy {
        /// The folder or file.
        path: PathBuf,
        /// The other process, as far as it is known.
        holder: String,
    },
    /// Whoever looked wanted it to stop; what is done is saved.
    #[error("stopped: the same command goes on from here")]
    Interrupted,
    /// What this build or this machine cannot do.
    #[error("{0}")]
    Environment(String),
    /// libtorch failed.
    #[cfg(feature = "torch")]
    #[error("libtorch: {0}")]
    Torch(#[from] tch::TchError),
}

impl Error {
    /// What layers of these names meet is not finite.
    pub fn activations_overflow(names: &[String]) -> Self {
        Error::Overflow(format!("the activations of {} are not finite: the model overflows on this text", names.join(", ")))
    }

    /// The logits of a model are not finite, at a position of the text where that is known.
    pub fn logits_overflow(position: Option<usize>) -> Self {
        let place = position.map_or(String::new(), |position| format!(" at position {position}"));
        Error::Overflow(format!("the model's logits are not finite{place}: its weights are broken or overflow"))
    }

    /// [`Error::Overflow`] where a result is NaN or infinite; `what` names it.
    pub fn expect_finite(what: &str, value: f64) -> Result<f64> {
        if value.is_finite() { Ok(value) } else { Err(Error::Overflow(format!("{what} is not finite ({value})"))) }
    }

    /// 2: command line or recipe, 3: bad input, 4: environment, 130: stopped by Ctrl-C.
    pub fn exit_code(&self) -> u8 {
        match self {
            Error::Usage(_) | Error::Recipe { .. } => 2,
            // As shells have it of a program that Ctrl-C has stopped.
            Error::Interrupted => 130,
            Error::Io { action: "read", source, .. } if is_of_the_input(source.kind()) => 3,
            Error::Io { .. } | Error::Busy { .. } | Error::Environment(_) => ENVIRONMENT,
            #[cfg(feature = "torch")]
            Error::Torch(_) => ENVIRONMENT,
            _ => 3,
        }
    }

    /// A [`Error::Format`].
    pub fn format(path: &Path, reason: impl Into<String>) -> Self {
        Error::Format { path: path.to_owned(), reason: reason.into() }
    }

    /// A [`Error::Truncated`].
    pub fn truncated(path: &Path, reason: impl Into<String>) -> Self {
        Error::Truncated { path: path.to_owned(), reason: reason.into() }
    }

    /// The error of a file that breaks its format.
    pub fn broken(path: &Path, error: impl FormatError) -> Self {
        if error.is_truncated() { Error::truncated(path, error.to_string()) } else { Error::format(path, error.to_string()) }
    }

    /// Closure for `map_err` over an I/O result.
    pub fn io(action: &'static str, path: &Path) -> impl FnOnce(std::io::Error) -> Self {
        let path = path.to_owned();
        move |source| Error::Io { action, path, source }
    }

    /// What to do about it, where the message alone does not say.
    pub fn hint(&self) -> Option<&'static str> {
        match self {
            Error::MissingTensor { .. } => Some("the checkpoint is incomplete, or its config.json belongs to another model"),
            Error::MissingWeight { .. } => Some("the checkpoint is incomplete, or its config.json belongs to another model"),
            Error::EmptyTensors { .. } => Some(
                "saved from DeepSpeed ZeRO-3 without gathering: make whole weights of the training checkpoint with its zero_to_fp32.py",
            ),
            Error::MissingShards { .. } => Some("the download is incomplete: get the missing files"),
            Error::Adapter { .. } => Some(
                "with peft: PeftModel.from_pretrained(base_model, adapter).merge_and_unload().save_pretrained(folder), with the tokenizer beside it",
            ),
            Error::LfsPointer { .. } => Some("run `git lfs install` and `git lfs pull` in its folder, or download the file by itself"),
            Error::DanglingLink { .. } => Some("the download is incomplete or was cleaned up: get the file again, or mend the link"),
            Error::TensorMismatch { .. } => Some("the configuration and the weights do not belong together"),
            Error::UnreadFormat { .. } => Some("start from the checkpoint in full precision: it was quantised, or saved as integers"),
            Error::NonFinite { .. } => Some("the checkpoint is damaged or its training diverged: get it again, or use an earlier step"),
            Error::Overflow(_) => Some("where --dtype is bf16, use f32; otherwise try another text, or get the checkpoint again"),
            Error::TokenOutOfRange { .. } => Some("ids and model do not belong together: tokenize with the model's own tokenizer"),
            Error::UnknownModelType { .. } => Some(
                "only a model that differs from a known family in its name alone may have its model_type set to that family's; \
                 keys that a family does not read are refused or warned about",
            ),
            Error::Truncated { .. } => Some("the download may be incomplete: compare its size and get it again"),
            Error::Busy { .. } => Some("wait until it has ended, or choose another --out; a run that was killed blocks nothing"),
            Error::Io { action: "read", source, .. } => match source.kind() {
                ErrorKind::PermissionDenied => Some("you need permission to read the file, and to enter each folder above it"),
                _ => None,
            },
            Error::Io { source, .. } => match source.kind() {
                ErrorKind::StorageFull => Some("free some space, or choose another --out"),
                ErrorKind::PermissionDenied | ErrorKind::ReadOnlyFilesystem => Some("choose a folder that you may write to"),
                _ => None,
            },
            _ => None,
        }
    }
}

/// A broken rule of a file format, found by a reader that does not know the file's name.
pub trait FormatError: std::error::Error {
    /// True where the file seems to have been cut, as by an incomplete download.
    fn is_truncated(&self) -> bool {
        false
    }
}

/// A few names of many.
fn few(names: &[String]) -> String {
    const FEW: usize = 3;
    let more = if names.len() > FEW { ", …" } else { "" };
    format!("{}{more}", names[..names.len().min(FEW)].join(", "))
}

/// A size in the unit that fits, powers of 1000 as the hub shows them.
fn bytes(size: u64) -> String {
    let units = ["kB", "MB", "GB", "TB"];
    let unit = (1..=units.len()).rev().find(|&unit| size >= 1000u64.pow(unit as u32));
    match unit {
        Some(unit) => format!("{:.2} {}", size as f64 / 1000f64.powi(unit as i32), units[unit - 1]),
        None => format!("{size} bytes"),
    }
}

/// Whether a failure to read says something of what was named, and not of the
/// machine: it is not there, it is a folder, it is no text.
fn is_of_the_input(kind: ErrorKind) -> bool {
    use ErrorKind::*;
    matches!(kind, NotFound | NotADirectory | IsADirectory | InvalidFilename | InvalidInput | InvalidData)
}
