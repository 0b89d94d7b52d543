"""Write every family's default configuration at tiny widths, each of its keys changed, and transformers' logits.

For each family that transformers has and its installed major version this writes two files in tests/data/wild:

    <family>-v<major>.json         configurations as save_pretrained writes them, and how weights are drawn
    <family>-v<major>.safetensors  logits f32 [ids, vocab] by the case's name, where they are not the default's

Weights are not stored: wild/weights.py draws them by tensor name and index, and so does the Rust test. The logits are
those of the model that from_pretrained makes of the saved files: f32, eager attention, CPU, one pass.
"""

import argparse
import json
import os
import shutil
import tempfile
import warnings
from pathlib import Path
from typing import Any

os.environ["HF_HUB_OFFLINE"] = "1"

import numpy as np
import torch
import transformers
from safetensors.numpy import load_file, save_file
from transformers import CONFIG_MAPPING, AutoModelForCausalLM
from transformers.utils import logging
from wild import flips, weights

DEFAULT_OUT = Path(__file__).resolve().parent.parent / "tests" / "data" / "wild"
IDS = [(7 * i * i + 13 * i + 5) % 61 for i in range(20)]
MAJOR = int(transformers.__version__.split(".")[0])
DEFAULT = "default"
GONE = object()  # a key that is taken out
Config = dict[str, Any]
Saved = tuple[Config, dict[str, weights.Draw], np.ndarray]


class Unchanged(Exception):
    """The change is not in what save_pretrained writes."""


def base_of(family: str) -> Config:
    """Arguments of a family's configuration class: its sizes, and nothing else."""
    sizes = {key: value for key, value in flips.SIZES.items() if key not in flips.ABSENT.get(family, ())}
    return {**sizes, **flips.FAMILIES[family]}


def rotary_changes(family: str, defaults: Config) -> list[flips.Change]:
    """Changes of the rotary settings in the spelling of this version."""
    new = "rope_parameters" in defaults
    if not new and "rope_scaling" not in defaults:
        return []
    inside = dict(defaults.get("rope_parameters") or {})
    share = inside.get("partial_rotary_factor", defaults.get("partial_rotary_factor", defaults.get("rotary_pct", 1.0)))
    head_dim = defaults.get("head_dim") or defaults["hidden_size"] // defaults["num_attention_heads"]
    kinds = flips.rotary_kinds(int(head_dim * (share or 1.0)))
    changes: list[flips.Change] = []
    if "full_attention" in inside:
        return [{"rope_parameters": rope} for rope in rotary_by_kind(inside, kinds)]
    for kind in kinds:
        if not new:
            changes.append({"rope_scaling": kind})
            changes.append({"rope_scaling": {("type" if key == "rope_type" else key): v for key, v in kind.items()}})
            continue
        growth = {key: inside[key] for key in ("llama_4_scaling_beta",) if key in inside}
        kept = {key: inside[key] for key in ("rope_theta", "partial_rotary_factor") if key in inside}
        changes.append({"rope_parameters": {**kept, **growth, **kind}})
    if new:
        plain = {"rope_type": "default"}
        for theta in (500.0, 1000000):
            changes.append({"rope_parameters": {**inside, "rope_theta": theta}})
        for part in (0.25, 0.5, 1.0):
            changes.append({"rope_parameters": {**inside, "partial_rotary_factor": part}})
        changes.append({"rope_parameters": {**plain, "rope_theta": 500.0}})
        by_kind = {"full_attention": plain, "sliding_attention": {**plain, "rope_theta": 500.0}}
        changes.append({"rope_parameters": by_kind})
        changes.append({"rope_theta": 500.0})
        if "llama_4_scaling_beta" in inside:
            growing = {"llama_4_scaling_beta": 0.4, "original_max_position_embeddings": 4}
            changes.append({"rope_parameters": {**inside, **growing}})
            changes.append({"rope_parameters": {**inside, "original_max_position_embeddings": 8}})
    dynamic = {"rope_type": "dynamic", "factor": 2.0}
    key = "rope_parameters" if new else "rope_scaling"
    changes.append({key: {**inside, **dynamic} if new else dynamic, "max_position_embeddings": 12})
    return changes


def rotary_by_kind(inside: Config, kinds: list[Config]) -> list[Config]:
    """Rotary parameters where each kind of block has an object of its own."""
    changes = [{**inside, "full_attention": {**inside["full_attention"], **kind}} for kind in kinds]
    for kind, parameters in inside.items():
        others = {key: value for key, value in inside.items() if key != kind}
        changes += [{**inside, kind: {**parameters, **change}} for change in (kinds[0], {"rope_theta": 500.0})]
        changes += [others, {**inside, kind: None}, {**inside, kind: {"rope_type": "default"}}]
    return [*changes, {"rope_type": "default", "rope_theta": 500.0}, kinds[0]]


def values_of(family: str, key: str, default: Any) -> list[Any]:
    """What a key is changed to."""
    if key in flips.ACTIVATION_KEYS:
        more = flips.MORE_ACTIVATIONS if family in flips.ALL_ACTIVATIONS else []
        return flips.SOME_ACTIVATIONS + more
    if key in flips.VALUES:
        return flips.VALUES[key]
    if isinstance(default, bool):
        return [not default]
    if isinstance(default, float) and ("drop" in key or key in ("initializer_range", "init_std")):
        return [0.25]
    if default is None and key.startswith(("use_", "output_", "return_", "is_")):
        return [True]
    return []


def changes_of(family: str, defaults: Config) -> tuple[list[flips.Change], list[str]]:
    """All changes of a family, and the keys that none is known for."""
    changes, unknown = rotary_changes(family, defaults), []
    keys = [*defaults, *(key for key in flips.EVERYWHERE if key not in defaults)]
    for key in keys:
        if key in flips.SKIPPED:
            continue
        values = values_of(family, key, defaults.get(key, False))
        if not values and key not in ("is_decoder",):
            unknown.append(key)
        for value in values:
            if key not in defaults or value != defaults[key] or type(value) is not type(defaults[key]):
                changes.append({key: value, **flips.WITH.get((family, key), {})})
    foreign = [change for change in flips.FOREIGN if not set(change) <= set(defaults)]
    return changes + foreign, unknown


def case_name(change: flips.Change) -> str:
    """A name that says the whole change."""
    return ", ".join(f"no {key}" if value is GONE else f"{key}={json.dumps(value)}" for key, value in change.items())


def edits_of(saved: Config) -> list[flips.Change]:
    """Changes of a saved config.json itself: a key taken out, set to null, or written in another spelling."""
    skipped = flips.SIZE_KEYS | flips.SKIPPED - {"rope_parameters", "attention_layers"}
    keys = [key for key in saved if key not in skipped]
    edits = [{key: GONE} for key in keys] + [{key: None} for key in keys if saved[key] is not None]
    for key, written in flips.WRITTEN.items():
        edits += written if key in saved else []
    return edits


def run(family: str, arguments: Config, edit: Config, folder: Path) -> Saved:
    """Save a model of these arguments with drawn weights, edit its config.json, load it, and compute its logits."""
    torch.manual_seed(0)
    config = CONFIG_MAPPING[family](**arguments)
    AutoModelForCausalLM.from_config(config, attn_implementation="eager").float().save_pretrained(folder)
    saved = load_file(folder / "model.safetensors")
    draws = {name: weights.draw_of(name, tensor) for name, tensor in sorted(saved.items())}
    save_file({n: weights.values(n, d) for n, d in draws.items()}, folder / "model.safetensors", {"format": "pt"})
    if edit:
        text = json.loads((folder / "config.json").read_text())
        text = {key: value for key, value in {**text, **edit}.items() if value is not GONE}
        (folder / "config.json").write_text(json.dumps(text, indent=2) + "\n")
    model, info = AutoModelForCausalLM.from_pretrained(
        folder, dtype=torch.float32, attn_implementation="eager", output_loading_info=True
    )
    wrong = {key: info[key] for key in ("missing_keys", "unexpected_keys", "mismatched_keys") if info[key]}
    assert not wrong, wrong
    with torch.no_grad():
        output = model.eval()(torch.tensor([IDS]), use_cache=False)
    logits = (output[0] if isinstance(output, tuple) else output.logits)[0].numpy()
    assert np.isfinite(logits).all(), "logits are not finite"
    return json.loads((folder / "config.json").read_text()), draws, logits


def in_fresh_folder(family: str, arguments: Config, edit: Config) -> Saved:
    """The same in a folder that is gone afterwards."""
    folder = Path(tempfile.mkdtemp(dir="/dev/shm" if Path("/dev/shm").is_dir() else None))
    try:
        return run(family, arguments, edit, folder)
    finally:
        shutil.rmtree(folder)


def write(family: str, out: Path) -> str:
    """The two files of a family, and a line about them."""
    base = base_of(family)
    default, draws, reference = in_fresh_folder(family, base, {})
    layouts, stored, cases, dropped = [draws], {DEFAULT: reference}, [], []
    changes, unknown = changes_of(family, CONFIG_MAPPING[family](**base).to_dict())
    tried = [(case_name(change), change, {}) for change in changes]
    tried += [("config.json: " + case_name(edit), {}, edit) for edit in edits_of(default)]
    for name, change, edit in tried:
        if any(case["name"] == name for case in cases):
            continue
        try:
            config, draws, logits = in_fresh_folder(family, {**base, **change}, edit)
            differs = {key: value for key, value in config.items() if key not in default or default[key] != value}
            gone = [key for key in default if key not in config]
            if not differs and not gone:
                raise Unchanged("save_pretrained does not write it")
        except Exception as error:
            dropped.append({"name": name, "reason": f"{type(error).__name__}: {error}".split("\n")[0][:160]})
            continue
        if draws not in layouts:
            layouts.append(draws)
        same = logits.shape == reference.shape and np.array_equal(logits, reference)
        effect = float(np.abs(logits - reference).max()) if logits.shape == reference.shape else None
        if not same:
            stored[name] = np.ascontiguousarray(logits)
        cases.append(
            {
                "name": name,
                "set": differs,
                "unset": gone,
                "layout": layouts.index(draws),
                "logits": DEFAULT if same else name,
                "effect": effect,
            }
        )
    rows = [{name: [list(d.shape), d.centre, d.spread] for name, d in layout.items()} for layout in layouts]
    header = {"family": family, "transformers": transformers.__version__, "torch": torch.__version__.split("+")[0]}
    header |= {"ids": IDS, "default": default, "no_value": unknown}
    lists = {"layouts": rows, "cases": cases, "dropped": dropped}
    write_json(out / f"{family}-v{MAJOR}.json", header, lists)
    save_file(stored, out / f"{family}-v{MAJOR}.safetensors")
    counts = f"{1 + len(cases):4} cases, {len(stored):4} logits, {len(dropped):3} dropped"
    return f"{family:12} {counts}; no value for: {', '.join(unknown)}"


def write_json(path: Path, header: Config, lists: dict[str, list[Any]]) -> None:
    """A line for each entry of the lists, so that a change can be read."""
    parts = [f' "{key}": {json.dumps(value)}' for key, value in header.items()]
    for key, rows in lists.items():
        lines = ",\n".join("  " + json.dumps(row) for row in rows)
        parts.append(f' "{key}": [\n{lines}\n ]')
    path.write_text("{\n" + ",\n".join(parts) + "\n}\n")


def main() -> None:
    """All families, or those that are named."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, default=DEFAULT_OUT, help="the folder the files go to")
    parser.add_argument("families", nargs="*", default=list(flips.FAMILIES))
    args = parser.parse_args()
    logging.set_verbosity(logging.CRITICAL)
    logging.disable_progress_bar()
    warnings.simplefilter("ignore")
    torch.set_num_threads(1)
    torch.use_deterministic_algorithms(True)
    args.out.mkdir(parents=True, exist_ok=True)
    for family in args.families:
        if family in CONFIG_MAPPING:
            print(write(family, args.out), flush=True)


if __name__ == "__main__":
    main()
