"""Writes measures.json beside it: what WeightWatcher 0.7.7 says of a few matrices, with their singular values.

    python tests/golden/measures.py

Needs weightwatcher==0.7.7, torch and numpy, in an environment of its own; nothing of rmtnet is used.
"""

import json
from pathlib import Path

import numpy as np
import torch
from weightwatcher import WeightWatcher

COLUMNS = ["alpha", "xmin", "D", "sigma", "num_pl_spikes", "alpha_weighted", "log_alpha_norm", "norm", "log_norm"]
COLUMNS += ["spectral_norm", "log_spectral_norm", "stable_rank", "matrix_rank", "entropy"]


def matrices() -> dict[str, np.ndarray]:
    rng = np.random.default_rng(20261120)
    left, right = rng.normal(size=(40, 6)), rng.normal(size=(6, 60))
    return {
        "noise 48 x 64": rng.normal(size=(48, 64)) / 8,
        "heavy entries 80 x 50": rng.standard_t(3, size=(80, 50)) / 10,
        "few 12 x 30": rng.normal(size=(12, 30)),
        "rank 6 and small noise 40 x 60": left @ right / 20 + 1e-3 * rng.normal(size=(40, 60)),
        "small entries 64 x 64": rng.normal(size=(64, 64)) * 3e-3,
        "rank 20 of 40 x 60": rng.normal(size=(40, 20)) @ rng.normal(size=(20, 60)) / 10,
    }


def case(name: str, weight: np.ndarray) -> dict[str, object]:
    layer = torch.nn.Linear(weight.shape[1], weight.shape[0], bias=False)
    layer.weight.data = torch.tensor(weight, dtype=torch.float32)
    row = WeightWatcher(model=torch.nn.Sequential(layer)).analyze().iloc[0]
    singular = np.linalg.svd(layer.weight.detach().numpy().astype(float), compute_uv=False)
    return {
        "name": name,
        "shape": weight.shape,
        "singular_values": singular.tolist(),
        "expected": {f"ww_{column}": float(row[column]) for column in COLUMNS},
    }


if __name__ == "__main__":
    cases = [case(name, weight) for name, weight in matrices().items()]
    Path(__file__).with_suffix(".json").write_text(json.dumps(cases, indent=0) + "\n")
