"""Write what transformers makes of checkpoints whose configuration and weights say different things.

`tests/data/tying.json` has a row for a fixture of each family and each edit of its embedding and head:

    differs      both are there; the head is the embedding's rows, last to first
    equals       both are there and are equal
    head_alone   the embedding is there under the head's name alone

each with `tie_word_embeddings` true: whether transformers ties the two, and its logits at the last position of the fixture's prompt.

`tests/data/uneven/NAME/` holds models whose second block has fewer heads and a narrower feed-forward than `config.json` says, as tools
for pruning leave them, with `expected.safetensors`: `ids` i32 [n] and `logits` f32 [n, vocab] of transformers' own layers.
"""

import json
import os
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

os.environ["HF_HUB_OFFLINE"] = "1"

import torch
from safetensors.torch import load_file, save_file
from torch import nn
from transformers import AutoModelForCausalLM, GPT2Config, LlamaConfig
from transformers.models.auto.configuration_auto import CONFIG_MAPPING
from transformers.pytorch_utils import Conv1D
from transformers.utils import logging

DATA = Path(__file__).resolve().parent.parent / "tests" / "data"
EDITS = ("differs", "equals", "head_alone")
EMBEDDINGS = ("embed_tokens.weight", "wte.weight", "embed_in.weight", "embeddings.weight", "word_embeddings.weight")
"""Ends of the embedding's name."""
OLDER_HEADS = {"gpt_neox": "embed_out.weight", "rwkv": "head.weight"}
"""Names of heads other than `lm_head.weight`."""


def write(folder: Path, config: dict, tensors: dict[str, torch.Tensor]) -> Path:
    """Write a model's folder."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "config.json").write_text(json.dumps(config, indent=1) + "\n")
    save_file({name: tensor.contiguous() for name, tensor in tensors.items()}, folder / "model.safetensors", {"format": "pt"})
    return folder


def load(folder: Path) -> nn.Module:
    """The model, in f32 and with attention as it is written down."""
    return AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32, attn_implementation="eager").eval()


def rows() -> Iterator[dict]:
    """A fixture of each family that transformers loads, with every edit."""
    seen = set()
    for folder in sorted((DATA / "fixtures").iterdir()):
        config = json.loads((folder / "config.json").read_text())
        family = config["model_type"]
        wide = config.get("attention_hidden_size") not in (None, config.get("hidden_size"))  # transformers' own code fails on it
        if family in seen or family not in CONFIG_MAPPING or wide or not (folder / "model.safetensors").exists():
            continue
        seen.add(family)
        tensors = load_file(folder / "model.safetensors")
        embedding = next(name for name in tensors if name.endswith(EMBEDDINGS))
        head = OLDER_HEADS.get(family, "lm_head.weight")
        ids = load_file(folder / "expected.safetensors")["ids"].long()
        for edit in EDITS:
            matrix = tensors[embedding]
            heads = {"differs": matrix.flip(0), "equals": matrix.clone(), "head_alone": matrix}
            edited = {**tensors, head: heads[edit]}
            if edit == "head_alone":
                del edited[embedding]
            with tempfile.TemporaryDirectory() as temporary:
                model = load(write(Path(temporary), {**config, "tie_word_embeddings": True}, edited))
            with torch.no_grad():
                logits = model(ids[None]).logits[0, -1]
            tied = model.get_output_embeddings().weight is model.get_input_embeddings().weight
            yield {
                "fixture": folder.name,
                "embedding": embedding,
                "head": head,
                "edit": edit,
                "tied": tied,
                "logits": [float(f"{x:.7g}") for x in logits],
            }


def narrower(linear: nn.Module, outputs: list[int] | None = None, inputs: list[int] | None = None) -> None:
    """Keep some outputs or inputs of a linear layer."""
    across = 1 if isinstance(linear, Conv1D) else 0
    for kept, dim in ((outputs, across), (inputs, 1 - across)):
        if kept is not None:
            linear.weight.data = linear.weight.data.index_select(dim, torch.tensor(kept))
    if outputs is not None and isinstance(linear, Conv1D):
        linear.nf = len(outputs)
    if outputs is not None and linear.bias is not None:
        linear.bias.data = linear.bias.data[outputs]


def uneven_llama() -> nn.Module:
    """Two of four heads and one of two kv heads left, and 20 of 24 in the feed-forward."""
    sizes = dict(vocab_size=96, hidden_size=32, intermediate_size=24, num_hidden_layers=2, num_attention_heads=4)
    model = AutoModelForCausalLM.from_config(LlamaConfig(**sizes, num_key_value_heads=2, max_position_embeddings=64))
    block = model.model.layers[1]
    heads, kept = list(range(16, 32)), [i for i in range(24) if i % 6]
    narrower(block.self_attn.q_proj, outputs=heads)
    narrower(block.self_attn.k_proj, outputs=list(range(8, 16)))
    narrower(block.self_attn.v_proj, outputs=list(range(8, 16)))
    narrower(block.self_attn.o_proj, inputs=heads)
    narrower(block.mlp.gate_proj, outputs=kept)
    narrower(block.mlp.up_proj, outputs=kept)
    narrower(block.mlp.down_proj, inputs=kept)
    return model


def uneven_gpt2() -> nn.Module:
    """Three of four heads left, in a matrix that holds q, k and v, stored the other way round."""
    model = AutoModelForCausalLM.from_config(GPT2Config(vocab_size=96, n_embd=32, n_layer=2, n_head=4, n_positions=64, bos_token_id=1, eos_token_id=2))
    attention, mlp = model.transformer.h[1].attn, model.transformer.h[1].mlp
    heads, kept = list(range(8, 32)), [i for i in range(128) if i % 3]
    narrower(attention.c_attn, outputs=[part * 32 + i for part in range(3) for i in heads])
    narrower(attention.c_proj, inputs=heads)
    narrower(mlp.c_fc, outputs=kept)
    narrower(mlp.c_proj, inputs=kept)
    attention.num_heads, attention.split_size = 3, 24
    return model


def write_uneven(name: str, model: nn.Module, out: Path) -> None:
    """Write a model as it is now, with the configuration that it had before."""
    model.eval()
    ids = torch.randint(0, 96, (16,))
    with torch.no_grad():
        logits = model(ids[None]).logits[0]
    tensors = dict(model.state_dict())
    if model.config.tie_word_embeddings:
        del tensors["lm_head.weight"]
    config = {**model.config.to_dict(), "initializer_range": 0.02}
    folder = write(out / name, config, tensors)
    save_file({"ids": ids.int(), "logits": logits.contiguous()}, folder / "expected.safetensors")


def main() -> None:
    """Write all."""
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    torch.set_num_threads(1)
    torch.use_deterministic_algorithms(True)
    lines = ",\n".join(json.dumps(row) for row in rows())
    (DATA / "tying.json").write_text(f"[\n{lines}\n]\n")
    shutil.rmtree(DATA / "uneven", ignore_errors=True)
    for name, make in (("llama", uneven_llama), ("gpt2", uneven_gpt2)):
        torch.manual_seed(len(name))
        # Weights large enough that every part of the model matters.
        model = make()
        for parameter in model.parameters():
            if parameter.dim() > 1:
                parameter.data = torch.randn_like(parameter) * (0.5 if parameter.shape[0] == 96 else 0.3)
        write_uneven(name, model, DATA / "uneven")


if __name__ == "__main__":
    main()
