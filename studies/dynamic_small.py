"""Does the order of C-T1 and C-T2 also hold in miniature: dynamic over AGP and over a small dense model?

Paper C's models, cut so that two cores train them in a quarter of an hour (a seed each): the first 60,000 words of the
Penn Treebank's training text, the 1,000 most frequent words (the others are <unk>), two layers of a QRNN and of an
LSTM of 128, blocks of 32 whose gates see half of the features, eight epochs of Adam, and less dropout, for so small a
model underfits.  Embeddings start five times as large: else the first epochs pass before anything is learned but the
frequencies of words.  Sparsity rises from epoch 2 to epoch 5.

The dynamic models have 50 and 90 % of their blocks closed.  AGP leaves as many weights, and the small dense model has
as many, as the dynamic one multiplies with its gates: 56 and 16 % of the dense model's.
"""

from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from torch import nn

from rmtnet.datasets.text import Text, load_text
from rmtnet.language import LanguageStudy
from rmtnet.layers.dynamic import DynamicBlockSparseLinear
from rmtnet.networks.language import AWDQRNN, RegularizedLSTM
from rmtnet.pruning import GradualPruning, cubic, linear
from rmtnet.schedules import at

BEGIN, END, EPOCHS = 2, 5, 8
# Sparsity in % -> what the dynamic model multiplies, of the dense one, and hidden units of a dense model of that cost.
QRNN_COSTS = {50: (0.5625, 72), 90: (0.1597, 20)}
LSTM_COSTS = {50: (0.5625, 96), 90: (0.1562, 51)}


def corpus() -> Text:
    return load_text("ptb").with_words(1_000).with_length(train=60_000, valid=20_000, test=20_000)


def started(words: int, make: Callable[..., nn.Module], **changes: Any) -> nn.Module:
    model = make(words, **changes)
    with torch.no_grad():
        model.get_parameter("embedding.weight").mul_(5)
    return model


run = partial(
    LanguageStudy,
    corpus=corpus,
    epochs=EPOCHS,
    batch=20,
    bptt=35,
    rate=4e-3,
    optimizer=torch.optim.Adam,
    activation_penalty=0.0,
    slowness_penalty=0.0,
    test_batch=10,
    test=at(EPOCHS),
    record=at(EPOCHS),
)
qrnn = partial(
    started, make=AWDQRNN, embedding=64, hidden=128, layers=2,
    dropout=0.1, dropout_hidden=0.1, dropout_input=0.1, dropout_words=0.0, weight_drop=0.1,
)  # fmt: skip
lstm = partial(started, make=RegularizedLSTM, hidden=128, dropout=0.2)
gated: dict[str, Any] = {"block": 32, "sparsity": 0.0, "gate_features": 64}
models: dict[str, tuple[Any, ...]] = {
    "qrnn": (qrnn, partial(qrnn, linear=partial(DynamicBlockSparseLinear, **gated)), QRNN_COSTS, "qrnns.0.linears.0"),
    "lstm": (lstm, partial(lstm, **gated), LSTM_COSTS, "lstm.weight_hh_l0"),
}

study = []
for name, (dense, dynamic, costs, layer) in models.items():
    study.append(run(name=f"{name}-dense", network=dense, best_from=1, layers=[layer]))
    for percent, (cost, hidden) in costs.items():
        agp = GradualPruning(cubic(BEGIN, END, final=1 - cost))
        closed = linear(BEGIN, END, final=percent / 100)
        study += [
            run(name=f"{name}-small-{percent}", network=partial(dense, hidden=hidden), best_from=1, layers=[layer]),
            run(name=f"{name}-agp-{percent}", network=dense, pruning=agp, best_from=END, layers=[layer]),
            run(name=f"{name}-dynamic-{percent}", network=dynamic, sparsity=closed, best_from=END, layers=[layer]),
        ]
