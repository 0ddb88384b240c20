"""Products of block layers with a batch of inputs."""

import torch
from torch.nn import functional


def block_diagonal_linear(input: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None = None) -> torch.Tensor:
    """Apply each diagonal block to its own slice of the input features.

    Parameters
    ----------
    input : (..., blocks * k)
    weight : (blocks, o, k)
    bias : (blocks * o,), optional

    Returns
    -------
    (..., blocks * o)
    """
    blocks, out, width = weight.shape
    if blocks == 1:
        return functional.linear(input, weight[0], bias)
    batch = input.shape[:-1]
    sliced = input.reshape(-1, blocks, width).transpose(0, 1)
    if bias is None:
        product = torch.bmm(sliced, weight.mT)
    else:
        product = torch.baddbmm(bias.view(blocks, 1, out), sliced, weight.mT)
    return product.transpose(0, 1).reshape(*batch, blocks * out)
