//! `llama`: RMS norm before mixer and feed-forward, grouped-query attention with
//! rotary positions, gated feed-forward.
//!
//! Source: transformers, `configuration_llama.py` and `modeling_llama.py`.

use super::{Config, Family, Source, renamed};
use crate::error::Result;
use crate::model::ModelSpec;
use crate::model::spec::{Activation, Attention, Block, FeedForward, Mixer, Norm, NormKind};

/// The row of this family.
pub const FAMILY: Family = Family { model_type: "llama", spec, sources };

/// Reads a configuration with the keys of `llama`; kin start from it.
pub(super) fn spec(config: &Config) -> Result<ModelSpec> {
    spec_with(config, |n_heads| n_heads)
}

/// The same with the number of kv heads that an absent key stands for, which is
/// not the same in all kin.
pub(super) fn spec_with(config: &Config, default_kv_heads: impl Fn(usize) -> usize) -> Result<ModelSpec> {
    let n_heads = config.size("num_attention_heads")?;
    let hidden_size = config.size("hidden_size")?;
    let n_kv_heads = match config.size_opt("num_key_value_heads")? {
        Some(n) => n,
        None if config.mentions("num_key_value_heads") => n_heads,
        None => default_kv_heads(n_heads),
    };
    let head_dim = match config.size_opt("head_dim")? {
        Some(head_dim) => head_dim,
        None if hidden_size.is_multiple_of(n_heads) => hidden_size / n_heads,
        None => return Err(config.error(format!("hidden_size {hidden_size} is not a multiple of num_attention_heads {n_heads}"))),
    };
    if config.positive_opt("partial_rotary_factor")?.is_some_and(|factor| factor != 1.0) {
        return Err(config.error("\"partial_rotary_factor\": heads that are turned in part are not known to this family yet"));
    }
    let activation = match config.string_or("hidden_act", "silu")? {
        "silu" | "swish" => Activation::Silu,
        other => return Err(config.error(format!("hidden_act \"{other}\" is not known; known is silu"))),
    };
    let norm = Norm { kind: NormKind::Rms, epsilon: config.positive_opt("rms_norm_eps")?.unwrap_or(1e-6) };
    let attention_bias = config.flag_or("attention_bias", false)?;
    let block = Block {
        mixer_norm: norm.clone(),
        mixer: Mixer::Attention(Attention {
            n_heads,
            n_kv_heads,
            head_dim,
            scale: (head_dim as f32).sqrt().recip(),
            rotary: config.rotary()?,
            window: None,
            qkv_bias: attention_bias,
            output_bias: attention_bias,
        }),
        ffn_norm: norm.clone(),
        ffn: FeedForward { width: config.size("intermediate_size")?, activation, bias: config.flag_or("mlp_bias", false)? },
    };
    Ok(ModelSpec {
        family: config.string("model_type")?.to_owned(),
        vocab_size: config.size("vocab_size")?,
        hidden_size,
        context: config.size_opt("max_position_embeddings")?.unwrap_or(2048),
        blocks: vec![block; config.blocks("num_hidden_layers")?],
        final_norm: norm,
        tied: config.flag_or("tie_word_embeddings", false)?,
        special: config.special_tokens()?,
    })
}

/// Canonical role in a block -> module of the checkpoint.
const BLOCK: [(&str, &str); 9] = [
    ("attn_norm", "input_layernorm"),
    ("attn.q", "self_attn.q_proj"),
    ("attn.k", "self_attn.k_proj"),
    ("attn.v", "self_attn.v_proj"),
    ("attn.o", "self_attn.o_proj"),
    ("ffn_norm", "post_attention_layernorm"),
    ("ffn.gate", "mlp.gate_proj"),
    ("ffn.up", "mlp.up_proj"),
    ("ffn.down", "mlp.down_proj"),
];
/// The same outside the blocks.
const OUTSIDE: [(&str, &str); 3] = [("embeddings", "model.embed_tokens"), ("final_norm", "model.norm"), ("head", "lm_head")];

/// Where the parameters of a Llama-shaped checkpoint lie.
pub(super) fn sources(spec: &ModelSpec) -> Vec<(String, Source)> {
    let module = |table: &[(&str, &'static str)], role: &str| {
        table.iter().find(|(canonical, _)| *canonical == role).unwrap_or_else(|| panic!("no module for {role}")).1
    };
    renamed(spec, |block, role| {
        let (role, part) = role.strip_suffix(".bias").map_or((role, "weight"), |role| (role, "bias"));
        Source::whole(match block {
            Some(i) => format!("model.layers.{i}.{}.{part}", module(&BLOCK, role)),
            None => format!("{}.{part}", module(&OUTSIDE, role)),
        })
    })
}
