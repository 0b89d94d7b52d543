"""PhoneLM: Llama with ReLU gates and rotary tables in eight bits.

Restates `modeling_phonelm.py` and `configuration_phonelm.py` of github.com/UbiquitousLearning/PhoneLM.
"""

from typing import Any

import torch
from torch import Tensor, nn

from .parts import Attention, GatedFeedForward, Layer, Stack, angles, linear


def eight_bits(table: Tensor) -> Tensor:
    """A table of sines or cosines rounded to 127ths.

    The published code rounds to 127ths of the largest magnitude among the positions of the pass, so that
    what a token sees depends on how many come with it. Over more than a few positions that is nearly one.
    """
    rounded = (table * 127).round() / 127
    step = table.abs().max() / 127
    assert torch.allclose(rounded, (table / step).round() * step, atol=1e-4), "an entry on the edge of two steps"
    return rounded


class PhoneLm(nn.Module):
    """The whole model."""

    def __init__(self, config: dict[str, Any]) -> None:
        super().__init__()
        vocab, size, eps = config["vocab_size"], config["hidden_size"], config.get("rms_norm_eps", 1e-6)
        heads, inner = config["num_attention_heads"], config["intermediate_size"]
        kv_heads = config.get("num_key_value_heads") or heads
        self.head_dim, self.theta = size // heads, config.get("rope_theta", 10000.0)
        layers: list[nn.Module] = [
            Layer(
                size,
                eps,
                Attention(size, heads, kv_heads, config.get("attention_bias", False)),
                GatedFeedForward(size, inner, config.get("hidden_act", "silu")),
            )
            for _ in range(config["num_hidden_layers"])
        ]
        self.model = Stack(vocab, size, eps, layers)
        self.lm_head = linear(size, vocab)
        if config.get("tie_word_embeddings", False):
            self.lm_head.weight = self.model.embed_tokens.weight

    def forward(self, ids: Tensor) -> Tensor:
        turn = angles(ids.shape[1], self.head_dim, self.theta)
        cos, sin = eight_bits(turn.cos()), eight_bits(turn.sin())
        x = self.model.embed_tokens(ids[0])
        for layer in self.model.layers:
            x = layer(x, cos, sin)
        return self.lm_head(self.model.norm(x))[None]
