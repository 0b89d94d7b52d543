"""Write tiny checkpoints with `torch.save`, each beside a twin that holds what a reader must find.

Each row becomes `<out>/<name>/` holding `pytorch_model.bin` (or shards with their index) and
`expected.safetensors`: every tensor that can be a weight, contiguous, under the name a reader gives
it. Tensors of other number formats are in the file and not in the twin. `legacy` has no twin: its
format is refused.
"""

import argparse
import json
import shutil
from collections import OrderedDict
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file

DEFAULT_OUT = Path(__file__).resolve().parent.parent / "tests" / "data" / "pytorch"
SINGLE = "pytorch_model.bin"
WEIGHTS = (torch.float64, torch.float32, torch.float16, torch.bfloat16)


def state_dict(dtype: torch.dtype = torch.float32) -> OrderedDict[str, torch.Tensor]:
    """What a module gives: an OrderedDict with the attribute `_metadata`."""
    torch.manual_seed(1)
    module = torch.nn.Sequential(torch.nn.Linear(5, 7), torch.nn.LayerNorm(7), torch.nn.Linear(7, 3, bias=False))
    state = module.to(dtype).state_dict()
    assert "_metadata" in vars(state)
    return state


def strided() -> dict[str, torch.Tensor]:
    """Parts of storages in every order."""
    block = torch.arange(120, dtype=torch.float32).reshape(4, 5, 6)
    half = torch.arange(24).reshape(4, 6).bfloat16()
    return {
        "whole": block,
        "transposed": block.transpose(0, 2),
        "permuted": block.permute(1, 2, 0),
        "rows": block[1:3],
        "columns": block[:, :, 2:4],
        "every_other": block[::2, 1::2, ::3],
        "one": block[2, 3, 4],
        "row_of_one": block[1:2, 2:3, :],
        "none": block[4:],
        "diagonal": half.diagonal(),
        "turned": half.t(),
        "repeated": torch.arange(3, dtype=torch.float16).expand(4, 3),
    }


def shared() -> dict[str, torch.Tensor]:
    """Tied weights, and two halves of one storage."""
    embedding, fused = torch.randn(6, 4), torch.randn(8, 3)
    return {"embedding": embedding, "head": embedding, "upper": fused[:4], "lower": fused[4:]}


def mixed() -> dict[str, Any]:
    """Weights among all that checkpoints hold besides."""
    return {
        "weight": torch.randn(2, 3),
        "positions": torch.arange(4),
        "small": torch.arange(4, dtype=torch.int32),
        "mask": torch.tensor([True, False]),
        "bytes": torch.arange(3, dtype=torch.uint8),
        "precise": torch.randn(2, dtype=torch.float64),
        "eighth": torch.zeros(3, dtype=torch.float8_e4m3fn),
        "wide": torch.zeros(3, dtype=torch.uint16),
        "negated": torch.randn(3, dtype=torch.complex64).conj().imag,
        "version": 3,
        "large": 1 << 80,
        "negative": -70_000,
        "loss": 0.5,
        "done": True,
        "nothing": None,
        "notes": ["a", ("b", 1, 2, 3)],
        "shape": torch.Size([2, 3]),
        "device": torch.device("cuda:0"),
        "dtype": torch.bfloat16,
        "settings": {"inner": torch.randn(2), "deeper": {"x": torch.randn(1)}},
        7: torch.randn(1),
    }


def training(wrapper: str) -> dict[str, Any]:
    """A training checkpoint: the model under a name, an optimiser beside it."""
    optimiser = {"state": {0: {"step": torch.tensor(3.0), "exp_avg": torch.randn(4)}}, "param_groups": [{"lr": 1e-3, "params": [0]}]}
    return {"epoch": 3, "optimizer": optimiser, wrapper: state_dict(), "rng": torch.arange(9, dtype=torch.uint8)}


# What is saved, by which protocol, and what a reader must find where it is not the same.
ROWS: dict[str, tuple[Any, int, dict[str, torch.Tensor] | None]] = {
    "f32": (state_dict(), 2, None),
    "f16": (state_dict(torch.float16), 2, None),
    "bf16": (state_dict(torch.bfloat16), 2, None),
    "protocol-4": (state_dict(), 4, None),
    "protocol-5": (mixed(), 5, None),
    "strided": (strided(), 2, None),
    "shared": (shared(), 2, None),
    "parameters": ({name: torch.nn.Parameter(value) for name, value in state_dict().items()}, 2, None),
    "mixed": (mixed(), 2, None),
    "training-state-dict": (training("state_dict"), 2, state_dict()),
    "training-model": (training("model"), 4, state_dict()),
}


def write_twin(path: Path, values: dict[Any, Any]) -> None:
    """Write the weights among `values`, those in double precision in f32."""
    weights = {
        name: (value.float() if value.dtype == torch.float64 else value).detach().contiguous().clone()
        for name, value in values.items()
        if isinstance(name, str) and isinstance(value, torch.Tensor) and value.dtype in WEIGHTS and not value.is_neg()
    }
    save_file(weights, path / "expected.safetensors")


def write_shards(path: Path) -> None:
    """Write a state dict in two files and their index, as `transformers` does."""
    state, places = state_dict(torch.bfloat16), {}
    names = list(state)
    for i, part in enumerate((names[:2], names[2:]), start=1):
        shard = f"pytorch_model-{i:05}-of-00002.bin"
        torch.save({name: state[name] for name in part}, path / shard)
        places |= dict.fromkeys(part, shard)
    index = {"metadata": {"total_size": sum(t.nbytes for t in state.values())}, "weight_map": places}
    (path / f"{SINGLE}.index.json").write_text(json.dumps(index, indent=2) + "\n")
    write_twin(path, state)


def fresh(path: Path) -> Path:
    """An empty folder."""
    shutil.rmtree(path, ignore_errors=True)
    path.mkdir(parents=True)
    return path


def main() -> None:
    """Write the whole table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, default=DEFAULT_OUT, help="the folder the checkpoints go to")
    out = parser.parse_args().out

    for name, (saved, protocol, expected) in ROWS.items():
        path = fresh(out / name)
        torch.save(saved, path / SINGLE, pickle_protocol=protocol)
        write_twin(path, expected or saved)
    write_shards(fresh(out / "sharded"))
    torch.save(state_dict(), fresh(out / "legacy") / SINGLE, _use_new_zipfile_serialization=False)
    for file in sorted(out.rglob("*.bin")):
        print(f"{file.relative_to(out)!s:50} {file.stat().st_size:6} bytes")


if __name__ == "__main__":
    main()
