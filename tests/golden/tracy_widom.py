"""Writes tracy_widom.json beside it: cdf and sf of the Tracy-Widom laws, Fredholm determinants to 25 digits or more.

    python tests/golden/tracy_widom.py

Needs mpmath; takes some minutes. Nothing of rmtnet is used. ``F_1 = det(1 - V)``, ``F_2 = det(1 - V) det(1 + V)`` and
``F_4 = (det(1 - V) + det(1 + V)) / 2`` with the kernel ``Ai((x + y) / 2 + s) / 2`` of V (Ferrari and Spohn 2005), by
Gauss-Legendre quadrature (Bornemann 2010); beta 4 at ``x = s / sqrt(2)``.
"""

import json
from functools import lru_cache
from pathlib import Path

import mpmath as mp

LEFT = [-12.0, -11.0, -8.0, -6.0, -4.5, -3.0]
MIDDLE = [-2.125, -2.0, -1.875, -1.0, 0.0, 1.5, 3.0, 4.5]
RIGHT = [5.875, 6.0, 6.125, 8.0, 12.0, 20.0, 35.0, 64.0]
ALL = [*LEFT, *MIDDLE, *RIGHT]
FOUR = [-12.0, -8.0, -4.5, -2.125, -1.875, 0.0, 3.0, 5.875, 6.125, 12.0, 35.0, 64.0]
PLACES = {1: [*ALL, 100.0], 2: ALL, 4: [round(s / 2**0.5, 3) for s in FOUR]}


@lru_cache(maxsize=8)
def gauss_legendre(order: int, dps: int) -> list[tuple[mp.mpf, mp.mpf]]:
    rule = []
    for i in range(1, order + 1):
        x = mp.cos(mp.pi * (i - mp.mpf("0.25")) / (order + mp.mpf("0.5")))
        for _ in range(12):
            before, now = mp.mpf(1), x
            for k in range(2, order + 1):
                before, now = now, ((2 * k - 1) * x * now - (k - 1) * before) / k
            slope = order * (x * now - before) / (x * x - 1)
            x -= now / slope
        rule.append((x, 2 / ((1 - x * x) * slope**2)))
    return rule


def operator(s: mp.mpf, order: int) -> list[list[mp.mpf]]:
    reach = 2 * ((mp.mpf(1.5) * mp.log(10) * (mp.mp.dps - 16) + max(s, 0) ** 1.5) ** (mp.mpf(2) / 3) - s)
    rule = [(reach * (x + 1) / 2, mp.sqrt(reach * w / 2)) for x, w in gauss_legendre(order, mp.mp.dps)]
    rows = [[mp.airyai((x + y) / 2 + s) / 2 * v * w for y, w in rule[: i + 1]] for i, (x, v) in enumerate(rule)]
    return [[rows[max(i, j)][min(i, j)] for j in range(order)] for i in range(order)]


def determinant(matrix: list[list[mp.mpf]], sign: int) -> mp.mpf:
    """Of ``1 + sign * matrix``, symmetric and positive definite: elimination needs no pivots."""
    rows = [[sign * value + (i == j) for j, value in enumerate(row)] for i, row in enumerate(matrix)]
    product = mp.mpf(1)
    while rows:
        first, *rest = rows
        product *= first[0]
        rows = [[b - row[0] / first[0] * a for a, b in zip(first[1:], row[1:], strict=True)] for row in rest]
    return product


def elementary(matrix: list[list[mp.mpf]], count: int) -> list[mp.mpf]:
    """Elementary symmetric polynomials of the eigenvalues from traces of powers: far right they fall fast."""
    power, sums = matrix, []
    for _ in range(count):
        sums.append(sum(power[i][i] for i in range(len(power))))
        power = [[mp.fdot(row, column) for column in matrix] for row in power]
    found = [mp.mpf(1)]
    for k in range(1, count + 1):
        found.append(sum((-1) ** (i - 1) * found[k - i] * sums[i - 1] for i in range(1, k + 1)) / k)
    return found[1:]


@lru_cache(maxsize=4)
def parts(s: mp.mpf, order: int) -> tuple[mp.mpf, mp.mpf]:
    """Odd and even part of ``det(1 + V)``, the even one less 1."""
    matrix = operator(s, order)
    if s > 5:
        terms = elementary(matrix, 6)
        return sum(terms[0::2]), sum(terms[1::2])
    minus, plus = determinant(matrix, -1), determinant(matrix, 1)
    return (plus - minus) / 2, (plus + minus) / 2 - 1


def both(beta: int, s: mp.mpf, order: int) -> tuple[mp.mpf, mp.mpf]:
    odd, even = parts(s, order)
    sf = {1: odd - even, 2: odd**2 - even**2 - 2 * even, 4: -even}[beta]
    return 1 - sf, sf


def case(beta: int, x: float) -> dict[str, float | str]:
    # Left, the determinants are as small as the cdf, which the entries near 1 must carry.
    mp.mp.dps = 50 if x > -3 else int(60 + abs(x) ** 3 / (4 if beta == 4 else 12) / 2.3)
    s = mp.sqrt(2) * mp.mpf(x) if beta == 4 else mp.mpf(x)
    order = int(30 + 0.9 * mp.mp.dps)
    (cdf, sf), (again, tail) = both(beta, s, order), both(beta, s, order + 10)
    assert abs(again / cdf - 1) < mp.mpf("1e-25"), (beta, x, mp.nstr(again / cdf - 1))
    assert abs(tail / sf - 1) < mp.mpf("1e-25"), (beta, x, mp.nstr(tail / sf - 1))
    return {"beta": beta, "x": x, "cdf": mp.nstr(cdf, 30), "sf": mp.nstr(sf, 30)}


if __name__ == "__main__":
    cases = [
        case(beta, x)
        for x in sorted({x for places in PLACES.values() for x in places})
        for beta in PLACES
        if x in PLACES[beta]
    ]
    lines = ",\n".join(json.dumps(one) for one in cases)
    Path(__file__).with_suffix(".json").write_text(f"[\n{lines}\n]\n")
