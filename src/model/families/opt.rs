//! `opt` (Galactica too): learned positions, whose table begins with two rows
//! that are never used, layer norm before mixer and feed-forward, and a
//! feed-forward without a gate. The 350M model is another: its norms are behind
//! the sums, no norm comes before the head, and the embedding is narrower than
//! the residual stream, with a matrix in and another out.
//!
//! The norms' epsilon is torch's own, 1e-5; no key changes it.
//!
//! Source: transformers, `configuration_opt.py` and `modeling_opt.py`.

use super::{At, Config, Family, Names};
use crate::error::Result;
use crate::model::ModelSpec;
use crate::spec::{Attention, Block, Embedding, FeedForward, Norm, NormWeight, Op, Positions};

/// The row of this family.
pub const FAMILY: Family = Family { model_type: "opt", models: "OPT, Galactica", spec, names: &NAMES, settle: None };

const NAMES: Names = Names {
    blocks: "model.decoder.layers",
    block: &[
        ("attn_norm", At::Module("self_attn_layer_norm")),
        ("attn_sum_norm", At::Module("self_attn_layer_norm")),
        ("attn.q", At::Module("self_attn.q_proj")),
        ("attn.k", At::Module("self_attn.k_proj")),
        ("attn.v", At::Module("self_attn.v_proj")),
        ("attn.o", At::Module("self_attn.out_proj")),
        ("ffn_norm", At::Module("final_layer_norm")),
        ("ffn_sum_norm", At::Module("final_layer_norm")),
        ("ffn.up", At::Module("fc1")),
        ("ffn.down", At::Module("fc2")),
    ],
    outside: &[
        ("embeddings", At::Module("model.decoder.embed_tokens")),
        ("embedding_projection", At::Module("model.decoder.project_in")),
        ("positions", At::Behind("model.decoder.embed_positions", 2)),
        ("final_norm", At::Module("model.decoder.final_layer_norm")),
        ("head_projection", At::Module("model.decoder.project_out")),
        ("head", At::Module("lm_head")),
    ],
    transposed: false,
};

fn spec(config: &Config) -> Result<ModelSpec> {
    let hidden_size = config.size_or("hidden_size", 768)?;
    let (n_heads, head_dim) = config.even_heads("num_attention_heads", 12, hidden_size)?;
    let vocab_size = config.size_or("vocab_size", 50_272)?;
    let bias = config.flag_or("enable_bias", true)?;
    let norm = match config.flag_or("layer_norm_elementwise_affine", true)? {
        true => Norm::layer(1e-5),
        false => Norm { weight: NormWeight::None, bias: false, ..Norm::layer(1e-5) },
    };
    let attention = Attention { qkv_bias: bias, output_bias: bias, ..Attention::new(n_heads, n_heads, head_dim) };
    let ffn = FeedForward::plain(config.size_or("ffn_dim", 3072)?, config.activation("activation_function", "relu")?);
    let mut block = Block::pre_norm(norm.clone(), Op::Attention(attention), FeedForward { bias, ..ffn });
    let before = config.flag_or("do_layer_norm_before", true)?;
    if !before {
        block.sub_layers.iter_mut().for_each(|sub_layer| sub_layer.sum_norm = sub_layer.norm.take());
    }
    // Files from before transformers 4.20 have no last norm.
    let last_norm_removed = config.flag_or("_remove_final_layer_norm", false)?;
    Ok(ModelSpec {
        family: "opt".to_owned(),
        vocab_size,
        hidden_size,
        context: config.size_or("max_position_embeddings", 2048)?,
        embedding: Embedding {
            width: config.size_opt("word_embed_proj_dim")?.filter(|&width| width != hidden_size),
            positions: Positions::Learned,
            ..Embedding::default()
        },
        blocks: vec![block; config.blocks_or("num_hidden_layers", 12)?],
        final_norm: (before && !last_norm_removed).then_some(norm),
        tied: config.flag_or("tie_word_embeddings", true)?,
        head: Default::default(),
        special: config.special_tokens_or(2, 2, vocab_size)?,
    })
}
