//! Canonical names: of layers outside the blocks, of layers inside one, and of what flows
//! into linear layers.

use crate::spec::LayerName;

/// The token embedding, `[vocab, width]`.
pub const EMBEDDINGS: LayerName = LayerName::outside("embeddings");
/// The table of learned positions, `[context, hidden]`.
pub const POSITIONS: LayerName = LayerName::outside("positions");
/// From the embedding's width to the hidden states', `[hidden, width]`.
pub const EMBEDDING_PROJECTION: LayerName = LayerName::outside("embedding_projection");
/// The norm of the embedding.
pub const EMBEDDING_NORM: LayerName = LayerName::outside("embedding_norm");
/// The norm before the head.
pub const FINAL_NORM: LayerName = LayerName::outside("final_norm");
/// From the hidden states' width to the head's, `[width, hidden]`.
pub const HEAD_PROJECTION: LayerName = LayerName::outside("head_projection");
/// The head's matrix where it is not tied, `[vocab, width]`.
pub const HEAD: LayerName = LayerName::outside("head");
/// The head's bias, be the matrix tied or not, `[vocab]`.
pub const HEAD_BIAS: &str = "head.bias";

/// Norms around attention or time mixing: of the input, of the output, of the sum.
pub const MIXER_NORMS: [LayerName; 3] =
    [LayerName::new("attn", "_norm"), LayerName::new("attn", "_output_norm"), LayerName::new("attn", "_sum_norm")];
/// Norms around a feed-forward: of the input, of the output, of the sum.
pub const FFN_NORMS: [LayerName; 3] =
    [LayerName::new("ffn", "_norm"), LayerName::new("ffn", "_output_norm"), LayerName::new("ffn", "_sum_norm")];

/// Names of attention.
pub mod attn {
    use super::LayerName;

    /// Queries, `[heads · head_dim, hidden]`.
    pub const Q: LayerName = LayerName::new("attn", ".q");
    /// Keys, `[kv_heads · head_dim, hidden]`.
    pub const K: LayerName = LayerName::new("attn", ".k");
    /// Values, `[kv_heads · head_dim, hidden]`.
    pub const V: LayerName = LayerName::new("attn", ".v");
    /// Output projection, `[hidden, heads · head_dim]`.
    pub const O: LayerName = LayerName::new("attn", ".o");
    /// Norm of queries.
    pub const Q_NORM: LayerName = LayerName::new("attn", ".q_norm");
    /// Norm of keys.
    pub const K_NORM: LayerName = LayerName::new("attn", ".k_norm");
    /// Norm of all heads' contexts.
    pub const CONTEXT_NORM: LayerName = LayerName::new("attn", ".context_norm");
    /// Activations into q, k and v.
    pub const INPUT: LayerName = LayerName::new("attn", ".input");
    /// Activations into the output projection.
    pub const CONTEXT: LayerName = LayerName::new("attn", ".context");
    /// Queries as they meet keys, `[batch, heads, tokens, head_dim]`; no layer's input.
    pub const QUERIES: LayerName = LayerName::new("attn", ".queries");
    /// Keys as they meet queries, `[batch, kv_heads, tokens, head_dim]`; no layer's input.
    pub const KEYS: LayerName = LayerName::new("attn", ".keys");
    /// Values, `[batch, kv_heads, tokens, head_dim]`; no layer's input.
    pub const VALUES: LayerName = LayerName::new("attn", ".values");
}

/// Names of feed-forwards.
pub mod ffn {
    use super::LayerName;

    /// Gate, `[width, hidden]`.
    pub const GATE: LayerName = LayerName::new("ffn", ".gate");
    /// Up projection, `[width, hidden]`.
    pub const UP: LayerName = LayerName::new("ffn", ".up");
    /// Down projection, `[hidden, width]`.
    pub const DOWN: LayerName = LayerName::new("ffn", ".down");
    /// RWKV's receptance, `[hidden, hidden]`.
    pub const RECEPTANCE: LayerName = LayerName::new("ffn", ".receptance");
    /// Norm of the hidden activations.
    pub const HIDDEN_NORM: LayerName = LayerName::new("ffn", ".hidden_norm");
    /// RWKV: shares of each token, against the one before, in the input of `up`, `[hidden]`; also the
    /// name of that input.
    pub const MIX_UP: LayerName = LayerName::new("ffn", ".mix_up");
    /// RWKV: shares of each token in the input of the receptance, `[hidden]`; also the name of that input.
    pub const MIX_RECEPTANCE: LayerName = LayerName::new("ffn", ".mix_receptance");
    /// Activations into gate and up.
    pub const INPUT: LayerName = LayerName::new("ffn", ".input");
    /// Activations into down.
    pub const HIDDEN: LayerName = LayerName::new("ffn", ".hidden");
}

/// Names of RWKV's time mixing.
pub mod wkv {
    use super::LayerName;

    /// Keys, `[width, hidden]`.
    pub const KEY: LayerName = LayerName::new("wkv", ".key");
    /// Values, `[width, hidden]`.
    pub const VALUE: LayerName = LayerName::new("wkv", ".value");
    /// Receptances, `[width, hidden]`.
    pub const RECEPTANCE: LayerName = LayerName::new("wkv", ".receptance");
    /// Output projection, `[hidden, width]`.
    pub const OUTPUT: LayerName = LayerName::new("wkv", ".output");
    /// −exp of it is the decay's logarithm a step, `[width]`.
    pub const DECAY: LayerName = LayerName::new("wkv", ".decay");
    /// Added to the key of the token itself, `[width]`.
    pub const FIRST: LayerName = LayerName::new("wkv", ".first");
    /// Shares of each token, against the one before, in the input of the keys, `[hidden]`; also the name
    /// of that input.
    pub const MIX_KEY: LayerName = LayerName::new("wkv", ".mix_key");
    /// Shares of each token in the input of the values, `[hidden]`; also the name of that input.
    pub const MIX_VALUE: LayerName = LayerName::new("wkv", ".mix_value");
    /// Shares of each token in the input of the receptances, `[hidden]`; also the name of that input.
    pub const MIX_RECEPTANCE: LayerName = LayerName::new("wkv", ".mix_receptance");
    /// Activations into the output projection.
    pub const MIXED: LayerName = LayerName::new("wkv", ".mixed");
}
