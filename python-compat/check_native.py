"""Reads a native file with nothing but safetensors and numpy, by the layout that
`src/quant/formats/tiled.rs` describes, runs it in transformers, and compares the
logits with those of the binary (f32 activations).

    .venv-compat/bin/python python-compat/check_native.py target/debug/thimble tests/data/golden*.thimble
"""

import json
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np
import torch
from safetensors import safe_open
from safetensors.numpy import load_file
from transformers import LlamaConfig, LlamaForCausalLM

TOLERANCE = 1e-3
# By the bits of a code: "int4" is a number itself, "book4" an index into a codebook.
PLANES = {2: [2], 3: [2, 1], 4: [4], 5: [4, 1], 6: [4, 2], 7: [4, 2, 1], 8: [8]}
SPAN = {2: 16, 3: 32, 4: 8, 5: 32, 6: 32, 7: 32, 8: 4}
MODULES = {
    "attn_norm": "input_layernorm",
    "attn.q": "self_attn.q_proj",
    "attn.k": "self_attn.k_proj",
    "attn.v": "self_attn.v_proj",
    "attn.o": "self_attn.o_proj",
    "ffn_norm": "post_attention_layernorm",
    "ffn.gate": "mlp.gate_proj",
    "ffn.up": "mlp.up_proj",
    "ffn.down": "mlp.down_proj",
}
OUTSIDE = {"embeddings": "model.embed_tokens", "final_norm": "model.norm", "head": "lm_head"}


def unpack_codes(data, scheme):
    """u8 bytes -> codes [rows, columns], padding taken off."""
    rows, columns = scheme["shape"]
    tile_rows = 16 if scheme["layout"] == "tiles" else 1
    tiles = -(-rows // 16) * 16 // tile_rows
    if scheme["code"] == "trits":
        return unpack_base3(data.reshape(tiles, -1, tile_rows, 4))[:rows, :columns]
    width = bits_of(scheme)
    spans = -(-columns // SPAN[width])
    units = SPAN[width] // 4
    data = data.reshape(tiles, spans, -1)
    codes = np.zeros((tiles, spans, units, tile_rows, 4), np.int32)
    start = low = 0
    for bits in PLANES[width]:
        lines = units * bits // 8
        plane = data[:, :, start : start + lines * 4 * tile_rows].reshape(tiles, spans, lines, tile_rows, 4)
        for unit in range(units):
            line, shift = divmod(unit * bits, 8)
            codes[:, :, unit] |= ((plane[:, :, line].astype(np.int32) >> shift) & ((1 << bits) - 1)) << low
        start += lines * 4 * tile_rows
        low += bits
    if scheme["code"] == "int8":
        codes = codes.astype(np.uint8).view(np.int8).astype(np.int32)
    # [tile, span, unit, row, column] -> [tile, row, span, unit, column]
    codes = codes.transpose(0, 3, 1, 2, 4).reshape(tiles * tile_rows, spans * SPAN[width])
    return codes[:rows, :columns]


def unpack_base3(data):
    """Bytes [tiles, spans, tile_rows, 4] of five units each, the first in the first digit -> codes [rows, columns]"""
    digits, rest = [], data.astype(np.int32)
    for _ in range(5):
        rest = rest * 3
        digits.append(rest >> 8)
        rest = rest & 255
    # [unit, tile, span, row, column] -> [tile, row, span, unit, column]
    codes = np.stack(digits).transpose(1, 3, 2, 0, 4)
    return codes.reshape(codes.shape[0] * codes.shape[1], -1)


def bits_of(scheme):
    """Bits that the planes of a code have."""
    return 2 if scheme["code"] == "ternary" else int(scheme["code"][-1])


def middle(scheme):
    """The code of zero, where a scheme is symmetric."""
    if scheme["code"] in ("ternary", "trits"):
        return 1
    bits = bits_of(scheme)
    return 0 if bits == 8 else 1 << (bits - 1)


def by_row(plane, rows):
    """[tiles, groups, tile_rows] -> [rows, groups]"""
    return plane.transpose(0, 2, 1).reshape(-1, plane.shape[1])[:rows]


def weight(name, tensors, schemes):
    """A weight [out, in] in f32, columns in the model's order."""
    if name not in schemes:
        return tensors[f"{name}.dense"].astype(np.float32)
    scheme = schemes[name]
    values = without_exponents(name, scheme, tensors)
    if scheme.get("exponents"):
        values = np.ldexp(values, tensors[f"{name}.exponents"][:, None].astype(np.int32))
    return values


def without_exponents(name, scheme, tensors):
    """The same before rows are multiplied by their powers of two."""
    rows, columns = scheme["shape"]
    codes = unpack_codes(tensors[f"{name}.codes"], scheme)
    group = np.arange(columns) // (scheme["group_size"] or columns)
    scales = by_row(tensors[f"{name}.scales"], rows).astype(np.float32)
    if "book" in scheme:
        stored = scales[:, group] * tensors[scheme["book"]][codes]
        if not scheme["symmetric"]:
            stored = stored + by_row(tensors[f"{name}.zeros"], rows).astype(np.float32)[:, group]
        return in_order(stored, name, scheme, tensors)
    if scheme["symmetric"]:
        zeros = np.full_like(scales, middle(scheme), dtype=np.int32)
    else:
        zeros = by_row(tensors[f"{name}.zeros"].view(np.int8), rows).astype(np.int32)
    return in_order(scales[:, group] * (codes - zeros[:, group]), name, scheme, tensors)


def in_order(stored, name, scheme, tensors):
    """Columns as they are stored -> as the model has them, with those in 16 bits."""
    values = stored
    if "perm" in scheme:
        values = np.empty_like(stored)
        values[:, tensors[scheme["perm"]]] = stored
    if "outlier_columns" in scheme:
        # In the model's order; their codes stand for nothing.
        values[:, tensors[scheme["outlier_columns"]]] = tensors[f"{name}.outliers"].astype(np.float32)
    return values


def model(path):
    """The file as a LlamaForCausalLM."""
    with safe_open(path, "np") as f:
        metadata = f.metadata()
    # numpy has no bf16: torch reads those tensors.
    with safe_open(path, "pt") as f:
        tensors = {k: f.get_tensor(k) for k in f.keys()}
    tensors = {k: (t.float() if t.dtype == torch.bfloat16 else t).numpy() for k, t in tensors.items()}
    spec, schemes = json.loads(metadata["thimble.spec"]), json.loads(metadata["thimble.schemes"])
    block = spec["blocks"][0]
    attention = block["mixer"]["attention"]
    assert attention["rotary"]["scaling"] == "none" and not attention["qkv_bias"], "this check is for plain Llamas"
    config = LlamaConfig(
        vocab_size=spec["vocab_size"],
        hidden_size=spec["hidden_size"],
        intermediate_size=block["ffn"]["width"],
        num_hidden_layers=len(spec["blocks"]),
        num_attention_heads=attention["n_heads"],
        num_key_value_heads=attention["n_kv_heads"],
        head_dim=attention["head_dim"],
        rms_norm_eps=spec["final_norm"]["epsilon"],
        rope_parameters={"rope_type": "default", "rope_theta": attention["rotary"]["theta"]},
        max_position_embeddings=spec["context"],
        tie_word_embeddings=spec["tied"],
        attn_implementation="eager",
    )
    state = {}
    for name, module in OUTSIDE.items():
        if name != "head" or not spec["tied"]:
            state[f"{module}.weight"] = weight(name, tensors, schemes)
    for i in range(len(spec["blocks"])):
        for role, module in MODULES.items():
            state[f"model.layers.{i}.{module}.weight"] = weight(f"blocks.{i}.{role}", tensors, schemes)
    llama = LlamaForCausalLM(config).eval().float()
    missing, unexpected = llama.load_state_dict({k: torch.from_numpy(np.ascontiguousarray(v)) for k, v in state.items()}, strict=False)
    assert not unexpected and all("lm_head" in m and spec["tied"] for m in missing), (missing, unexpected)
    return llama


def check(binary, path):
    llama = model(path)
    ids = [(i * 37 + 5) % llama.config.vocab_size for i in range(24)]
    with torch.no_grad():
        theirs = llama(torch.tensor([ids])).logits[0].numpy()
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder) / "logits.safetensors"
        subprocess.run([binary, "logits", path, "--ids", ",".join(map(str, ids)), "--out", str(out)], check=True)
        ours = load_file(out)["logits"]
    difference = float(np.abs(ours - theirs).max())
    print(f"{path}: greatest difference of logits {difference:.1e} (at most {TOLERANCE})")
    return difference <= TOLERANCE


def main(binary, *paths):
    return 0 if all([check(binary, path) for path in paths]) else 1


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
