"""Products that skip closed blocks, on one CPU core. Loaded at the first call, never before: they need Numba."""

# mypy: ignore-errors

import numpy as np
from numba import njit

# Sums in any order; NaN and infinity stay what they are.
ROUNDING = {"reassoc", "contract", "arcp", "nsz"}


def compiled(function):
    """Compiled at the first call, and kept on disk where that can be written."""
    try:
        return njit(function, fastmath=ROUNDING, nogil=True, error_model="numpy", cache=True)
    except RuntimeError:
        return njit(function, fastmath=ROUNDING, nogil=True, error_model="numpy")


@compiled
def add_product(matrix, vector, factor, out):
    """``out += factor * matrix @ vector``."""
    for i in range(len(matrix)):
        total = matrix.dtype.type(0)
        for k in range(len(vector)):
            total += matrix[i, k] * vector[k]
        out[i] += factor * total


@compiled
def add_four_products(matrix, vectors, factors, out, rows):
    """``out[rows[n]] += factors[rows[n]] * matrix @ vectors[n]`` for the four n."""
    zero = matrix.dtype.type(0)
    height, width = matrix.shape
    p, q, r, s = rows[0], rows[1], rows[2], rows[3]
    fp, fq, fr, fs = factors[p], factors[q], factors[r], factors[s]
    even = height // 2 * 2
    for i in range(0, even, 2):
        a = b = c = d = e = f = g = h = zero
        for k in range(width):
            upper, lower = matrix[i, k], matrix[i + 1, k]
            a += upper * vectors[0, k]
            b += upper * vectors[1, k]
            c += upper * vectors[2, k]
            d += upper * vectors[3, k]
            e += lower * vectors[0, k]
            f += lower * vectors[1, k]
            g += lower * vectors[2, k]
            h += lower * vectors[3, k]
        out[p, i] += fp * a
        out[q, i] += fq * b
        out[r, i] += fr * c
        out[s, i] += fs * d
        out[p, i + 1] += fp * e
        out[q, i + 1] += fq * f
        out[r, i + 1] += fr * g
        out[s, i + 1] += fs * h
    if even < height:
        a = b = c = d = zero
        for k in range(width):
            value = matrix[even, k]
            a += value * vectors[0, k]
            b += value * vectors[1, k]
            c += value * vectors[2, k]
            d += value * vectors[3, k]
        out[p, even] += fp * a
        out[q, even] += fq * b
        out[r, even] += fr * c
        out[s, even] += fs * d


@compiled
def multiply_one(vector, weight, gates, out):
    """Add the open blocks' products with one input to (out,)."""
    blocks, height, width = weight.shape
    columns = len(vector) // width
    for block in range(blocks):
        if gates[block] != 0:
            i, j = divmod(block, columns)
            part = vector[j * width : (j + 1) * width]
            add_product(weight[block], part, gates[block], out[i * height : (i + 1) * height])


@compiled
def multiply(inputs, weight, gates, out):
    """Add the open blocks' products to (batch, out), block by block with all of its inputs; gates (blocks, batch)."""
    blocks, height, width = weight.shape
    columns = inputs.shape[1] // width
    rows = np.empty(len(inputs), np.int64)
    parts = np.empty((len(inputs), width), inputs.dtype)
    sums = np.empty((len(inputs), height), inputs.dtype)  # of a row of blocks: out's rows lie far from each other
    for i in range(blocks // columns):
        sums[:] = 0
        for j in range(columns):
            block = i * columns + j
            found = 0
            for row in range(len(inputs)):
                if gates[block, row] != 0:
                    rows[found] = row
                    for k in range(width):
                        parts[found, k] = inputs[row, j * width + k]
                    found += 1
            add_products(weight[block], parts[:found], gates[block], sums, rows)
        for row in range(len(inputs)):
            for k in range(height):
                out[row, i * height + k] += sums[row, k]


@compiled
def add_products(matrix, vectors, factors, out, rows):
    """``out[rows[n]] += factors[rows[n]] * matrix @ vectors[n]`` for all n."""
    fours = len(vectors) // 4 * 4
    for n in range(0, fours, 4):
        add_four_products(matrix, vectors[n : n + 4], factors, out, rows[n : n + 4])
    for n in range(fours, len(vectors)):
        add_product(matrix, vectors[n], factors[rows[n]], out[rows[n]])


@compiled
def choose(values, opened, least):
    """Turn the values (batch, blocks) into gates, in place: see :func:`rmtnet.layers.gating.rank_gates`."""
    for row in range(len(values)):
        choose_one(values[row], opened, least)


@compiled
def choose_one(values, opened, least):
    for i in range(len(values)):
        if np.isnan(values[i]):
            values[:] = np.nan
            return
        values[i] = max(values[i], least)
    limit = smallest(values.copy(), len(values) - opened)
    ties = opened
    for value in values:
        ties -= value > limit
    total = 0.0
    for i in range(len(values)):
        if values[i] == limit:
            ties -= 1
        if values[i] < limit or (values[i] == limit and ties < 0):
            values[i] = 0
        total += values[i]
    factor = len(values) / total
    for i in range(len(values)):
        values[i] *= factor


@compiled
def smallest(values, place):
    """What stands at a place when the values, which it reorders, are sorted: Hoare's FIND, Commun. ACM 4 (1961) 321."""
    low, high = 0, len(values) - 1
    while low < high:
        pivot = values[place]
        i, j = low, high
        while i <= j:
            while values[i] < pivot:
                i += 1
            while pivot < values[j]:
                j -= 1
            if i <= j:
                values[i], values[j] = values[j], values[i]
                i += 1
                j -= 1
        if j < place:
            low = i
        if place < i:
            high = j
    return values[place]


@compiled
def infer(inputs, features, gate_weight, gate_bias, opened, least, weight, bias):
    """Gates and product of one input, (1, out); opened (), the bias None or (out,)."""
    blocks, height, width = weight.shape
    gates = gate_bias.copy()
    add_product(gate_weight, features[0], gate_weight.dtype.type(1), gates)
    choose_one(gates, opened.item(), least)
    out = np.zeros((1, blocks * width // inputs.shape[1] * height), inputs.dtype)
    if bias is not None:
        out[0] = bias
    multiply_one(inputs[0], weight, gates, out[0])
    return out
