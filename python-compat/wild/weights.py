"""Weights that are never stored: tests/common/wild.rs draws the same numbers bit for bit."""

from dataclasses import dataclass

import numpy as np

# Names of parameters that are drawn otherwise, by the beginning of the last part: (centre, spread).
DRAWS = {"time_mix_": (0.5, 0.5), "time_decay": (0.0, 1.0), "time_first": (0.0, 1.0)}
MATRIX_SPREAD = 0.4
VECTOR_SPREAD = 0.3


@dataclass(frozen=True)
class Draw:
    """A tensor's shape, and the interval centre ± spread that its numbers are uniform in."""

    shape: tuple[int, ...]
    centre: float
    spread: float


def draw_of(name: str, initial: np.ndarray) -> Draw:
    """How a parameter is drawn: what starts as all ones (a norm's weight) around one."""
    last = name.rpartition(".")[2]
    for start, (centre, spread) in DRAWS.items():
        if last.startswith(start):
            return Draw(initial.shape, centre, spread)
    if initial.ndim != 1:
        return Draw(initial.shape, 0.0, MATRIX_SPREAD)
    return Draw(initial.shape, 1.0 if (initial == 1).all() else 0.0, VECTOR_SPREAD)


def name_hash(name: str) -> int:
    """FNV-1a over the bytes of the name."""
    value = 0xCBF29CE484222325
    for byte in name.encode():
        value = (value ^ byte) * 0x100000001B3 % 2**64
    return value


def values(name: str, draw: Draw) -> np.ndarray:
    """The numbers: SplitMix64 of (name, index), its upper 24 bits as a multiple of 2^-23 in -1 to 1."""
    count = int(np.prod(draw.shape, dtype=np.int64))
    with np.errstate(over="ignore"):
        x = (np.arange(1, count + 1, dtype=np.uint64) + np.uint64(name_hash(name))) * np.uint64(0x9E3779B97F4A7C15)
        x = (x ^ (x >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
        x = (x ^ (x >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
        x ^= x >> np.uint64(31)
    unit = (x >> np.uint64(40)).astype(np.float64) * 2.0**-23 - 1.0
    return (draw.centre + draw.spread * unit).astype(np.float32).reshape(draw.shape)
