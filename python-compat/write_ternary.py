"""Writes tests/data/ternary.json: what BitNet b1.58 makes of weights and activations, and the gradients that go straight
through, by the functions that its authors published ("The Era of 1-bit LLMs: Training Tips, Code and FAQ", section 3), in
torch and float64.

    write_ternary.py

Numbers are not in the file: `uniform` makes them, and whoever compares makes them likewise.
"""

import json
from pathlib import Path

import torch
from torch.nn import functional as F
from write_sparse import uniform

OUT = Path(__file__).resolve().parent.parent / "tests/data/ternary.json"

# Rows, columns, tokens.
LAYERS = [(8, 64, 5), (16, 100, 9), (3, 40, 1)]


def weight_quant(w, stored=lambda mean: mean):
    scale = 1.0 / stored(w.abs().mean().clamp_(min=1e-5))
    return (w * scale).round().clamp_(-1, 1) / scale


def in_f16(mean):
    """As a file holds it."""
    return mean.half().double()


def activation_quant(x):
    scale = 127.0 / x.abs().max(dim=-1, keepdim=True).values.clamp_(min=1e-5)
    return (x * scale).round().clamp_(-128, 127) / scale


def numbers(seed, shape):
    return torch.from_numpy(uniform(seed, shape))


def cases():
    for seed, (rows, columns, tokens) in enumerate(LAYERS, 1):
        w = numbers(3 * seed, (rows, columns)).requires_grad_()
        x = numbers(3 * seed + 1, (tokens, columns)).requires_grad_()
        # Their straight-through estimator.
        x_quant = x + (activation_quant(x) - x).detach()
        w_quant = w + (weight_quant(w, in_f16) - w).detach()
        y = F.linear(x_quant, w_quant)
        y.backward(numbers(3 * seed + 2, (tokens, rows)))
        quantised = weight_quant(w.detach())
        yield {
            "seed": seed,
            "rows": rows,
            "columns": columns,
            "tokens": tokens,
            "scale": w.detach().abs().mean().item(),
            "codes": ["".join("-0+"[int(code) + 1] for code in row) for row in quantised.sign()],
            "output": y.flatten().tolist(),
            "weight_gradient": w.grad.flatten().tolist(),
            "input_gradient": x.grad.flatten().tolist(),
        }


if __name__ == "__main__":
    OUT.write_text("[\n" + ",\n".join(json.dumps(case) for case in cases()) + "\n]\n")
