//! Keys of a `config.json` that a family does not read: some say nothing of the mathematics,
//! some change it and are refused where their value is not the neutral one, and all others are
//! warned about.
//!
//! The tables are made of what transformers' configurations carry (`python-compat/write_config_keys.py`
//! lists them) and of published files of the families; `tests/config_keys.rs` proves that
//! what transformers' language models carry is told apart.

use super::{Config, config, rope};
use crate::error::Result;
use crate::model::ModelSpec;
use crate::notice::warn_once;
use crate::pattern;
use crate::spec::{Attention, Block};
use serde_json::Value;

/// Keys that say nothing of the mathematics, or only where a key of [`CHANGES`] is on.
const INERT: &[&str] = &[
    // Names, versions, and how a program computes the same.
    "_name_or_path",
    "_commit_hash",
    "name_or_path",
    "architectures",
    "auto_map",
    "model_type",
    "transformers_version",
    "tokenizer_class",
    "transformers.js_config",
    "dtype",
    "torch_dtype",
    "*_dtype",
    "fp16",
    "bf16",
    "fp32",
    "is_llama_config",
    "unsloth*",
    "license",
    "language",
    "*attn_implementation*",
    "*flash_attn*",
    "*flash_attention*",
    "*experts_implementation*",
    "use_cache",
    "cache_implementation",
    "use_mem_eff_path",
    "use_mamba_kernels",
    "use_mambapy",
    "reorder_and_upcast_attn",
    "residual_in_fp32",
    "*softmax_in_fp32",
    "*_fusion",
    "skip_bias_add*",
    "chunk_size_*",
    "slow_but_exact",
    "pretraining_tp",
    "tp_size",
    "num_logits_to_keep",
    "keys_to_ignore_*",
    "init_device",
    "rescale_every",
    "use_bfloat16",
    "torchscript",
    "return_dict*",
    "use_return_dict",
    "seed",
    "onnx*",
    "neuron*",
    // Tokens and lengths.
    "*_token_id",
    "*_token_ids",
    "*_token_index",
    "*_token",
    "unk_index",
    "mask_index",
    "max_position_embeddings",
    "max_seq_len*",
    "rope_max_length",
    "offset_alibi",
    "max_sequence_length",
    "max_context_length",
    "model_max_length",
    "tokenizer_model_max_length",
    "seq_length",
    "seq_len",
    "n_ctx",
    "n_positions",
    "original_max_position_embeddings",
    "unpadded_vocab_size",
    // Sizes under other names: the shapes of the weights tell.
    "n_embd",
    "n_embed",
    "d_model",
    "n_layer",
    "n_layers",
    "num_layers",
    "n_inner",
    "ffn_dim",
    "encoder_*",
    "vocab_size_per_layer_input",
    // Training, other heads, and further outputs.
    "*dropout*",
    "*pdrop*",
    "*layerdrop*",
    "initializer_*",
    "*_initializer_range",
    "init_std",
    "embed_init_std",
    "*_loss_coef",
    "*_loss_coeff",
    "z_loss*",
    "*_loss_scaling_factor",
    "router_jitter_noise",
    "input_jitter_noise",
    "gradient_checkpointing*",
    "rescale_prenorm_residual",
    "summary_*",
    "classifier_*",
    "num_labels",
    "id2label",
    "label2id",
    "problem_type",
    "finetuning_task",
    "task_specific_params",
    "prefix",
    "output_attentions",
    "output_hidden_states",
    "output_router_logits",
    "output_scores",
    "output_past",
    "tie_last_hidden_states",
    "is_decoder",
    "tf_legacy_loss",
    "tie_encoder_decoder",
    "cross_attention_hidden_size",
    "mask_time_*",
    "mask_feature_*",
    "apply_spec_augment",
    // Generation.
    "max_length",
    "min_length",
    "max_new_tokens",
    "do_sample",
    "early_stopping",
    "num_beams",
    "num_beam_groups",
    "diversity_penalty",
    "temperature",
    "top_k",
    "top_p",
    "typical_p",
    "repetition_penalty",
    "length_penalty",
    "*no_repeat_ngram_size",
    "bad_words_ids",
    "num_return_sequences",
    "remove_invalid_values",
    "exponential_decay_length_penalty",
    "*suppress_tokens",
    // Windows, experts and recurrences that another key switches on.
    "*sliding_window_pattern",
    "route_scale",
    "chunk_size",
    "block_size",
    "time_step_*",
    "use_associative_scan",
    "use_conv_bias",
    "max_window_layers",
    "num_experts_per_tok*",
    "moe_topk",
    "moe_top_k",
    "moe_capacity_factor",
    "moe_loss_weight",
    "moe_k",
    "norm_topk_prob",
    "topk_group",
    "topk_method",
    "n_group",
    "scoring_func",
    "routed_scaling_factor",
    "decoder_sparse_step",
    "mlp_only_layers",
    "moe_intermediate_size",
    "shared_expert_intermediate_size",
    "first_k_dense_replace",
    "moe_layer_freq",
    "num_nextn_predict_layers",
    "ep_size",
    // Tied or not is read under this name or another, and the weights tell.
    "tie_word_embeddings",
]; // rustfmt keeps short words in columns of their own

/// The value of a key that changes nothing. `null`, `false`, 0 and what is empty are
/// neutral for [`Neutral::Off`]; `null` is for all.
enum Neutral {
    /// Nothing, or a switch that is off.
    Off,
    /// A switch that is on.
    On,
    /// A number, or a list of it.
    Number(f64),
    /// 1/√head_dim: the scale of attention that is there anyway.
    AttentionScale,
    /// The width of a head.
    HeadDim,
    /// The number of key and value heads.
    KvHeads,
    /// The base of rotary positions; any where there are none.
    RotaryBase,
    /// The share of a head that is turned; any where none is.
    RotaryShare,
    /// The width of the residual stream.
    HiddenSize,
    /// The root of the number of blocks (MiniCPM's `scale_depth / √blocks`).
    RootOfBlocks,
    /// At least the context.
    Context,
    /// The epsilon of the norms.
    Epsilon,
    /// The activation of the feed-forward.
    Activation,
    /// The number of query heads.
    Heads,
    /// True if the model has biases.
    Biases,
    /// A list of these words alone.
    Words(&'static [&'static str]),
    /// Rotary parameters without scaling.
    PlainRotary,
}

use Neutral::*;

/// Keys that change the mathematics; the first pattern that fits decides.
const CHANGES: &[(&str, Neutral)] = &[
    // Multipliers of Granite, MiniCPM, Cohere, Falcon-H1 and others.
    ("attention_multiplier", AttentionScale),
    ("*multiplier*", Number(1.0)),
    ("logits_scaling", Number(1.0)),
    ("logit_scale", Number(1.0)),
    ("scale_emb", Number(1.0)),
    ("embedding_scale", Number(1.0)),
    ("scale_embedding", Off),
    ("normalize_embedding*", Off),
    ("scale_depth", RootOfBlocks),
    ("dim_model_base", HiddenSize),
    ("mup_*", Off),
    ("use_mup", Off),
    ("*alpha_factor", Number(1.0)),
    ("*beta_factor", Number(1.0)),
    ("query_pre_attn_scalar", HeadDim),
    ("attn_scale", Number(1.0)),
    ("attention_value_scale", Number(1.0)),
    ("*softcap*", Off),
    ("*soft_cap*", Off),
    ("*clip_qkv", Off),
    ("qkv_clip", Off),
    ("scale_attn_weights", On),
    ("scale_attn_by_inverse_layer_idx", Off),
    // Norms and activations.
    ("*norm_eps", Epsilon),
    ("*norm_epsilon", Epsilon),
    ("hidden_act", Activation),
    ("hidden_activation", Activation),
    ("activation_function", Activation),
    ("swiglu_*", Off),
    ("*qk_norm", Off),
    ("qk_layernorm", Off),
    ("use_qk_*", Off),
    ("*post_norm", Off),
    ("post_layernorm", Off),
    ("use_sandwich_norm", Off),
    ("add_out_norm", Off),
    ("*sub_norm*", Off),
    ("layer_norm_elementwise_affine", On),
    ("do_layer_norm_before", On),
    ("apply_residual_connection_post_layernorm", Off),
    // Experts.
    ("*num_experts", Off),
    ("*num_shared_experts", Off),
    ("num_local_experts", Off),
    ("n_routed_experts", Off),
    ("n_shared_experts", Off),
    ("moe_freq", Off),
    ("is_moe", Off),
    ("enable_moe_block", Off),
    ("mlp_layer_types", Words(&["dense"])),
    ("activation_sparsity_pattern", Off),
    // Which tokens see which.
    ("use_sliding_window", Off),
    ("sliding_window", Context),
    ("sliding_window_size", Context),
    ("attention_window_size", Context),
    ("attention_chunk_size", Context),
    ("window_size", Context),
    ("local_attention", Context),
    ("layer_types", Words(&["full_attention", "attention"])),
    ("*layers_block_type", Words(&["full_attention", "attention"])),
    ("block_types", Words(&["attention"])),
    ("attention_types", Off),
    ("use_bidirectional_attention", Off),
    ("causal", On),
    ("is_causal", On),
    ("prefix_lm", Off),
    ("*attention_sink*", Off),
    ("*_sink", Off),
    ("use_sparse_attention", Off),
    ("is_encoder_decoder", Off),
    ("add_cross_attention", Off),
    ("cross_attention_layers", Off),
    ("type_vocab_size", Off),
    ("vision_config", Off),
    ("audio_config", Off),
    // Heads.
    ("multi_query*", Off),
    ("num_attention_heads", Heads),
    ("num_query_heads", Heads),
    ("n_head", Heads),
    ("n_heads", Heads),
    ("num_heads", Heads),
    ("attention_heads", Heads),
    ("num_kv_heads", KvHeads),
    ("n_kv_heads", KvHeads),
    ("n_head_kv", KvHeads),
    ("num_query_groups", KvHeads),
    ("num_key_value_heads", KvHeads),
    ("head_dim", HeadDim),
    ("kv_channels", HeadDim),
    ("v_head_dim", HeadDim),
    ("qk_head_dim", HeadDim),
    ("*lora_rank", Off),
    ("qk_rope_head_dim", Off),
    ("qk_nope_head_dim", Off),
    ("num_kv_shared_layers", Off),
    ("attention_k_eq_v", Off),
    ("use_attention_gate", Off),
    ("use_output_gate", Off),
    ("attn_output_gate", Off),
    ("output_gate_type", Off),
    ("gated_norm_rank", Off),
    ("*differential*", Off),
    ("lambda_*", Off),
    // Blocks.
    ("parallel_attn", Off),
    ("use_parallel_residual", Off),
    ("new_decoder_architecture", Off),
    ("per_layer_config", Off),
    ("pruned_heads", Off),
    ("embedding_size", HiddenSize),
    ("word_embed_proj_dim", HiddenSize),
    ("hidden_size_per_layer_input", Off),
    ("use_double_wide_mlp", Off),
    // Positions.
    ("alibi", Off),
    ("use_alibi", Off),
    ("*alibi_*", Off),
    ("no_rope_layer*", Number(1.0)),
    ("nope_*", Off),
    ("use_nope", Off),
    ("use_rope", On),
    ("partial_rotary_factor", RotaryShare),
    ("rotary_pct", RotaryShare),
    ("rotary_percent", RotaryShare),
    ("rope_pct", RotaryShare),
    ("rope_ratio", Number(1.0)),
    ("rotary_dim", HeadDim),
    ("rotary_ndims", HeadDim),
    ("rotary_emb_dim", HeadDim),
    ("rope_theta", RotaryBase),
    ("rope_base", RotaryBase),
    ("rotary_emb_base", RotaryBase),
    ("*_rope_theta", Off),
    ("rope_local_base_freq", Off),
    ("rope_interleave*", Off),
    ("rope_scaling", PlainRotary),
    ("rope_parameters", PlainRotary),
    ("llama_4_scaling_beta", Off),
    ("use_dynamic_ntk", Off),
    ("*logn_attn", Off),
    ("attn_temperature_tuning", Off),
    ("use_mrope", Off),
    ("mrope_*", Off),
    ("use_learned_position_embeddings", Off),
    ("learned_pos_emb", Off),
    ("sinusoidal_embeddings", Off),
    ("relative_attention*", Off),
    // Biases.
    ("attention_bias", Biases),
    ("*qkv_bias", Biases),
    ("attention_*_bias", Biases),
    ("mlp_bias", Biases),
    ("use_bias", Biases),
    ("bias", Biases),
    ("add_bias_linear", Biases),
    ("no_bias", Off),
    ("lm_head_bias", Off),
    // Recurrent and convolutional mixers, and other inputs.
    ("mamba_*", Off),
    ("ssm_*", Off),
    ("state_size", Off),
    ("conv_*", Off),
    ("*conv1d*", Off),
    ("*_conv_kernel_dim", Off),
    ("linear_num_*", Off),
    ("linear_*_head_dim", Off),
    ("full_attn_idxs", Off),
    ("attn_layer_*", Off),
    ("kda_*", Off),
    ("lru_width", Off),
    ("altup_*", Off),
    ("laurel_rank", Off),
    ("hc_*", Off),
    ("*ngram_vocab*", Off),
    ("index_*", Off),
    ("expand", Off),
    ("number_of_conv_states", Off),
    ("attention_hidden_size", Off),
    ("num_codebooks", Off),
    ("indexer_*", Off),
];

/// Kind of a key that the family does not read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Foreign {
    /// It says nothing of the mathematics, or has its neutral value.
    Harmless,
    /// It changes the mathematics.
    Changes,
    /// Unknown effect.
    Unknown,
}

/// True if a key does not change the mathematics.
pub fn is_inert(key: &str) -> bool {
    INERT.iter().any(|known| pattern::matches(known, key))
}

/// True if a key is in one of the tables.
pub fn is_classified(key: &str) -> bool {
    is_inert(key) || CHANGES.iter().any(|(known, _)| pattern::matches(known, key))
}

fn classify(key: &str, value: &Value, spec: &ModelSpec) -> Foreign {
    if value.is_null() || is_inert(key) {
        return Foreign::Harmless;
    }
    match CHANGES.iter().find(|(known, _)| pattern::matches(known, key)) {
        Some((_, neutral)) if neutral.holds(value, spec) => Foreign::Harmless,
        Some(_) => Foreign::Changes,
        None if is_off(value) => Foreign::Harmless,
        None => Foreign::Unknown,
    }
}

impl Neutral {
    fn holds(&self, value: &Value, spec: &ModelSpec) -> bool {
        let is = |wanted: f64| value.as_f64().is_some_and(|found| (found - wanted).abs() <= 1e-6 * wanted.abs());
        let attention = spec.attentions().next();
        let ffn = spec.blocks.first().and_then(Block::feed_forward);
        let of_attention = |number: fn(&Attention) -> f64| attention.is_some_and(|attention| is(number(attention)));
        let rotary = attention.and_then(|attention| Some((attention.head_dim, attention.rotary.as_ref()?)));
        match self {
            Off => is_off(value),
            On => value.as_bool() == Some(true),
            Number(wanted) => match value {
                Value::Array(all) => all.iter().all(|x| x.as_f64() == Some(*wanted)),
                _ => is(*wanted) || value.as_bool() == Some(false),
            },
            AttentionScale => of_attention(|attention| attention.scale.into()),
            HeadDim => of_attention(|attention| attention.head_dim as f64),
            KvHeads => heads(value, spec, |attention| attention.n_kv_heads),
            RotaryBase => rotary.is_none_or(|(_, rotary)| is(rotary.theta)),
            RotaryShare => rotary.is_none_or(|(head_dim, rotary)| is(rotary.dims(head_dim) as f64 / head_dim as f64)),
            HiddenSize => is(spec.hidden_size as f64),
            RootOfBlocks => is((spec.blocks.len() as f64).sqrt()),
            Context => value.as_u64().is_some_and(|window| window >= spec.context as u64) || is_off(value),
            Epsilon => spec.final_norm.as_ref().is_some_and(|norm| is(norm.epsilon)),
            Activation => {
                let named = value.as_str().and_then(config::activation_named);
                named.is_some() && named == ffn.map(|ffn| ffn.activation)
            }
            Heads => heads(value, spec, |attention| attention.n_heads),
            Biases => {
                let has = ffn.is_some_and(|ffn| ffn.bias) || attention.is_some_and(|a| a.qkv_bias || a.output_bias);
                value.as_bool() == Some(has)
            }
            Words(words) => value.as_array().is_some_and(|all| all.iter().all(|x| x.as_str().is_some_and(|x| words.contains(&x)))),
            PlainRotary => is_off(value) || ["rope_type", "type"].iter().any(|key| value[*key] == "default"),
        }
    }
}

/// True if a value is the number of heads of every block, or lists those of each.
fn heads(value: &Value, spec: &ModelSpec, number: fn(&Attention) -> usize) -> bool {
    let mut attentions = spec.attentions().map(|attention| number(attention) as u64);
    match value {
        Value::Array(all) => all.iter().map(Value::as_u64).eq(attentions.map(Some)),
        one => attentions.all(|heads| one.as_u64() == Some(heads)),
    }
}

/// True for the values that mean "off": null, false, 0, an empty text or object, a list of such values.
fn is_off(value: &Value) -> bool {
    match value {
        Value::Null => true,
        Value::Bool(on) => !on,
        Value::Number(number) => number.as_f64() == Some(0.0),
        Value::String(text) => text.is_empty(),
        Value::Array(all) => all.iter().all(is_off),
        Value::Object(all) => all.is_empty(),
    }
}

/// Keys and values that were not read, by what they are.
fn unread(config: &Config, spec: &ModelSpec, wanted: Foreign) -> Vec<String> {
    // Qwen's configurations give a window that is switched off.
    let no_window = config.value()["use_sliding_window"] == false;
    let off = |key: &str| no_window && key == "sliding_window";
    let outer = config.keys().filter(|key| !config.was_asked(key) && !off(key)).map(|key| (key.to_owned(), key, &config.value()[key]));
    let inner = rope::SPELLINGS
        .iter()
        .flat_map(|object| config.unread_inside(object).into_iter().map(move |(key, value)| (format!("{object}.{key}"), key, value)));
    let found = outer.chain(inner).filter(|(_, key, value)| classify(key, value, spec) == wanted);
    found.map(|(name, _, value)| format!("{name} = {}", shortened(value))).collect()
}

/// Fails where keys that are not read change the mathematics.
pub fn refuse(config: &Config, spec: &ModelSpec) -> Result<()> {
    let changes = unread(config, spec, Foreign::Changes);
    if changes.is_empty() {
        return Ok(());
    }
    Err(config.error(format!(
        "keys that the {} family does not read change the mathematics: {}; use the model's own model_type, or remove them where the \
         weights were trained without them",
        spec.family,
        changes.join(", ")
    )))
}

/// Values that are not used: overridden ones, and those of keys that are not known.
pub fn unused(config: &Config, spec: &ModelSpec) -> Vec<String> {
    let mut unused = config.overridden();
    unused.extend(unread(config, spec, Foreign::Unknown));
    unused
}

/// Warns of all values that are not used, in one line.
pub fn warn(config: &Config, spec: &ModelSpec) {
    const SHOWN: usize = 8;
    let unused = unused(config, spec);
    if unused.is_empty() {
        return;
    }
    let more = unused.len().saturating_sub(SHOWN);
    let more = if more > 0 { format!(" and {more} more") } else { String::new() };
    let shown = unused[..unused.len().min(SHOWN)].join(", ");
    warn_once(config.path(), format!("has keys that the {} family does not read: {shown}{more}", spec.family));
}

fn shortened(value: &Value) -> String {
    const LENGTH: usize = 40;
    let text = value.to_string();
    if text.chars().count() <= LENGTH { text } else { text.chars().take(LENGTH).chain("…".chars()).collect() }
}
