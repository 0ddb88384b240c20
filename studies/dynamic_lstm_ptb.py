"""Does an LSTM whose blocks are opened by its input tell words better than one that was pruned for good?

Paper C: table C-T2, on the Penn Treebank (``ptb-*``) and WikiText-2 (``wikitext-2-*``), and C-X2, the dynamic LSTM at
50 % with less dropout (``*-dropout-*``; 0.65 is C-T2's).  Sizes, dropout, 55 epochs and the rise of the sparsity from
epoch 25 to 40 are the paper's; the rest is the large LSTM of Zaremba et al.: SGD of rate 1 on the sum over 35 words,
divided by 1.15 after each epoch from the 14th on, gradients of norm 10 at most.

Here the loss is a mean over words, so rate and norm are 35 times and a 35th of that.  Beside the paper's rows there
are ``*-small-*``: dense LSTMs of as many multiplications as the dynamic ones need with their gates.

A GPU is needed: ``rmtnet train studies/dynamic_lstm_ptb.py --set device=cuda``; one text or table only with
``--only 'ptb-*'``.
"""

from functools import partial

import torch

from rmtnet.language import LanguageStudy
from rmtnet.networks.language import RegularizedLSTM
from rmtnet.pruning import GradualPruning, cubic, linear

BEGIN, END, EPOCHS = 25, 40, 55
# Sparsity in % -> hidden units of a dense model that multiplies as much.
EQUAL = {50: 1184, 75: 901, 90: 677}
DROPOUTS = (0.4, 0.5, 0.55, 0.6)


def decay(epoch: int) -> float:
    return float(1.15 ** -max(0, epoch - 13))


run = partial(
    LanguageStudy,
    epochs=EPOCHS,
    batch=20,
    bptt=35,
    vary=False,
    rate=35.0,
    optimizer=torch.optim.SGD,
    decay=decay,
    weight_decay=0.0,
    clip=10 / 35,
    activation_penalty=0.0,
    slowness_penalty=0.0,
    layers=["lstm.*"],
)
dynamic = partial(RegularizedLSTM, block=128)

study = []
for corpus in ("ptb", "wikitext-2"):
    here = partial(run, corpus=corpus)
    study.append(here(name=f"{corpus}-dense", network=RegularizedLSTM, best_from=1))
    for percent, hidden in EQUAL.items():
        share = percent / 100
        agp = GradualPruning(cubic(BEGIN, END, final=share))
        gated = partial(here, sparsity=linear(BEGIN, END, final=share), best_from=END)
        study += [
            here(name=f"{corpus}-small-{percent}", network=partial(RegularizedLSTM, hidden=hidden), best_from=1),
            here(name=f"{corpus}-agp-{percent}", network=RegularizedLSTM, pruning=agp, best_from=END),
            gated(name=f"{corpus}-dynamic-{percent}", network=dynamic),
        ]
    half = partial(here, sparsity=linear(BEGIN, END, final=0.5), best_from=END)
    study += [
        half(name=f"{corpus}-dropout-{dropout}", network=partial(dynamic, dropout=dropout)) for dropout in DROPOUTS
    ]
