//! The weights of a Hugging Face directory: one file, or shards that an index
//! names, in whichever container they are.
//!
//! A new container = a row in [`CONTAINERS`].

use super::{Checkpoint, pytorch, safetensors};
use crate::error::{Error, Result};
use std::collections::{BTreeMap, BTreeSet};
use std::io::ErrorKind;
use std::path::Path;

/// How weights are kept.
struct Container {
    /// Name of the file of a model that is not sharded.
    single: &'static str,
    /// Name of the list of shards.
    index: &'static str,
    /// Adds the tensors of a file, and gives all names in it.
    add_file: fn(&mut Checkpoint, &Path) -> Result<Vec<String>>,
}

/// The one that is found first is read.
const CONTAINERS: [Container; 2] = [
    Container { single: safetensors::SINGLE, index: safetensors::INDEX, add_file: safetensors::add_file },
    Container { single: pytorch::SINGLE, index: pytorch::INDEX, add_file: pytorch::add_file },
];

/// Opens the weights of a Hugging Face directory.
pub fn open_directory(dir: &Path) -> Result<Checkpoint> {
    for container in &CONTAINERS {
        let (single, index) = (dir.join(container.single), dir.join(container.index));
        let mut checkpoint = Checkpoint::new(dir);
        if single.exists() {
            (container.add_file)(&mut checkpoint, &single)?;
            return Ok(checkpoint);
        }
        if index.exists() {
            add_shards(&mut checkpoint, dir, &index, container)?;
            return Ok(checkpoint);
        }
    }
    let names = CONTAINERS.map(|container| container.single).join(" nor ");
    let reason = format!("No such file: neither {names}, nor an index of shards of either");
    Err(Error::io("read", dir)(std::io::Error::new(ErrorKind::NotFound, reason)))
}

fn add_shards(checkpoint: &mut Checkpoint, dir: &Path, index: &Path, container: &Container) -> Result<()> {
    let places = read_index(index)?;
    let mut held: BTreeMap<String, &String> = BTreeMap::new();
    for shard in places.values().collect::<BTreeSet<_>>() {
        if shard.is_empty() || shard.contains(['/', '\\', '\0']) || shard.starts_with('.') {
            return Err(Error::format(index, format!("shard name {shard:?} is no plain file name in this folder")));
        }
        held.extend((container.add_file)(checkpoint, &dir.join(shard))?.into_iter().map(|name| (name, shard)));
    }
    match places.iter().find(|(name, shard)| held.get(*name) != Some(shard)) {
        Some((name, shard)) => Err(Error::MissingTensor { name: name.clone(), path: dir.join(shard) }),
        None => Ok(()),
    }
}

/// Tensor name -> shard file name.
fn read_index(path: &Path) -> Result<BTreeMap<String, String>> {
    #[derive(serde::Deserialize)]
    struct Index {
        weight_map: BTreeMap<String, String>,
    }
    let text = std::fs::read(path).map_err(Error::io("read", path))?;
    let index: Index = serde_json::from_slice(&text).map_err(|e| Error::format(path, format!("not an index of shards: {e}")))?;
    Ok(index.weight_map)
}
