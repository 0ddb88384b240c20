"""Writes tails.json beside it: power laws and their alternatives as the package powerlaw 2.0.0 fits them.

    python tests/golden/tails.py

Needs powerlaw==2.0.0, in an environment of its own; nothing of rmtnet is used. Without the ranges given here it keeps
exponents at 3 or below.
"""

import json
from pathlib import Path

import numpy as np
import powerlaw

ALTERNATIVES = {
    "exponential": powerlaw.Exponential,
    "lognormal": powerlaw.Lognormal,
    "truncated_power_law": powerlaw.Truncated_Power_Law,
}
RANGES = {"truncated_power_law": {"alpha": [-20, 20], "Lambda": [0, None]}}


def samples() -> dict[str, np.ndarray]:
    rng = np.random.default_rng(20261120)
    return {
        "pareto 2.5": 1 + rng.pareto(1.5, 300),
        "exponential": 1 + rng.exponential(2.0, 300),
        "lognormal": np.exp(np.abs(rng.normal(size=300))),
        "truncated power law": np.sort(1 + rng.pareto(1.0, 900))[:800],
        "uniform": rng.uniform(1, 2.5, 200),
    }


def case(name: str, values: np.ndarray) -> dict[str, object]:
    xmin = float(values.min())
    options = {"xmin": xmin, "discrete": False, "data": values, "verbose": 0}
    law = powerlaw.Power_Law(**options, parameter_ranges={"alpha": [1, 20]})
    ratios = {}
    for alternative, kind in ALTERNATIVES.items():
        other = kind(**options, parameter_ranges=RANGES.get(alternative))
        pair = (law.loglikelihoods(values), other.loglikelihoods(values))
        nested = alternative == "truncated_power_law"
        total, p = powerlaw.loglikelihood_ratio(*pair, nested=nested)
        normalized, _ = powerlaw.loglikelihood_ratio(*pair, nested=nested, normalized_ratio=True)
        ratios[alternative] = {"log_ratio": float(total), "normalized": float(normalized), "p": float(p)}
    return {"name": name, "values": values.tolist(), "xmin": xmin, "alpha": float(law.alpha), "ratios": ratios}


if __name__ == "__main__":
    cases = [case(name, values) for name, values in samples().items()]
    Path(__file__).with_suffix(".json").write_text(json.dumps(cases, indent=0) + "\n")
