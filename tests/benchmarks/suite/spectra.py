"""Spectra of stacks, and their fits: time and peak memory."""

import numpy as np

from rmtnet import eigenvalues, fit_bulk, singular_values, variance


class Spectra:
    param_names = ("shape", "dtype")
    params = ([(1, 2048, 2048), (100, 500, 800), (100_000, 5, 8)], ["float32", "float64"])

    def setup(self, shape: tuple[int, int, int], dtype: str) -> None:
        self.stack = np.random.default_rng(0).normal(size=shape).astype(dtype)

    def time_singular_values(self, shape: tuple[int, int, int], dtype: str) -> None:
        singular_values(self.stack)

    def peakmem_singular_values(self, shape: tuple[int, int, int], dtype: str) -> None:
        singular_values(self.stack)

    def time_variance(self, shape: tuple[int, int, int], dtype: str) -> None:
        variance(self.stack[:, None])


class Rank:
    """Matrices whose smallest value is done again, and those that need no such thing."""

    param_names = ("smallest",)
    params = ([1e-2, 1e-6],)

    def setup(self, smallest: float) -> None:
        stack = np.random.default_rng(0).normal(size=(20, 500, 800))
        stack[:, 0] = stack[:, 1] + smallest * stack[:, 0]
        self.stack = stack.astype(np.float32)

    def time_singular_values(self, smallest: float) -> None:
        singular_values(self.stack)


class Bulk:
    param_names = ("shape",)
    params = ([(50, 80), (500, 800), (2048, 2048)],)

    def setup(self, shape: tuple[int, int]) -> None:
        self.values = eigenvalues(np.random.default_rng(0).normal(size=shape).astype(np.float32))
        self.ratio = min(shape) / max(shape)

    def time_fit_bulk(self, shape: tuple[int, int]) -> None:
        fit_bulk(self.values, self.ratio)
