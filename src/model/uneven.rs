//! Widths that differ by block, as other tools prune them: the configuration has one number
//! for all blocks and the tensors have their own shapes.
//!
//! Heads and feed-forward widths are then those of the tensors. Where all blocks have one
//! width and the configuration another, the two do not belong together, and opening fails on
//! the first tensor.

use super::families::Names;
use super::spec::{Attention, Mixer};
use super::{ModelSpec, Parameter, ParameterKind, Part, Rows};
use crate::checkpoint::Checkpoint;

/// Heads, kv heads and width of the feed-forward.
type Widths = (Option<(usize, usize)>, usize);

/// Sets the widths of blocks by the shapes of their tensors, where these differ by block.
pub fn settle(spec: &mut ModelSpec, checkpoint: &Checkpoint, names: &Names) {
    if spec.shares_weights() {
        return;
    }
    let said: Vec<Widths> = spec.blocks.iter().map(|block| (heads(&block.mixer), block.ffn.width)).collect();
    let Some(found) = (0..spec.blocks.len()).map(|block| measure(spec, checkpoint, names, block)).collect::<Option<Vec<Widths>>>() else {
        return;
    };
    let is_uneven = found.iter().any(|widths| *widths != found[0]);
    let said_alike = said.iter().all(|widths| *widths == said[0]);
    // Families that say a width a block are right about it.
    if found == said || !is_uneven || !said_alike {
        return;
    }
    let differing: Vec<String> =
        found.iter().zip(&said).enumerate().filter(|(_, (found, said))| found != said).map(|(i, (found, _))| told(i, *found)).collect();
    for (block, (heads, width)) in spec.blocks.iter_mut().zip(found) {
        block.ffn.width = width;
        if let (Mixer::Attention(attention), Some((n_heads, n_kv_heads))) = (&mut block.mixer, heads) {
            (attention.n_heads, attention.n_kv_heads) = (n_heads, n_kv_heads);
        }
    }
    tracing::warn!(
        "{}: widths differ by block and are taken from the tensors; other than the configuration says are {}",
        checkpoint.origin().display(),
        few(differing)
    );
}

fn told(block: usize, (heads, width): Widths) -> String {
    let heads = heads.map_or(String::new(), |(n_heads, n_kv_heads)| format!("{n_heads} heads ({n_kv_heads} kv), "));
    format!("block {block} ({heads}feed-forward {width})")
}

fn few(mut all: Vec<String>) -> String {
    const FEW: usize = 4;
    let more = all.len().saturating_sub(FEW);
    all.truncate(FEW);
    if more > 0 {
        all.push(format!("{more} more"));
    }
    all.join(", ")
}

fn heads(mixer: &Mixer) -> Option<(usize, usize)> {
    match mixer {
        Mixer::Attention(attention) => Some((attention.n_heads, attention.n_kv_heads)),
        Mixer::Wkv(_) => None,
    }
}

/// The widths of a block by the shapes of its tensors; `None` where a tensor is not there or
/// its shape is of no such model.
fn measure(spec: &ModelSpec, checkpoint: &Checkpoint, names: &Names, block: usize) -> Option<Widths> {
    let matrix = |role: &str, kind_shape: Vec<usize>| -> Option<(usize, usize, bool)> {
        let parameter =
            Parameter { name: format!("blocks.{block}.{role}"), shape: kind_shape, kind: ParameterKind::Linear, part: Part::Block(block) };
        let mut sources = names.sources(spec, &parameter).into_iter();
        let (source, name) =
            sources.find_map(|source| Some((checkpoint.find(&source.tensors[0])?.to_owned(), source))).map(|(n, s)| (s, n))?;
        let &[rows, columns] = &checkpoint.tensor(&name).ok()?.shape[..] else { return None };
        let (rows, columns) = if source.transposed { (columns, rows) } else { (rows, columns) };
        Some((rows, columns, matches!(source.rows, Rows::Runs { .. })))
    };
    let hidden = spec.hidden_size;
    let (_, width, _) = matrix("ffn.down", vec![hidden, spec.blocks[block].ffn.width])?;
    let Mixer::Attention(attention) = &spec.blocks[block].mixer else { return Some((None, width)) };
    let heads = |rows: usize| Some(rows / attention.head_dim).filter(|n| *n > 0 && rows.is_multiple_of(attention.head_dim));
    let (_, context, _) = matrix("attn.o", vec![hidden, attention.q_width()])?;
    let n_heads = heads(context)?;
    let (rows, _, is_fused) = matrix("attn.k", vec![attention.kv_width(), hidden])?;
    // A fused matrix has the rows of queries, keys and values.
    let n_kv_heads = if is_fused { heads(rows.checked_sub(context)?)? / 2 } else { heads(rows)? };
    let known = (attention.n_heads, attention.n_kv_heads) == (n_heads, n_kv_heads);
    (known || may_lose_heads(attention) && n_kv_heads > 0 && n_heads.is_multiple_of(n_kv_heads))
        .then_some((Some((n_heads, n_kv_heads)), width))
}

/// Whether nothing but the matrices depends on which heads are left.
fn may_lose_heads(attention: &Attention) -> bool {
    attention.alibi.is_empty()
}
