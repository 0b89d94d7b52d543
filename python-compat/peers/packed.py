"""The weights that the tensors of gptqmodel's packed models stand for.

A weight is scale * (code - zero point), with the scales of f16 as they are
stored, multiplied in f32: what an exact kernel computes from the file.
"""

import torch
from gptqmodel.quantization.awq.utils.packing_utils import reverse_awq_order, unpack_awq
from gptqmodel.utils.planar_packing import PLANAR_BITS, planar_unpack_cols, planar_unpack_rows


def stream(words, bits, count):
    """Codes along the last dimension of int32 words: a little-endian stream of bits."""
    position = torch.arange(count) * bits
    word, shift = position // 32, position % 32
    words = words.to(torch.int64) & 0xFFFFFFFF
    # A code may begin in one word and end in the next.
    following = torch.nn.functional.pad(words, (0, 1))[..., word + 1]
    return ((words[..., word] >> shift) | (following << (32 - shift))) & ((1 << bits) - 1)


def gptq_weight(tensors, bits):
    """`[out, in]` of a module in the format `gptq_v2`; columns in the model's
    order, whatever order they were solved in."""
    scales, groups = tensors["scales"].float(), tensors["g_idx"].long()
    inputs, outputs = len(groups), scales.shape[1]
    if bits in PLANAR_BITS:
        codes = planar_unpack_rows(tensors["qweight"], bits)[:inputs]
        zeros = planar_unpack_cols(tensors["qzeros"], bits)[:, :outputs]
    else:
        codes = stream(tensors["qweight"].T, bits, inputs).T
        zeros = stream(tensors["qzeros"], bits, outputs)
    return (scales[groups] * (codes - zeros[groups]).float()).T.contiguous()


def awq_weight(tensors, bits, group_size):
    """`[out, in]` of a module in the format `gemm`, for inputs that are divided by
    its scales."""
    scales = tensors["scales"].float()
    outputs, inputs = scales.shape[1], len(tensors["qweight"])
    codes, zeros = unpack_awq(tensors["qweight"], tensors["qzeros"], bits, outputs)
    codes, zeros = reverse_awq_order(codes, zeros, bits)
    groups = torch.arange(inputs) // (group_size if group_size > 0 else inputs)
    return (scales[groups] * (codes - zeros[groups]).float()).T.contiguous()
