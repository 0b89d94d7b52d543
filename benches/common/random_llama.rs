//! Random checkpoints of any size.

use serde_json::json;
use std::path::Path;
use thimble::random::Random;

/// Sizes of a Llama.
pub struct Shape {
    pub hidden: usize,
    pub ffn: usize,
    pub heads: usize,
    pub kv_heads: usize,
    pub vocab: usize,
    pub layers: usize,
}

/// A random Llama in bf16, its norms in the weights' format too.
pub fn write(dir: &Path, shape: &Shape) {
    let &Shape { hidden, ffn, heads, kv_heads, vocab, layers } = shape;
    let config = json!({
        "architectures": ["LlamaForCausalLM"], "model_type": "llama", "torch_dtype": "bfloat16",
        "vocab_size": vocab, "hidden_size": hidden, "intermediate_size": ffn, "num_hidden_layers": layers,
        "num_attention_heads": heads, "num_key_value_heads": kv_heads, "max_position_embeddings": 512, "rms_norm_eps": 1e-5,
        "tie_word_embeddings": true, "bos_token_id": 1, "eos_token_id": 2,
    });
    std::fs::write(dir.join("config.json"), config.to_string()).unwrap();
    let kv = hidden / heads * kv_heads;
    let mut tensors: Vec<(String, Vec<usize>)> =
        vec![("model.embed_tokens.weight".into(), vec![vocab, hidden]), ("model.norm.weight".into(), vec![hidden])];
    for i in 0..layers {
        let shapes: [(&str, Vec<usize>); 9] = [
            ("input_layernorm", vec![hidden]),
            ("self_attn.q_proj", vec![hidden, hidden]),
            ("self_attn.k_proj", vec![kv, hidden]),
            ("self_attn.v_proj", vec![kv, hidden]),
            ("self_attn.o_proj", vec![hidden, hidden]),
            ("post_attention_layernorm", vec![hidden]),
            ("mlp.gate_proj", vec![ffn, hidden]),
            ("mlp.up_proj", vec![ffn, hidden]),
            ("mlp.down_proj", vec![hidden, ffn]),
        ];
        tensors.extend(shapes.map(|(name, shape)| (format!("model.layers.{i}.{name}.weight"), shape)));
    }
    let numbers = |(stream, (_, shape)): (usize, &(String, Vec<usize>))| -> Vec<u8> {
        let random = Random::new(0, stream as u64);
        let number = |i: usize| if shape.len() == 1 { 1.0 } else { (random.uniform(i as u64) as f32 - 0.5) * 0.07 };
        (0..shape.iter().product()).flat_map(|i| half::bf16::from_f32(number(i)).to_le_bytes()).collect()
    };
    let bytes: Vec<_> = tensors.iter().enumerate().map(numbers).collect();
    let views = tensors.iter().zip(&bytes).map(|((name, shape), bytes)| {
        (name.as_str(), safetensors::tensor::TensorView::new(safetensors::Dtype::BF16, shape.clone(), bytes).unwrap())
    });
    safetensors::serialize_to_file(views, None, &dir.join("model.safetensors")).unwrap();
}
