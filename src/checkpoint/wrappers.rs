//! Names of tensors as wrappers around a model write them: torch.compile, data-parallel
//! training, peft, a multimodal model with the language model inside.
//!
//! Some wrap modules anywhere in a model, and their part of a name is known. Others wrap the
//! model as a whole; any prefix is one under which all tensors of the model are found, and no
//! other prefix is.

use super::Checkpoint;
use std::collections::{BTreeMap, BTreeSet};

/// Where the tensors of each parameter may lie: places, each of tensors by name.
pub type Needed = Vec<Vec<Vec<String>>>;

/// Parts of names that wrappers add: torch.compile, activation checkpointing, FSDP,
/// DeepSpeed and Lightning, DistributedDataParallel, and language models in others.
const PARTS: [&[&str]; 3] = [
    &[],
    &["_orig_mod", "_checkpoint_wrapped_module", "_fsdp_wrapped_module", "_forward_module"],
    &["_orig_mod", "_checkpoint_wrapped_module", "_fsdp_wrapped_module", "_forward_module", "module", "language_model", "text_model"],
];

/// Renames the tensors of a checkpoint where a model's are found without what wrappers add,
/// and gives an example: the name in the file, and the new one.
pub fn take_off(checkpoint: &mut Checkpoint, needed: &Needed) -> Option<(String, String)> {
    let names: BTreeSet<String> = checkpoint.all_names().map(str::to_owned).collect();
    let plain: Renamed = names.iter().map(|name| (name.clone(), vec![name.as_str()])).collect();
    let anchor = needed.iter().max_by_key(|places| places[0][0].len())?;
    if fits(&plain, needed) {
        return None;
    }
    let renamed = candidates(&names, anchor).into_iter().find_map(|group| {
        let mut fitting = group.into_iter().filter(|renamed| fits(renamed, needed));
        // With two that fit there are two models.
        fitting.next().filter(|_| fitting.next().is_none())
    })?;
    let new: BTreeMap<String, String> =
        renamed.into_iter().filter(|(_, old)| old.len() == 1).map(|(new, old)| (old[0].to_owned(), new)).collect();
    let example =
        new.iter().find(|(old, new)| old != new && needed.iter().flatten().flatten().any(|name| name == *new || rest(name) == Some(new)));
    let example = example.map(|(old, new)| (old.clone(), new.clone()));
    checkpoint.rename(|name| new.get(name).cloned());
    example
}

/// New name -> names in the file. A new name of several of them is none of theirs.
type Renamed<'a> = BTreeMap<String, Vec<&'a str>>;

/// Ways to rename, the most likely group first. Those of a group differ in the prefix.
fn candidates<'a>(names: &'a BTreeSet<String>, anchor: &[Vec<String>]) -> Vec<Vec<Renamed<'a>>> {
    let mut groups = Vec::new();
    // The whole names first, then those of models without their head.
    for shortened in [false, true] {
        let ends = anchor.iter().filter_map(|tensors| if shortened { rest(&tensors[0]) } else { Some(tensors[0].as_str()) });
        let ends: BTreeSet<&str> = ends.collect();
        for parts in PARTS {
            let reduced: Vec<(String, &str)> = names.iter().map(|name| (without(name, parts), name.as_str())).collect();
            let prefixes: BTreeSet<&str> = reduced
                .iter()
                .flat_map(|(name, _)| ends.iter().filter_map(|end| name.strip_suffix(end)))
                .filter(|prefix| prefix.is_empty() || prefix.ends_with('.'))
                .collect();
            groups.push(prefixes.into_iter().map(|prefix| stripped(&reduced, prefix)).collect());
        }
    }
    groups
}

fn stripped<'a>(reduced: &[(String, &'a str)], prefix: &str) -> Renamed<'a> {
    let mut renamed = Renamed::new();
    for (name, old) in reduced {
        renamed.entry(name.strip_prefix(prefix).unwrap_or(name).to_owned()).or_default().push(old);
    }
    renamed
}

/// A name without some of its parts.
fn without(name: &str, parts: &[&str]) -> String {
    name.split('.').filter(|part| !parts.contains(part)).collect::<Vec<_>>().join(".")
}

/// Name without its first part; see [`Checkpoint::find`].
fn rest(name: &str) -> Option<&str> {
    name.split_once('.').map(|(_, rest)| rest)
}

/// Whether every parameter is found at one of its places, and at no name that two tensors
/// would have.
fn fits(renamed: &Renamed, needed: &Needed) -> bool {
    let is_there = |name: &String| {
        let found = renamed.get(name).or_else(|| renamed.get(rest(name)?));
        found.is_some_and(|old| old.len() == 1)
    };
    needed.iter().all(|places| places.iter().any(|tensors| tensors.iter().all(is_there)))
}
