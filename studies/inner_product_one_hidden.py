"""How much error does a network with one hidden layer have whose units see a 49th of the image?

Paper A, section 4.2.1: A-X2.  784-980-10, ip1 pruned to 49 blocks (IP-BDIP); b1 is dense, b49 in blocks from the start.
All of MNIST, 10,000 iterations, three seeds.
"""

from functools import partial

from rmtnet.networks import InnerProductNet
from rmtnet.pruning import BlockDiagonalPruning, linear
from rmtnet.schedules import at
from rmtnet.study import Study

WIDTHS = (784, 980, 10)
# The paper does not give its phases: those of lenet5_accuracy.py.
TO_BLOCKS = BlockDiagonalPruning({"ip1": 49}, dense=15, pruning=350, alpha=linear(15, 365, final=3e-3), threshold=1e-3)

study = [
    Study(
        name=f"{name}-seed{seed}",
        network=partial(InnerProductNet, widths=WIDTHS, blocks=blocks),
        pruning=pruning,
        dataset="mnist",
        iterations=10_000,
        seed=seed,
        layers=["ip1"],
        record=at(0),
    )
    for seed in (0, 1, 2)
    for name, blocks, pruning in (("b1", (1, 1), None), ("b49", (49, 1), None), ("ip-b49", (1, 1), TO_BLOCKS))
]
