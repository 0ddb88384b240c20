"""Which penalty and threshold should lenet5_accuracy.py prune with?

The manual tuning of paper A, section 4.2.  Judged by the last 10,000 of MNIST's *training* images, which these runs do
not train on; the test images are not looked at.  For the strongest pruning, (100,10)-BD4, and a seed of its own.
b100x10 is in blocks from the start, ip365 has the phases of A-X1, ip2500 and ip4000 longer ones.
"""

from functools import partial

from rmtnet import datasets
from rmtnet.datasets import Images
from rmtnet.networks import LeNet5
from rmtnet.pruning import BlockDiagonalPruning, PenaltyPruning, Recipe, linear
from rmtnet.schedules import at
from rmtnet.study import Study


def held_out() -> Images:
    """MNIST's training images, the last 10,000 of them to test with."""
    mnist = datasets.load("mnist")
    images, labels = mnist.train_images, mnist.train_labels
    return Images(
        "mnist, held out", mnist.source, images[:-10_000], labels[:-10_000], images[-10_000:], labels[-10_000:]
    )


TO_BLOCKS = partial(BlockDiagonalPruning, {"ip1": 100, "ip2": 10})
TO_WEIGHTS = partial(PenaltyPruning, begin=1_000, end=4_000, kept={"ip1": 4_000, "ip2": 500})

ways: dict[str, Recipe | None] = {
    "b100x10": None,
    # A penalty that rises: what resists at first is not cut off at the end of the phase.
    **{
        f"ip{begin + steps}-to{final}": TO_BLOCKS(
            dense=begin, pruning=steps, alpha=linear(begin, begin + steps, final=final), threshold=1e-3
        )
        for begin, steps in ((15, 350), (500, 2_500), (1_000, 3_000))
        for final in (3e-3, 1e-2, 3e-2)
    },
    "ip365-alpha0.01": TO_BLOCKS(dense=15, pruning=350, alpha=1e-2, threshold=1e-3),
    # Beyond the paper: the nodes between the layers are put in the order that is closest to the blocks.
    "ip3000-to0.01-reordered": TO_BLOCKS(
        dense=500,
        pruning=2_500,
        alpha=linear(500, 3_000, final=1e-2),
        threshold=1e-3,
        reorder=(("ip1", "ip2"),),
    ),
    **{f"l2-alpha{alpha}": TO_WEIGHTS(norm=2, alpha=alpha, threshold=1e-3) for alpha in (3e-3, 1e-2, 3e-2)},
    **{f"l1-alpha{alpha}": TO_WEIGHTS(norm=1, alpha=alpha, threshold=1e-3) for alpha in (1e-4, 3e-4, 1e-3)},
}
study = [
    Study(
        name=name,
        network=partial(LeNet5, b1=100, b2=10) if pruning is None else LeNet5,
        pruning=pruning,
        dataset=held_out,
        iterations=10_000,
        seed=10,
        layers=["ip1", "ip2"],
        record=at(0),
    )
    for name, pruning in ways.items()
]
