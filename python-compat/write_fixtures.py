"""Write tiny random checkpoints together with the logits `transformers` computes for them.

Each fixture becomes `<out>/<name>/` holding `config.json`, `model.safetensors` (or shards with
their index) and `expected.safetensors`:

    ids     i32 [n]         the prompt
    logits  f32 [n, vocab]  its logits: the stored weights widened to f32, eager attention, CPU
    greedy  i32 [16]        the greedy continuation of the prompt

A fixture earns its place by being sensitive: every entry of `matters` is a config change (a reader
that ignores or misreads the setting) and must move some logit by more than `MIN_EFFECT`.
"""

import argparse
import json
import os
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Callable

os.environ["HF_HUB_OFFLINE"] = "1"

import torch
from safetensors.torch import save_file
from transformers import AutoModelForCausalLM, LlamaConfig, MistralConfig, PreTrainedConfig
from transformers.utils import logging

DEFAULT_OUT = Path(__file__).resolve().parent.parent / "tests" / "data" / "fixtures"
GREEDY_STEPS = 16
WEIGHT_STD = 0.2
MIN_EFFECT = 0.05  # the least change in some logit that a misread setting must cause
MIN_MARGIN = 0.01  # the least lead of the chosen token over the next at every greedy step
MIN_DISTINCT = 4  # the fewest different tokens in a greedy continuation


def classic_spelling(config: dict[str, Any]) -> dict[str, Any]:
    """Respell a config as transformers 4 and earlier did, leaving out what old writers left out."""
    newer = ("rope_parameters", "dtype", "head_dim", "num_key_value_heads", "attention_bias", "mlp_bias")
    rope = config["rope_parameters"]
    old = {key: value for key, value in config.items() if key not in newer}
    old["rope_theta"] = rope["rope_theta"]
    old["rope_scaling"] = {"type": rope["rope_type"], "factor": rope["factor"]}
    old["torch_dtype"] = config["dtype"]
    old["transformers_version"] = "4.31.0"
    return dict(sorted(old.items()))


@dataclass(frozen=True)
class Fixture:
    """One row of the table: what to build, and which config changes its logits must notice."""

    name: str
    seed: int
    config: PreTrainedConfig
    matters: tuple[dict[str, Any], ...]
    n: int = 32
    dtype: torch.dtype = torch.float32
    max_shard_size: str = "1GB"
    respell: Callable[[dict[str, Any]], dict[str, Any]] = lambda config: config


def rope(theta: float = 10000.0, kind: str = "default", **scaling: float) -> dict[str, Any]:
    """A `rope_parameters` value."""
    return {"rope_type": kind, "rope_theta": theta, **scaling}


def llama3(**changes: float) -> dict[str, Any]:
    """Llama 3 scaling for head_dim 16, where it meets all three regimes.

    The wavelengths are 6.3, 32, 167, ...; below 64 / 4 one is kept, above 64 / 1 it is divided by
    the factor, and 32 lies between, where the two are blended.
    """
    scaling = {"factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0}
    return rope(500000.0, "llama3", **{**scaling, "original_max_position_embeddings": 64, **changes})


# Sizes shared by most rows; none but the hidden size of some is a multiple of 32.
SMALL = dict(
    vocab_size=96,
    hidden_size=32,
    intermediate_size=44,
    num_hidden_layers=2,
    num_attention_heads=4,
    num_key_value_heads=2,
    max_position_embeddings=128,
)
DEFAULT_ROPE = {"rope_parameters": rope()}
NO_WINDOW = {"sliding_window": None}

FIXTURES = (
    Fixture(
        "llama-gqa-tied",
        seed=3,
        config=LlamaConfig(
            **{**SMALL, "hidden_size": 36, "num_attention_heads": 6, "tie_word_embeddings": True},
            rope_parameters=rope(2000.0),
        ),
        matters=(DEFAULT_ROPE,),
    ),
    Fixture(
        "llama-untied-biases",
        seed=1,
        n=24,
        config=LlamaConfig(
            **{**SMALL, "hidden_size": 36, "num_attention_heads": 3, "num_key_value_heads": 1},
            attention_bias=True,
            mlp_bias=True,
            rms_norm_eps=1e-3,
        ),
        matters=({"rms_norm_eps": 1e-6}, {"attention_bias": False}, {"mlp_bias": False}),
    ),
    Fixture(
        "llama-rope-llama3",
        seed=3,
        n=40,
        config=LlamaConfig(
            **{**SMALL, "num_attention_heads": 2, "num_key_value_heads": 1, "max_position_embeddings": 512},
            rope_parameters=llama3(),
        ),
        matters=(
            {"rope_parameters": rope(500000.0)},
            {"rope_parameters": llama3(factor=4.0)},
            {"rope_parameters": llama3(low_freq_factor=1.5)},
            {"rope_parameters": llama3(high_freq_factor=8.0)},
            {"rope_parameters": llama3(original_max_position_embeddings=128)},
        ),
    ),
    Fixture(
        "llama-rope-linear",
        seed=1,
        config=LlamaConfig(
            **{**SMALL, "intermediate_size": 52}, rope_parameters=rope(1000.0, "linear", factor=4.0)
        ),
        matters=({"rope_parameters": rope(1000.0)}, {"rope_parameters": rope(kind="linear", factor=4.0)}),
    ),
    Fixture(
        "llama-head-dim",
        seed=5,
        config=LlamaConfig(**{**SMALL, "num_key_value_heads": 1}, head_dim=12),
        matters=({"rope_parameters": rope(500000.0)},),
    ),
    Fixture(
        "llama-sharded-bf16",
        seed=1,
        dtype=torch.bfloat16,
        max_shard_size="20KB",
        config=LlamaConfig(
            **{**SMALL, "vocab_size": 112, "hidden_size": 40, "intermediate_size": 56, "num_hidden_layers": 3}
        ),
        matters=({"rope_parameters": rope(500000.0)},),
    ),
    Fixture(
        "llama-f16",
        seed=7,
        n=24,
        dtype=torch.float16,
        config=LlamaConfig(
            **{**SMALL, "vocab_size": 128, "hidden_size": 48, "num_attention_heads": 6}
        ),
        matters=({"rope_parameters": rope(500000.0)},),
    ),
    Fixture(
        "llama-classic-config",
        seed=8,
        config=LlamaConfig(
            **{**SMALL, "num_key_value_heads": 4}, rope_parameters=rope(5000.0, "linear", factor=2.0)
        ),
        matters=({"rope_parameters": rope(5000.0)}, {"rope_parameters": rope(kind="linear", factor=2.0)}),
        respell=classic_spelling,
    ),
    Fixture(
        "mistral-window",
        seed=9,
        config=MistralConfig(**SMALL, sliding_window=8),
        matters=(NO_WINDOW, {"sliding_window": 7}, {"sliding_window": 9}),
    ),
    Fixture(
        "mistral-full",
        seed=10,
        config=MistralConfig(**{**SMALL, "intermediate_size": 52}, sliding_window=None),
        matters=({"sliding_window": 8},),
    ),
)


@torch.no_grad()
def randomise(model: torch.nn.Module, generator: torch.Generator) -> None:
    """Draw every parameter afresh: norm weights around one, everything else around zero."""
    for name, param in sorted(model.named_parameters()):
        centre = 1.0 if param.ndim == 1 and name.endswith("norm.weight") else 0.0
        param.copy_(centre + WEIGHT_STD * torch.randn(param.shape, generator=generator))


def load(path: Path, **changes: Any) -> torch.nn.Module:
    """Read a saved checkpoint as f32 with eager attention, with some config fields changed."""
    model = AutoModelForCausalLM.from_pretrained(
        path, dtype=torch.float32, attn_implementation="eager", **changes
    )
    for key, value in changes.items():
        assert getattr(model.config, key) == value, f"{key} was not changed"
    return model.eval()


@torch.no_grad()
def logits_of(model: torch.nn.Module, ids: torch.Tensor) -> torch.Tensor:
    """The logits [n, vocab] of one sequence, computed in one pass."""
    return model(ids[None], use_cache=False).logits[0]


@torch.no_grad()
def greedy_cached(model: torch.nn.Module, ids: torch.Tensor) -> torch.Tensor:
    """The greedy continuation of `ids`, feeding one token at a time through the cache."""
    chosen, step, cache = [], ids, None
    for _ in range(GREEDY_STEPS):
        out = model(step[None], past_key_values=cache, use_cache=True)
        cache = out.past_key_values
        step = out.logits[0, -1:].argmax(-1)
        chosen.append(step)
    return torch.cat(chosen)


def greedy_uncached(model: torch.nn.Module, ids: torch.Tensor) -> torch.Tensor:
    """The greedy continuation of `ids`, running the whole sequence at every step."""
    for _ in range(GREEDY_STEPS):
        last = logits_of(model, ids)[-1]
        first, second = last.topk(2).values
        assert first - second > MIN_MARGIN, "a near tie; choose another seed"
        ids = torch.cat([ids, last.argmax()[None]])
    return ids[-GREEDY_STEPS:]


def write(fixture: Fixture, out: Path) -> str:
    """Write one fixture, check it, and return a line about it."""
    path = out / fixture.name
    shutil.rmtree(path, ignore_errors=True)
    generator = torch.Generator().manual_seed(fixture.seed)

    model = AutoModelForCausalLM.from_config(fixture.config, dtype=torch.float32)
    randomise(model, generator)
    ids = torch.randint(fixture.config.vocab_size, (fixture.n,), generator=generator)
    model.to(fixture.dtype).save_pretrained(path, max_shard_size=fixture.max_shard_size)
    (path / "generation_config.json").unlink(missing_ok=True)

    model = load(path)
    logits = logits_of(model, ids)
    greedy = greedy_cached(model, ids)
    assert torch.equal(greedy, greedy_uncached(model, ids)), "the cache changes the greedy tokens"
    assert len(greedy.unique()) >= MIN_DISTINCT, "a monotonous continuation; choose another seed"

    saved = json.loads((path / "config.json").read_text())
    if (respelt := fixture.respell(saved)) != saved:
        (path / "config.json").write_text(json.dumps(respelt, indent=2) + "\n")
        assert torch.equal(logits, logits_of(load(path), ids)), "the respelt config means something else"

    effects = [(logits_of(load(path, **m), ids) - logits).abs().max().item() for m in fixture.matters]
    assert min(effects) > MIN_EFFECT, f"{fixture.name} does not notice: {effects}"

    expected = {"ids": ids.int(), "logits": logits.contiguous(), "greedy": greedy.int()}
    save_file(expected, path / "expected.safetensors")

    size = sum(file.stat().st_size for file in path.iterdir())
    effects_text = " ".join(f"{effect:.2f}" for effect in effects)
    return f"{fixture.name:22} {size:7} bytes  max|logit| {logits.abs().max():5.2f}  effects {effects_text}"


def main() -> None:
    """Write the whole table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, default=DEFAULT_OUT, help="the folder the fixtures go to")
    out = parser.parse_args().out

    logging.set_verbosity_error()
    logging.disable_progress_bar()
    torch.set_num_threads(1)
    torch.use_deterministic_algorithms(True)
    for fixture in FIXTURES:
        print(write(fixture, out))


if __name__ == "__main__":
    main()
