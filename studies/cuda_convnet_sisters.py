"""Do cuda-convnet's sisters keep the variance ratio 1 that they start with, and do more blocks overfit less?

Paper A, sections 4.2.3 and 5.2: A-F4, A-F5, A-F10 to A-F12, and A-X6 for b2 = 2 (5 and 10 do not divide 64).  CIFAR-10,
9,000 iterations, three seeds.  (1,1), (8,1) and (64,2) are in cuda_convnet_accuracy.py, with the same names.
"""

from functools import partial

from rmtnet.caffe import Solver
from rmtnet.networks import CudaConvNet
from rmtnet.schedules import at, every, log_spaced
from rmtnet.study import Study

study = [
    Study(
        name=f"b{b1}x{b2}-seed{seed}",
        network=partial(CudaConvNet, b1=b1, b2=b2),
        dataset="cifar-10",
        iterations=9_000,
        batch=100,
        seed=seed,
        optimizer=Solver(rate=0.001, weight_decay=0.004, gamma=0.0),
        pixel_scale=1.0,
        centre=True,
        layers=["ip1", "ip2"],
        # A-X6 asks for the variance in the end only.
        record=log_spaced(per_decade=5, until=1_000) | every(1_000) if b2 == 1 else at(0),
        evaluate_train=10_000 if b2 == 1 else 0,
    )
    for seed in (0, 1, 2)
    for b2 in (1, 2)
    for b1 in (1, 2, 4, 8, 16, 32, 64)
    if (b1, b2) not in ((1, 1), (8, 1), (64, 2))
]
