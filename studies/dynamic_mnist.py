"""Does a network whose inputs each open a tenth of its blocks still read digits?

Paper C, section 4.1: C-X1 and C-F1.  Five hidden layers of 1024 in blocks of 128, six of 64 open; all of MNIST, batches
of 128, momentum SGD at a rate of 5e-3, 45 epochs (21,094 iterations).  dense is the network without gates, small-dense
one of 497 units, which multiplies as often as dynamic does with its gates.

The paper gives no momentum, and not how pixels are scaled.  Here it is 0.9, and pixels have their mean image subtracted
and are divided by the standard deviation of all pixels, 78.6.
"""

from functools import partial

from rmtnet.caffe import Solver
from rmtnet.networks.dynamic import DynamicNet
from rmtnet.schedules import every, log_spaced
from rmtnet.study import Study

EPOCH = 469

networks = {
    "dynamic": partial(DynamicNet),
    "dense": partial(DynamicNet, sparsity=None),
    "small-dense": partial(DynamicNet, width=497, sparsity=None),
}
study = [
    Study(
        name=name,
        network=network,
        dataset="mnist",
        iterations=21_094,
        batch=128,
        optimizer=Solver(rate=5e-3, momentum=0.9, weight_decay=0, gamma=0, power=0, bias_rate=1),
        pixel_scale=1 / 78.6,
        centre=True,
        layers=["hidden*"],
        record=log_spaced(per_decade=1, until=1000) | every(5 * EPOCH),
        evaluate=every(EPOCH),
        evaluate_train=10_000,
    )
    for name, network in networks.items()
]
