"""How often the tests of rmtnet.edges and the intervals of rmtnet.bulk err on noise: the tables of docs/statistics.md.

    python tests/benchmarks/calibration.py noise noise.csv
    python tests/benchmarks/calibration.py power power.csv

Rows that the file holds are not run again. Each has a seed of its own, told by its name. Some hours on one core.
"""

import functools
import sys
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np

from rmtnet.bulk import fit_noise
from rmtnet.edges import extreme, largest, smallest, spikes
from rmtnet.nulls import iid_blocks
from rmtnet.spectra import singular_values

UNIFORM, GAUSSIAN = 1.8, 3.0
# blocks, out, in, variance, scales from 1 to, draws
NOISE = [
    (1, 5, 8, "own", 1, 4000),
    (1, 20, 20, "own", 1, 4000),
    (1, 16, 64, "own", 1, 4000),
    (1, 40, 64, "own", 1, 4000),
    (1, 64, 64, "own", 1, 4000),
    (1, 64, 67, "own", 1, 4000),
    (1, 400, 100, "own", 1, 4000),
    (1, 128, 256, "own", 1, 4000),
    (1, 32, 2048, "own", 1, 4000),
    (1, 256, 256, "own", 1, 4000),
    (1, 512, 512, "own", 1, 1000),
    (1, 1024, 2048, "own", 1, 300),
    (20, 5, 8, "shared", 1, 1000),
    (100, 5, 8, "shared", 1, 2000),
    (100, 5, 8, "own", 1, 2000),
    (100, 5, 8, "own", 4, 2000),
    (20, 25, 40, "own", 4, 2000),
    (20, 25, 40, "shared", 1, 2000),
    (4, 256, 64, "own", 4, 500),
    (10, 64, 80, "own", 4, 1000),
]
# blocks, out, in, variance of our test; strengths over the threshold; draws
POWER = [
    (1, 5, 8, "own", (2, 4, 8), 300),
    (1, 20, 30, "own", (1.5, 2, 3), 300),
    (1, 64, 100, "own", (1.2, 1.5, 2), 300),
    (1, 128, 128, "own", (1.1, 1.3, 1.6), 300),
    (1, 256, 512, "own", (1.0, 1.2, 1.4), 200),
    (20, 5, 8, "shared", (2, 4, 8), 300),
    (20, 25, 40, "shared", (1.2, 1.6, 2.2), 300),
]


def generator(name: str) -> np.random.Generator:
    return np.random.default_rng(zlib.crc32(name.encode()))


def noise(blocks: int, out: int, width: int, variance: str, scale: float, draws: int, kurtosis: float) -> str:
    """Rates at which p is below 1 and 5 %, layers with a spike, and intervals that hold the variance, in percent."""
    rng = generator(f"{blocks} {out} {width} {variance} {scale} {kurtosis}")
    found = []
    for _ in range(draws):
        weight = iid_blocks((blocks, out, width), 1.0, rng, kurtosis=kurtosis)
        weight *= np.linspace(1, scale, blocks)[:, None, None]
        fit = fit_noise(weight if scale == 1 else weight[0])
        p = [test(weight, variance=variance).p_value for test in (largest, smallest)]
        held = fit.interval[0] <= 1 <= fit.interval[1]
        found.append(
            [p[0] < 0.01, p[0] < 0.05, p[1] < 0.01, p[1] < 0.05, spikes(weight, variance=variance).count > 0, held]
        )
    return ",".join(f"{100 * share:.2f}" for share in np.mean(found, axis=0))


def power(blocks: int, out: int, width: int, variance: str, strengths: tuple[float, ...], draws: int) -> str:
    """Share of layers with one spike that is found at 1 %, by our test and by the one that knows the variance."""
    rng = generator(f"power {blocks} {out} {width}")
    shares = []
    for over in strengths:
        theta = np.sqrt(over * np.sqrt(out * width))
        found = np.zeros(2)
        for _ in range(draws):
            weight = rng.normal(size=(blocks, out, width))
            left, right = rng.normal(size=out), rng.normal(size=width)
            weight[0] += theta * np.outer(left / np.linalg.norm(left), right / np.linalg.norm(right))
            known = extreme(singular_values(weight), out, width, end="largest", variance=1.0)
            found += [largest(weight, variance=variance).p_value < 0.01, known.p_value < 0.01]
        shares.append("/".join(f"{100 * share:.1f}" for share in found / draws))
    return ",".join(shares)


def rows() -> Iterator[tuple[str, Callable[[], str]]]:
    """Names of the rows of a table, and what calculates them."""
    if sys.argv[1] == "power":
        for case in POWER:
            yield ",".join(map(str, (*case[:4], *case[4]))), functools.partial(power, *case)
        return
    for kurtosis in (GAUSSIAN, UNIFORM):
        for shape in NOISE:
            yield ",".join(map(str, (*shape, kurtosis))), functools.partial(noise, *shape, kurtosis)


def main() -> None:
    path = Path(sys.argv[2])
    done = path.read_text().splitlines() if path.exists() else []
    for name, row in rows():
        if not any(line.startswith(name + ",") for line in done):
            with path.open("a") as file:
                print(name, row(), sep=",", file=file)


if __name__ == "__main__":
    main()
