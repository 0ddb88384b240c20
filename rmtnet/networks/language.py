"""Language models: AWD-LSTM and its QRNN, and the LSTM of Zaremba et al.; dense, in blocks, or gated block by block."""

from collections.abc import Callable, Sequence
from itertools import pairwise
from typing import Any, NamedTuple

import torch
from torch import nn
from torch.nn import functional

from rmtnet.layers.dynamic import DynamicBlockSparseLinear
from rmtnet.layers.recurrent import QRNN, BlockSparseLSTM, DynamicBlockSparseLSTM

State = Any
"""What the layers keep after the last word, for the next stretch: tensors in lists and tuples."""


class Output(NamedTuple):
    """What a language model gives for a stretch of text."""

    scores: torch.Tensor
    """(length, batch, words), of the next word, before softmax."""
    state: State
    raw: torch.Tensor
    """(length, batch, embedding), of the last layer, as it leaves it."""
    dropped: torch.Tensor
    """The same after dropout, from which the scores are made."""


class _LockedDropout(nn.Module):
    """An embedding, and dropout whose masks are locked in time (Gal and Ghahramani 2016)."""

    bias: nn.Parameter

    def __init__(self, words: int, embedding: int, shares: dict[str, float]):
        super().__init__()
        self.words, self.embedding, self.shares = words, nn.Embedding(words, embedding), shares

    def extra_repr(self) -> str:
        return ", ".join(f"{name}={share}" for name, share in self.shares.items())

    def _through(self, layers: nn.ModuleList, words: torch.Tensor, state: State | None) -> Output:
        """Words through the layers one after the other, and scores by the embedding's own weight."""
        features = self._embedded(words)
        reached: list[Any] = []
        raw = dropped = features
        for k, layer in enumerate(layers):
            raw, after = layer(dropped, state[k] if state else None)
            reached.append(after)
            dropped = self._locked(raw, "dropout" if k == len(layers) - 1 else "dropout_hidden")
        return Output(functional.linear(dropped, self.embedding.weight, self.bias), reached, raw, dropped)

    def _embedded(self, words: torch.Tensor) -> torch.Tensor:
        """Features of words; a word that is dropped is dropped wherever it stands."""
        features = self.embedding(words)
        if self.training and (share := self.shares["dropout_words"]):
            features = features * _kept(features, (self.words, 1), share)[words]
        return self._locked(features, "dropout_input")

    def _locked(self, features: torch.Tensor, which: str) -> torch.Tensor:
        """Dropout with one mask for all times."""
        share = self.shares[which]
        if not self.training or not share:
            return features
        return features * _kept(features, (1, *features.shape[1:]), share)


class AWDLSTM(_LockedDropout):
    """AWD-LSTM: tied embedding, LSTM layers with dropped recurrent weights, dropout that is locked in time.

    Layer k is ``lstms.k``, a :class:`rmtnet.layers.BlockSparseLSTM` of all blocks at first; its weights, by which they
    are recorded and pruned, are ``lstms.k.weight_ih_l0`` and ``lstms.k.weight_hh_l0``.

    Parameters
    ----------
    words : size of the vocabulary
    embedding : features of a word; also of the last layer
    hidden : features of the other layers
    layers : number of LSTM layers
    block : side of the blocks of the LSTM weights; divides ``embedding`` and ``hidden``.  None: a block a gate
    dropout : share of the last layer's outputs that is dropped
    dropout_hidden : of the outputs of the other layers
    dropout_input : of the features of words
    dropout_words : of the words of the vocabulary, whole
    weight_drop : of the recurrent weights

    Raises
    ------
    ValueError
        If a size is below 1, a share outside [0, 1), or ``block`` does not divide.

    References
    ----------
    Merity, Keskar and Socher, Regularizing and Optimizing LSTM Language Models, ICLR 2018, sections 2 and 4.

    Examples
    --------
    >>> model = AWDLSTM(words=1000, embedding=40, hidden=120, block=20)
    >>> model(torch.zeros(7, 2, dtype=torch.long)).scores.shape
    torch.Size([7, 2, 1000])
    """

    def __init__(
        self,
        words: int,
        embedding: int = 400,
        hidden: int = 1150,
        layers: int = 3,
        *,
        block: int | None = None,
        dropout: float = 0.4,
        dropout_hidden: float = 0.2,
        dropout_input: float = 0.65,
        dropout_words: float = 0.1,
        weight_drop: float = 0.5,
    ):
        sizes = {"words": words, "embedding": embedding, "hidden": hidden, "layers": layers}
        shares = {
            "dropout": dropout,
            "dropout_hidden": dropout_hidden,
            "dropout_input": dropout_input,
            "dropout_words": dropout_words,
            "weight_drop": weight_drop,
        }
        _check(sizes, shares)
        super().__init__(words, embedding, shares)
        widths = [embedding, *[hidden] * (layers - 1), embedding]
        self.lstms = nn.ModuleList(
            BlockSparseLSTM(*pair, block=block, weight_drop=weight_drop) for pair in pairwise(widths)
        )
        self.bias = nn.Parameter(torch.zeros(words))
        nn.init.uniform_(self.embedding.weight, -0.1, 0.1)

    def forward(self, words: torch.Tensor, state: State | None = None) -> Output:
        """(length, batch) numbers of words, and the state after the words before them -> what comes next.

        Without a state the text begins here.
        """
        return self._through(self.lstms, words, state)


class AWDQRNN(_LockedDropout):
    """AWD-LSTM's model with QRNN layers: tied embedding, dropped weights, dropout that is locked in time.

    Layer k is ``qrnns.k``, a :class:`rmtnet.layers.recurrent.QRNN`, and its map ``qrnns.k.linears.0``.

    Parameters
    ----------
    words, embedding, hidden, layers : as for :class:`AWDLSTM`
    linear : makes the maps, as for :class:`~rmtnet.layers.recurrent.QRNN`
    window : words that the first layer sees at a step, and those that each of the others does
    dropout, dropout_hidden, dropout_input, dropout_words : as for :class:`AWDLSTM`
    weight_drop : share of the weights of the maps that is dropped

    Raises
    ------
    ValueError
        If a size is below 1, or a share outside [0, 1).

    References
    ----------
    Bradbury, Merity, Xiong and Socher, Quasi-Recurrent Neural Networks, ICLR 2017; Merity, Keskar and Socher, An
    Analysis of Neural Language Modeling at Multiple Scales, 2018.  Sizes: Block-wise dynamic sparseness, 4.2.1;
    dropout: the reference implementation's QRNN on the Penn Treebank.

    Examples
    --------
    >>> model = AWDQRNN(words=1000, embedding=32, hidden=64)
    >>> model(torch.zeros(7, 2, dtype=torch.long)).scores.shape
    torch.Size([7, 2, 1000])
    """

    def __init__(
        self,
        words: int,
        embedding: int = 512,
        hidden: int = 1536,
        layers: int = 4,
        *,
        linear: Callable[..., nn.Module] = nn.Linear,
        window: Sequence[int] = (2, 1),
        dropout: float = 0.4,
        dropout_hidden: float = 0.3,
        dropout_input: float = 0.4,
        dropout_words: float = 0.1,
        weight_drop: float = 0.1,
    ):
        sizes = {"words": words, "embedding": embedding, "hidden": hidden, "layers": layers}
        shares = {
            "dropout": dropout,
            "dropout_hidden": dropout_hidden,
            "dropout_input": dropout_input,
            "dropout_words": dropout_words,
            "weight_drop": weight_drop,
        }
        _check(sizes, shares)
        super().__init__(words, embedding, shares)
        if len(window) != 2:
            raise ValueError(f"window must be two numbers, of the first layer and of the others, got {window!r}")
        first, others = window
        widths = [embedding, *[hidden] * (layers - 1), embedding]
        self.qrnns = nn.ModuleList(
            QRNN(*pair, window=others if k else first, linear=linear, weight_drop=weight_drop)
            for k, pair in enumerate(pairwise(widths))
        )
        self.bias = nn.Parameter(torch.zeros(words))
        nn.init.uniform_(self.embedding.weight, -0.1, 0.1)

    def forward(self, words: torch.Tensor, state: State | None = None) -> Output:
        """As :meth:`AWDLSTM.forward`."""
        return self._through(self.qrnns, words, state)


class RegularizedLSTM(nn.Module):
    """The LSTM with dropout on all but its recurrent connections, dense or gated block by block.

    Its weights are the linear layers ``lstm.weight_ih_l0``, ``lstm.weight_hh_l0``, ...; the embedding is not tied.

    Parameters
    ----------
    words : size of the vocabulary
    hidden : features of a word and of each layer
    layers : number of LSTM layers
    dropout : share of the features of words, of each layer's outputs, that is dropped, at each time anew
    block : side of the blocks of the LSTM weights, which get gates; None: dense
    sparsity : share of gates that are closed
    **gating
        As for :class:`~rmtnet.layers.recurrent.DynamicBlockSparseLSTM`.

    Raises
    ------
    ValueError
        If a size is below 1, a share outside [0, 1), or ``block`` does not divide ``hidden``.

    References
    ----------
    Zaremba, Sutskever and Vinyals, Recurrent Neural Network Regularization, 2014.  Sizes: Block-wise dynamic
    sparseness, 4.2.2.

    Examples
    --------
    >>> model = RegularizedLSTM(words=1000, hidden=64, block=16, sparsity=0.5)
    >>> model(torch.zeros(7, 2, dtype=torch.long)).scores.shape
    torch.Size([7, 2, 1000])
    """

    def __init__(
        self,
        words: int,
        hidden: int = 1536,
        layers: int = 2,
        *,
        dropout: float = 0.65,
        block: int | None = None,
        sparsity: float = 0.0,
        **gating: Any,
    ):
        super().__init__()
        _check({"words": words, "hidden": hidden, "layers": layers}, {"dropout": dropout})
        if block is None and (sparsity or gating):
            raise ValueError(f"a dense LSTM has no gates: give block, or leave out {', '.join(['sparsity', *gating])}")
        self.words, self.dropout = words, dropout
        self.embedding = nn.Embedding(words, hidden)
        self.lstm = DynamicBlockSparseLSTM(
            hidden, hidden, layers, dropout=dropout if layers > 1 else 0.0, block=block or hidden, sparsity=sparsity,
            **gating,
        )  # fmt: skip
        if block is None:
            _make_dense(self.lstm)
        self.decoder = nn.Parameter(torch.empty(words, hidden).uniform_(-0.1, 0.1))
        self.bias = nn.Parameter(torch.zeros(words))
        nn.init.uniform_(self.embedding.weight, -0.1, 0.1)

    def forward(self, words: torch.Tensor, state: State | None = None) -> Output:
        """As :meth:`AWDLSTM.forward`; the state is that of :class:`torch.nn.LSTM`."""
        features = functional.dropout(self.embedding(words), self.dropout, self.training)
        raw, reached = self.lstm(features, state)
        dropped = functional.dropout(raw, self.dropout, self.training)
        return Output(functional.linear(dropped, self.decoder, self.bias), reached, raw, dropped)

    def extra_repr(self) -> str:
        return f"dropout={self.dropout}"


def _make_dense(lstm: DynamicBlockSparseLSTM) -> None:
    """Put dense layers of the same start in the place of its gated ones."""
    for name, matrix in list(lstm.named_children()):
        if isinstance(matrix, DynamicBlockSparseLinear):
            setattr(lstm, name, matrix.to_dense())


def _kept(like: torch.Tensor, shape: tuple[int, ...], share: float) -> torch.Tensor:
    """A mask of dropout, 0 or 1 / (1 - share)."""
    return like.new_empty(shape).bernoulli_(1 - share) / (1 - share)


def _check(sizes: dict[str, int], shares: dict[str, float]) -> None:
    for name, size in sizes.items():
        if size < 1:
            raise ValueError(f"{name} must be at least 1, got {size}")
    for name, share in shares.items():
        if not 0 <= share < 1:
            raise ValueError(f"{name} must lie in [0, 1), got {share}")
