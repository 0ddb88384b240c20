"""Does the order of B-T1 also hold in miniature: baseline, lasso, lasso and gradual pruning, lasso and pre-pruning?

Paper B's four runs, cut so that two cores train them in under ten minutes: the first 100,000 words of WikiText-2's
training text and 40,000 of its validation text, the 2,000 most frequent words (the others are <unk>), two layers in
blocks of 16, ten epochs, and less dropout, for so small a model underfits.  As in awd_lstm_wikitext2, the sum of the
blocks' norms may be a fifth of what it is at the start (535), and the sparsity rises linearly to 80 %.
"""

from functools import partial

from rmtnet.datasets.text import Text, load_text
from rmtnet.language import LanguageStudy
from rmtnet.networks.language import AWDLSTM
from rmtnet.pruning import Combined, GradualPruning, GroupLasso, RandomPruning, linear
from rmtnet.schedules import at


def corpus() -> Text:
    return load_text("wikitext-2").with_words(2_000).with_length(train=100_000, valid=40_000)


lasso = GroupLasso(1e-4, limit=107.0)
methods = {
    "baseline": None,
    "lasso": lasso,
    "gradual": Combined((lasso, GradualPruning(sparsity=linear(1, 9, final=0.8), unit="blocks"))),
    "pre-pruned": Combined((lasso, RandomPruning(sparsity=0.8))),
}
network = partial(
    AWDLSTM, embedding=64, hidden=128, layers=2, block=16,
    dropout=0.1, dropout_hidden=0.1, dropout_input=0.1, dropout_words=0.0, weight_drop=0.1,
)  # fmt: skip

study = [
    LanguageStudy(
        name=name,
        network=network,
        corpus=corpus,
        epochs=10,
        batch=20,
        bptt=35,
        rate=10.0,
        pruning=pruning,
        test_batch=10,
        layers=["lstms.0.weight_hh_l0"],
        record=at(0, 5, 10),
    )
    for name, pruning in methods.items()
]
