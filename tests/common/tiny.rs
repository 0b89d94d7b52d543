//! A tiny Llama with a token for each word, whose weights a test changes before it writes them.
#![allow(dead_code)] // each test file uses some of it

use half::{bf16, f16};
use safetensors::Dtype;
use serde_json::{Map, Value, json};
use std::collections::BTreeMap;
use std::path::Path;
use thimble::checkpoint::{Entry, write_tensors};
use thimble::random::Random;

/// Words of the vocabulary, the three special ones included.
pub const VOCABULARY: usize = 96;
pub const HIDDEN: usize = 64;
pub const INNER: usize = 128;
const HEADS: usize = 4;
const KV_HEADS: usize = 2;

/// Configuration and weights, by name in the file.
pub struct Tiny {
    pub config: Value,
    pub tensors: BTreeMap<String, (Vec<usize>, Vec<f32>)>,
}

impl Tiny {
    /// Of so many layers, with this activation function in its feed-forwards.
    pub fn new(layers: usize, activation: &str) -> Self {
        let mut tensors = BTreeMap::new();
        let mut matrix = |name: &str, rows: usize, columns: usize, deviation: f64| {
            let random = Random::named(1, name);
            let values = (0..rows * columns).map(|i| (deviation * random.normal(i as u64)) as f32).collect();
            tensors.insert(format!("{name}.weight"), (vec![rows, columns], values));
        };
        let (wide, narrow) = ((HIDDEN as f64).powf(-0.5), (INNER as f64).powf(-0.5));
        matrix("model.embed_tokens", VOCABULARY, HIDDEN, 1.0);
        matrix("lm_head", VOCABULARY, HIDDEN, 2.0 * wide);
        for layer in 0..layers {
            let p = format!("model.layers.{layer}.");
            for (name, rows) in
                [("q_proj", HIDDEN), ("k_proj", HIDDEN / HEADS * KV_HEADS), ("v_proj", HIDDEN / HEADS * KV_HEADS), ("o_proj", HIDDEN)]
            {
                matrix(&format!("{p}self_attn.{name}"), rows, HIDDEN, wide);
            }
            matrix(&format!("{p}mlp.gate_proj"), INNER, HIDDEN, wide);
            matrix(&format!("{p}mlp.up_proj"), INNER, HIDDEN, wide);
            matrix(&format!("{p}mlp.down_proj"), HIDDEN, INNER, narrow);
        }
        let mut norm = |name: String| tensors.insert(format!("{name}.weight"), (vec![HIDDEN], vec![1.0f32; HIDDEN]));
        norm("model.norm".into());
        for layer in 0..layers {
            norm(format!("model.layers.{layer}.input_layernorm"));
            norm(format!("model.layers.{layer}.post_attention_layernorm"));
        }
        let config = json!({
            "architectures": ["LlamaForCausalLM"], "model_type": "llama", "vocab_size": VOCABULARY, "hidden_size": HIDDEN,
            "intermediate_size": INNER, "num_hidden_layers": layers, "num_attention_heads": HEADS, "num_key_value_heads": KV_HEADS,
            "head_dim": HIDDEN / HEADS, "hidden_act": activation, "max_position_embeddings": 128, "rms_norm_eps": 1e-5,
            "rope_theta": 10000.0, "attention_bias": false, "mlp_bias": false, "tie_word_embeddings": false,
            "bos_token_id": 1, "eos_token_id": 2, "torch_dtype": "float32",
        });
        Self { config, tensors }
    }

    /// The numbers of a tensor.
    pub fn values(&mut self, name: &str) -> &mut Vec<f32> {
        &mut self.tensors.get_mut(name).unwrap_or_else(|| panic!("no {name}")).1
    }

    /// Multiplies a tensor by a power of two.
    pub fn multiply(&mut self, name: &str, exponent: i32) {
        self.values(name).iter_mut().for_each(|v| *v = (f64::from(*v) * 2f64.powi(exponent)) as f32);
    }

    /// Writes a model folder, all of it in f32.
    pub fn write(&self, dir: &Path) {
        self.write_in(dir, |_| Dtype::F32);
    }

    /// The same with a number format for each tensor.
    pub fn write_in(&self, dir: &Path, dtype: impl Fn(&str) -> Dtype) {
        let entry = |(name, (shape, values)): (&String, &(Vec<usize>, Vec<f32>))| {
            let dtype = dtype(name);
            let bytes: Vec<u8> = match dtype {
                Dtype::F32 => values.iter().flat_map(|v| v.to_le_bytes()).collect(),
                Dtype::F16 => values.iter().flat_map(|v| f16::from_f32(*v).to_le_bytes()).collect(),
                Dtype::BF16 => values.iter().flat_map(|v| bf16::from_f32(*v).to_le_bytes()).collect(),
                other => panic!("{other}"),
            };
            Entry { name: name.clone(), dtype, shape: shape.clone(), bytes }
        };
        let metadata = Map::from_iter([("format".to_owned(), json!("pt"))]);
        write_tensors(&dir.join("model.safetensors"), self.tensors.iter().map(entry).collect(), metadata).unwrap();
        std::fs::write(dir.join("config.json"), self.config.to_string()).unwrap();
        std::fs::write(dir.join("tokenizer.json"), tokenizer().to_string()).unwrap();
    }
}

/// A token for each of the words w3, w4, ….
fn tokenizer() -> Value {
    let special = ["<unk>", "<s>", "</s>"];
    let names = special.iter().map(|s| s.to_string()).chain((3..VOCABULARY).map(|i| format!("w{i}")));
    let vocabulary: Map<String, Value> = names.enumerate().map(|(i, name)| (name, json!(i))).collect();
    let added = |(id, content): (usize, &&str)| json!({ "id": id, "content": content, "single_word": false, "lstrip": false, "rstrip": false, "normalized": false, "special": true });
    json!({
        "version": "1.0", "truncation": null, "padding": null, "added_tokens": special.iter().enumerate().map(added).collect::<Vec<_>>(),
        "normalizer": null, "pre_tokenizer": { "type": "WhitespaceSplit" }, "post_processor": null, "decoder": null,
        "model": { "type": "WordLevel", "vocab": vocabulary, "unk_token": "<unk>" },
    })
}

/// So many words, each chosen by a random number from 0 to 1.
pub fn text(seed: u64, words: usize, word: impl Fn(f64) -> usize) -> String {
    let random = Random::named(seed, "text");
    (0..words).map(|i| format!("w{}", word(random.uniform(i as u64)))).collect::<Vec<_>>().join(" ")
}
