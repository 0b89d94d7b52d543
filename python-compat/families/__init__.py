"""Decoders that `transformers` has no class for, restated in plain PyTorch.

Each takes its `config.json` as a dict, names its parameters as the published checkpoints do, and
computes in f32 without a cache: `forward(ids [1, n])` gives the logits [1, n, vocab].
"""
