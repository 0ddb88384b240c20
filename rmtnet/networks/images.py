"""The networks of paper A: images to class scores."""

from collections import OrderedDict
from collections.abc import Sequence
from typing import Any, Self

import torch
from torch import nn
from torch.nn import functional

from rmtnet.caffe import xavier_uniform_
from rmtnet.layers import BlockDiagonalLinear

_ACTIVATIONS = {"relu": torch.relu, "sigmoid": torch.sigmoid}


class LeNet5(nn.Module):
    """LeNet-5 of Caffe's MNIST example, its inner product layers with ``b1`` and ``b2`` blocks: (b1, b2)-BD4.

    conv1 20@5x5, max-pool 2, conv2 50@5x5, max-pool 2, ip1 800 -> 500 with an activation, ip2 500 -> 10; no activation
    after the convolutions.  Weights start with Caffe's Xavier law, biases at 0.  Under one torch seed sisters start
    with the same weights in all layers but the one whose number of blocks differs.

    Parameters
    ----------
    b1, b2 : number of blocks of ip1 (divides 100) and ip2 (divides 10); 1 is dense
    activation : of ip1, "relu" or "sigmoid"
    shuffle : of the layers in blocks: "once", or as :class:`rmtnet.layers.BlockDiagonalLinear` has it

    Raises
    ------
    ValueError
        If a number of blocks does not divide the layer, or the activation is another.
    """

    def __init__(self, b1: int = 1, b2: int = 1, activation: str = "relu", shuffle: str | None = None):
        super().__init__()
        if activation not in _ACTIVATIONS:
            raise ValueError(f"activation must be one of {', '.join(_ACTIVATIONS)}, got {activation!r}")
        self.activation = activation
        seeds = _seeds(4)
        self.conv1 = nn.Conv2d(1, 20, 5)
        self.conv2 = nn.Conv2d(20, 50, 5)
        self.ip1 = inner_product(800, 500, b1, shuffle)
        self.ip2 = inner_product(500, 10, b2, shuffle)
        for layer, seed in zip((self.conv1, self.conv2, self.ip1, self.ip2), seeds, strict=True):
            _start_with_xavier(layer, seed)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        """(batch, 1, 28, 28) pixels in [0, 1] -> (batch, 10) scores."""
        features = functional.max_pool2d(self.conv1(images), 2)
        features = functional.max_pool2d(self.conv2(features), 2).flatten(1)
        scores: torch.Tensor = self.ip2(_ACTIVATIONS[self.activation](self.ip1(features)))
        return scores


class CudaConvNet(nn.Module):
    """Krizhevsky's cuda-convnet, of Caffe's "quick" CIFAR-10 example, with ``b1`` and ``b2`` blocks: (b1, b2)-BD5.

    conv1 32@5x5, max-pool 3/2, ReLU; conv2 32@5x5, ReLU, average-pool 3/2; conv3 64@5x5, ReLU, average-pool 3/2;
    ip1 1024 -> 64, without activation; ip2 64 -> 10.  Convolutions pad by 2, pools of 3 go in steps of 2 and round
    sizes up, as Caffe's do (32, 16, 8, 4).  Weights start Gaussian with standard deviations 1e-4, 0.01, 0.01, 0.1 and
    0.1 whatever the number of blocks, biases at 0.  Under one torch seed sisters start with the same weights in all
    layers but the one whose number of blocks differs.

    Parameters
    ----------
    b1, b2 : number of blocks of ip1 (divides 64) and ip2 (1 or 2); 1 is dense
    shuffle : of the layers in blocks: "once", or as :class:`rmtnet.layers.BlockDiagonalLinear` has it

    Raises
    ------
    ValueError
        If a number of blocks does not divide the layer.
    """

    def __init__(self, b1: int = 1, b2: int = 1, shuffle: str | None = None):
        super().__init__()
        seeds = _seeds(5)
        self.conv1 = nn.Conv2d(3, 32, 5, padding=2)
        self.conv2 = nn.Conv2d(32, 32, 5, padding=2)
        self.conv3 = nn.Conv2d(32, 64, 5, padding=2)
        self.ip1 = inner_product(1024, 64, b1, shuffle)
        self.ip2 = inner_product(64, 10, b2, shuffle)
        deviations = {self.conv1: 1e-4, self.conv2: 0.01, self.conv3: 0.01, self.ip1: 0.1, self.ip2: 0.1}
        for (layer, std), seed in zip(deviations.items(), seeds, strict=True):
            nn.init.normal_(layer.weight, std=std, generator=torch.Generator().manual_seed(seed))
            nn.init.zeros_(layer.bias)  # type: ignore[arg-type]

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        """(batch, 3, 32, 32) pixels 0 to 255 less their mean image -> (batch, 10) scores."""
        features = functional.max_pool2d(self.conv1(images), 3, 2, ceil_mode=True).relu()
        for convolution in (self.conv2, self.conv3):
            # torch's average leaves out what lies beyond the border, as Caffe's does.
            features = functional.avg_pool2d(convolution(features).relu(), 3, 2, ceil_mode=True)
        scores: torch.Tensor = self.ip2(self.ip1(features.flatten(1)))
        return scores


class InnerProductNet(nn.Sequential):
    """Inner product layers ip1, ip2, ... alone, ReLU between them: (b1, ..., bn)-BDn.

    Weights start with Caffe's Xavier law, biases at 0.  Under one torch seed sisters start with the same weights in
    all layers but the one whose number of blocks differs.

    Parameters
    ----------
    widths : features of the input and of each layer, as (784, 500, 500, 10)
    blocks : number of blocks of each layer, as (1, 100, 1)

    Raises
    ------
    ValueError
        If there is not one number of blocks a layer, or one does not divide its layer.
    """

    def __init__(self, widths: Sequence[int], blocks: Sequence[int]):
        if len(blocks) != len(widths) - 1 or not blocks:
            raise ValueError(f"blocks must be one number for each of {len(widths) - 1} layers, got {blocks!r}")
        super().__init__(OrderedDict(flatten=nn.Flatten()))
        sizes = zip(widths[:-1], widths[1:], blocks, _seeds(len(blocks)), strict=True)
        for k, (inputs, outputs, count, seed) in enumerate(sizes, start=1):
            if k > 1:
                self.append(nn.ReLU())
            layer = inner_product(inputs, outputs, count)
            _start_with_xavier(layer, seed)
            self.add_module(f"ip{k}", layer)


def inner_product(
    in_features: int, out_features: int, blocks: int, shuffle: str | None = None
) -> nn.Linear | BlockDiagonalLinear:
    """A dense layer for one block, else a block diagonal one; "once" permutes its blocks as they are made."""
    if blocks == 1:
        return nn.Linear(in_features, out_features)
    if shuffle == "once":
        return PermutedBlockLinear(in_features, out_features, blocks)
    return BlockDiagonalLinear(in_features, out_features, blocks, shuffle=shuffle)


class PermutedBlockLinear(BlockDiagonalLinear):
    """A block diagonal layer whose blocks see the blocks of the input in a random order, drawn when it is made.

    The paper's "random block shuffle" where it is read as cuda-convnet's random sparse convolution has it: random and
    then kept, so that the network is tested as it was trained.

    Attributes
    ----------
    order : (blocks,) which block of the input each block sees

    References
    ----------
    Paper A, section 4.2.
    """

    order: torch.Tensor

    def __init__(self, in_features: int, out_features: int, blocks: int, bias: bool = True, **options: Any):
        super().__init__(in_features, out_features, blocks, bias, **options)
        self.register_buffer("order", torch.randperm(blocks))

    @property
    def block_col(self) -> list[int]:  # type: ignore[override]
        columns: list[int] = self.order.tolist()
        return columns

    @classmethod
    def from_linear(cls, *_: Any, **__: Any) -> Self:
        raise NotImplementedError("the order of a PermutedBlockLinear is drawn when it is made, not cut from a layer")

    def forward(self, input: torch.Tensor) -> torch.Tensor:
        """(..., in_features) -> (..., out_features)."""
        return super().forward(input.unflatten(-1, (self.blocks, -1)).index_select(-2, self.order).flatten(-2))

    def to_dense(self) -> nn.Linear:
        """The same map as a dense layer, with zeros off the blocks."""
        dense = super().to_dense()
        back = self.order.argsort()
        with torch.no_grad():
            dense.weight.copy_(dense.weight.unflatten(1, (self.blocks, -1)).index_select(1, back).flatten(1))
        return dense


def _seeds(layers: int) -> list[int]:
    """One a layer, to be drawn before any is made: sisters under one seed share all layers but the one in blocks."""
    return torch.randint(2**62, (layers,)).tolist()


def _start_with_xavier(layer: nn.Module, seed: int) -> None:
    """Caffe's law for the weight of a layer, whose rows (of a block) are its fan-in; biases 0."""
    weight: torch.Tensor = layer.weight  # type: ignore[assignment]
    fan_in = weight[0].numel() if weight.ndim != 3 else weight.shape[-1]
    xavier_uniform_(weight, fan_in, torch.Generator().manual_seed(seed))
    nn.init.zeros_(layer.bias)  # type: ignore[arg-type]
