"""Does the variance of LeNet-5's ip1 change when ip2 is in blocks too?

Paper A, section 5.1: A-X6.  For b1 = 1, 2, 5, 10, 50, 100 and b2 = 1, 2, 5, 10 the final variance of ip1 over that with
b2 = 1 is 1 within 0.05.  All of MNIST, 10,000 iterations, two seeds; the first step and the last are recorded.
(1,1), (10,1) and (100,10) are in lenet5_accuracy.py, with the same names.
"""

from functools import partial

from rmtnet.networks import LeNet5
from rmtnet.schedules import at
from rmtnet.study import Study

study = [
    Study(
        name=f"b{b1}x{b2}-seed{seed}",
        network=partial(LeNet5, b1=b1, b2=b2),
        dataset="mnist",
        iterations=10_000,
        seed=seed,
        layers=["ip1", "ip2"],
        record=at(0),
    )
    for seed in (0, 1)
    for b1 in (1, 2, 5, 10, 50, 100)
    for b2 in (1, 2, 5, 10)
    if (b1, b2) not in ((1, 1), (10, 1), (100, 10))
]
