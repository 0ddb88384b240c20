"""What do the ways to fewer weights in cuda-convnet's inner product layers cost in accuracy, and in overfitting?

Paper A, section 4.2: the CIFAR-10 rows of A-T1, A-X3, A-X4, and the dense, (64,2) and IP-BDIP numbers of A-F4 and A-F5.
The columns are those of lenet5_accuracy.py; A-X4 has two more, pruned to 37 + 40 weights (traditional-37x40) and to two
outputs of ip1 (nodes-2).  9,000 iterations, three seeds.

The rate is fixed.  Caffe's example lowers it to a tenth for its last 1,000 iterations, as b1x1-drop does; the paper
does not say.
"""

from dataclasses import replace
from functools import partial

from rmtnet.caffe import Solver
from rmtnet.networks import CudaConvNet
from rmtnet.pruning import BlockDiagonalPruning, GradualPruning, PenaltyPruning, Recipe, linear
from rmtnet.schedules import every, log_spaced
from rmtnet.study import Study

SOLVER = Solver(rate=0.001, weight_decay=0.004, gamma=0.0)
# A-X3: 500 dense iterations, fewer than 1,000 pruning ones.  alpha and threshold were chosen by cuda_convnet_tuning.py.
TO_BLOCKS = partial(BlockDiagonalPruning, dense=500, pruning=900, alpha=3e-2, threshold=1e-2)
TO_WEIGHTS = partial(PenaltyPruning, begin=500, end=4_500, norm=1, alpha=1e-3, threshold=1e-3)
TO_NODES = GradualPruning(sparsity=linear(500, 1_400, every=100), kept={"ip1": 2}, unit="outputs")

Network = partial[CudaConvNet]
columns: dict[str, tuple[Network, Recipe | None]] = {
    "b1x1": (partial(CudaConvNet), None),
    "b8x1": (partial(CudaConvNet, b1=8), None),
    "shuffle-b8x1": (partial(CudaConvNet, b1=8, shuffle="once"), None),
    "reshuffle-b8x1": (partial(CudaConvNet, b1=8, shuffle="random"), None),
    "ip-b8x1": (partial(CudaConvNet), TO_BLOCKS({"ip1": 8})),
    "traditional-b8x1": (partial(CudaConvNet), TO_WEIGHTS(kept={"ip1": 8_192})),
    "b64x2": (partial(CudaConvNet, b1=64, b2=2), None),
    "shuffle-b64x2": (partial(CudaConvNet, b1=64, b2=2, shuffle="once"), None),
    "reshuffle-b64x2": (partial(CudaConvNet, b1=64, b2=2, shuffle="random"), None),
    "ip-b64x2": (partial(CudaConvNet), TO_BLOCKS({"ip1": 64, "ip2": 2})),
    "traditional-b64x2": (partial(CudaConvNet), TO_WEIGHTS(kept={"ip1": 1_024, "ip2": 320})),
    "traditional-37x40": (partial(CudaConvNet), TO_WEIGHTS(kept={"ip1": 37, "ip2": 40})),
    "nodes-2": (partial(CudaConvNet), TO_NODES),
}
fixed = [
    Study(
        name=f"{column}-seed{seed}",
        network=network,
        pruning=pruning,
        dataset="cifar-10",
        iterations=9_000,
        batch=100,
        seed=seed,
        optimizer=SOLVER,
        pixel_scale=1.0,
        centre=True,
        layers=["ip1", "ip2"],
        record=log_spaced(per_decade=5, until=1_000) | every(1_000),
        evaluate_train=10_000,
    )
    for seed in (0, 1, 2)
    for column, (network, pruning) in columns.items()
]
dropped = [
    replace(one, name=one.name.replace("b1x1", "b1x1-drop"), optimizer=replace(SOLVER, drops=(8_000,)))
    for one in fixed
    if one.name.startswith("b1x1")
]
study = fixed + dropped
