"""A million points of a law, beside numpy's arctan of as many."""

import numpy as np

from rmtnet import MarchenkoPastur


class Law:
    param_names = ("ratio",)
    params = ([0.1, 0.625, 1.0],)

    def setup(self, ratio: float) -> None:
        self.law = MarchenkoPastur(ratio)
        self.shares = np.random.default_rng(0).uniform(size=1_000_000)
        lower, upper = self.law.edges
        self.points = lower + (upper - lower) * self.shares
        self.law.ppf(0.5)

    def time_arctan(self, ratio: float) -> None:
        np.arctan(self.points)

    def time_cdf(self, ratio: float) -> None:
        self.law.cdf(self.points)

    def time_ppf(self, ratio: float) -> None:
        self.law.ppf(self.shares)
