"""Quantises a model with gptqmodel on the CPU, on given calibration ids, and writes
what came of it as an ordinary Hugging Face directory in f32.

    quantize.py MODEL IDS.safetensors OUT --method gptq --bits 4 --group-size 128

IDS holds one tensor `ids`, i32 [sequences, length]. OUT gets `config.json`,
`model.safetensors` (dequantised from the packed tensors that the library saves,
act-order undone), the tokenizer, and `peer.json`: settings, seconds, memory.
Settings that are not given stay as the library has them.
"""

import argparse
import json
import os
import shutil
import tempfile
import time
from pathlib import Path

os.environ.setdefault("CUDA_VISIBLE_DEVICES", "")
# Half the cores by default, and where that is one the library asks itself for two.
os.environ.setdefault("GPTQMODEL_CPU_WORKERS", "2")

import torch
from gptqmodel import GPTQModel
from gptqmodel.nn_modules.qlinear.torch_awq import AwqTorchLinear
from gptqmodel.quantization import FORMAT, METHOD, QuantizeConfig
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from packed import awq_weight, gptq_weight
from watch import AnonymousPeak, BlockTimes

# What of a packed module is in a file, beside what belongs to the model.
PACKED = ("qweight", "qzeros", "scales", "g_idx")
# Of the method's settings, those that may be given. `act_order` is `desc_act`.
SETTINGS = ("sym", "desc_act", "act_group_aware", "damp_percent", "static_groups", "true_sequential", "mse")
TOKENIZER = ("tokenizer.json", "tokenizer.model", "tokenizer_config.json", "special_tokens_map.json")


def arguments():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", type=Path)
    parser.add_argument("ids", type=Path)
    parser.add_argument("out", type=Path)
    parser.add_argument("--method", choices=["gptq", "awq"], required=True)
    parser.add_argument("--bits", type=int, required=True)
    parser.add_argument("--group-size", type=int, required=True, help="0 = a whole row")
    parser.add_argument("--set", action="append", default=[], metavar="KEY=JSON", help=", ".join(SETTINGS))
    parser.add_argument("--dtype", default="float32", help="what the library computes in; auto = its own choice")
    parser.add_argument("--batch", type=int, default=8, help="sequences that go through a block together")
    return parser.parse_args()


# Its AWQ modules compute in 16 bits, and it refuses to search in more for their
# sake. What is packed is the same, and the search is the better for it.
AwqTorchLinear.SUPPORTS_DTYPES = [*AwqTorchLinear.SUPPORTS_DTYPES, torch.float32]


def config(options):
    """The library's configuration: what is given, and its own defaults."""
    given = {}
    for setting in options.set:
        key, value = setting.split("=", 1)
        if key not in SETTINGS:
            raise SystemExit(f"--set {setting}: none of {', '.join(SETTINGS)}")
        given[key] = json.loads(value)
    method, form = (METHOD.GPTQ, FORMAT.GPTQ_V2) if options.method == "gptq" else (METHOD.AWQ, FORMAT.GEMM)
    group_size = options.group_size or -1
    return QuantizeConfig(method=method, format=form, bits=options.bits, group_size=group_size, **given)


def dequantized(folder, original, options):
    """Tensors of the model by name, from what the library has saved, and how many
    bits a weight takes."""
    saved = {}
    for file in sorted(folder.glob("*.safetensors")):
        saved |= load_file(file)
    modules = [name.removesuffix(".qweight") for name in saved if name.endswith(".qweight")]
    weights, packed_bytes = {}, 0
    for module in modules:
        tensors = {key: saved.pop(f"{module}.{key}", None) for key in PACKED}
        packed_bytes += sum(t.nbytes for t in tensors.values() if t is not None)
        if options.method == "gptq":
            weight = gptq_weight(tensors, options.bits)
        else:
            weight = awq_weight(tensors, options.bits, options.group_size)
        weights[f"{module}.weight"] = weight
    weights |= {name: tensor.float() for name, tensor in saved.items()}
    with safe_open(next(original.glob("*.safetensors")), "pt") as file:
        names = set(file.keys())
        # What the library does not touch stays as exact as it was: it may have
        # loaded the model in fewer bits.
        norms = {name for name in names if "norm" in name}
        for name in names - {f"{m}.weight" for m in modules} - (norms if options.method == "awq" else set()):
            weights[name] = file.get_tensor(name).float()
    if set(weights) - names == {"lm_head.weight"}:
        del weights["lm_head.weight"]
    assert set(weights) == names, set(weights) ^ names
    # All else ships in 16 bits.
    linear = sum(weights[f"{module}.weight"].numel() for module in modules)
    all_weights = sum(weight.numel() for weight in weights.values())
    bits = {
        "bits_per_weight": (8 * packed_bytes + 16 * (all_weights - linear)) / all_weights,
        "bits_per_weight_linear": 8 * packed_bytes / linear,
    }
    return weights, len(modules), bits


def main():
    options = arguments()
    ids = load_file(options.ids)["ids"].tolist()
    memory = AnonymousPeak()
    begin = time.perf_counter()
    dtype = options.dtype if options.dtype == "auto" else getattr(torch, options.dtype)
    model = GPTQModel.load(str(options.model), config(options), device="cpu", dtype=dtype)
    times = BlockTimes(model.model.model.layers, -(-len(ids) // options.batch))
    loaded = time.perf_counter()
    # The ids as they are: all of one length, in their order, nothing is padded,
    # dropped or cut to the library's taste.
    model.quantize(ids, batch_size=options.batch, calibration_sort=None, calibration_data_min_length=0)
    quantized = time.perf_counter()
    with tempfile.TemporaryDirectory() as folder:
        model.save(folder)
        saved = time.perf_counter()
        peak = memory.end()
        weights, modules, bits = dequantized(Path(folder), options.model, options)
    options.out.mkdir(parents=True, exist_ok=True)
    save_file(weights, options.out / "model.safetensors", metadata={"format": "pt"})
    for name in ("config.json", *TOKENIZER):
        if (options.model / name).exists():
            shutil.copy(options.model / name, options.out / name)
    settings = {key: getattr(model.quantize_config, key, None) for key in ("bits", "group_size", *SETTINGS, "damp_auto_increment")}
    note = {
        "method": options.method,
        "settings": settings,
        "dtype": str(dtype),
        "tokens": sum(map(len, ids)),
        "quantized": modules,
        **bits,
        "load_seconds": loaded - begin,
        "seconds": quantized - loaded,
        "save_seconds": saved - quantized,
        "block_seconds": times.seconds(),
        "peak_anonymous_bytes": peak,
    }
    (options.out / "peer.json").write_text(json.dumps(note, indent=1) + "\n")
    print(json.dumps(note))


if __name__ == "__main__":
    main()
