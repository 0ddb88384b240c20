"""The Dyson equation of a random Gram matrix, on the real axis and at its square-root singularities.

For a matrix X whose entries have variance ``rows[i, j]`` per unit mass of column group j, the resolvent of
``[[0, X], [X^T, 0]]`` at ``z`` has the diagonal ``m_i`` on the rows and ``q_j`` on the columns with

    -1 / m_i = z + sum_j rows[i, j] q_j,        -1 / q_j = z + sum_i columns[j, i] m_i,

and positive imaginary parts for z in the upper half plane, where the solution is unique (Girko; Ajanki, Erdos and
Krueger).  ``q`` is eliminated.  The density of the singular values s is ``2 / pi Im m(s)``.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]
Complexes = NDArray[np.complex128]
_SETTLED = 1e-11
_REAL = 1e-8


@dataclass(frozen=True, eq=False)
class DysonEquation:
    """The equation of one connected profile, scaled so that its numbers are of order one."""

    rows: Floats
    """(R, C) variance times the mass of the column group."""
    columns: Floats
    """(C, R) variance times the mass of the row group."""

    @property
    def bound(self) -> float:
        """A little above all singular values."""
        return 1.03 * float(np.sqrt(self.rows.sum(axis=1).max()) + np.sqrt(self.columns.sum(axis=1).max()))

    def on_axis(self, s: Floats, guess: Complexes | None = None) -> Complexes:
        """Boundary values ``m(s + 0i)``, (point, R): real outside the support, complex inside.

        Raises
        ------
        RuntimeError
            If the equation is not solved somewhere, as at the very edge of the support.
        """
        m = np.empty((len(s), len(self.rows)), dtype=complex)
        open_ = np.arange(len(s))
        if guess is not None:
            m, settled = self._settle(guess, s)
            open_ = np.flatnonzero(~settled)
        m[open_] = self._descend(s[open_])
        return m

    def fold(self, s: float, m: Floats) -> tuple[float, Floats]:
        """Edge of the support near a real solution outside it.

        Newton's method for the point where the Jacobian is singular, whose quadratic term gives the density.

        Returns
        -------
        Edge, and the coefficients of ``Im m`` there in ``sqrt(|s - edge|)``, (R,)

        Raises
        ------
        RuntimeError
            If it does not settle.
        """
        best = np.inf
        for _ in range(60):
            jacobian, slope, right, left, gap = self._bordered(s, m)
            pull, bend_m, bend_s = self._bends(s, m, left, right)
            big = np.block([[jacobian, slope[:, None]], [-bend_m[None, :], np.full((1, 1), -bend_s)]])
            residual = np.append(1 + m * self._denominators(s, m), gap)
            step = np.linalg.solve(big, -residual)
            size = float(np.max(np.abs(step[:-1]))) + abs(step[-1]) / s
            if size < 1e-12 and size >= best:
                if abs(np.sign(right * m).sum()) < len(m):
                    break  # another branch turns here: at the edge all components do, the same way
                return s, np.abs(right * m) * np.sqrt(abs(2 * (left @ slope) / pull))
            best = size
            if size > 1 or not s + step[-1] > 0:
                break
            m, s = m * (1 + step[:-1]), s + float(step[-1])
        raise RuntimeError("the edge of the support was not found")

    def _denominators(self, z: Any, m: Any) -> Any:
        return z + self._q(z, m) @ self.rows.T

    def _q(self, z: Any, m: Any) -> Any:
        return -1 / (z + m @ self.columns.T)

    def _slope(self, z: Any, m: Any) -> Any:
        """Derivative of ``m (z + rows q) + 1`` in z."""
        return m * (1 + self._q(z, m) ** 2 @ self.rows.T)

    def _newton(self, z: Any, m: Any) -> Any:
        """Relative steps (point, R) of Newton's method at z (point, 1)."""
        residual = 1 + m * self._denominators(z, m)
        return np.linalg.solve(self._jacobian(z, m), -residual[..., None])[..., 0]

    def _jacobian(self, z: Any, m: Any) -> Any:
        """Derivative of ``m (z + rows q) + 1`` in ``log m``, (point, R, R)."""
        weights = self._q(z, m)[..., None, :] ** 2
        product = np.empty((*np.shape(m), len(self.rows)), dtype=weights.dtype)
        # One real product of matrices is several times faster than many complex ones.
        for part in ("real", "imag") if np.iscomplexobj(weights) else ("real",):
            scaled = self.rows * getattr(weights, part)
            flat = scaled.reshape(-1, len(self.columns)) @ self.columns
            getattr(product, part)[...] = flat.reshape(product.shape)
        product *= m[..., :, None] * m[..., None, :]
        diagonal = np.arange(len(self.rows))
        product[..., diagonal, diagonal] += m * self._denominators(z, m)
        return product

    def _settle(self, m: Complexes, s: Floats) -> tuple[Complexes, NDArray[np.bool_]]:
        """Newton on the axis, and whether the result is the boundary value of the solution above it."""
        m, last = m.copy(), np.full(len(s), np.inf)
        open_ = np.arange(len(s))
        for _ in range(9):
            try:
                step = self._newton(s[open_, None], m[open_])
            except np.linalg.LinAlgError:
                break
            size = np.max(np.abs(step), axis=1)
            m[open_] *= 1 + np.where(size < 0.9, 1, 0)[:, None] * step
            hopeless = ~(size < 0.9) | ((size > 1e-6) & (size > 0.5 * last[open_]))
            last[open_] = np.where(hopeless, np.inf, size)
            open_ = open_[~hopeless & (size > 1e-13)]
            if not len(open_):
                break
        residual = np.abs(1 + m * self._denominators(s[:, None], m)).max(axis=1)
        return self._certified(m, s, (residual < _SETTLED) & (last < 1e-6))

    def _certified(self, m: Complexes, s: Floats, solved: NDArray[np.bool_]) -> tuple[Complexes, NDArray[np.bool_]]:
        """Positive imaginary parts, or real and increasing: either continues to positive ones above the axis."""
        real = solved & np.all(np.abs(m.imag) < _REAL * np.abs(m), axis=1)
        inside = solved & ~real & np.all(m.imag > 0, axis=1) & np.all(self._q(s[:, None], m).imag > 0, axis=1)
        m[real] = m[real].real
        if np.any(real):
            z, x = s[real, None], m[real].real
            growth = x * np.linalg.solve(self._jacobian(z, x), -self._slope(z, x)[..., None])[..., 0]
            real[real] = np.all(growth > 0, axis=1)
        return m, inside | real

    def _descend(self, s: Floats) -> Complexes:
        """Continuation from far above the axis straight down to it."""
        result = np.empty((len(s), len(self.rows)), dtype=complex)
        height, open_ = 2 * self.bound, np.arange(len(s))
        m = np.repeat(-1 / (s + 1j * height)[:, None], len(self.rows), axis=1)
        for _ in range(300):
            if not len(open_):
                return result
            m = self._lower(m, s[open_, None] + 1j * height)
            if height < 0.2 * self.bound:
                settled_m, settled = self._settle(m, s[open_])
                result[open_[settled]] = settled_m[settled]
                open_, m = open_[~settled], m[~settled]
            height *= 0.4
        raise RuntimeError(f"the Dyson equation was not solved at s = {s[open_[0]]}: is it the edge of the support?")

    def _lower(self, m: Complexes, z: Any) -> Complexes:
        """Solution at z from one nearby: averaged iteration stays in the half plane, Newton finishes."""
        for _ in range(4):
            m = (m - 1 / self._denominators(z, m)) / 2
        open_ = np.arange(len(m))
        for _ in range(20):
            now, here = m[open_], z[open_]
            step = self._newton(here, now)
            size = np.max(np.abs(step), axis=1, keepdims=True)
            newton, mean = (
                now * (1 + step * np.minimum(1, 0.7 / np.maximum(size, 1e-300))),
                (now - 1 / self._denominators(here, now)) / 2,
            )
            m[open_] = np.where(np.all(newton.imag > 0, axis=1, keepdims=True), newton, mean)
            open_ = open_[size[:, 0] > 0.01]
            if not len(open_):
                break
        return m

    def _bordered(self, s: float, m: Floats) -> tuple[Floats, Floats, Floats, Floats, float]:
        """Jacobian, its derivative's partner in s, null vectors, and the scalar that is 0 where it is singular."""
        jacobian = self._jacobian(s, m)
        slope = self._slope(s, m)
        left, _, right = np.linalg.svd(jacobian)
        border = np.block([[jacobian, left[:, -1:]], [right[-1:], np.zeros((1, 1))]])
        unit = np.append(np.zeros(len(m)), 1.0)
        v, w = np.linalg.solve(border, unit), np.linalg.solve(border.T, unit)
        return jacobian, slope, v[:-1], w[:-1], float(v[-1])

    def _bends(self, s: float, m: Floats, left: Floats, right: Floats) -> tuple[float, Floats, float]:
        """Second derivatives of ``m (z + rows q) + 1`` along both null vectors: in log m twice, once, and with s.

        Terms that vanish at the edge are left out, but for those that Newton's method needs.
        """
        q, w, v = self._q(s, m), left * m, right * m
        turned = 2 * q**3 * (self.columns @ v)
        curve = m * (2 * w * v / m**3 + self.columns.T @ (turned * (self.rows.T @ w)))
        mixed = w @ (self.rows @ turned) + (left * right) @ self._slope(s, m)
        return float(curve @ right), curve + self._jacobian(s, m).T @ (left * right), float(mixed)
