"""OpenELM: layers of differing widths, with fused projections and norms on queries and keys.

Restates `modeling_openelm.py` and `configuration_openelm.py` of huggingface.co/apple/OpenELM-270M.
"""

from typing import Any

import torch
from torch import Tensor, nn

from .parts import ACTIVATIONS, RmsNorm, angles, attend, linear, rotate, split_heads

EPS = 1e-6  # not in the config


def to_multiple(value: float, of: int) -> int:
    """The nearest positive multiple, or the next one up if that one falls short by more than a tenth."""
    nearest = max(of, int(value + of / 2) // of * of)
    return nearest + of if nearest < 0.9 * value else nearest


def per_layer(value: float | list[float], layers: int) -> list[float]:
    """One multiplier for each layer: from one for all, from the first and last, or from all of them."""
    if not isinstance(value, list):
        return [value] * layers
    if len(value) != 2:
        return value
    return [round(v, 2) for v in torch.linspace(*value, layers, dtype=torch.float64).tolist()]


class Attention(nn.Module):
    """Grouped attention; the rows of `qkv_proj` are all query heads, then all key, then all value heads."""

    def __init__(self, config: dict[str, Any], heads: int, kv_heads: int) -> None:
        super().__init__()
        self.head_dim, self.theta = config["head_dim"], config.get("rope_freq_constant", 10000)
        self.split = (heads, kv_heads, kv_heads)
        self.qkv_proj = linear(config["model_dim"], sum(self.split) * self.head_dim)
        self.out_proj = linear(heads * self.head_dim, config["model_dim"])
        normed = config.get("normalize_qk_projections", False)
        self.q_norm = RmsNorm(self.head_dim, EPS) if normed else nn.Identity()
        self.k_norm = RmsNorm(self.head_dim, EPS) if normed else nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        q, k, v = split_heads(self.qkv_proj(x), self.head_dim).split(self.split)
        turn = angles(len(x), self.head_dim, self.theta)
        q, k = (rotate(x, turn.cos(), turn.sin()) for x in (self.q_norm(q), self.k_norm(k)))
        return self.out_proj(attend(q, k, v))


class FeedForward(nn.Module):
    """A feed-forward; with a gate, its rows are the first half of `proj_1`."""

    def __init__(self, config: dict[str, Any], inner: int) -> None:
        super().__init__()
        self.gated = config.get("ffn_with_glu", True)
        self.activation = ACTIVATIONS[config.get("activation_fn_name", "swish")]
        self.proj_1 = linear(config["model_dim"], inner * (2 if self.gated else 1))
        self.proj_2 = linear(inner, config["model_dim"])

    def forward(self, x: Tensor) -> Tensor:
        if not self.gated:
            return self.proj_2(self.activation(self.proj_1(x)))
        gate, up = self.proj_1(x).chunk(2, -1)
        return self.proj_2(self.activation(gate) * up)


class Layer(nn.Module):
    """A pre-norm layer."""

    def __init__(self, config: dict[str, Any], qkv_multiplier: float, ffn_multiplier: float) -> None:
        super().__init__()
        size, head_dim, groups = config["model_dim"], config["head_dim"], config.get("num_gqa_groups", 1)
        heads = to_multiple(size * qkv_multiplier, head_dim * groups) // head_dim
        self.attn = Attention(config, heads, heads // groups)
        self.ffn = FeedForward(config, to_multiple(size * ffn_multiplier, config.get("ffn_dim_divisor", 256)))
        self.attn_norm, self.ffn_norm = RmsNorm(size, EPS), RmsNorm(size, EPS)

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.attn(self.attn_norm(x))
        return x + self.ffn(self.ffn_norm(x))


class OpenElm(nn.Module):
    """The whole model; a head of its own comes with a second matrix that nothing reads."""

    def __init__(self, config: dict[str, Any]) -> None:
        super().__init__()
        vocab, size, count = config["vocab_size"], config["model_dim"], config["num_transformer_layers"]
        qkv = per_layer(config.get("qkv_multipliers", 1.0), count)
        ffn = per_layer(config.get("ffn_multipliers", 4.0), count)
        self.transformer = nn.Module()
        self.transformer.token_embeddings = nn.Embedding(vocab, size)
        self.transformer.layers = nn.ModuleList(Layer(config, *pair) for pair in zip(qkv, ffn, strict=True))
        self.transformer.norm = RmsNorm(size, EPS)
        if not config.get("share_input_output_layers", False):
            self.transformer.classifier = linear(size, vocab)
            self.lm_head = linear(size, vocab)

    def forward(self, ids: Tensor) -> Tensor:
        x = self.transformer.token_embeddings(ids[0])
        for layer in self.transformer.layers:
            x = layer(x)
        head = self.lm_head.weight if hasattr(self, "lm_head") else self.transformer.token_embeddings.weight
        return (self.transformer.norm(x) @ head.T)[None]
