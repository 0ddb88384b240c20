"""Do sisters without convolutions keep their variance ratio, and a random spectrum, too?

Paper A, section 5.1: A-X7.  Layer ip2 of (1,100,1)-BD3 against that of (1,1,1)-BD3, hidden layers of 500.  All of
MNIST, 10,000 iterations, three seeds.
"""

from functools import partial

from rmtnet.networks import InnerProductNet
from rmtnet.schedules import every
from rmtnet.study import Study

study = [
    Study(
        name=f"b{b2}-seed{seed}",
        network=partial(InnerProductNet, widths=(784, 500, 500, 10), blocks=(1, b2, 1)),
        dataset="mnist",
        iterations=10_000,
        seed=seed,
        layers=["ip2"],
        record=every(1_000),
    )
    for seed in (0, 1, 2)
    for b2 in (1, 100)
]
