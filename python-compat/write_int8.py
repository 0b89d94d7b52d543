"""Write what bitsandbytes makes of a layer and its input in LLM.int8(): tests/data/bitsandbytes_int8.safetensors.

`x` [tokens, in] and `w` [out, in] with their codes and greatest magnitudes, the whole numbers of their product, and
`x` once more without the columns that reach the threshold. Two differences are kept out of it. Scales of weights are
stored in f16 here, so each row's is a power of two; and bitsandbytes leaves the numbers of an outlier column that are
below the threshold in their row's scale, so those are zero.
"""

import argparse
from pathlib import Path

import bitsandbytes.functional as bnb
import torch
from safetensors.torch import save_file

DEFAULT_OUT = Path(__file__).resolve().parent.parent / "tests" / "data" / "bitsandbytes_int8.safetensors"
TOKENS, ROWS, WIDTH, THRESHOLD = 5, 19, 70, 6.0


def layer() -> tuple[torch.Tensor, torch.Tensor]:
    """Input and weight, in f16 as the library wants them."""
    torch.manual_seed(1)
    x = torch.randn(TOKENS, WIDTH)
    x[:, [9, 40, 69]] = 0
    x[1, 9], x[3, 40], x[0, 69] = 7.5, -60.0, THRESHOLD
    w = (torch.randn(ROWS, WIDTH) * 0.05).clamp(-0.2, 0.2)
    w[torch.arange(ROWS), torch.arange(ROWS)] = 127 * 2.0**-9
    return x.half(), w.half()


def main(out: Path) -> None:
    x, w = layer()
    x_codes, x_greatest, _ = bnb.int8_vectorwise_quant(x.clone())
    w_codes, w_greatest, _ = bnb.int8_vectorwise_quant(w.clone())
    rest_codes, rest_greatest, columns = bnb.int8_vectorwise_quant(x.clone(), threshold=THRESHOLD)
    tensors = {
        "x": x.float(),
        "x_codes": x_codes,
        "x_greatest": x_greatest,
        "w": w.float(),
        "w_codes": w_codes,
        "w_greatest": w_greatest,
        "product": bnb.int8_linear_matmul(x_codes, w_codes),
        "rest_codes": rest_codes,
        "rest_greatest": rest_greatest,
        "columns": columns.int(),
    }
    save_file({name: tensor.contiguous() for name, tensor in tensors.items()}, out)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, default=DEFAULT_OUT)
    main(parser.parse_args().out)
