"""Do sister LeNet-5 networks keep the variance ratio b1 that they start with, and a random spectrum, while they learn?

Paper A, section 5.1: figures A-F6 to A-F9, number A-X5 and the dense accuracy of A-T1.  Six sisters that differ by the
number of blocks b1 of their first inner product layer, all of MNIST, 10,000 iterations, two seeds.
"""

from functools import partial

from rmtnet.networks import LeNet5
from rmtnet.study import Study

study = [
    Study(
        name=f"b{b1}-seed{seed}",
        network=partial(LeNet5, b1=b1),
        dataset="mnist",
        iterations=10_000,
        seed=seed,
        layers=["ip1", "ip2"],
    )
    for seed in (0, 1)
    for b1 in (1, 5, 10, 20, 50, 100)
]
