"""Compresses models with `[output] format = "hf"`, loads the directories in stock transformers,
and compares the logits with those of the binary.

    .venv-compat/bin/python python-compat/check_hugging_face.py target/debug/thimble ../shared/data

The binary must be able to compress (feature `torch`). Models of the data directory are left out where it
is absent.
"""

import os
import subprocess
import sys
import tempfile
from pathlib import Path

os.environ["HF_HUB_OFFLINE"] = "1"

import numpy as np
import torch
from safetensors.numpy import load_file
from transformers import AutoModelForCausalLM, AutoTokenizer
from transformers.utils.logging import disable_progress_bar

TOLERANCE = 1e-4
FIXTURES = Path(__file__).parent.parent / "tests/data/fixtures"

# A source and the student that is made of it. Between them they have fused rows, rows by head, matrices
# [in, out], pairs of dimensions of one, a width that is derived from another, lists of blocks.
FROM_FIXTURES = [
    ("llama-gqa-tied", "layers = [1]"),
    ("llama-head-dim", "hidden_size = 24\nintermediate_size = 10\nn_heads = 1"),
    ("llama-sharded-bf16", "intermediate_size = 12"),
    ("bloom-four-heads", "layers = [1]"),
    ("gemma-biases", "layers = [1]\nintermediate_size = 12"),
    ("gemma2-layer-types", "layers = [1, 0]"),
    ("gpt2-unscaled", "layers = [1]\nintermediate_size = 12"),
    ("gpt_neo-window", "layers = [1]"),
    ("gpt_neox-parallel", "layers = [1]\nintermediate_size = 12"),
    ("mistral-window", "layers = [1]\nn_heads = 1"),
    ("olmo2-biases", "layers = [1]"),
    ("opt-post-norm", "layers = [1]\nintermediate_size = 12"),
    ("opt-pre-norm", "layers = [1]"),
    ("phi-partial", "layers = [1]\nintermediate_size = 12"),
    ("phi3-window", "layers = [1]\nn_heads = 1"),
    ("qwen2-window", "layers = [1]"),
    ("qwen3-tied", "layers = [1]\nn_heads = 1"),
    # Of one layer, transformers divides by zero.
    ("rwkv-narrow-mlp", "intermediate_size = 12"),
    ("stablelm-one-kv-head", "layers = [1]\nintermediate_size = 12"),
    ("xglm-scaled", "layers = [1]"),
]
FROM_DATA = [
    ("models/house-6m", "student", 'layers = "every_second"'),
    ("models/house-6m", "student", "hidden_size = 192\nn_heads = 3"),
    ("models/house-6m", "prune_depth", "layers = 2"),
    ("models/house-6m", "prune_width", "ratio = 0.3\ncut = ['ffn']"),
    ("models/house-6m", "prune_width", "ratio = 0.2\ncut = ['hidden']"),
    ("models/stories260K/stories260K.bin", "student", 'layers = "every_second"'),
]


def compress(binary, model, method, settings, folder):
    recipe = folder / "recipe.toml"
    recipe.write_text(
        f"[calibration]\nsequences = 4\nlength = 64\n[[stage]]\n[stage.{method}]\n{settings}\n"
        "[evaluate]\nwindow = 16\nmax_windows = 2\n[output]\nformat = 'hf'\n"
    )
    subprocess.run([binary, "compress", recipe, "--model", model, "--out", folder / "out"], check=True, stdout=subprocess.DEVNULL)
    return folder / "out"


def check(binary, model, method, settings):
    with tempfile.TemporaryDirectory() as folder:
        written = compress(binary, model, method, settings, Path(folder))
        theirs, info = AutoModelForCausalLM.from_pretrained(written, output_loading_info=True, dtype="auto")
        stored = theirs.dtype
        # transformers says so of tensors that are tied or follow from the rest.
        lost = {kind: keys for kind, keys in info.items() if keys}
        theirs = theirs.eval().float()
        ids = [(i * 37 + 5) % theirs.config.vocab_size for i in range(24)]
        with torch.no_grad():
            wanted = theirs(torch.tensor([ids])).logits[0].numpy()
        out = Path(folder) / "logits.safetensors"
        subprocess.run([binary, "logits", written, "--ids", ",".join(map(str, ids)), "--out", out], check=True, stdout=subprocess.DEVNULL)
        ours = load_file(out)["logits"]
        has_tokenizer = (written / "tokenizer.json").exists()
        text = "Once upon a time there was a house."
        if has_tokenizer:
            tokenizer = AutoTokenizer.from_pretrained(written)
            assert text in tokenizer.decode(tokenizer.encode(text)), "the tokenizer does not give the text back"
    difference = float(np.abs(ours - wanted).max())
    name = f"{Path(model).name}, {method} {settings!r}"
    print(f"{name}: {stored}, greatest difference of logits {difference:.1e} (at most {TOLERANCE}){f', {lost}' if lost else ''}")
    return not lost and difference <= TOLERANCE


def main(binary, data):
    disable_progress_bar()
    cases = [(FIXTURES / name, "student", settings) for name, settings in FROM_FIXTURES]
    cases += [(Path(data) / name, *stage) for name, *stage in FROM_DATA if (Path(data) / name).exists()]
    return 0 if all([check(binary, *case) for case in cases]) else 1


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
