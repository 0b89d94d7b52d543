//! The one error type of the library. Every variant names what is wrong, where,
//! and what was expected, so that the message alone tells how to mend it.

use std::io::ErrorKind;
use std::path::{Path, PathBuf};

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
    /// A tensor that the model needs is absent.
    #[error("{path}: tensor {name} is missing")]
    MissingTensor {
        /// Name in the file.
        name: String,
        /// The checkpoint.
        path: PathBuf,
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

    /// 2: command line or recipe, 3: bad input, 4: environment, 130: stopped by Ctrl-C.
    pub fn exit_code(&self) -> u8 {
        match self {
            Error::Usage(_) | Error::Recipe { .. } => 2,
            // As shells have it of a program that Ctrl-C has stopped.
            Error::Interrupted => 130,
            Error::Io { action: "read", source, .. } if is_of_the_input(source.kind()) => 3,
            Error::Io { .. } | Error::Environment(_) => 4,
            #[cfg(feature = "torch")]
            Error::Torch(_) => 4,
            _ => 3,
        }
    }

    /// A [`Error::Format`].
    pub fn format(path: &Path, reason: impl Into<String>) -> Self {
        Error::Format { path: path.to_owned(), reason: reason.into() }
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
            Error::TensorMismatch { .. } => Some("the configuration and the weights do not belong together"),
            Error::NonFinite { .. } => Some("the checkpoint is damaged or its training diverged: get it again, or use an earlier step"),
            Error::Overflow(_) => Some("where --dtype is bf16, use f32; otherwise try another text, or get the checkpoint again"),
            Error::TokenOutOfRange { .. } => Some("ids and model do not belong together: tokenize with the model's own tokenizer"),
            Error::UnknownModelType { .. } => Some(
                "only a model that differs from a known family in its name alone may have its model_type set to that family's; \
                 keys that a family does not read are refused or warned about",
            ),
            Error::Format { reason, .. } if reason.contains("truncated") => {
                Some("the download may be incomplete: compare its size and get it again")
            }
            Error::Io { action, source, .. } if *action != "read" => match source.kind() {
                ErrorKind::StorageFull => Some("free some space, or choose another --out"),
                ErrorKind::PermissionDenied | ErrorKind::ReadOnlyFilesystem => Some("choose a folder that you may write to"),
                _ => None,
            },
            _ => None,
        }
    }
}

/// Whether a failure to read says something of what was named, and not of the
/// machine: it is not there, it is a folder, it is no text.
fn is_of_the_input(kind: ErrorKind) -> bool {
    use ErrorKind::*;
    matches!(kind, NotFound | NotADirectory | IsADirectory | InvalidFilename | InvalidInput | InvalidData)
}
