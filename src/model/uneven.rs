//! Widths that differ by block, as other tools prune them: the configuration has one number
//! for all blocks and the tensors have their own shapes.
//!
//! Heads and feed-forward widths are then those of the tensors. Where all blocks have one
//! width and the configuration another, the two do not belong together, and opening fails on
//! the first tensor.

use super::families::Names;
use super::{ModelSpec, Parameter, Part, Rows};
use crate::checkpoint::Checkpoint;
use crate::notice::warn_once;
use crate::spec::{Attention, Block};

/// Heads, kv heads and width of the feed-forward.
type Widths = (Option<(usize, usize)>, Option<usize>);

/// Sets the widths of blocks by the shapes of their tensors, where these differ by block.
pub fn settle(spec: &mut ModelSpec, checkpoint: &Checkpoint, names: &Names) {
    if spec.shares_weights() {
        return;
    }
    let said: Vec<Widths> = spec.blocks.iter().map(|block| (heads(block), width(block))).collect();
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
        if let (Some(ffn), Some(width)) = (block.feed_forward_mut(), width) {
            ffn.width = width;
        }
        if let (Some(attention), Some((n_heads, n_kv_heads))) = (block.attention_mut(), heads) {
            (attention.n_heads, attention.n_kv_heads) = (n_heads, n_kv_heads);
        }
    }
    let message = format!("widths differ by block and are taken from the tensors; the configuration says otherwise of {}", few(differing));
    warn_once(checkpoint.origin(), message);
}

fn told(block: usize, (heads, width): Widths) -> String {
    let heads = heads.map_or(String::new(), |(n_heads, n_kv_heads)| format!("{n_heads} heads ({n_kv_heads} kv), "));
    let width = width.map_or("none".to_owned(), |width| width.to_string());
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

fn heads(block: &Block) -> Option<(usize, usize)> {
    block.attention().map(|attention| (attention.n_heads, attention.n_kv_heads))
}

fn width(block: &Block) -> Option<usize> {
    block.feed_forward().map(|ffn| ffn.width)
}

/// The widths of a block by the shapes of its tensors; `None` where a tensor is not there, or
/// where those of a block do not agree.
fn measure(spec: &ModelSpec, checkpoint: &Checkpoint, names: &Names, block: usize) -> Option<Widths> {
    let roles = spec.roles(block);
    // Rows and columns of the tensor that a role lies in, and whether others lie there too.
    let matrix = |role: &str| -> Option<(usize, usize, bool)> {
        let (_, shape, kind) = roles.iter().find(|(other, ..)| other == role)?;
        let name = format!("blocks.{block}.{role}");
        let parameter = Parameter { name, shape: shape.clone(), kind: *kind, part: Part::Block(block) };
        let source = names.sources(spec, &parameter).into_iter().find(|source| checkpoint.find(&source.tensors[0]).is_some())?;
        let &[rows, columns] = &checkpoint.tensor(checkpoint.find(&source.tensors[0])?).ok()?.shape[..] else { return None };
        let (rows, columns) = if source.transposed { (columns, rows) } else { (rows, columns) };
        Some((rows, columns, matches!(source.rows, Rows::Runs { .. })))
    };
    let (_, width, _) = matrix("ffn.down")?;
    let (rows, _, is_fused) = matrix("ffn.up")?;
    if rows != if is_fused { 2 * width } else { width } {
        return None;
    }
    let Some(attention) = spec.blocks[block].attention() else { return Some((None, Some(width))) };
    let heads = |rows: usize| Some(rows / attention.head_dim).filter(|n| *n > 0 && rows.is_multiple_of(attention.head_dim));
    let (_, context, _) = matrix("attn.o")?;
    let n_heads = heads(context)?;
    let [(q, ..), (k, _, is_fused), (v, ..)] = [matrix("attn.q")?, matrix("attn.k")?, matrix("attn.v")?];
    let n_kv_heads = match is_fused {
        // A matrix of queries, keys and values.
        true => heads(k.checked_sub(context)?)? / 2,
        false if q == context && k == v => heads(k)?,
        false => return None,
    };
    let as_said = (attention.n_heads, attention.n_kv_heads) == (n_heads, n_kv_heads);
    let may_differ = may_lose_heads(attention) && n_kv_heads > 0 && n_heads.is_multiple_of(n_kv_heads);
    (as_said || may_differ).then_some((Some((n_heads, n_kv_heads)), Some(width)))
}

/// True if nothing but the matrices depends on which heads are left.
fn may_lose_heads(attention: &Attention) -> bool {
    attention.alibi.is_empty()
}
