"""OpenLM: DCLM and the open_lm models, whose norms, feed-forwards and positions are options.

Restates `open_lm/model.py`, `norms.py`, `positional_embedding/`, `hf/` and `utils/transformers/` of
github.com/mlfoundations/open_lm.
"""

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from .parts import RmsNorm, angles, attend, frequencies, linear, rotate, split_heads

THETA = 10000.0  # not in the config

# What a config names by `params_args_dict["model"]` alone: dim, layers, heads. Their vocab_size is 50432.
PRESETS = {
    "open_lm_11m": (96, 12, 12),
    "open_lm_25m": (192, 12, 12),
    "open_lm_41m": (288, 12, 12),
    "open_lm_87m": (488, 12, 12),
    "open_lm_160m": (768, 12, 12),
    "open_lm_410m": (1024, 24, 16),
    "open_lm_830m": (1536, 24, 16),
    "open_lm_1b": (2048, 24, 16),
    "open_lm_3b": (2560, 32, 32),
    "open_lm_7b": (4096, 32, 32),
    "open_lm_11m_v2": (96, 8, 4),
    "open_lm_79m_v2": (512, 8, 4),
    "open_lm_154m_v2": (576, 24, 8),
    "open_lm_411m_v2": (1024, 24, 8),
}
OTHER_NAMES = {"hidden_dim": "dim", "model_norm": "norm_type", "qk_norm": "apply_qk_norm"}


def settings(config: dict[str, Any]) -> dict[str, Any]:
    """The fields of a config, whether they stand in it, in its `params_args_dict`, or in the preset that names."""
    given = config.get("params_args_dict") or {}
    name = (given.get("model") or "").removesuffix("_swiglutorch")
    preset = dict(zip(("dim", "n_layers", "n_heads"), PRESETS.get(name, ())))
    given = {OTHER_NAMES.get(key, key): value for key, value in given.items()}
    return {"vocab_size": 50432, **preset, **given, **config}


def norm(fields: dict[str, Any]) -> nn.Module:
    """A norm over the width of the model."""
    size, eps = fields["dim"], fields.get("norm_eps", 1e-5)
    kind = fields.get("norm_type", "default_layer_norm")
    if kind == "rms_norm":
        return RmsNorm(size, eps)
    return nn.LayerNorm(size, eps, kind != "no_wb_layer_norm", kind in ("default_layer_norm", "lp_layer_norm"))


class Attention(nn.Module):
    """Attention; the rows of `in_proj` are all queries, then all keys, then all values."""

    def __init__(self, fields: dict[str, Any]) -> None:
        super().__init__()
        self.head_dim = fields["dim"] // fields["n_heads"]
        self.positions = fields.get("positional_embedding_type", "rotary")
        self.in_proj, self.out_proj = linear(fields["dim"], 3 * fields["dim"]), linear(fields["dim"], fields["dim"])
        normed = fields.get("apply_qk_norm", False)
        self.q_norm, self.k_norm = (norm(fields) if normed else nn.Identity() for _ in "qk")
        if "rotary" in self.positions and "llama" not in self.positions:
            self.pos_embed = nn.Module()
            self.pos_embed.register_buffer("inv_freq", frequencies(self.head_dim, THETA))  # stored only

    def place(self, x: Tensor) -> Tensor:
        """Turn x [heads, n, head_dim] by its positions."""
        if self.positions == "none":
            return x
        by_head = self.positions == "head_rotary"  # a bug kept for old models: the head's index is the position
        turn = angles(x.shape[0 if by_head else 1], self.head_dim, THETA)
        cos, sin = turn.cos(), turn.sin()
        if by_head:
            return rotate(x, cos[:, None], sin[:, None])
        if self.positions == "llama_rotary":  # neighbours are a pair
            even, odd = x[..., ::2], x[..., 1::2]
            return torch.stack([even * cos - odd * sin, odd * cos + even * sin], -1).flatten(-2)
        return rotate(x, cos, sin)

    def forward(self, x: Tensor) -> Tensor:
        q, k, v = self.in_proj(x).chunk(3, -1)
        q, k, v = (split_heads(x, self.head_dim) for x in (self.q_norm(q), self.k_norm(k), v))
        return self.out_proj(attend(self.place(q), self.place(k), v))


class SwiGlu(nn.Module):
    """A gated feed-forward; the first half of the rows of `w12` is the gate."""

    def __init__(self, size: int, inner: int) -> None:
        super().__init__()
        self.w12, self.w3 = linear(size, 2 * inner), linear(inner, size)

    def forward(self, x: Tensor) -> Tensor:
        gate, up = self.w12(x).chunk(2, -1)
        return self.w3(F.silu(gate) * up)


class GeGlu(nn.Module):
    """A gated feed-forward in three matrices with biases."""

    def __init__(self, size: int, inner: int) -> None:
        super().__init__()
        self.gate_proj, self.up_proj = nn.Linear(size, inner), nn.Linear(size, inner)
        self.down_proj = nn.Linear(inner, size)

    def forward(self, x: Tensor) -> Tensor:
        return self.down_proj(F.gelu(self.gate_proj(x)) * self.up_proj(x))


class Layer(nn.Module):
    """A pre-norm layer; a plain feed-forward has two names for each of its matrices."""

    def __init__(self, fields: dict[str, Any]) -> None:
        super().__init__()
        size, kind = fields["dim"], fields.get("ffn_type", "swiglu")
        inner = (8 * size // 3 + 255) // 256 * 256
        self.attention = Attention(fields)
        if kind == "gelu":
            self._ff_w1, self._ff_w2 = linear(size, 4 * size), linear(4 * size, size)
            self.feed_forward: nn.Module = nn.Sequential(self._ff_w1, nn.GELU(), self._ff_w2)
        else:
            self.feed_forward = GeGlu(size, inner) if kind == "gemma_geglu" else SwiGlu(size, inner)
        self.attention_norm, self.ffn_norm = norm(fields), norm(fields)

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.attention(self.attention_norm(x))
        return x + self.feed_forward(self.ffn_norm(x))


class OpenLm(nn.Module):
    """The whole model."""

    def __init__(self, config: dict[str, Any]) -> None:
        super().__init__()
        fields = settings(config)
        self.model = nn.Module()
        self.model.post_embed_norm = norm(fields) if fields.get("post_embed_norm", False) else nn.Identity()
        self.model.tok_embeddings = nn.Embedding(fields["vocab_size"], fields["dim"])
        self.model.layers = nn.ModuleList(Layer(fields) for _ in range(fields["n_layers"]))
        self.model.norm = norm(fields)
        self.model.output = linear(fields["dim"], fields["vocab_size"])
        if fields.get("weight_tying", False):
            self.model.tok_embeddings.weight = self.model.output.weight

    def forward(self, ids: Tensor) -> Tensor:
        x = self.model.post_embed_norm(self.model.tok_embeddings(ids[0]))
        for layer in self.model.layers:
            x = layer(x)
        return self.model.output(self.model.norm(x))[None]
