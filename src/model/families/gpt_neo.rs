//! `gpt_neo`: GPT-2 with plain matrices, blocks that see all tokens and blocks
//! that see a window by turns, scores that are not scaled, and no biases on q, k
//! and v.
//!
//! Source: transformers, `configuration_gpt_neo.py` and `modeling_gpt_neo.py`.

use super::{At, Config, Family, Names, gpt2};
use crate::error::Result;
use crate::model::{MAX_BLOCKS, ModelSpec};
use crate::spec::{Attention, Block, Embedding, FeedForward, Norm, Op, Positions};
use serde_json::Value;

/// The row of this family.
pub const FAMILY: Family =
    Family { model_type: "gpt_neo", models: "GPT-Neo, LaMini-Neo, TinyStories-33M", spec, names: &NAMES, settle: None };

const NAMES: Names = Names {
    blocks: "transformer.h",
    block: &[
        ("attn_norm", At::Module("ln_1")),
        ("attn.q", At::Module("attn.attention.q_proj")),
        ("attn.k", At::Module("attn.attention.k_proj")),
        ("attn.v", At::Module("attn.attention.v_proj")),
        ("attn.o", At::Module("attn.attention.out_proj")),
        ("ffn_norm", At::Module("ln_2")),
        ("ffn.up", At::Module("mlp.c_fc")),
        ("ffn.down", At::Module("mlp.c_proj")),
    ],
    outside: &gpt2::OUTSIDE,
    transposed: false,
};

fn spec(config: &Config) -> Result<ModelSpec> {
    let hidden_size = config.size_or("hidden_size", 2048)?;
    let (n_heads, head_dim) = config.even_heads(config.either(&["num_attention_heads", "num_heads"]), 16, hidden_size)?;
    let vocab_size = config.size_or("vocab_size", 50_257)?;
    let window = config.size_or("window_size", 256)?;
    let norm = Norm::layer(config.positive_or("layer_norm_epsilon", 1e-5)?);
    let width = config.size_or("intermediate_size", 4 * hidden_size)?;
    let ffn = FeedForward::plain(width, config.activation("activation_function", "gelu_new")?);
    let block = |local: bool| {
        let attention =
            Attention { scale: 1.0, mask: local.then_some(window).into(), output_bias: true, ..Attention::new(n_heads, n_heads, head_dim) };
        Block::pre_norm(norm.clone(), Op::Attention(attention), ffn.clone())
    };
    Ok(ModelSpec {
        family: "gpt_neo".to_owned(),
        vocab_size,
        hidden_size,
        context: config.size_or("max_position_embeddings", 2048)?,
        embedding: Embedding { positions: Positions::Learned, ..Embedding::default() },
        blocks: local_blocks(config)?.into_iter().map(block).collect(),
        final_norm: Some(norm),
        tied: config.flag_or("tie_word_embeddings", true)?,
        head: Default::default(),
        special: config.special_tokens_or(50_256, 50_256, vocab_size)?,
    })
}

/// For each block, true if its attention is local: `attention_layers` says it for each, and `attention_types` as
/// runs of kinds and how often they come, such as `[[["global", "local"], 12]]`.
fn local_blocks(config: &Config) -> Result<Vec<bool>> {
    let key = config.either(&["num_hidden_layers", "num_layers"]);
    let n_blocks = config.blocks_or(key, 24)?;
    let runs = config.optional("attention_types", "a list such as [[[\"global\", \"local\"], 12]]", expanded)?;
    let each = config.optional("attention_layers", "a list of \"global\" and \"local\"", kinds)?;
    if let Some(kinds) = [&each, &runs].into_iter().flatten().find(|kinds| kinds.len() != n_blocks) {
        return Err(config.error(format!("{} kinds of attention are given for {n_blocks} blocks ({key})", kinds.len())));
    }
    match (each, runs) {
        (Some(each), Some(runs)) if each != runs => {
            Err(config.error("\"attention_layers\" and \"attention_types\" give blocks different kinds of attention"))
        }
        (Some(kinds), _) | (None, Some(kinds)) => Ok(kinds),
        (None, None) if n_blocks == 24 => Ok([false, true].repeat(12)),
        (None, None) => Err(config.error(format!("24 kinds of attention are the default, but there are {n_blocks} blocks ({key})"))),
    }
}

fn kinds(value: &Value) -> Option<Vec<bool>> {
    let local = |kind: &Value| match kind.as_str()? {
        "global" => Some(false),
        "local" => Some(true),
        _ => None,
    };
    value.as_array()?.iter().map(local).collect()
}

fn expanded(value: &Value) -> Option<Vec<bool>> {
    let mut all = Vec::new();
    for run in value.as_array()? {
        let (kinds, times) = (kinds(run.get(0)?)?, usize::try_from(run.get(1)?.as_u64()?).ok()?);
        if all.len() + kinds.len().saturating_mul(times) > MAX_BLOCKS {
            return None;
        }
        all.extend(kinds.repeat(times));
    }
    Some(all)
}
