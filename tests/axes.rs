//! What the dimensions of parameters run over, on every family.

#[path = "common/data.rs"]
mod data;

use thimble::forward::Inner;
use thimble::model::{Axis, DenseModel, ModelSpec};
use thimble::spec::Op;

fn spec(fixture: &str) -> ModelSpec {
    DenseModel::open_hugging_face(&data::fixture(fixture)).unwrap().spec().clone()
}

/// The same model with no two sizes alike, so that no axis can pass for another.
fn all_sizes_apart(mut spec: ModelSpec) -> ModelSpec {
    (spec.vocab_size, spec.context, spec.hidden_size) = (1009, 1013, 1019);
    spec.embedding.width = spec.embedding.width.map(|_| 1021);
    for (i, block) in spec.blocks.iter_mut().enumerate() {
        for sub_layer in &mut block.sub_layers {
            match &mut sub_layer.op {
                Op::Attention(attention) => {
                    (attention.n_kv_heads, attention.head_dim) = (31 + i, 307 + i);
                    attention.n_heads = 7 * attention.n_kv_heads;
                }
                Op::Wkv(wkv) => wkv.width = 3001 + i,
                Op::FeedForward(ffn) => ffn.width = 2003 + i,
            }
        }
    }
    spec
}

#[test]
fn sizes_of_axes_make_the_shapes_of_every_family() {
    for (name, dir) in data::fixtures() {
        let spec = all_sizes_apart(DenseModel::open_hugging_face(&dir).unwrap().spec().clone());
        for parameter in spec.parameters() {
            let dimension = |axes: Vec<Axis>| axes.into_iter().map(|axis| axis.size(&spec)).product::<usize>();
            let shape: Vec<usize> = spec.axes(&parameter).into_iter().map(dimension).collect();
            assert_eq!(shape, parameter.shape, "{name}: {}", parameter.name);
        }
    }
}

/// Of the parameters of a fixture by name.
#[track_caller]
fn runs_over(fixture: &str, name: &str, axes: &[&[Axis]]) {
    let spec = spec(fixture);
    let parameter = spec.parameters().into_iter().find(|parameter| parameter.name == name).expect(name);
    assert_eq!(spec.axes(&parameter), axes, "{fixture}: {name}");
}

#[test]
fn axes_follow_from_the_spec() {
    use Axis::{Block, EmbeddingWidth, Hidden, Vocabulary};
    let (queries, keys, dims) = (Block(1, Inner::QueryHeads), Block(1, Inner::KvHeads), Block(1, Inner::HeadDim));
    runs_over("llama-gqa-tied", "blocks.1.attn.q", &[&[queries, dims], &[Hidden]]);
    runs_over("llama-gqa-tied", "blocks.1.attn.v", &[&[keys, dims], &[Hidden]]);
    runs_over("llama-gqa-tied", "blocks.1.attn.o", &[&[Hidden], &[queries, dims]]);
    runs_over("llama-untied-biases", "blocks.1.attn.k.bias", &[&[keys, dims]]);
    runs_over("llama-untied-biases", "blocks.1.attn.o.bias", &[&[Hidden]]);
    // Norms of heads: by weights that all share, of all together, and of each by its own.
    runs_over("qwen3-tied", "blocks.1.attn.q_norm", &[&[dims]]);
    runs_over("olmo2-biases", "blocks.1.attn.k_norm", &[&[keys, dims]]);
    runs_over("stablelm-parallel", "blocks.1.attn.q_norm", &[&[queries], &[dims]]);
    // A width of its own for the embedding, and none.
    runs_over("opt-post-norm", "embeddings", &[&[Vocabulary], &[EmbeddingWidth]]);
    runs_over("opt-post-norm", "head_projection", &[&[EmbeddingWidth], &[Hidden]]);
    runs_over("llama-gqa-tied", "embeddings", &[&[Vocabulary], &[Hidden]]);
    runs_over("rwkv-wide-attention", "blocks.1.wkv.key", &[&[Block(1, Inner::State)], &[Hidden]]);
    runs_over("rwkv-wide-attention", "blocks.1.wkv.mix_key", &[&[Hidden]]);
    runs_over("rwkv-narrow-mlp", "blocks.1.ffn.receptance", &[&[Hidden], &[Hidden]]);
    runs_over("bitnet-relu2", "blocks.0.ffn.hidden_norm", &[&[Block(0, Inner::FeedForward)]]);
}
