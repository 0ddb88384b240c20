"""Recurrent layers with gated weights: the scan, the QRNN beside torch's LSTM, and single steps of a gated LSTM."""

from functools import partial

import torch
from torch import nn

from rmtnet.layers.dynamic import DynamicBlockSparseLinear
from rmtnet.layers.recurrent.dynamic_lstm import DynamicBlockSparseLSTM
from rmtnet.layers.recurrent.pooling import linear_scan
from rmtnet.layers.recurrent.qrnn import QRNN


class Scan:
    """35 steps of 1536 features."""

    param_names = ("batch",)
    params = ([1, 20, 80],)

    def setup(self, batch: int) -> None:
        torch.manual_seed(0)
        torch.set_num_threads(1)
        self.inputs = [torch.rand(*shape, requires_grad=True) for shape in ((35, batch, 1536),) * 2 + ((batch, 1536),)]
        self.score = torch.rand(36, batch, 1536)

    def time_forward(self, _: int) -> None:
        with torch.no_grad():
            linear_scan(*self.inputs)

    def time_forward_and_backward(self, _: int) -> None:
        torch.autograd.grad(linear_scan(*self.inputs), self.inputs, self.score)


class Sequence:
    """35 steps of a layer of 512 inputs and 1536 states, window 2."""

    param_names = ("layer", "batch")
    params = (["torch's LSTM", "dense", "open 50 %", "open 25 %", "open 10 %"], [1, 20])
    timeout = 120

    def setup(self, layer: str, batch: int) -> None:
        torch.manual_seed(0)
        torch.set_num_threads(1)
        self.layer: nn.Module
        if layer == "torch's LSTM":
            self.layer = nn.LSTM(512, 1536)
        elif layer == "dense":
            self.layer = QRNN(512, 1536, window=2)
        else:
            sparsity = 1 - float(layer.split()[1]) / 100
            self.layer = QRNN(512, 1536, window=2, linear=partial(DynamicBlockSparseLinear, sparsity=sparsity))
        self.words = torch.randn(35, batch, 512)

    def time_forward(self, *_: object) -> None:
        with torch.no_grad():
            self.layer(self.words)

    def time_forward_and_backward(self, *_: object) -> None:
        self.layer(self.words)[0].sum().backward()

    def peakmem_forward_and_backward(self, *_: object) -> None:
        self.layer(self.words)[0].sum().backward()


class Step:
    """One step at batch 1 of two layers of 1536, each step with other gates."""

    param_names = ("lstm",)
    params = (["torch's", "open 50 %", "open 25 %", "open 10 %"],)

    def setup(self, lstm: str) -> None:
        torch.manual_seed(0)
        torch.set_num_threads(1)
        self.lstm: nn.Module
        if lstm == "torch's":
            self.lstm = nn.LSTM(1536, 1536, 2)
        else:
            self.lstm = DynamicBlockSparseLSTM(1536, 1536, 2, sparsity=1 - float(lstm.split()[1]) / 100)
        self.words = torch.randn(64, 1, 1, 1536).unbind()
        self.place, self.state = 0, None

    def time_step(self, _: str) -> None:
        with torch.no_grad():
            _, self.state = self.lstm(self.words[self.place], self.state)
        self.place = (self.place + 1) % 64
