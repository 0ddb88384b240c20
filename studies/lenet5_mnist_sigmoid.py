"""Does the variance ratio of LeNet-5 sisters also persist when ip1 has the sigmoid for its activation?

Paper A, section 5.1: the last number of A-F6 (101.00 at b1 = 100).
"""

from functools import partial

from rmtnet.networks import LeNet5
from rmtnet.study import Study

study = [
    Study(
        name=f"sigmoid-b{b1}-seed{seed}",
        network=partial(LeNet5, b1=b1, activation="sigmoid"),
        dataset="mnist",
        iterations=10_000,
        seed=seed,
        layers=["ip1", "ip2"],
    )
    for seed in (0, 1)
    for b1 in (1, 100)
]
