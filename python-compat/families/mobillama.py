"""MobiLlama: Llama with one feed-forward for all layers.

Restates `model_utils/modeling_mobillama.py` of github.com/mbzuai-oryx/MobiLlama.
"""

from typing import Any

from torch import Tensor, nn

from .parts import Attention, GatedFeedForward, Layer, Stack, angles, frequencies, linear

THETA = 10000.0  # not read from the config


class MobiLlama(nn.Module):
    """The whole model; its state holds the one feed-forward under every layer's name.

    The published code has a key and a value head for each query head and does not read
    `num_key_value_heads`, which the published configs set to 4. `kv_heads` gives it fewer of them.
    """

    def __init__(self, config: dict[str, Any], kv_heads: int | None = None) -> None:
        super().__init__()
        vocab, size, eps = config["vocab_size"], config["hidden_size"], config.get("rms_norm_eps", 1e-6)
        heads = config["num_attention_heads"]
        self.head_dim = size // heads
        mlp = GatedFeedForward(size, config["intermediate_size"], config.get("hidden_act", "silu"))
        layers: list[nn.Module] = []
        for _ in range(config["num_hidden_layers"]):
            attention = Attention(size, heads, kv_heads or heads)
            attention.rotary_emb = nn.Module()
            attention.rotary_emb.register_buffer("inv_freq", frequencies(self.head_dim, THETA))  # stored only
            layers.append(Layer(size, eps, attention, mlp))
        self.model = Stack(vocab, size, eps, layers)
        self.lm_head = linear(size, vocab)

    def forward(self, ids: Tensor) -> Tensor:
        turn = angles(ids.shape[1], self.head_dim, THETA)
        x = self.model.embed_tokens(ids[0])
        for layer in self.model.layers:
            x = layer(x, turn.cos(), turn.sin())
        return self.lm_head(self.model.norm(x))[None]
