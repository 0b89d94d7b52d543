//! Weights in several files. The index says which file each tensor is read from; a file may
//! hold more, such as a tensor of an earlier save, which is not read.
//!
//! Source: transformers, `utils/hub.py` (`get_checkpoint_shard_files`). It reads every tensor
//! of every shard, and of two of one name the one in the later shard.

use super::Checkpoint;
use super::directory::{CONTAINERS, Container};
use crate::error::{Error, Result};
use crate::notice::warn_once;
use crate::{input, json};
use std::collections::{BTreeMap, BTreeSet};
use std::path::{Component, Path};

/// Opens the shards that an index names.
pub(super) fn open_indexed(dir: &Path, index: &Path, container: &Container) -> Result<Checkpoint> {
    let places = read_index(index)?;
    let shards: BTreeSet<&String> = places.values().collect();
    for shard in &shards {
        if !is_inside(shard) {
            return Err(Error::format(index, format!("shard name {shard:?} is no file in this folder or below it")));
        }
    }
    let missing: Vec<String> = shards.iter().filter(|shard| !input::is_there(&dir.join(shard))).map(|shard| (*shard).clone()).collect();
    if !missing.is_empty() {
        return Err(Error::MissingShards { index: index.to_owned(), missing, total: shards.len() });
    }
    let mut checkpoint = Checkpoint::new(dir);
    let mut held = BTreeSet::new();
    let mut elsewhere = Vec::new();
    for shard in shards {
        let mut file = Checkpoint::new(dir);
        for name in (container.add_file)(&mut file, &dir.join(shard))? {
            match places.get(&name) {
                Some(place) if place != shard => {
                    file.remove(&name);
                    elsewhere.push((name, shard, place));
                }
                // Of two that the index does not list, the later one, as in transformers.
                None => checkpoint.remove(&name),
                Some(_) => drop(held.insert(name)),
            }
        }
        checkpoint.append(file)?;
    }
    for (name, shard) in places.iter().filter(|(name, _)| !held.contains(*name)) {
        // transformers reads all shards, and so finds it wherever it is.
        let Some(at) = elsewhere.iter().position(|(other, ..)| other == name) else {
            return Err(Error::MissingTensor { name: name.clone(), path: dir.join(shard) });
        };
        let (_, there, _) = elsewhere.swap_remove(at);
        let mut file = Checkpoint::new(dir);
        (container.add_file)(&mut file, &dir.join(there))?;
        file.keep(name);
        checkpoint.append(file)?;
        warn_once(dir, format!("the index gives {shard} for {name}, which is not there: it is read from {there}"));
    }
    if let Some((name, shard, place)) = elsewhere.first() {
        let count = elsewhere.len();
        let more = if count > 1 { ", …" } else { "" };
        let message = format!(
            "{count} tensors lie in shards that the index does not give for them, and are not read there: {name} in {shard}, read from {place}{more}"
        );
        warn_once(dir, message);
    }
    Ok(checkpoint)
}

/// True if a relative path does not lead out of its folder.
fn is_inside(name: &str) -> bool {
    let mut parts = Path::new(name).components();
    !name.contains(['\\', '\0'])
        && !name.is_empty()
        && parts.all(|part| matches!(part, Component::Normal(name) if !name.as_encoded_bytes().starts_with(b".")))
}

/// Tensor name -> shard file name.
fn read_index(path: &Path) -> Result<BTreeMap<String, String>> {
    #[derive(serde::Deserialize)]
    struct Index {
        weight_map: BTreeMap<String, String>,
    }
    let index: serde_json::Value = json::read(path)?;
    let index: Index = serde_json::from_value(index).map_err(|e| Error::format(path, format!("not an index of shards: {e}")))?;
    Ok(index.weight_map)
}

/// Opens a whole set of shards (`model-00001-of-00002.safetensors`, …) that no index names;
/// `None` where there are none, or several sets.
pub(super) fn open_without_index(dir: &Path, names: &[String]) -> Result<Option<Checkpoint>> {
    for container in &CONTAINERS {
        let mut sets: BTreeMap<(&str, usize), BTreeSet<usize>> = BTreeMap::new();
        for (stem, number, total) in names.iter().filter_map(|name| numbered(name, container.extension)) {
            sets.entry((stem, total)).or_default().insert(number);
        }
        let Some(((stem, total), numbers)) = sets.pop_first().filter(|_| sets.is_empty()) else { continue };
        let name = |number: &usize| format!("{stem}-{number:05}-of-{total:05}{}", container.extension);
        let missing: Vec<String> = (1..=total).filter(|number| !numbers.contains(number)).map(|number| name(&number)).collect();
        if !missing.is_empty() {
            return Err(Error::MissingShards { index: dir.to_owned(), missing, total });
        }
        warn_once(dir, format!("there is no {}, so all {total} shards are read whole", container.index));
        let mut checkpoint = Checkpoint::new(dir);
        for number in &numbers {
            (container.add_file)(&mut checkpoint, &dir.join(name(number)))?;
        }
        return Ok(Some(checkpoint));
    }
    Ok(None)
}

/// `model-00002-of-00005.safetensors` -> `model`, 2, 5.
fn numbered<'a>(name: &'a str, extension: &str) -> Option<(&'a str, usize, usize)> {
    let (rest, total) = name.strip_suffix(extension)?.rsplit_once("-of-")?;
    let (stem, number) = rest.rsplit_once('-')?;
    let count = |digits: &str| digits.parse().ok().filter(|_| digits.len() == 5 && digits.bytes().all(|b| b.is_ascii_digit()));
    let (number, total) = (count(number)?, count(total)?);
    (1..=total).contains(&number).then_some((stem, number, total))
}

#[cfg(test)]
mod tests {
    use super::numbered;

    #[test]
    fn numbers_of_shards_are_read_from_their_names() {
        assert_eq!(numbered("model-00002-of-00005.safetensors", ".safetensors"), Some(("model", 2, 5)));
        assert_eq!(numbered("a-b-00001-of-00001.bin", ".bin"), Some(("a-b", 1, 1)));
        for other in
            ["model.safetensors", "model-2-of-5.safetensors", "model-00006-of-00005.safetensors", "model-00000-of-00005.safetensors"]
        {
            assert_eq!(numbered(other, ".safetensors"), None, "{other}");
        }
    }
}
