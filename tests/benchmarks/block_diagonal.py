"""Speed of BlockDiagonalLinear beside torch.nn.Linear on one CPU thread, as the tables of docs/layers.md.

python tests/benchmarks/block_diagonal.py [--sizes 256 512 ...] [--blocks 1 2 ...] [--batch 100] [--seconds 0.5]
"""

import argparse
import time
from collections.abc import Callable, Iterator

import numpy as np
import torch
from torch import Tensor, nn

from rmtnet.layers import BlockDiagonalLinear
from rmtnet.layers.functional import feature_major

CALLS = 8  # in a row at most, after one that is not counted: inputs are where the layer before would leave them
ROUNDS = 3


def interleaved(sides: dict[str, Callable[[], object]], seconds: float) -> dict[str, np.ndarray]:
    """Thread CPU seconds of each call, the sides in turn."""
    times: dict[str, list[float]] = {name: [] for name in sides}
    end, rounds = time.thread_time() + seconds, 0
    while time.thread_time() < end or rounds < ROUNDS:
        rounds += 1
        for name, call in sides.items():
            calls = max(2, min(CALLS, int(0.1 / timed(call))))
            times[name] += [timed(call) for _ in range(calls)]
    return {name: np.array(values) for name, values in times.items()}


def timed(call: Callable[[], object]) -> float:
    start = time.thread_time()
    call()
    return time.thread_time() - start


def forward(layer: nn.Module, inputs: Tensor, grad: Tensor) -> Callable[[], object]:
    return torch.no_grad()(lambda: layer(inputs))


def forward_and_backward(layer: nn.Module, inputs: Tensor, grad: Tensor) -> Callable[[], object]:
    inputs = inputs.detach().requires_grad_()

    def train() -> None:
        layer.zero_grad()
        inputs.grad = None
        layer(inputs).backward(grad)

    return train


def speedups(size: int, blocks: int, batch: int, seconds: float) -> Iterator[str]:
    """Cells of one row: median of ours over the dense layer's, and of the minima in brackets."""
    dense, layer = nn.Linear(size, size), BlockDiagonalLinear(size, size, blocks)
    inputs, grad = torch.randn(batch, size), torch.randn(batch, size)
    for step in (forward, forward_and_backward):
        sides = {
            "dense": step(dense, inputs, grad),
            "batch-major": step(layer, inputs, grad),
            "feature-major": step(layer, feature_major(inputs), feature_major(grad)),
        }
        times = interleaved(sides, seconds)
        yield f"{1e3 * np.median(times['dense']):.3g}"
        for name in ("batch-major", "feature-major"):
            ratios = [of(times["dense"]) / of(times[name]) for of in (np.median, np.min)]
            yield f"{ratios[0]:.3g} ({ratios[1]:.3g})"
            if name == "batch-major":
                yield f"{ratios[0] / blocks:.2f} ({ratios[1] / blocks:.2f})"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--sizes", type=int, nargs="+", default=[256, 512, 1024, 2048, 4096])
    parser.add_argument("--blocks", type=int, nargs="+", default=[1 << power for power in range(14)])
    parser.add_argument("--batch", type=int, default=100)
    parser.add_argument("--seconds", type=float, default=0.5)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    for size in arguments.sizes:
        for blocks in (blocks for blocks in arguments.blocks if size % blocks == 0):
            cells = speedups(size, blocks, arguments.batch, arguments.seconds)
            print("|", " | ".join([str(size), str(blocks), str(size // blocks), *cells]), "|", flush=True)


if __name__ == "__main__":
    main()
