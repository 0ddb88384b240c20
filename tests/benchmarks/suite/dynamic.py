"""A dynamic layer with blocks of 128 at batch 1 and more, and its training step, beside the dense layer's best call.

One thread, the gate counted, other blocks open at every call: ratios over dense are read against
``1 / (open + gate_features / (128 * 128))``, what a perfect product would give.
"""

import torch
from torch import nn

from rmtnet.layers.dynamic import DynamicBlockSparseLinear


class Inference:
    param_names = ("out", "batch", "sparsity", "gate_features")
    params = ([1536, 6144], [1, 8, 128], [0.0, 0.5, 0.75, 0.9], [1536, 384])

    def setup(self, out: int, batch: int, sparsity: float, gate_features: int) -> None:
        torch.set_num_threads(1)
        torch.manual_seed(0)
        self.layer = DynamicBlockSparseLinear(1536, out, 128, sparsity, gate_features=gate_features)
        nn.init.constant_(self.layer.gate.linear.bias, 5.0)  # no gate is 0: all chosen blocks count
        self.dense = nn.Linear(1536, out)
        self.columns = self.dense.weight.detach().T.contiguous()
        self.inputs = torch.randn(64, batch, 1536)
        self.call = 0
        with torch.inference_mode():
            self.layer(self.inputs[0])  # compiled at the first call

    def next(self) -> torch.Tensor:
        self.call += 1
        return self.inputs[self.call % 64]

    @torch.inference_mode()
    def time_dynamic(self, out: int, batch: int, sparsity: float, gate_features: int) -> None:
        self.layer(self.next())

    @torch.inference_mode()
    def time_dense(self, out: int, batch: int, sparsity: float, gate_features: int) -> None:
        self.dense(self.next())

    @torch.inference_mode()
    def time_dense_by_columns(self, out: int, batch: int, sparsity: float, gate_features: int) -> None:
        torch.addmm(self.dense.bias, self.next(), self.columns)


class Training:
    param_names = ("out",)
    params = ([1536, 6144],)

    def setup(self, out: int) -> None:
        torch.set_num_threads(1)
        torch.manual_seed(0)
        self.layer = DynamicBlockSparseLinear(1536, out)
        self.dense = nn.Linear(1536, out)
        self.inputs = torch.randn(128, 1536, requires_grad=True)
        self.upstream = torch.randn(128, out)

    def time_step(self, out: int) -> None:
        self.layer(self.inputs).backward(self.upstream)

    def time_step_dense(self, out: int) -> None:
        self.dense(self.inputs).backward(self.upstream)
