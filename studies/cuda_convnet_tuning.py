"""Which penalty and threshold should cuda_convnet_accuracy.py prune with?

The manual tuning of paper A, section 4.2.  Judged by the last 10,000 of CIFAR-10's *training* images, which these runs
do not train on; the test images are not looked at.  For the strongest pruning, (64,2)-BD5, and a seed of its own; b64x2
is in blocks from the start.
"""

from functools import partial

from rmtnet import datasets
from rmtnet.caffe import Solver
from rmtnet.datasets import Images
from rmtnet.networks import CudaConvNet
from rmtnet.pruning import BlockDiagonalPruning, PenaltyPruning, Recipe, linear
from rmtnet.schedules import at
from rmtnet.study import Study


def held_out() -> Images:
    """CIFAR-10's training images, the last 10,000 of them to test with."""
    cifar = datasets.load("cifar-10")
    images, labels = cifar.train_images, cifar.train_labels
    return Images(
        "cifar-10, held out", cifar.source, images[:-10_000], labels[:-10_000], images[-10_000:], labels[-10_000:]
    )


TO_BLOCKS = partial(BlockDiagonalPruning, {"ip1": 64, "ip2": 2}, dense=500)
TO_WEIGHTS = partial(PenaltyPruning, begin=500, end=4_500, kept={"ip1": 1_024, "ip2": 320})

ways: dict[str, Recipe | None] = {
    "b64x2": None,
    **{
        f"ip-alpha{alpha}-threshold{threshold}": TO_BLOCKS(pruning=900, alpha=alpha, threshold=threshold)
        for alpha, threshold in ((1e-2, 1e-2), (3e-2, 1e-2), (1e-1, 1e-2), (3e-2, 1e-3))
    },
    "ip-to0.1": TO_BLOCKS(pruning=900, alpha=linear(500, 1_400, final=1e-1), threshold=1e-2),
    **{f"l2-alpha{alpha}": TO_WEIGHTS(norm=2, alpha=alpha, threshold=1e-2) for alpha in (3e-2, 1e-1, 3e-1)},
    **{f"l1-alpha{alpha}": TO_WEIGHTS(norm=1, alpha=alpha, threshold=1e-3) for alpha in (1e-3, 3e-3, 1e-2)},
}
study = [
    Study(
        name=name,
        network=partial(CudaConvNet, b1=64, b2=2) if pruning is None else CudaConvNet,
        pruning=pruning,
        dataset=held_out,
        iterations=9_000,
        batch=100,
        seed=10,
        optimizer=Solver(rate=0.001, weight_decay=0.004, gamma=0.0),
        pixel_scale=1.0,
        centre=True,
        layers=["ip1", "ip2"],
        record=at(0),
    )
    for name, pruning in ways.items()
]
