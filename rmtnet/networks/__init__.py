"""The networks of the papers."""

from rmtnet.networks.images import CudaConvNet, InnerProductNet, LeNet5, inner_product

__all__ = ["CudaConvNet", "InnerProductNet", "LeNet5", "inner_product"]
