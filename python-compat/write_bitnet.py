"""Write tiny BitNet checkpoints, quantised as transformers loads them: tests/data/bitnet/NAME/.

Each holds `config.json`, `model.safetensors` and `expected.safetensors`: `ids` i32 [n] and the `logits` f32
[n, vocab] that transformers' own layers compute, weights in -1, 0 and 1 and inputs in int8. Scales are stored in f16 here, and a
hair's difference may round an input the other way, so they are numbers that f16 has.
"""

import argparse
import json
import os
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

os.environ["HF_HUB_OFFLINE"] = "1"
os.environ["TORCHDYNAMO_DISABLE"] = "1"  # what it compiles needs a compiler

import torch
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM, BitNetConfig, Phi3Config, PreTrainedConfig, Qwen2Config
from transformers.integrations.bitnet import pack_weights
from transformers.utils import logging

DEFAULT_OUT = Path(__file__).resolve().parent.parent / "tests" / "data" / "bitnet"
TOKENS = 24
SIZES = dict(
    vocab_size=96,
    hidden_size=32,
    intermediate_size=48,
    num_hidden_layers=2,
    num_attention_heads=4,
    num_key_value_heads=2,
    max_position_embeddings=64,
    bos_token_id=1,
    eos_token_id=None,
    pad_token_id=0,
    tie_word_embeddings=False,
)


@dataclass(frozen=True)
class Checkpoint:
    """A row: a model, and how its linear layers are stored."""

    name: str
    config: PreTrainedConfig
    quantization: dict[str, Any]
    packs: bool = True
    """Whether ternary weights go four to a byte."""
    divides: bool = False
    """Whether a product is divided by the scale, so that its inverse is stored."""
    trains: bool = False
    """Whether weights are stored as they are trained."""


ROWS = (
    Checkpoint("bitlinear", BitNetConfig(**SIZES), {}, divides=True),
    Checkpoint("bitlinear-fused", Phi3Config(**SIZES), {"linear_class": "bitlinear"}, divides=True),
    Checkpoint("autobitlinear", BitNetConfig(**SIZES), {"linear_class": "autobitlinear", "quantization_mode": "offline"}),
    Checkpoint(
        "autobitlinear-unpacked",
        BitNetConfig(**SIZES),
        {"linear_class": "autobitlinear", "quantization_mode": "offline"},
        packs=False,
    ),
    Checkpoint("autobitlinear-biases", Qwen2Config(**SIZES), {"linear_class": "autobitlinear"}),
    Checkpoint(
        "online",
        BitNetConfig(**SIZES),
        {"linear_class": "autobitlinear", "quantization_mode": "online", "modules_to_not_convert": ["lm_head", "o_proj"]},
        trains=True,
    ),
)


def stored(row: Checkpoint, name: str, weight: torch.Tensor) -> dict[str, torch.Tensor]:
    """The tensors of a linear layer."""
    mean = weight.abs().mean()
    scale = 2 ** mean.log2().round() if row.divides else mean.bfloat16().float()
    weight = weight * (scale / mean)
    if row.trains:
        return {name: weight}
    codes = (weight / scale).round().clamp(-1, 1)
    factor = (1 / scale if row.divides else scale).view(1)
    return {name: pack_weights(codes) if row.packs else codes, name + "_scale": factor}


def write(row: Checkpoint, out: Path) -> str:
    path = out / row.name
    shutil.rmtree(path, ignore_errors=True)
    torch.manual_seed(1)  # some others have inputs so near the middle of two codes that f32 rounds them either way
    model = AutoModelForCausalLM.from_config(row.config)
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, std=0.3) if parameter.dim() > 1 else torch.nn.init.uniform_(parameter, 0.5, 1.5)
    model.save_pretrained(path)
    tensors = {}
    for name, tensor in load_file(path / "model.safetensors").items():
        linear = name.endswith("_proj.weight")
        tensors.update(stored(row, name, tensor) if linear else {name: tensor})
    save_file(tensors, path / "model.safetensors", metadata={"format": "pt"})
    (path / "generation_config.json").unlink()
    config = json.loads((path / "config.json").read_text())
    config["quantization_config"] = {"quant_method": "bitnet", "modules_to_not_convert": ["lm_head"], **row.quantization}
    (path / "config.json").write_text(json.dumps(config, indent=2) + "\n")

    loaded = AutoModelForCausalLM.from_pretrained(path, dtype=torch.float32).eval()
    kinds = {type(module).__name__ for module in loaded.modules()}
    assert kinds & {"BitLinear", "AutoBitLinear"}, kinds
    ids = torch.randint(2, row.config.vocab_size, (TOKENS,))
    with torch.no_grad():
        logits = loaded(ids.unsqueeze(0)).logits[0].float()
        plain = model(ids.unsqueeze(0)).logits[0]
    save_file({"ids": ids.int(), "logits": logits.contiguous()}, path / "expected.safetensors")
    return f"{row.name:22} max|logit| {logits.abs().max():5.2f}, {(logits - plain).abs().max():5.2f} from those before rounding"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, default=DEFAULT_OUT, help="the folder they go to")
    args = parser.parse_args()
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    torch.set_num_threads(1)
    for row in ROWS:
        print(write(row, args.out), flush=True)


if __name__ == "__main__":
    main()
