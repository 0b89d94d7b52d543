"""Write tiny random checkpoints together with the logits `transformers` computes for them.

Each fixture becomes `<out>/<name>/` holding `config.json`, `model.safetensors` (or shards with
their index, or `pytorch_model.bin` likewise) and `expected.safetensors`:

    ids     i32 [n]         the prompt
    logits  f32 [n, vocab]  its logits: the stored weights widened to f32, eager attention, CPU
    greedy  i32 [16]        the greedy continuation of the prompt

A fixture earns its place by being sensitive: every entry of `matters` is a config change (a reader
that ignores or misreads the setting) and must move some logit by more than `MIN_EFFECT`.
"""

import argparse
from pathlib import Path

import torch
from fixtures import gemma, gpt, llama, olmo, outside, phi, qwen, rwkv
from fixtures.machinery import write
from transformers.utils import logging

DEFAULT_OUT = Path(__file__).resolve().parent.parent / "tests" / "data" / "fixtures"
GROUPS = (llama, gpt, phi, gemma, qwen, olmo, rwkv, outside)


def main() -> None:
    """Write the whole table, or the rows whose names begin with one of the arguments."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, default=DEFAULT_OUT, help="the folder the fixtures go to")
    parser.add_argument("prefixes", nargs="*", default=[""], help="write only what begins so")
    args = parser.parse_args()

    logging.set_verbosity_error()
    logging.disable_progress_bar()
    torch.set_num_threads(1)
    torch.use_deterministic_algorithms(True)
    for group in GROUPS:
        for fixture in group.FIXTURES:
            if fixture.name.startswith(tuple(args.prefixes)):
                print(write(fixture, args.out), flush=True)


if __name__ == "__main__":
    main()
