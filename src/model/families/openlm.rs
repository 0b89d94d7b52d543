//! `openlm` (DCLM and the open_lm models): Llama's shape with layer norms, which
//! may have weights and biases or not, norms of all queries and of all keys
//! together, and a feed-forward gated or not. Settings lie in the configuration,
//! in its `params_args_dict`, or in the preset that this names.
//!
//! Source: mlfoundations/open_lm, `open_lm/model.py`, `norms.py`, `utils/transformers/`.

use super::{At, Config, Family, Names};
use crate::error::Result;
use crate::model::ModelSpec;
use crate::spec::{Activation, Attention, Block, Embedding, FeedForward, Gate, Norm, NormWeight, Op, QkNorm, QkSpan, Rotary};
use serde_json::json;

/// The row of this family.
pub const FAMILY: Family = Family { model_type: "openlm", models: "open_lm, DCLM", spec, names: &NAMES, settle: None };

const QKV: At = At::Fused("attention.in_proj", &["attn.q", "attn.k", "attn.v"]);
const W12: At = At::Fused("feed_forward.w12", &["ffn.gate", "ffn.up"]);
const EMBEDDINGS: [At; 2] = [At::Module("model.tok_embeddings"), At::Module("model.output")];

const NAMES: Names = Names {
    blocks: "model.layers",
    block: &[
        ("attn_norm", At::Module("attention_norm")),
        ("attn.q", QKV),
        ("attn.k", QKV),
        ("attn.v", QKV),
        ("attn.q_norm", At::Module("attention.q_norm")),
        ("attn.k_norm", At::Module("attention.k_norm")),
        ("attn.o", At::Module("attention.out_proj")),
        ("ffn_norm", At::Module("ffn_norm")),
        ("ffn.gate", At::Either(&[W12, At::Module("feed_forward.gate_proj")])),
        ("ffn.up", At::Either(&[W12, At::Module("feed_forward.up_proj"), At::Module("_ff_w1"), At::Module("feed_forward.0")])),
        (
            "ffn.down",
            At::Either(&[
                At::Module("feed_forward.w3"),
                At::Module("feed_forward.down_proj"),
                At::Module("_ff_w2"),
                At::Module("feed_forward.2"),
            ]),
        ),
    ],
    outside: &[
        // Where they are tied, a file may keep either.
        ("embeddings", At::Either(&EMBEDDINGS)),
        ("embedding_norm", At::Module("model.post_embed_norm")),
        ("final_norm", At::Module("model.norm")),
        ("head", At::Module("model.output")),
    ],
    transposed: false,
};

/// Width, blocks and heads of what is known by name.
const PRESETS: [(&str, [usize; 3]); 14] = [
    ("open_lm_11m", [96, 12, 12]),
    ("open_lm_25m", [192, 12, 12]),
    ("open_lm_41m", [288, 12, 12]),
    ("open_lm_87m", [488, 12, 12]),
    ("open_lm_160m", [768, 12, 12]),
    ("open_lm_410m", [1024, 24, 16]),
    ("open_lm_830m", [1536, 24, 16]),
    ("open_lm_1b", [2048, 24, 16]),
    ("open_lm_3b", [2560, 32, 32]),
    ("open_lm_7b", [4096, 32, 32]),
    ("open_lm_11m_v2", [96, 8, 4]),
    ("open_lm_79m_v2", [512, 8, 4]),
    ("open_lm_154m_v2", [576, 24, 8]),
    ("open_lm_411m_v2", [1024, 24, 8]),
];

fn spec(config: &Config) -> Result<ModelSpec> {
    let config = &settings(config)?;
    let hidden_size = config.size_or(config.either(&["dim", "hidden_dim"]), 512)?;
    let (n_heads, head_dim) = config.even_heads("n_heads", 8, hidden_size)?;
    let norm = norm(config)?;
    let qk_norm = config.flag_or(config.either(&["apply_qk_norm", "qk_norm"]), false)?;
    let attention = Attention {
        rotary: rotary(config)?,
        qk_norm: qk_norm.then(|| QkNorm { norm: norm.clone(), span: QkSpan::All }),
        ..Attention::new(n_heads, n_heads, head_dim)
    };
    let block = Block::pre_norm(norm.clone(), Op::Attention(attention), feed_forward(config, hidden_size)?);
    let after_embedding = config.flag_or("post_embed_norm", false)?;
    Ok(ModelSpec {
        family: "openlm".to_owned(),
        vocab_size: config.size_or("vocab_size", 50_432)?,
        hidden_size,
        context: config.size_or("seq_len", 2048)?,
        embedding: Embedding { norm: after_embedding.then(|| norm.clone()), ..Embedding::default() },
        blocks: vec![block; config.blocks_or("n_layers", 8)?],
        final_norm: Some(norm),
        tied: config.flag_or("weight_tying", false)?,
        head: Default::default(),
        special: config.special_tokens()?,
    })
}

/// All settings in one place.
fn settings(config: &Config) -> Result<Config> {
    let given = match config.object("params_args_dict")? {
        Some(inner) => config.over(&inner),
        None => config.or(json!({})),
    };
    // Programs for the same attention.
    const ATTENTIONS: [&str; 3] = ["auto", "torch_attn", "xformers_attn"];
    let name = given.string_or("attn_name", ATTENTIONS[0])?;
    if !ATTENTIONS.contains(&name) {
        return Err(given.error(format!("attn_name \"{name}\" is not known; known are {}", ATTENTIONS.join(", "))));
    }
    if given.optional("moe_freq", "a number", |v| v.as_f64())?.is_some_and(|n| n > 0.0) {
        return Err(given.error("\"moe_freq\": mixtures of experts are not known to this family"));
    }
    let name = given.string_or("model", "")?.trim_end_matches("_swiglutorch");
    match PRESETS.iter().find(|(preset, _)| *preset == name) {
        Some((_, [dim, n_layers, n_heads])) => Ok(given.or(json!({ "dim": dim, "n_layers": n_layers, "n_heads": n_heads }))),
        None => Ok(given),
    }
}

fn norm(config: &Config) -> Result<Norm> {
    let layer = Norm::layer(config.positive_or("norm_eps", 1e-5)?);
    let key = config.either(&["model_norm", "norm_type"]);
    match config.string_or(key, "default_layer_norm")? {
        "default_layer_norm" | "lp_layer_norm" => Ok(layer),
        "gain_only_layer_norm" | "gain_only_lp_layer_norm" => Ok(Norm { bias: false, ..layer }),
        "no_wb_layer_norm" => Ok(Norm { weight: NormWeight::None, bias: false, ..layer }),
        "rms_norm" => Ok(Norm::rms(layer.epsilon)),
        other => Err(config.error(format!("{key} \"{other}\" is not known"))),
    }
}

fn rotary(config: &Config) -> Result<Option<Rotary>> {
    match config.string_or("positional_embedding_type", "rotary")? {
        "rotary" => Ok(Some(Rotary::plain(10_000.0))),
        "llama_rotary" => Ok(Some(Rotary { neighbours: true, ..Rotary::plain(10_000.0) })),
        // The former turns each head by its number, which cancels between query and key.
        "head_rotary" | "none" => Ok(None),
        other => Err(config.error(format!("positional_embedding_type \"{other}\" is not known"))),
    }
}

fn feed_forward(config: &Config, hidden_size: usize) -> Result<FeedForward> {
    let width = (8 * hidden_size / 3).next_multiple_of(256);
    match config.string_or("ffn_type", "swiglu")? {
        "swiglu" | "swiglu_torch" => Ok(FeedForward::gated(width, Activation::Silu)),
        "gemma_geglu" => Ok(FeedForward { bias: true, ..FeedForward::gated(width, Activation::Gelu) }),
        "gelu" => Ok(FeedForward { gate: Gate::None, ..FeedForward::gated(4 * hidden_size, Activation::Gelu) }),
        other => Err(config.error(format!("ffn_type \"{other}\" is not known; known are swiglu, swiglu_torch, gemma_geglu, gelu"))),
    }
}
