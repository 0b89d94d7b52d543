//! Tied embeddings: the weights decide, as in transformers 5.
//!
//! Source: transformers 5.23, `modeling_utils.py` (`tie_weights`). With `tie_word_embeddings`,
//! a head that is there and differs is a head of its own, one that equals is the embedding,
//! and an embedding that is there under the head's name alone is found.

use super::families::Names;
use super::parameters::{EMBEDDINGS, HEAD};
use super::{ModelSpec, Parameter, Source};
use crate::checkpoint::{Checkpoint, DenseTensor};
use crate::error::Result;
use crate::notice::warn_once;

/// Name of the head in transformers 5, whatever the family's older name for it.
const USUAL: &str = "lm_head.weight";

/// Sets `spec.tied` by the tensors there are, and moves a matrix that is there under the
/// other's name.
pub fn settle(spec: &mut ModelSpec, checkpoint: &mut Checkpoint, names: &Names) -> Result<()> {
    let (embedding, head) = places(spec, names);
    let usual = &head[0].tensors[0];
    if first_there(checkpoint, &head).is_none() && checkpoint.find(USUAL).is_some() {
        checkpoint.move_to(USUAL, usual);
    }
    if !spec.tied {
        return Ok(());
    }
    match (first_there(checkpoint, &embedding), first_there(checkpoint, &head)) {
        (Some(embedding), Some(head)) if embedding != head => {
            let [embeddings, heads] = [&embedding, &head].map(|name| checkpoint.tensor(name));
            if !equal(&embeddings?, &heads?) {
                let message = format!(
                    "the configuration ties the head to the embedding, but {head} is there and differs from {embedding}: the head is \
                     read as a matrix of its own, as transformers 5 does (\"tie_word_embeddings\": false says so)"
                );
                warn_once(checkpoint.origin(), message);
                spec.tied = false;
            }
        }
        (None, Some(head)) => checkpoint.move_to(&head, &embedding[0].tensors[0]),
        _ => (),
    }
    Ok(())
}

/// Names under which a file may hold the head, be it tied or not.
pub fn head_names(spec: &ModelSpec, names: &Names) -> Vec<String> {
    let (_, head) = places(spec, names);
    head.into_iter().flat_map(|source| source.tensors).chain([USUAL.to_owned()]).collect()
}

/// Where a file may hold the embedding and the head.
fn places(spec: &ModelSpec, names: &Names) -> (Vec<Source>, Vec<Source>) {
    let untied = ModelSpec { tied: false, ..spec.clone() };
    let all = untied.parameters();
    let of = |name: &str| all.iter().find(|parameter: &&Parameter| parameter.name == name).map(|p| names.sources(&untied, p));
    (of(EMBEDDINGS).expect("every model has one"), of(HEAD).expect("it is not tied"))
}

/// The name of the first of some tensors that is there.
fn first_there(checkpoint: &Checkpoint, places: &[Source]) -> Option<String> {
    places.iter().find_map(|place| checkpoint.find(&place.tensors[0])).map(str::to_owned)
}

fn equal(a: &DenseTensor, b: &DenseTensor) -> bool {
    a.shape == b.shape && (a.float_type == b.float_type && a.bytes == b.bytes || a.to_f32() == b.to_f32())
}
