//! The weights of a Hugging Face directory: one file, or shards that an index
//! names, in whichever container they are.
//!
//! A new container = a row in [`CONTAINERS`].

use super::{Checkpoint, adapter, pytorch, safetensors, shards};
use crate::error::{Error, Result};
use crate::input::is_there;
use crate::notice::warn_once;
use std::io::ErrorKind;
use std::path::Path;
use std::time::Duration;

/// A file format of weights.
pub(super) struct Container {
    /// Name of the file of a model that is not sharded.
    pub single: &'static str,
    /// Name of the list of shards.
    pub index: &'static str,
    /// End of a file's name, with the dot.
    pub extension: &'static str,
    /// Adds the tensors of a file, and gives all names in it.
    pub add_file: fn(&mut Checkpoint, &Path) -> Result<Vec<String>>,
}

/// The first that is there is read, which is transformers' order.
pub(super) const CONTAINERS: [Container; 2] = [
    Container { single: safetensors::SINGLE, index: safetensors::INDEX, extension: ".safetensors", add_file: safetensors::add_file },
    Container { single: pytorch::SINGLE, index: pytorch::INDEX, extension: ".bin", add_file: pytorch::add_file },
];

/// Ends of the names of files that may hold weights, for messages.
const WEIGHTS: [&str; 9] = [".safetensors", ".bin", ".pt", ".pth", ".ckpt", ".gguf", ".h5", ".msgpack", ".onnx"];

/// Opens the weights of a Hugging Face directory. Weights with an adapter inside are refused.
pub fn open_directory(dir: &Path) -> Result<Checkpoint> {
    let checkpoint = open_weights(dir)?;
    adapter::refuse_inside(&checkpoint)?;
    adapter::warn_of_one_beside(dir);
    Ok(checkpoint)
}

fn open_weights(dir: &Path) -> Result<Checkpoint> {
    let known: Vec<_> = CONTAINERS.iter().flat_map(|container| [(container.single, container), (container.index, container)]).collect();
    let there: Vec<_> = known.into_iter().filter(|(name, _)| is_there(&dir.join(name))).collect();
    if let Some((name, container)) = there.first() {
        let others: Vec<&str> = there[1..].iter().map(|(name, _)| *name).collect();
        warn_of_others(dir, container, name, &others);
        return match *name == container.single {
            true => open_file(dir, &dir.join(name), container),
            false => shards::open_indexed(dir, &dir.join(name), container),
        };
    }
    let names = names(dir)?;
    if let Some(checkpoint) = shards::open_without_index(dir, &names)? {
        return Ok(checkpoint);
    }
    only_file(dir, &names)?.ok_or_else(|| adapter::alone(dir).unwrap_or_else(|| no_weights(dir, &names)))
}

/// Opens the only file of its format, whatever its name; `None` where there are several, or
/// where it does not hold a model's weights.
fn only_file(dir: &Path, names: &[String]) -> Result<Option<Checkpoint>> {
    let Container { single, extension, .. } = CONTAINERS[0];
    let files: Vec<_> = names.iter().filter(|name| name.ends_with(extension) && !adapter::is_file_of_one(name)).collect();
    let [name] = files[..] else { return Ok(None) };
    let checkpoint = open_file(dir, &dir.join(name), &CONTAINERS[0])?;
    if !checkpoint.all_names().any(|tensor| tensor.ends_with(".weight")) {
        return Ok(None);
    }
    warn_once(dir, format!("there is no {single}, so the only {extension} file, {name}, is read"));
    Ok(Some(checkpoint))
}

fn open_file(dir: &Path, file: &Path, container: &Container) -> Result<Checkpoint> {
    let mut checkpoint = Checkpoint::new(dir);
    (container.add_file)(&mut checkpoint, file)?;
    Ok(checkpoint)
}

/// Names of the files in a folder, by the alphabet.
fn names(dir: &Path) -> Result<Vec<String>> {
    let entries = std::fs::read_dir(dir).map_err(Error::io("read", dir))?;
    let mut names: Vec<_> = entries.flatten().filter_map(|entry| entry.file_name().into_string().ok()).collect();
    names.sort();
    Ok(names)
}

fn no_weights(dir: &Path, names: &[String]) -> Error {
    let singles = CONTAINERS.map(|container| container.single).join(" nor ");
    let others: Vec<&str> = names.iter().map(String::as_str).filter(|name| WEIGHTS.iter().any(|end| name.ends_with(end))).collect();
    let has = if others.is_empty() { String::new() } else { format!("; it has {}", others.join(", ")) };
    let reason = format!("No such file: neither {singles}, nor an index of shards of either{has}");
    Error::io("read", dir)(std::io::Error::new(ErrorKind::NotFound, reason))
}

/// Says which file is read where another one is the later save: an index beside a file of the
/// same format, or a file of another format that is newer.
fn warn_of_others(dir: &Path, container: &Container, read: &str, others: &[&str]) {
    /// Files of one download or one save are written within a day.
    const APART: Duration = Duration::from_secs(24 * 3600);
    let modified = |name: &str| -> Option<_> { dir.join(name).metadata().ok()?.modified().ok() };
    let is_newer = |other: &str| {
        let later = modified(read).zip(modified(other)).and_then(|(read, other)| other.duration_since(read).ok());
        later.is_some_and(|later| later > APART)
    };
    for other in others.iter().filter(|other| **other == container.index || is_newer(other)) {
        warn_once(dir, format!("{read} is read, as transformers does, and {other} is not: one of them is left over"));
    }
}
