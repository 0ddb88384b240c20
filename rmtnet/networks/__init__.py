"""The networks of the papers."""

from rmtnet.networks.dynamic import DynamicNet
from rmtnet.networks.images import CudaConvNet, InnerProductNet, LeNet5, inner_product
from rmtnet.networks.language import AWDLSTM

__all__ = ["AWDLSTM", "CudaConvNet", "DynamicNet", "InnerProductNet", "LeNet5", "inner_product"]
