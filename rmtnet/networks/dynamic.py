"""The network of paper C for images: inner product layers, the hidden ones with a gate for each block."""

from collections import OrderedDict

from torch import nn

from rmtnet.layers.dynamic import DynamicBlockSparseLinear


class DynamicNet(nn.Sequential):
    """Class scores of images: ``first``, then ``hidden1``, ``hidden2``, ... , then ``last``, ReLU between them.

    The hidden layers are :class:`~rmtnet.layers.dynamic.DynamicBlockSparseLinear`, each with a gate of its own; the
    other two are dense.  Weights start as torch's linear layers do.  Without sparsity it is the dense sister.

    Parameters
    ----------
    features : of an image, as 784
    width : features of each hidden layer, a multiple of the block's side
    layers : number of hidden layers
    block : side of the blocks
    sparsity : fraction of closed blocks, in [0, 1); None for dense hidden layers without gates
    classes : of the images

    Raises
    ------
    ValueError
        If there is no hidden layer, or the blocks do not fit the width.

    References
    ----------
    Block-wise dynamic sparseness, section 4.1.

    Examples
    --------
    >>> DynamicNet(784, width=256, layers=2, block=64, sparsity=0.75)(torch.ones(3, 1, 28, 28)).shape
    torch.Size([3, 10])
    """

    def __init__(
        self,
        features: int = 784,
        width: int = 1024,
        layers: int = 5,
        block: int = 128,
        sparsity: float | None = 0.9,
        classes: int = 10,
    ):
        for name, number in (("features", features), ("width", width), ("layers", layers), ("classes", classes)):
            if number < 1:
                raise ValueError(f"{name} of a DynamicNet must be at least 1, got {number}")
        super().__init__(OrderedDict(flatten=nn.Flatten(), first=nn.Linear(features, width), relu=nn.ReLU()))
        for k in range(1, layers + 1):
            hidden = nn.Linear(width, width) if sparsity is None else _gated(width, block, sparsity)
            self.add_module(f"hidden{k}", hidden)
            self.add_module(f"relu{k}", nn.ReLU())
        self.add_module("last", nn.Linear(width, classes))


def _gated(width: int, block: int, sparsity: float) -> DynamicBlockSparseLinear:
    return DynamicBlockSparseLinear(width, width, block, sparsity)
