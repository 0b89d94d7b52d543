"""MobileLLM and MobileLLM-LS: Llama with a shared embedding, in -LS with each layer run twice in a row.

Restates `utils/modeling_llama.py` of github.com/facebookresearch/MobileLLM, which is the
`modeling_mobilellm.py` of huggingface.co/facebook/MobileLLM-125M and -125M-layer-share.
"""

from typing import Any

from torch import Tensor, nn

from .parts import Attention, GatedFeedForward, Layer, Stack, angles, linear


class MobileLlm(nn.Module):
    """The whole model."""

    def __init__(self, config: dict[str, Any]) -> None:
        super().__init__()
        vocab, size, eps = config["vocab_size"], config["hidden_size"], config.get("rms_norm_eps", 1e-6)
        heads, inner = config["num_attention_heads"], config["intermediate_size"]
        kv_heads = config.get("num_key_value_heads") or heads
        self.passes = 2 if config.get("layer_sharing", False) else 1
        self.head_dim, self.theta = size // heads, config.get("rope_theta", 10000.0)
        layers: list[nn.Module] = [
            Layer(
                size,
                eps,
                Attention(size, heads, kv_heads, config.get("attention_bias", False)),
                GatedFeedForward(size, inner, config.get("hidden_act", "silu"), config.get("mlp_bias", False)),
            )
            for _ in range(config["num_hidden_layers"])
        ]
        self.model = Stack(vocab, size, eps, layers)
        if not config.get("share_embedding", False):
            self.lm_head = linear(size, vocab)

    def forward(self, ids: Tensor) -> Tensor:
        turn = angles(ids.shape[1], self.head_dim, self.theta)
        x = self.model.embed_tokens(ids[0])
        for layer in self.model.layers:
            for _ in range(self.passes):
                x = layer(x, turn.cos(), turn.sin())
        head = self.lm_head if hasattr(self, "lm_head") else self.model.embed_tokens
        return (self.model.norm(x) @ head.weight.T)[None]
