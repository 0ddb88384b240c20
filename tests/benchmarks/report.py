"""Our side and the other of each comparison, in turn, in one run: a markdown table.

CPU time with one thread, so that a busy machine does not decide. See docs/benchmarks.md.
"""

import argparse
import json
import os
import platform
import subprocess
import sys
import time
import tracemalloc
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from threadpoolctl import threadpool_limits

from rmtnet import MarchenkoPastur, __version__, singular_values

SEED = 0
HEADER = "| what | ours | theirs | ratio: median | min | max | repeats | goal |\n|---|--:|--:|--:|--:|--:|--:|--:|"

Measured = Callable[[], object]


def cpu_seconds(work: Measured) -> float:
    began = time.process_time()
    work()
    return time.process_time() - began


def peak_bytes(work: Measured) -> float:
    tracemalloc.start()
    work()
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    return peak


def row(what: str, pairs: list[tuple[float, float]], goal: str, unit: str = "s") -> str:
    """One line of the table from (ours, theirs) of each repeat."""
    numbers = np.array(pairs)
    ratios = numbers[:, 0] / numbers[:, 1]
    ours, theirs = np.median(numbers, axis=0)
    spread = " | ".join(f"{value:.3g}" for value in (np.median(ratios), ratios.min(), ratios.max()))
    return f"| {what} | {ours:.3g} {unit} | {theirs:.3g} {unit} | {spread} | {len(pairs)} | {goal} |"


def in_turn(ours: Measured, theirs: Measured, repeats: int) -> list[tuple[float, float]]:
    cpu_seconds(ours), cpu_seconds(theirs)
    return [(cpu_seconds(ours), cpu_seconds(theirs)) for _ in range(repeats)]


def gaussian(shape: tuple[int, ...]) -> NDArray[np.float32]:
    return np.random.default_rng(SEED).standard_normal(shape, dtype=np.float32)


def bare(stack: NDArray[np.float32]) -> object:
    matrices = stack.astype(np.float64)
    return np.linalg.eigvalsh(matrices @ matrices.mT)


def bare_one_by_one(stack: NDArray[np.float32]) -> object:
    return [bare(matrix) for matrix in stack]


def spectra(shape: tuple[int, int, int], repeats: int) -> str:
    stack = gaussian(shape)
    # All at once takes longer than one by one, but for the small.
    other = bare if shape[1] < 50 else bare_one_by_one
    pairs = in_turn(lambda: singular_values(stack), lambda: other(stack), repeats)
    count, out, width = shape
    return row(f"spectra of {count:,} float32 {out} x {width}, against float64 Gram + `eigvalsh`", pairs, "1.2")


def memory() -> str:
    stack = gaussian((2000, 100, 160))
    singular_values(stack[:2])
    pairs = [(peak_bytes(lambda: singular_values(stack)) / 2**20, peak_bytes(lambda: bare(stack)) / 2**20)]
    return row(f"memory besides the input ({stack.nbytes / 2**20:.0f} MiB), 2,000 of 100 x 160", pairs, "", "MiB")


def law(name: str, goal: str, repeats: int) -> str:
    marchenko_pastur = MarchenkoPastur(0.625)
    shares = np.random.default_rng(SEED).uniform(size=1_000_000)
    lower, upper = marchenko_pastur.edges
    points = lower + (upper - lower) * shares
    method = getattr(marchenko_pastur, name)
    given = shares if name == "ppf" else points
    pairs = in_turn(lambda: method(given), lambda: np.arctan(points), repeats)
    return row(f"`MarchenkoPastur.{name}` of 1,000,000 points, against `np.arctan`", pairs, goal)


def minilm(python: str, repeats: int) -> list[str]:
    """Ours and WeightWatcher's side, each in a process of its own; the peers' interpreter finds the weights."""
    script = str(Path(__file__).with_name("minilm.py"))
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "MPLBACKEND": "agg"}

    def run(interpreter: str, side: str, *options: str) -> Any:
        command = [interpreter, script, side, "--seed", str(SEED), *options]
        done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True, env=environment)
        return json.loads(done.stdout.splitlines()[-1])

    weights = run(python, "where")
    found = [(run(sys.executable, "ours", "--weights", weights), run(python, "theirs")) for _ in range(repeats)]
    pairs = [(ours["cpu"], theirs["cpu"]) for ours, theirs in found]
    first, other = found[0]
    what = f"{first['matrices']} matrices of all-MiniLM-L6-v2, against WeightWatcher (`mp_fit`, `randomize`)"
    peers = ", ".join(f"{name} {number}" for name, number in other["versions"].items())
    parts = [(name, "", seconds) for name, seconds in first["parts"].items()]
    parts += [(name, "not counted above", seconds) for name, seconds in first["apart"].items()]
    rows = [f"| {name} | {seconds:.3g} s | {note} |" for name, note, seconds in parts]
    return [
        row(what, pairs, "0.05"),
        f"\nOurs there, in the first repeat; theirs all in one ({peers}):\n",
        "| part | CPU | |\n|---|--:|---|",
        *rows,
    ]


def processor() -> str:
    lines = Path("/proc/cpuinfo").read_text().splitlines() if Path("/proc/cpuinfo").exists() else []
    return next((line.split(":")[1].strip() for line in lines if line.startswith("model name")), platform.processor())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--repeats", type=int, default=5, help="of each comparison  [default: 5]")
    parser.add_argument("--matrices", type=int, default=1000, help="of 500 x 800  [default: 1000]")
    parser.add_argument("--peers", help="interpreter that has WeightWatcher and the weights; without: no such row")
    options = parser.parse_args()
    many = 4 * options.repeats + 1
    print(HEADER, flush=True)
    with threadpool_limits(1):
        print(spectra((1, 4096, 4096), options.repeats), flush=True)
        print(spectra((options.matrices, 500, 800), options.repeats), flush=True)
        print(spectra((100_000, 5, 8), many), flush=True)
        print(memory(), flush=True)
        print(law("cdf", "30", many), flush=True)
        print(law("ppf", "200", many), flush=True)
    if options.peers:
        print("\n".join(minilm(options.peers, max(1, options.repeats // 3))), flush=True)
    others = (f"{name} {version(name)}" for name in ("numpy", "scipy", "threadpoolctl"))
    packages = ", ".join((f"rmtnet {__version__}", *others))
    print(f"\nSeed {SEED}; one thread; Python {platform.python_version()}, {packages}; {processor()}.")


if __name__ == "__main__":
    main()
