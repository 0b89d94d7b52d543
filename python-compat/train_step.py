"""Trains a Llama with transformers on given ids for some steps, and says what each
took: the other side of the speed in `benches/distillation.md`.

    train_step.py MODEL IDS.safetensors --batch 8 --length 256 --steps 22 [--teacher MODEL] [--dtype bfloat16]

IDS holds one tensor `ids`, i32 [sequences, length + 1]; step i takes the i-th `batch`
of them. Weights and their means are in f32; with `--dtype bfloat16` forwards are under
autocast. The loss is the cross-entropy with the next tokens, or, with a teacher,
the KL of its distribution from the student's. The last line is JSON: the loss and the
seconds of each step, and tokens per second, the median without the first two.
"""

import argparse
import json
import os
import statistics
import time
from contextlib import nullcontext
from pathlib import Path

os.environ.setdefault("CUDA_VISIBLE_DEVICES", "")

import torch
import torch.nn.functional as F
from safetensors.torch import load_file
from transformers import LlamaForCausalLM

# As `[stage.distil.training]` has them by default.
ADAMW = {"lr": 1e-3, "betas": (0.9, 0.95), "eps": 1e-8, "fused": True}
WEIGHT_DECAY = 0.1
CLIP = 1.0

# Steps before the time of one is what it stays at.
WARMING = 2


def arguments():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", type=Path)
    parser.add_argument("ids", type=Path)
    parser.add_argument("--batch", type=int, required=True)
    parser.add_argument("--length", type=int, required=True)
    parser.add_argument("--steps", type=int, required=True)
    parser.add_argument("--teacher", type=Path, help="whose distribution is learnt, instead of the next tokens")
    parser.add_argument("--dtype", choices=["float32", "bfloat16"], default="float32", help="what forwards are in")
    parser.add_argument("--threads", type=int, help="as many as there are cores by default")
    return parser.parse_args()


def load(path, dtype):
    return LlamaForCausalLM.from_pretrained(path, dtype=dtype, attn_implementation="sdpa")


def groups(model):
    """Matrices of blocks and the head decay; embeddings, the head that is one, and vectors do not."""
    embeddings = model.get_input_embeddings().weight
    decays = [p for p in model.parameters() if p.dim() == 2 and p is not embeddings]
    others = [p for p in model.parameters() if p.dim() != 2 or p is embeddings]
    return [{"params": decays, "weight_decay": WEIGHT_DECAY}, {"params": others, "weight_decay": 0.0}]


def loss(model, teacher, ids, context):
    """Mean over all tokens."""
    read, following = ids[:, :-1], ids[:, 1:].flatten()
    with context():
        logits = model(read, use_cache=False).logits
    logits = logits.float().flatten(0, 1)
    if teacher is None:
        return F.cross_entropy(logits, following)
    with torch.no_grad():
        targets = teacher(read, use_cache=False).logits.float().flatten(0, 1).log_softmax(-1)
    return F.kl_div(logits.log_softmax(-1), targets, log_target=True, reduction="batchmean")


def main():
    options = arguments()
    if options.threads:
        torch.set_num_threads(options.threads)
    dtype = getattr(torch, options.dtype)
    narrow = dtype != torch.float32
    context = (lambda: torch.autocast("cpu", dtype)) if narrow else nullcontext
    model = load(options.model, torch.float32).train()
    teacher = load(options.teacher, dtype).eval() if options.teacher else None
    optimizer = torch.optim.AdamW(groups(model), **ADAMW)
    ids = load_file(options.ids)["ids"].long()
    assert ids.shape[1] == options.length + 1, ids.shape
    losses, seconds = [], []
    for batch in ids.split(options.batch)[: options.steps]:
        begin = time.perf_counter()
        optimizer.zero_grad()
        value = loss(model, teacher, batch, context)
        value.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), CLIP)
        optimizer.step()
        losses.append(value.item())
        seconds.append(time.perf_counter() - begin)
    tokens_per_s = options.batch * options.length / statistics.median(seconds[WARMING:])
    print(json.dumps({"losses": losses, "seconds": seconds, "tokens_per_s": tokens_per_s}))


if __name__ == "__main__":
    main()
