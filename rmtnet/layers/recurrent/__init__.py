"""Recurrent layers whose weights are dense blocks."""

from rmtnet.layers.recurrent.lstm import BlockSparseLSTM

__all__ = ["BlockSparseLSTM"]
