"""What can be recorded of a layer, and how its numbers get from the model into the ring."""

import math
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from rmtnet import ranks
from rmtnet.matrices import Matrix, described
from rmtnet.spectra import singular_values
from rmtnet.store import MATRICES, MatrixSpec, RowSpec
from rmtnet.store.precision import stored_dtype
from rmtnet.store.schema import DIMS, MOMENT_SUFFIXES

QUANTITIES = ("weights", "gradients", "updates", "moments", "spectra", "gates", "norms")
EXACT = (torch.float32, torch.float64)


class FormChanged(Exception):
    """A layer has another shape than when it was looked up."""


@dataclass(eq=False)
class Source:
    """A layer of a model and the quantities recorded of it.

    ``before`` is a copy of the weights before the optimizer's step, while one is needed.
    """

    matrix: Matrix
    own_steps: bool
    precision: str | None = None
    form: int = 0
    latest: int = 0
    """The last form of the layer that the run holds."""
    before: torch.Tensor | None = None
    kept_gradient: torch.Tensor | None = None
    _moments: list[float] = field(default_factory=list)
    _seen: tuple[object, NDArray[Any]] | None = None

    def __post_init__(self) -> None:
        self._look()

    def _look(self) -> None:
        layout, matrix = self.matrix.layout, self.matrix
        self._seen, self.shape = None, matrix.shape
        self.exact = MatrixSpec(
            name=matrix.name, shape=matrix.shape, dtype=matrix.dtype, form=layout.form,
            out_features=layout.out_features, in_features=layout.in_features, block_row=layout.block_row,
            block_col=layout.block_col, attributes=dict(described(matrix)),
        )  # fmt: skip
        """What a store must know of the layer."""
        self.spec = self.exact
        if self.precision:
            told = {**self.exact.attributes, "precision": self.precision}
            self.spec = replace(self.exact, dtype=stored_dtype(matrix.dtype, self.precision), attributes=told)

    def specs(self, quantity: str) -> list[RowSpec]:
        """The variables of a quantity."""
        if quantity in MATRICES:
            spec = self.spec if quantity == "weights" else self.exact
            return [spec.rows(quantity, form=self.form, own_steps=self.own_steps)]
        blocks, out, width = self.shape
        attributes: dict[str, Any] = {
            **self.exact.rows().attributes, "block_out": out, "block_in": width,
            "long_name": f"{quantity} of {self.matrix.name}",
        }  # fmt: skip
        plain = RowSpec(
            quantity, self.matrix.name, form=self.form, own_steps=self.own_steps or self.form > 0, attributes=attributes
        )
        match quantity:
            case "moments":
                return [replace(plain, suffix=suffix) for suffix in MOMENT_SUFFIXES]
            case "spectra":
                told = {**attributes, "long_name": f"singular values of {self.matrix.name}"}
                return [replace(plain, shape=(blocks, min(out, width)), dims=DIMS[quantity], attributes=told)]
            case "gates":
                gates = self.matrix.gates
                dims, dtype = DIMS[quantity], np.dtype(np.float32)
                return [] if gates is None else [replace(plain, shape=tuple(gates.shape), dims=dims, dtype=dtype)]
        return [plain]

    def replace(self, matrix: Matrix) -> bool:
        """Go on with the layer as it is now; whether that is a new form."""
        old = self.spec.rows().signature
        self.matrix = matrix
        self._look()
        if self.spec.rows().signature == old:
            return False
        self.latest = self.form = self.latest + 1
        return True

    # --- the numbers

    def weights(self) -> NDArray[Any] | torch.Tensor:
        """(block, out, in), as it is now; where the weights are plain host memory a view of it, made once."""
        tensor = self.matrix.tensor
        if self._seen and self._seen[0] == (tensor.data_ptr(), tensor.shape, tensor.stride(), tensor.dtype):
            return self._seen[1]
        self._seen, values = None, self._view(tensor)
        if _is_view(values, tensor):
            self._seen = ((tensor.data_ptr(), tensor.shape, tensor.stride(), tensor.dtype), values.numpy())
        return values

    def tensor(self) -> torch.Tensor:
        """(block, out, in), as it is now."""
        return self._view(self.matrix.tensor)

    def gradient(self) -> torch.Tensor | None:
        """(block, out, in) of the gradient that the step began with; None where the layer has none."""
        return self.kept_gradient

    def update(self) -> torch.Tensor:
        """(block, out, in) of what the optimizer's step changed, in the weights' precision."""
        assert self.before is not None
        return self.tensor() - self.before

    def moment(self, place: int) -> float:
        """One of ``MOMENTS``; asking for the first calculates them all."""
        if place == 0:
            self._moments = self._calculated_moments()
        return self._moments[place]

    def _calculated_moments(self) -> list[float]:
        """In float64, on the weights' device."""
        assert self.before is not None
        weight = self.before.double()
        update, gradient = self.tensor().double() - weight, self.gradient()
        terms = [weight.var(correction=0), update.var(correction=0), _covariance(weight, update)]
        if gradient is None:
            nothing = torch.full_like(terms[0], math.nan)
            terms += [nothing, nothing]
        else:
            terms += [gradient.double().var(correction=0), _covariance(weight, gradient.double())]
        found: list[float] = torch.stack(terms).tolist()
        return found

    def norm(self) -> float:
        """Frobenius norm."""
        return float(torch.linalg.vector_norm(self.tensor().double()))

    def spectrum(self) -> NDArray[np.float64]:
        """(block, order) singular values, calculated where the weights are; NaN where they are not finite."""
        tensor = self.tensor()
        if not bool(torch.isfinite(tensor).all()):
            blocks, *sides = tensor.shape
            return np.full((blocks, min(sides)), np.nan)
        device = None if tensor.device.type == "cpu" else tensor.device
        return np.asarray(singular_values(tensor, device=device))

    def keep_gradient(self) -> None:
        """Copy the gradient: some optimizers calculate in its place."""
        gradient = self.matrix.gradient
        self.kept_gradient = None if gradient is None else self._view(gradient).clone()

    def keep_before(self) -> None:
        """Copy the weights, for the update that follows."""
        self.before = self.tensor().clone()

    def _view(self, tensor: torch.Tensor) -> torch.Tensor:
        full = ranks.whole(tensor)
        assert full is not None
        values = self.matrix.layout.view(full.to_dense() if full.is_sparse else full)
        if values.shape != self.shape or (values.dtype == torch.float64) != (self.exact.dtype == np.float64):
            raise FormChanged(self.matrix.name)
        # 16-bit numbers as float32, which holds them exactly and which numpy and zarr know.
        return values if values.dtype in EXACT else values.float()


def _is_view(values: torch.Tensor, tensor: torch.Tensor) -> bool:
    """Whether values follow what happens to a tensor in plain host memory."""
    if values.device.type != "cpu" or hasattr(tensor, "full_tensor"):
        return False
    return values.untyped_storage().data_ptr() == tensor.untyped_storage().data_ptr()


def _covariance(one: torch.Tensor, other: torch.Tensor) -> torch.Tensor:
    return ((one - one.mean()) * (other - other.mean())).mean()
