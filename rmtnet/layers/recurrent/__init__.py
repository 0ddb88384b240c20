"""Recurrent layers whose weights are dense blocks."""

from rmtnet.layers.recurrent.dynamic_lstm import DynamicBlockSparseLSTM
from rmtnet.layers.recurrent.lstm import BlockSparseLSTM
from rmtnet.layers.recurrent.qrnn import QRNN, QRNNState

__all__ = ["QRNN", "BlockSparseLSTM", "DynamicBlockSparseLSTM", "QRNNState"]
