"""What do the ways to fewer weights in LeNet-5's inner product layers cost in accuracy?

Paper A, section 4.2: the MNIST rows of A-T1, and A-X1.  The columns are block diagonal from the start (b10x1), with
random block shuffles, pruned to blocks (ip: IP-BDIP), and pruned by magnitude without structure to as many weights
(traditional).  b1x1 is the dense network.  All of MNIST, 10,000 iterations, three seeds.

The paper shuffles blocks "each pass like in the random sparse convolution layer" of cuda-convnet.  reshuffle draws a
new order at each pass, as the words say; shuffle draws one when the network is made and keeps it, the reading under
which the paper's accuracies can be had.
"""

from functools import partial

from rmtnet.networks import LeNet5
from rmtnet.pruning import BlockDiagonalPruning, PenaltyPruning, Recipe, linear
from rmtnet.schedules import at
from rmtnet.study import Study

# A-X1's phases: 15 dense iterations, 350 pruning ones.  alpha, threshold and norm were chosen by lenet5_tuning.py.
TO_BLOCKS = partial(BlockDiagonalPruning, dense=15, pruning=350, alpha=linear(15, 365, final=3e-3), threshold=1e-3)
TO_WEIGHTS = partial(PenaltyPruning, begin=1_000, end=4_000, norm=1, alpha=3e-4, threshold=1e-3)

LeNet = partial[LeNet5]
columns: dict[str, tuple[LeNet, Recipe | None]] = {
    "b1x1": (partial(LeNet5), None),
    "b10x1": (partial(LeNet5, b1=10), None),
    "shuffle-b10x1": (partial(LeNet5, b1=10, shuffle="once"), None),
    "reshuffle-b10x1": (partial(LeNet5, b1=10, shuffle="random"), None),
    "ip-b10x1": (partial(LeNet5), TO_BLOCKS({"ip1": 10})),
    "traditional-b10x1": (partial(LeNet5), TO_WEIGHTS(kept={"ip1": 40_000})),
    "b100x10": (partial(LeNet5, b1=100, b2=10), None),
    "shuffle-b100x10": (partial(LeNet5, b1=100, b2=10, shuffle="once"), None),
    "reshuffle-b100x10": (partial(LeNet5, b1=100, b2=10, shuffle="random"), None),
    "ip-b100x10": (partial(LeNet5), TO_BLOCKS({"ip1": 100, "ip2": 10})),
    "traditional-b100x10": (partial(LeNet5), TO_WEIGHTS(kept={"ip1": 4_000, "ip2": 500})),
}
study = [
    Study(
        name=f"{column}-seed{seed}",
        network=network,
        pruning=pruning,
        dataset="mnist",
        iterations=10_000,
        seed=seed,
        layers=["ip1", "ip2"],
        record=at(0),
    )
    for seed in (0, 1, 2)
    for column, (network, pruning) in columns.items()
]
