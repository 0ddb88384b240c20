"""What does block sparsity cost a language model: AWD-LSTM on WikiText-2, 80 % of its LSTM blocks removed?

Paper B: table B-T1 (its four runs, a hundred epochs) and the pictures B-F1.  Settings are those of AWD-LSTM's reference
implementation on WikiText-2; blocks are 50 x 50, of all four gates, input and recurrent.  lambda is the paper's 1e-4.
The paper gives neither k nor the slope of the sparsity.  Here k is a fifth of what the blocks' norms sum to at the
start (7,462), for its target of 80 %; and the sparsity after epoch t is 0.01 (t - 1), up to 80 %: this gives the
training speed-up of 1.9 that the paper reports (100 / (100 - sum of the sparsities) = 1.908).

A GPU is needed: ``rmtnet train studies/awd_lstm_wikitext2.py --set device=cuda``.
"""

from functools import partial

from rmtnet.language import LanguageStudy
from rmtnet.networks.language import AWDLSTM
from rmtnet.pruning import Combined, GradualPruning, GroupLasso, RandomPruning, linear
from rmtnet.schedules import at

lasso = GroupLasso(1e-4, limit=1_492.0)
methods = {
    "baseline": None,
    "lasso": lasso,
    "gradual": Combined((lasso, GradualPruning(sparsity=linear(1, 81, final=0.8), unit="blocks"))),
    "pre-pruned": Combined((lasso, RandomPruning(sparsity=0.8))),
}

study = [
    LanguageStudy(
        name=name,
        network=partial(AWDLSTM, block=50),
        corpus="wikitext-2",
        epochs=100,
        pruning=pruning,
        layers=["lstms.0.weight_hh_l0"],
        record=at(0, 50, 100),
    )
    for name, pruning in methods.items()
]
