"""How well does a QRNN tell words when half of its blocks, or more, are closed at each?  The Penn Treebank.

Paper C: table C-T1, and C-F2 from the run dynamic-50.  Sizes, Adam and the rise of the sparsity between epochs 350 and
450 are the paper's; all else is the QRNN of the AWD-LSTM code on this text, whose setup the paper keeps.  Blocks are of
256: then gates that see all features add 0.46 million weights, and the paper reports half a million (blocks of 128
would add 1.85 million).

Beside the paper's rows there is AGP at the same sparsities, and ``small-*-equal``: dense models of as many
multiplications as the dynamic ones need with their gates, for the paper's small models have fewer or more.

A GPU is needed: ``rmtnet train studies/qrnn_ptb.py --set device=cuda``.
"""

from functools import partial

import torch

from rmtnet.language import LanguageStudy
from rmtnet.layers.dynamic import DynamicBlockSparseLinear
from rmtnet.networks.language import AWDQRNN
from rmtnet.pruning import GradualPruning, cubic, linear
from rmtnet.schedules import every

BEGIN, END, EPOCHS = 350, 450, 550
SMALL = (810, 660, 500, 350)
# Sparsity in % -> hidden units of a dense model that multiplies as much.
EQUAL = {50: 1028, 60: 894, 80: 583, 90: 381}

run = partial(
    LanguageStudy,
    corpus="ptb",
    epochs=EPOCHS,
    batch=20,
    bptt=70,
    rate=1e-3,
    optimizer=torch.optim.Adam,
    clip=0.2,
    test=every(50),
    layers=["qrnns.*"],
    record=every(50),
)
dynamic = partial(AWDQRNN, linear=partial(DynamicBlockSparseLinear, block=256, sparsity=0.0))

study = [run(name="dense", network=AWDQRNN, best_from=1)]
study += [run(name=f"small-{hidden}", network=partial(AWDQRNN, hidden=hidden), best_from=1) for hidden in SMALL]
for percent, hidden in EQUAL.items():
    share = percent / 100
    agp = GradualPruning(cubic(BEGIN, END, final=share))
    study += [
        run(name=f"small-{percent}-equal", network=partial(AWDQRNN, hidden=hidden), best_from=1),
        run(name=f"agp-{percent}", network=AWDQRNN, pruning=agp, best_from=END),
        run(name=f"dynamic-{percent}", network=dynamic, sparsity=linear(BEGIN, END, final=share), best_from=END),
    ]
