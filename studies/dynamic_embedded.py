"""Four kinds of a small QRNN on the documentation that Python carries: nothing to download, two minutes.

Dense, small dense, AGP and dynamic at equal numbers of multiplications, as in dynamic_small; 43,000 words of training
text, one set of words and rules all over: too little for the perplexities to mean much.
"""

from functools import partial

import torch

from rmtnet.language import LanguageStudy
from rmtnet.layers.dynamic import DynamicBlockSparseLinear
from rmtnet.networks.language import AWDQRNN
from rmtnet.pruning import GradualPruning, cubic, linear
from rmtnet.schedules import at

qrnn = partial(
    AWDQRNN, embedding=32, hidden=64, layers=2,
    dropout=0.1, dropout_hidden=0.1, dropout_input=0.1, dropout_words=0.0, weight_drop=0.1,
)  # fmt: skip
gated = partial(qrnn, linear=partial(DynamicBlockSparseLinear, block=16, sparsity=0.0, gate_features=32))
run = partial(
    LanguageStudy,
    corpus="pydoc",
    epochs=6,
    batch=10,
    bptt=35,
    rate=4e-3,
    optimizer=torch.optim.Adam,
    activation_penalty=0.0,
    slowness_penalty=0.0,
    test_batch=10,
    layers=["qrnns.0.linears.0"],
    record=at(0, 6),
)
# Half of the blocks, and their gates, are 62.5 % of the dense model's multiplications.
study = [
    run(name="dense", network=qrnn, best_from=1),
    run(name="small", network=partial(qrnn, hidden=40), best_from=1),
    run(name="agp", network=qrnn, pruning=GradualPruning(cubic(1, 4, final=0.375)), best_from=4),
    run(name="dynamic", network=gated, sparsity=linear(1, 4, final=0.5), best_from=4),
]
