"""Writes tests/data/losses.json: values and gradients of the losses of distillation, and
steps of the optimisers, from torch in float64 by the formulas that their papers print.

    write_losses.py
"""

import json
from pathlib import Path

import torch
import torch.nn.functional as F

OUT = Path(__file__).resolve().parent.parent / "tests/data/losses.json"
TOKENS, VOCAB, TOP = 4, 12, 3


def kl(p, q):
    """KL(p || q) by token, by torch's own function (which takes log q first)."""
    return F.kl_div(q.log(), p, reduction="none").sum(-1)


# By the recipe's names. GKD, section 3; DistiLLM, section 3.1.
DIVERGENCES = {
    "forward_kl": lambda p, q: kl(p, q),
    "reverse_kl": lambda p, q: kl(q, p),
    "symmetric_kl": lambda p, q: (kl(p, q) + kl(q, p)) / 2,
    "jensen_shannon": lambda p, q, b: b * kl(p, b * p + (1 - b) * q) + (1 - b) * kl(q, b * p + (1 - b) * q),
    "skewed_forward_kl": lambda p, q, a: kl(p, a * p + (1 - a) * q),
    "skewed_reverse_kl": lambda p, q, a: kl(q, (1 - a) * p + a * q),
    "total_variation": lambda p, q: (p - q).abs().sum(-1) / 2,
}
OPTIONS = {"jensen_shannon": [0.1, 0.5, 0.9], "skewed_forward_kl": [0.1, 0.7], "skewed_reverse_kl": [0.1, 0.7]}


def coarse(probabilities, ids):
    """The most likely tokens, and all others as one."""
    top = probabilities.gather(-1, ids)
    return torch.cat([top, 1 - top.sum(-1, keepdim=True)], -1)


def divergences(student, teacher):
    for name, function in DIVERGENCES.items():
        for option in OPTIONS.get(name, [None]):
            for temperature in (1.0, 2.0):
                for top in (None, TOP):
                    z = student.clone().requires_grad_()
                    p, q = (F.softmax(x / temperature, -1) for x in (teacher, z))
                    if top:
                        ids = teacher.topk(top).indices
                        p, q = coarse(p, ids), coarse(q, ids)
                    arguments = (p, q) if option is None else (p, q, option)
                    values = function(*arguments) * temperature**2
                    values.sum().backward()
                    divergence = name if option is None else {name: option}
                    yield {"divergence": divergence, "temperature": temperature, "top": top, "values": values.tolist(), "gradient": z.grad.tolist()}


def optimisers():
    """A matrix and a vector, whose weights do not decay, under given gradients."""
    settings = {"learning_rate": 0.05, "weight_decay": 0.1, "betas": [0.9, 0.95], "epsilon": 1e-8, "momentum": 0.9}
    rate, decay = settings["learning_rate"], settings["weight_decay"]
    generator = torch.Generator().manual_seed(7)
    start = [torch.randn(3, 2, generator=generator, dtype=torch.float64), torch.randn(2, generator=generator, dtype=torch.float64)]
    gradients = [[torch.randn(x.shape, generator=generator, dtype=torch.float64) for x in start] for _ in range(6)]
    for name in ("adamw", "sgd"):
        matrix, vector = (x.clone().requires_grad_() for x in start)
        groups = [{"params": [matrix], "weight_decay": decay if name == "adamw" else 0.0}, {"params": [vector], "weight_decay": 0.0}]
        if name == "adamw":
            optimiser = torch.optim.AdamW(groups, lr=rate, betas=tuple(settings["betas"]), eps=settings["epsilon"])
        else:
            optimiser = torch.optim.SGD(groups, lr=rate, momentum=settings["momentum"])
        for step in gradients:
            matrix.grad, vector.grad = (g.clone() for g in step)
            if name == "sgd":  # Decay is decoupled on both sides; torch's SGD couples it.
                with torch.no_grad():
                    matrix.mul_(1 - rate * decay)
            optimiser.step()
        yield {
            "optimizer": name,
            "settings": settings,
            "start": [x.tolist() for x in start],
            "gradients": [[g.tolist() for g in step] for step in gradients],
            "end": [matrix.tolist(), vector.tolist()],
        }


def main():
    generator = torch.Generator().manual_seed(1)
    student, teacher = (2 * torch.randn(TOKENS, VOCAB, generator=generator, dtype=torch.float64) for _ in range(2))
    tokens = torch.tensor([3, 0, 11, 5])
    z = student.clone().requires_grad_()
    hard = F.cross_entropy(z, tokens, reduction="none")
    hard.sum().backward()
    # Hidden states and attention: [batch, tokens, hidden], scores [batch, heads, queries, keys].
    own, its = (torch.randn(2, 5, 8, generator=generator, dtype=torch.float64) for _ in range(2))
    q, k, tq, tk = (torch.randn(2, 2, 5, 4, generator=generator, dtype=torch.float64) for _ in range(4))
    v, tv = (torch.randn(2, 2, 5, 4, generator=generator, dtype=torch.float64) for _ in range(2))
    seen = torch.ones(5, 5, dtype=torch.bool).tril()
    scores, teachers = (a @ b.transpose(-1, -2) * 0.5 for a, b in ((q, k), (tq, tk)))
    maps, teachers_maps = (torch.softmax(s.masked_fill(~seen, float("-inf")), -1) for s in (scores, teachers))
    rows = teachers_maps[..., 0].numel()
    alike = lambda x: torch.softmax(x @ x.transpose(-1, -2) / 2, -1)  # MiniLMv2, equation 1; 2 is the root of 4
    matching = {
        "last_cosine": F.cosine_embedding_loss(own.flatten(0, 1), its.flatten(0, 1), torch.ones(10)).item(),
        "mean_square": F.mse_loss(own, its).item(),
        "normalised_mean_square": F.mse_loss(F.layer_norm(own, (8,), eps=1e-12), F.layer_norm(its, (8,), eps=1e-12)).item(),
        "scores": F.mse_loss(scores[..., seen], teachers[..., seen]).item(),
        "distributions": torch.where(seen, teachers_maps * ((teachers_maps + 1e-300).log() - (maps + 1e-300).log()), 0.0).sum().item() / rows,
        "relations": sum(kl(alike(t), alike(s)).mean().item() for s, t in ((q, tq), (k, tk), (v, tv))),
    }
    found = {
        "student": student.tolist(),
        "teacher": teacher.tolist(),
        "tokens": tokens.tolist(),
        "hard": {"values": hard.tolist(), "gradient": z.grad.tolist()},
        "divergences": list(divergences(student, teacher)),
        "hidden": {"own": own.tolist(), "its": its.tolist()},
        "attention": {"own": [q.tolist(), k.tolist(), v.tolist()], "its": [tq.tolist(), tk.tolist(), tv.tolist()], "scale": 0.5},
        "matching": matching,
        "optimisers": list(optimisers()),
    }
    OUT.write_text(json.dumps(found) + "\n")


if __name__ == "__main__":
    main()
