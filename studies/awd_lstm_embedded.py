"""The four runs of awd_lstm_small on the documentation that Python carries: nothing to download, two minutes.

43,000 words of training text, one set of words and rules all over: too little for the perplexities to mean much.
"""

from functools import partial

from rmtnet.language import LanguageStudy
from rmtnet.networks.language import AWDLSTM
from rmtnet.pruning import Combined, GradualPruning, GroupLasso, RandomPruning, linear
from rmtnet.schedules import at

lasso = GroupLasso(1e-4, limit=135.0)
methods = {
    "baseline": None,
    "lasso": lasso,
    "gradual": Combined((lasso, GradualPruning(sparsity=linear(1, 9, final=0.8), unit="blocks"))),
    "pre-pruned": Combined((lasso, RandomPruning(sparsity=0.8))),
}
network = partial(
    AWDLSTM, embedding=32, hidden=64, block=8,
    dropout=0.1, dropout_hidden=0.1, dropout_input=0.1, dropout_words=0.0, weight_drop=0.1,
)  # fmt: skip

study = [
    LanguageStudy(
        name=name,
        network=network,
        corpus="pydoc",
        epochs=10,
        batch=10,
        bptt=35,
        rate=10.0,
        pruning=pruning,
        test_batch=10,
        layers=["lstms.0.weight_hh_l0"],
        record=at(0, 5, 10),
    )
    for name, pruning in methods.items()
]
