//! The source's `config.json` with the widths of another spec.
//!
//! Which keys a family reads is not listed here: its reader is run, and tells.
//! [`KEYS`] says what the keys of all families mean. That what comes out says the
//! spec, and nothing else, is proved by reading it again.

use super::rules;
use crate::checkpoint::FloatType;
use crate::error::{Error, Result};
use crate::model::ModelSpec;
use crate::model::families::{self, CONFIG, Config, Family};
use crate::spec::{Attention, Block, Mask, SpecialTokens};
use serde_json::{Value, json};
use std::path::Path;

/// What a key says of a spec; `None` where it has no such thing.
type Meaning = fn(&ModelSpec) -> Option<Value>;

/// What families call widths and lists of blocks.
const KEYS: [(&[&str], Meaning); 22] = [
    (&["vocab_size"], |spec| Some(json!(spec.vocab_size))),
    (&["hidden_size", "n_embd", "n_embed", "d_model", "dim", "hidden_dim", "model_dim"], |spec| Some(json!(spec.hidden_size))),
    (&["word_embed_proj_dim"], |spec| Some(json!(spec.embedding_width()))),
    (&["intermediate_size", "n_inner", "ffn_dim"], |spec| Some(json!(spec.blocks.first()?.feed_forward()?.width))),
    (&["num_hidden_layers", "n_layer", "n_layers", "num_layers", "num_transformer_layers"], |spec| {
        Some(json!(spec.blocks.iter().filter(|block| block.weights_of.is_none()).count()))
    }),
    // MobileLLM-LS.
    (&["layer_sharing"], |spec| Some(json!(spec.blocks.iter().any(|block| block.weights_of.is_some())))),
    (&["num_attention_heads", "n_head", "n_heads", "num_heads", "attention_heads"], |spec| Some(json!(first(spec)?.n_heads))),
    (&["num_key_value_heads"], |spec| Some(json!(first(spec)?.n_kv_heads))),
    (&["head_dim"], |spec| Some(json!(first(spec)?.head_dim))),
    // RWKV.
    (&["attention_hidden_size"], |spec| Some(json!(spec.blocks.first()?.wkv()?.width))),
    (&["layer_types"], |spec| kinds(spec, ["full_attention", "sliding_attention"])),
    // SmolLM3: 1 for blocks with rotary positions.
    (&["no_rope_layers"], |spec| Some(attentions(spec)?.iter().map(|attention| u8::from(attention.rotary.is_some())).collect())),
    // The first that slides, and with it all behind it.
    (&["max_window_layers"], |spec| {
        Some(json!(attentions(spec)?.iter().position(|attention| attention.mask != Mask::Causal).unwrap_or(spec.blocks.len())))
    }),
    // GPT-Neo: runs of kinds, and how often each comes; or a list.
    (&["attention_types"], |spec| Some(json!([[kinds(spec, ["global", "local"])?, 1]]))),
    (&["attention_layers"], |spec| kinds(spec, ["global", "local"])),
    // OpenELM: parts of the hidden size, rounded to multiples of a divisor.
    (&["qkv_multipliers"], |spec| {
        Some(attentions(spec)?.iter().map(|attention| attention.q_width() as f64 / spec.hidden_size as f64).collect())
    }),
    (&["num_query_heads"], |spec| Some(attentions(spec)?.iter().map(|attention| attention.n_heads).collect())),
    (&["num_kv_heads"], |spec| Some(attentions(spec)?.iter().map(|attention| attention.n_kv_heads).collect())),
    (&["num_gqa_groups"], |spec| Some(json!(first(spec)?.n_heads / first(spec)?.n_kv_heads))),
    (&["ffn_multipliers"], |spec| Some(ffn_widths(spec)?.iter().map(|width| *width as f64 / spec.hidden_size as f64).collect())),
    // The weights of the source may have decided otherwise than its configuration.
    (&["tie_word_embeddings", "weight_tying", "share_input_output_layers"], |spec| Some(json!(spec.tied))),
    (&["ffn_dim_divisor"], |spec| Some(json!(ffn_widths(spec)?.into_iter().reduce(greatest_common_divisor)?))),
];

/// What families call the ε of their norms. It grows when channels of the residual stream
/// go; otherwise what the source says of it stays, which may be several.
const EPSILONS: [&str; 5] = ["rms_norm_eps", "layer_norm_eps", "layer_norm_epsilon", "norm_eps", "norm_epsilon"];

fn epsilon(spec: &ModelSpec) -> Option<f64> {
    spec.final_norm.as_ref().map(|norm| norm.epsilon)
}

fn attentions(spec: &ModelSpec) -> Option<Vec<&Attention>> {
    spec.blocks.iter().map(Block::attention).collect()
}

/// Width of each block's feed-forward, in models where each has one.
fn ffn_widths(spec: &ModelSpec) -> Option<Vec<usize>> {
    spec.blocks.iter().map(|block| Some(block.feed_forward()?.width)).collect()
}

/// Attention of the first block, in models of attention alone.
pub fn first(spec: &ModelSpec) -> Option<&Attention> {
    attentions(spec)?.first().copied()
}

/// One of two names a block: without a window, and with one.
fn kinds(spec: &ModelSpec, names: [&str; 2]) -> Option<Value> {
    Some(attentions(spec)?.iter().map(|attention| names[usize::from(attention.mask != Mask::Causal)]).collect())
}

fn greatest_common_divisor(a: usize, b: usize) -> usize {
    if b == 0 { a } else { greatest_common_divisor(b, a % b) }
}

/// The source's configuration, which others are made of.
pub struct Configuration {
    config: Config,
    /// What it says.
    source: ModelSpec,
    /// The family that reads it.
    pub family: &'static Family,
}

impl Configuration {
    /// The configuration in a directory.
    pub fn of_directory(dir: &Path) -> Result<Self> {
        Self::new(Config::read(&dir.join(CONFIG))?)
    }

    /// One for a model that came without, such as llama2.c's; `path` is for messages.
    pub fn of_llama(path: &Path, spec: &ModelSpec) -> Result<Self> {
        let rotary = first(spec).and_then(|attention| attention.rotary.as_ref());
        let value = json!({
            "architectures": ["LlamaForCausalLM"],
            "model_type": "llama",
            "vocab_size": spec.vocab_size,
            "hidden_size": spec.hidden_size,
            "intermediate_size": ffn_widths(spec).map(|widths| widths[0]),
            "num_hidden_layers": spec.blocks.len(),
            "num_attention_heads": first(spec).map(|attention| attention.n_heads),
            "hidden_act": "silu",
            "max_position_embeddings": spec.context,
            "rms_norm_eps": spec.final_norm.as_ref().map(|norm| norm.epsilon),
            "rope_theta": rotary.map(|rotary| rotary.theta),
            "tie_word_embeddings": spec.tied,
            "bos_token_id": spec.special.bos,
            "eos_token_id": spec.special.eos.first(),
        });
        Self::new(Config::of(path, value)?)
    }

    fn new(config: Config) -> Result<Self> {
        let (source, family) = families::read(&config)?;
        Ok(Self { config, source, family })
    }

    /// The configuration of a model of another spec; fails where the family has none.
    pub fn of_spec(&self, spec: &ModelSpec) -> Result<Value> {
        let mut value = self.config.value().clone();
        let object = value.as_object_mut().expect("a configuration is an object");
        // What is written is in full precision.
        families::QUANTIZATION_KEYS.iter().for_each(|key| drop(object.remove(*key)));
        for (keys, meaning) in KEYS {
            let Some(said) = meaning(spec) else { continue };
            for key in keys {
                // Keys that are there and not read may be read by others.
                if self.config.was_asked(key) || object.contains_key(*key) {
                    object.insert((*key).to_owned(), said.clone());
                }
            }
        }
        if let Some(epsilon) = epsilon(spec).filter(|new| epsilon(&self.source) != Some(*new)) {
            for key in EPSILONS {
                if self.config.was_asked(key) || value.get(key).is_some() {
                    value[key] = json!(epsilon);
                }
            }
        }
        if let Some(what) = rules::broken(self.family, &self.source, spec) {
            return Err(cannot(spec, what.to_owned()));
        }
        // Where the weights have a say in it, only the written file can be compared.
        if self.family.settle.is_none() {
            prove(&Config::of(self.config.path(), value.clone())?, spec)?;
        }
        Ok(value)
    }
}

/// Says in a configuration what number format the weights are in.
pub fn set_type(value: &mut Value, float_type: FloatType) {
    let name = match float_type {
        FloatType::F32 => "float32",
        FloatType::F16 => "float16",
        FloatType::Bf16 => "bfloat16",
    };
    // transformers 5 writes the former; all versions read the latter.
    let there = ["dtype", "torch_dtype"].into_iter().filter(|key| value.get(key).is_some()).collect::<Vec<_>>();
    let keys = if there.is_empty() { vec!["torch_dtype"] } else { there };
    keys.into_iter().for_each(|key| value[key] = json!(name));
}

/// What a configuration says must be the spec, but for tokens, of which a tokenizer
/// may know better.
fn prove(config: &Config, spec: &ModelSpec) -> Result<()> {
    // What fails to be read is as good a reason as what is read otherwise.
    let (read, _) = families::read(config).map_err(|e| cannot(spec, format!("this model ({e})")))?;
    let json = |spec: &ModelSpec| serde_json::to_value(ModelSpec { special: SpecialTokens::default(), ..spec.clone() });
    let [wanted, read] = [json(spec), json(&read)].map(|json| json.expect("a spec is JSON"));
    match difference(String::new(), &wanted, &read) {
        None => Ok(()),
        Some(difference) => Err(cannot(spec, difference)),
    }
}

fn cannot(spec: &ModelSpec, what: String) -> Error {
    Error::Usage(format!(
        "[output] format = \"hf\": config.json of the {} family cannot say {what}; choose a shape that it can say (most families \
         have one width for all blocks: uniform = true), or set format = \"native\"",
        spec.family
    ))
}

/// The first place where two specs differ, in words.
fn difference(path: String, wanted: &Value, read: &Value) -> Option<String> {
    let inside = |key: &str| if path.is_empty() { key.to_owned() } else { format!("{path}.{key}") };
    let values = || match (wanted, read) {
        (Value::Null, _) => format!("that there is no {path}"),
        (_, Value::Null) => format!("{path} = {wanted}"),
        _ => format!("{path} = {wanted}: it would be read as {read}"),
    };
    match (wanted, read) {
        (Value::Object(a), Value::Object(b)) => {
            let keys = a.keys().chain(b.keys().filter(|key| !a.contains_key(*key)));
            let get = |object: &serde_json::Map<String, Value>, key: &str| object.get(key).cloned().unwrap_or(Value::Null);
            keys.into_iter().find_map(|key| difference(inside(key), &get(a, key), &get(b, key)))
        }
        (Value::Array(a), Value::Array(b)) if a.len() != b.len() => Some(format!("{} {path}: it would be read as {}", a.len(), b.len())),
        (Value::Array(a), Value::Array(b)) => a.iter().zip(b).enumerate().find_map(|(i, (a, b))| difference(inside(&i.to_string()), a, b)),
        _ => (wanted != read).then(values),
    }
}
