"""Writes marchenko_pastur.json beside it: cdf and sf of the law, its raw density integrated to 30 digits.

    python tests/golden/marchenko_pastur.py

Needs mpmath; takes half a minute. Nothing of rmtnet is used.
"""

import json
from pathlib import Path

import mpmath as mp

RATIOS = [1e-6, 1e-3, 0.1, 0.25, 0.625, 0.8, 1 - 1e-9, 1.0, 1 + 1e-9, 1.6, 40.0, 1e6]
VARIANCES = [1.0, 3e-12, 7e5]
# Places between the edges, as parts of b - a: seven from 1e-3 to 1 - 1e-3, then nearer the edges.
PLACES = ["1e-3", "0.02", "0.3", "0.5", "0.7", "0.98", "0.999", "1e-5", "0.99999"]


def mass(ratio: mp.mpf, variance: mp.mpf, start: mp.mpf, end: mp.mpf) -> mp.mpf:
    """Integral of the density from start to end; ``x = a + (b - a) sin(t)^2`` removes the square roots."""
    lower, upper = (variance * (1 + sign * mp.sqrt(ratio)) ** 2 for sign in (-1, 1))

    def integrand(t: mp.mpf) -> mp.mpf:
        x = lower + (upper - lower) * mp.sin(t) ** 2
        density = (upper - lower) * mp.sin(t) * mp.cos(t) / (2 * mp.pi * variance * ratio * x) if x else mp.mpf(0)
        return density * 2 * (upper - lower) * mp.sin(t) * mp.cos(t)

    first, last = (mp.asin(mp.sqrt((x - lower) / (upper - lower))) for x in (start, end))
    # Near ratio 1 the density turns within t ~ 1e-9: pieces on a logarithmic scale follow it.
    cuts = [mp.mpf(10) ** (-k / mp.mpf(2)) for k in range(24, -1, -1)]
    return mp.quad(integrand, [first, *(cut for cut in cuts if first < cut < last), last])


def case(ratio: float, variance: float, place: str) -> dict[str, float | str]:
    g, v = mp.mpf(ratio), mp.mpf(variance)
    lower, upper = (v * (1 + sign * mp.sqrt(g)) ** 2 for sign in (-1, 1))
    x = float(lower + (upper - lower) * mp.mpf(place))
    atom = max(1 - 1 / g, mp.mpf(0))
    cdf, sf = atom + mass(g, v, lower, mp.mpf(x)), mass(g, v, mp.mpf(x), upper)
    assert abs(cdf + sf - 1) < mp.mpf("1e-30")
    numbers = {"cdf": mp.nstr(cdf, 30), "sf": mp.nstr(sf, 30)}
    return {"ratio": ratio, "variance": variance, "place": float(place), "x": x, **numbers}


if __name__ == "__main__":
    mp.mp.dps = 45
    cases = [case(g, VARIANCES[(i + j) % 3], p) for i, g in enumerate(RATIOS) for j, p in enumerate(PLACES)]
    lines = ",\n".join(json.dumps(one) for one in cases)
    Path(__file__).with_suffix(".json").write_text(f"[\n{lines}\n]\n")
