"""What do the ways to fewer weights in cuda-convnet's inner product layers cost in accuracy on SVHN?

Paper A, section 4.2.2: the SVHN rows of A-T1, and A-X3.  The runs of cuda_convnet_accuracy.py on other images.  Not
measured: the images could not be had.
"""

from dataclasses import replace
from pathlib import Path

from rmtnet.study import Study, load_studies

on_cifar = load_studies(Path(__file__).with_name("cuda_convnet_accuracy.py"))
study = [replace(one, dataset="svhn") for one in on_cifar if isinstance(one, Study)]
