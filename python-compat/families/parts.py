"""What several of the families share."""

import torch
from torch import Tensor, nn
from torch.nn import functional as F

ACTIVATIONS = {
    "silu": F.silu,
    "swish": F.silu,
    "relu": F.relu,
    "gelu": F.gelu,
    "gelu_pytorch_tanh": lambda x: F.gelu(x, approximate="tanh"),
}


class RmsNorm(nn.Module):
    """Root mean square normalisation over the last axis, then a gain."""

    def __init__(self, size: int, eps: float) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(size))
        self.eps = eps

    def forward(self, x: Tensor) -> Tensor:
        return x * (x.square().mean(-1, keepdim=True) + self.eps).rsqrt() * self.weight


def frequencies(head_dim: int, theta: float) -> Tensor:
    """The rotary frequencies [head_dim / 2]."""
    return theta ** -(torch.arange(0, head_dim, 2, dtype=torch.float32) / head_dim)


def angles(n: int, head_dim: int, theta: float) -> Tensor:
    """The rotary angles [n, head_dim / 2] of the first `n` positions."""
    return torch.outer(torch.arange(n, dtype=torch.float32), frequencies(head_dim, theta))


def rotate(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """Turn each pair (i, i + head_dim / 2) of x [heads, n, head_dim] by tables [n, head_dim / 2]."""
    first, second = x.chunk(2, -1)
    return torch.cat([first * cos - second * sin, second * cos + first * sin], -1)


def split_heads(x: Tensor, head_dim: int) -> Tensor:
    """[n, heads * head_dim] as [heads, n, head_dim]."""
    return x.unflatten(-1, (-1, head_dim)).transpose(0, 1)


def attend(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """Causal attention of [heads, n, head_dim] over as many or fewer heads, as [n, heads * head_dim]."""
    k, v = (x.repeat_interleave(len(q) // len(x), 0) for x in (k, v))
    scores = q @ k.transpose(1, 2) * q.shape[-1] ** -0.5
    later = torch.ones(scores.shape[1:], dtype=torch.bool).triu(1)
    return (scores.masked_fill(later, -torch.inf).softmax(-1) @ v).transpose(0, 1).flatten(1)


def linear(inputs: int, outputs: int, bias: bool = False) -> nn.Linear:
    """A linear layer, by default without a bias."""
    return nn.Linear(inputs, outputs, bias=bias)


class GatedFeedForward(nn.Module):
    """`down(activation(gate(x)) * up(x))`, named as Llama names it."""

    def __init__(self, size: int, inner: int, activation: str, bias: bool = False) -> None:
        super().__init__()
        self.gate_proj = linear(size, inner, bias)
        self.up_proj = linear(size, inner, bias)
        self.down_proj = linear(inner, size, bias)
        self.activation = ACTIVATIONS[activation]

    def forward(self, x: Tensor) -> Tensor:
        return self.down_proj(self.activation(self.gate_proj(x)) * self.up_proj(x))


class Attention(nn.Module):
    """Grouped attention named as Llama names it, given the rotary tables."""

    def __init__(self, size: int, heads: int, kv_heads: int, bias: bool = False) -> None:
        super().__init__()
        self.head_dim = size // heads
        self.q_proj = linear(size, size, bias)
        self.k_proj = linear(size, kv_heads * self.head_dim, bias)
        self.v_proj = linear(size, kv_heads * self.head_dim, bias)
        self.o_proj = linear(size, size, bias)

    def forward(self, x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
        q, k, v = (split_heads(proj(x), self.head_dim) for proj in (self.q_proj, self.k_proj, self.v_proj))
        return self.o_proj(attend(rotate(q, cos, sin), rotate(k, cos, sin), v))


class Layer(nn.Module):
    """A pre-norm layer named as Llama names it."""

    def __init__(self, size: int, eps: float, self_attn: nn.Module, mlp: nn.Module) -> None:
        super().__init__()
        self.self_attn, self.mlp = self_attn, mlp
        self.input_layernorm = RmsNorm(size, eps)
        self.post_attention_layernorm = RmsNorm(size, eps)

    def forward(self, x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
        x = x + self.self_attn(self.input_layernorm(x), cos, sin)
        return x + self.mlp(self.post_attention_layernorm(x))


class Stack(nn.Module):
    """The embedding, the layers and the last norm, named as Llama names them under `model`."""

    def __init__(self, vocab: int, size: int, eps: float, layers: list[nn.Module]) -> None:
        super().__init__()
        self.embed_tokens = nn.Embedding(vocab, size)
        self.layers = nn.ModuleList(layers)
        self.norm = RmsNorm(size, eps)
