"""Writes tests/data/sparse.json: which weights magnitude pruning, Wanda and SparseGPT make zero, and what SparseGPT makes
of the others, by the algorithms as their papers print them, in numpy and float64.

    write_sparse.py

Weights and inputs are not in the file: `mixed` makes them, and whoever compares makes them likewise.
"""

import json
from pathlib import Path

import numpy as np

OUT = Path(__file__).resolve().parent.parent / "tests/data/sparse.json"
DAMP = 0.01

# Rows, columns, tokens, columns whose input is always zero, SparseGPT's columns of a mask.
LAYERS = [
    (16, 100, 260, [], 128),
    (12, 172, 120, [0, 57, 171], 128),
    (10, 300, 700, [], 128),
    (8, 131, 300, [64], 32),
]
SPARSITIES = [0.5, 0.7, "2:4", "4:8"]


def uniform(seed, shape):
    """In -1 to 1, multiples of 2^-23: a place and a seed, mixed as splitmix64 mixes."""
    with np.errstate(over="ignore"):
        x = np.arange(np.prod(shape), dtype=np.uint64) + np.uint64(seed << 32)
        x = (x + np.uint64(1)) * np.uint64(0x9E3779B97F4A7C15)
        x = (x ^ (x >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
        x = (x ^ (x >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
        x ^= x >> np.uint64(31)
    return ((x >> np.uint64(40)).astype(np.float64) * 2.0**-23 - 1.0).reshape(shape)


def inputs(seed, tokens, columns, dead):
    """Each column leans on the one before it; sizes differ."""
    x = uniform(seed, (tokens, columns))
    for j in range(1, columns):
        x[:, j] += 0.75 * x[:, j - 1]
    x *= 0.25 + np.arange(columns) % 7
    x[:, dead] = 0.0
    return x


def lowest(scores, sparsity):
    """Marks a share of all scores; of equal ones the first."""
    order = np.argsort(scores, axis=None, kind="stable")
    mask = np.zeros(scores.size, dtype=bool)
    mask[order[: int(sparsity * scores.size)]] = True
    return mask.reshape(scores.shape)


def lowest_of_groups(scores, pattern):
    """N of M of each row stay; a last group that is narrower is as if zeros followed."""
    n, m = map(int, pattern.split(":"))
    mask = np.zeros(scores.shape, dtype=bool)
    for row in range(scores.shape[0]):
        for start in range(0, scores.shape[1], m):
            group = scores[row, start : start + m]
            mask[row, start + np.argsort(group, kind="stable")[: max(len(group) - n, 0)]] = True
    return mask


def magnitude(w, x, sparsity, _):
    """Han et al. 2015: the smallest of the layer."""
    mask = lowest(np.abs(w), sparsity) if isinstance(sparsity, float) else lowest_of_groups(np.abs(w), sparsity)
    return np.where(mask, 0.0, w)


def wanda(w, x, sparsity, _):
    """Sun et al. 2023, equation 1: |W| times the norm of the input, each output by itself."""
    scores = np.abs(w) * np.linalg.norm(x, axis=0)
    if isinstance(sparsity, float):
        mask = np.stack([lowest(row, sparsity) for row in scores])
    else:
        mask = lowest_of_groups(scores, sparsity)
    return np.where(mask, 0.0, w)


def sparsegpt(w, x, sparsity, block_size):
    """Frantar and Alistarh 2023, algorithm 1; damping as in their program. Columns of dead inputs,
    which that sets to zero, are judged by their magnitudes."""
    w, columns = w.copy(), w.shape[1]
    h = 2.0 / len(x) * x.T @ x
    dead = np.diag(h) == 0
    h[dead, dead] = 1.0
    h += DAMP * np.mean(np.diag(h)) * np.eye(columns)
    hinv = np.linalg.cholesky(np.linalg.inv(h)).T
    mask = np.zeros(w.shape, dtype=bool)
    for i in range(0, columns, block_size):
        end = min(i + block_size, columns)
        errors = np.zeros((len(w), end - i))
        if isinstance(sparsity, float):
            mask[:, i:end] = lowest(w[:, i:end] ** 2 / np.diag(hinv)[i:end] ** 2, sparsity)
        for j in range(i, end):
            if not isinstance(sparsity, float) and j % int(sparsity.split(":")[1]) == 0:
                group = slice(j, j + int(sparsity.split(":")[1]))
                mask[:, group] = lowest_of_groups(w[:, group] ** 2 / np.diag(hinv)[group] ** 2, sparsity)
            errors[:, j - i] = np.where(mask[:, j], w[:, j], 0.0) / hinv[j, j]
            w[:, j:end] -= np.outer(errors[:, j - i], hinv[j, j:end])
        w[:, end:] -= errors @ hinv[i:end, end:]
    w[mask] = 0.0
    return w


def cases():
    for seed, (rows, columns, tokens, dead, block_size) in enumerate(LAYERS, 1):
        w, x = uniform(2 * seed, (rows, columns)), inputs(2 * seed + 1, tokens, columns, dead)
        for method in (magnitude, wanda, sparsegpt):
            for sparsity in SPARSITIES:
                sparse = method(w, x, sparsity, block_size)
                case = {
                    "method": method.__name__,
                    "sparsity": sparsity,
                    "seed": seed,
                    "rows": rows,
                    "columns": columns,
                    "tokens": tokens,
                    "dead": dead,
                    "block_size": block_size,
                    "goes": ["".join("01"[int(goes)] for goes in row) for row in sparse == 0],
                    "relative_error": np.linalg.norm((w - sparse) @ x.T) / np.linalg.norm(w @ x.T),
                }
                if method is sparsegpt:
                    case["stays"] = [float(f"{value:.7g}") for value in sparse[sparse != 0]]
                yield case


if __name__ == "__main__":
    OUT.write_text("[\n" + ",\n".join(json.dumps(case) for case in cases()) + "\n]\n")
