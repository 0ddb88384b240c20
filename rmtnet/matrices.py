"""The matrices of a model, by name, each as dense blocks (block, out, in) with their place.

``ip1`` means ``ip1.weight``.  Parts of packed weights have names of their own: ``lstm.weight_hh_l0.i|f|g|o``,
``gru.weight_hh_l0.r|z|n``, ``attn.in_proj_weight.q|k|v``.  A convolution is (out, in * kernel), a grouped one block
diagonal.  A parameter of three axes is a stack of matrices, as those of experts are: block diagonal; a bilinear layer's
are blocks below one another, a form for each output.  Vectors (biases, norms) are no matrices.
"""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from fnmatch import fnmatchcase
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import nn
from torch.nn.utils import parametrize, prune
from torch.nn.utils.weight_norm import WeightNorm

_GATES = {nn.LSTM: "ifgo", nn.LSTMCell: "ifgo", nn.GRU: "rzn", nn.GRUCell: "rzn"}
_CONVOLUTIONS = (nn.Conv1d, nn.Conv2d, nn.Conv3d)
_TRANSPOSED = (nn.ConvTranspose1d, nn.ConvTranspose2d, nn.ConvTranspose3d)


class Layout(NamedTuple):
    """How a parameter becomes dense blocks, and where they stand."""

    view: Callable[[torch.Tensor], torch.Tensor]
    """Parameter -> (block, out, in) view."""
    form: str
    block_row: tuple[int, ...]
    block_col: tuple[int, ...]
    out_features: int
    in_features: int


@dataclass(frozen=True)
class Matrix:
    """One matrix of a model: where its tensor is and how it becomes (block, out, in)."""

    name: str
    torch_name: str
    aliases: tuple[str, ...]
    """Other names of the same parameter: tied weights."""
    owner: nn.Module
    attribute: str
    layout: Layout

    @property
    def tensor(self) -> torch.Tensor:
        """The parameter as it is now: looked up anew, for modules may replace it."""
        if self.owner._forward_pre_hooks:
            made = _made_by_hook(self.owner, self.attribute)
            if made is not None:
                return made
        tensor: torch.Tensor = getattr(self.owner, self.attribute)
        return tensor

    @property
    def shape(self) -> tuple[int, int, int]:
        """(block, out, in) of a snapshot, without taking one."""
        # Of a tensor without numbers: one that is sharded over processes knows its whole shape only.
        blocks, rows, columns = self.layout.view(torch.empty(self.tensor.shape, device="meta")).shape
        return blocks, rows, columns

    @property
    def gradient(self) -> torch.Tensor | None:
        """The parameter's gradient, None if it has none now: of an effective weight only pruning tells it."""
        pruned = getattr(self.owner, f"{self.attribute}_orig", None)
        if pruned is not None:
            return pruned.grad  # the mask has been applied to it
        tensor = self.tensor
        return tensor.grad if tensor.is_leaf else None

    @property
    def has_gradient(self) -> bool:
        """Whether there can be one."""
        return hasattr(self.owner, f"{self.attribute}_orig") or self.tensor.is_leaf

    @property
    def gates(self) -> torch.Tensor | None:
        """(gate_row, gate_col) of a dynamic layer: the share of inputs for which a gate is open; else None."""
        return getattr(self.owner, "open_fraction", None)

    @property
    def dtype(self) -> np.dtype[Any]:
        """Of a snapshot: the parameter's, but float32 for 16-bit types."""
        return np.dtype(np.float64 if self.tensor.dtype == torch.float64 else np.float32)


def matrices(model: nn.Module) -> list[Matrix]:
    """All matrices of ``model``, each tied weight once, in the order of its modules.

    Raises
    ------
    ValueError
        If a lazy layer has no shape yet.
    """
    if isinstance(model, nn.DataParallel | nn.parallel.DistributedDataParallel):
        model = model.module
    names: dict[int, list[str]] = {}
    for torch_name, parameter in model.named_parameters(remove_duplicate=False):
        names.setdefault(id(parameter), []).append(_clean(torch_name))
    found: list[Matrix] = []
    for path, module in model.named_modules():
        for attribute, tensor in _own_tensors(module).items():
            if isinstance(tensor, nn.UninitializedParameter):
                raise ValueError(f"{path}.{attribute} has no shape yet: run the model once before it is recorded")
            effective = _clean(f"{path}.{attribute}".strip("."))
            torch_name, *others = names.pop(id(tensor), [effective if attribute in _effective(module) else ""])
            if not torch_name or not tensor.is_floating_point():
                continue
            for part, layout in _layouts(module, attribute, tensor).items():
                name, *aliases = (_layer_name(full) + part for full in (torch_name, *others))
                found.append(Matrix(name, torch_name, tuple(aliases), module, attribute, layout))
    return found


def _own_tensors(module: nn.Module) -> dict[str, torch.Tensor]:
    """The module's own parameters; of a parametrised one the effective value, not the factors it is made from."""
    if isinstance(module, parametrize.ParametrizationList):
        return {}
    effective = {name: getattr(module, name) for name in _effective(module)}
    factors = {f"{name}{suffix}" for name in effective for suffix in ("_orig", "_g", "_v")}
    own = {name: tensor for name, tensor in module.named_parameters(recurse=False) if name not in factors}
    return {**own, **effective}


def _effective(module: nn.Module) -> list[str]:
    """Names of tensors that a module makes from other ones: by parametrisation, pruning, or weight_norm of old."""
    made = list(module.parametrizations) if parametrize.is_parametrized(module) else []  # type: ignore[arg-type]
    hooks = module._forward_pre_hooks.values()
    made += [hook._tensor_name for hook in hooks if isinstance(hook, prune.BasePruningMethod)]
    return made + [hook.name for hook in hooks if isinstance(hook, WeightNorm)]


def _made_by_hook(module: nn.Module, attribute: str) -> torch.Tensor | None:
    """A tensor that else is made in the forward pass: after an optimizer's step the module's own is the old one."""
    with torch.no_grad():
        for hook in module._forward_pre_hooks.values():
            if isinstance(hook, prune.BasePruningMethod) and hook._tensor_name == attribute:
                return hook.apply_mask(module)
            if isinstance(hook, WeightNorm) and hook.name == attribute:
                made: torch.Tensor = hook.compute_weight(module)
                return made
    return None


def select(model: nn.Module, layers: Iterable[str] | None) -> list[Matrix]:
    """The matrices whose names match ``layers``: names or globs; None is all.

    Raises
    ------
    ValueError
        If a name matches nothing (the message lists the names there are), there is no name, or no matrix at all.
    """
    known = matrices(model)
    if not known:
        raise ValueError(f"{type(model).__name__} has no weight matrix to record")
    if layers is None:
        return known
    patterns = [layers] if isinstance(layers, str) else list(layers)
    if not patterns:
        raise ValueError("layers names no layer; leave it out to record all")
    for pattern in patterns:
        if not any(_matches(matrix, pattern) for matrix in known):
            names = ", ".join(matrix.name for matrix in known)
            raise ValueError(f"no layer matches {pattern!r}; this model has {names}")
    return [matrix for matrix in known if any(_matches(matrix, pattern) for pattern in patterns)]


def described(matrix: Matrix) -> Mapping[str, str | int]:
    """What a store keeps of a matrix besides its numbers and their layout."""
    tensor = matrix.tensor
    return {
        "torch_name": matrix.torch_name,
        "module_type": type(matrix.owner).__name__,
        "original_shape": "x".join(map(str, tensor.shape)),
        "dtype_original": str(tensor.dtype).removeprefix("torch."),
        "tied_to": ", ".join(matrix.aliases),
    }


def _matches(matrix: Matrix, pattern: str) -> bool:
    names = (matrix.name, *matrix.aliases)
    return pattern == matrix.torch_name or any(name == pattern or fnmatchcase(name, pattern) for name in names)


def _clean(path: str) -> str:
    return ".".join(part for part in path.split(".") if part not in ("_orig_mod", "_checkpoint_wrapped_module"))


def _layer_name(torch_name: str) -> str:
    return torch_name.removesuffix(".weight")


def _layouts(module: nn.Module, attribute: str, parameter: torch.Tensor) -> dict[str, Layout]:
    """Suffix of the name -> layout, for each matrix that a parameter holds; none for vectors."""
    if isinstance(module, (*_CONVOLUTIONS, *_TRANSPOSED)) and parameter.ndim > 2:
        return {"": _diagonal(_filters(module.groups, isinstance(module, _TRANSPOSED)), parameter)}
    if parameter.ndim == 3:
        return _stacked(module, parameter)
    if parameter.ndim != 2:
        return {}
    if type(module).__name__ == "Conv1D" and attribute == "weight":
        # Of the transformers library: a linear layer that stores (in, out).
        return {"": _diagonal(lambda tensor: tensor.mT[None], parameter)}
    parts = _parts(module, attribute)
    return {f".{part}": _diagonal(_slice(k, len(parts)), parameter) for k, part in enumerate(parts)} or {
        "": _diagonal(lambda tensor: tensor[None], parameter)
    }


def _diagonal(view: Callable[[torch.Tensor], torch.Tensor], parameter: torch.Tensor) -> Layout:
    """Blocks at (i, i), or a single dense one."""
    blocks, rows, columns = view(parameter).shape
    place = tuple(range(blocks))
    return Layout(view, "dense" if blocks == 1 else "block_diagonal", place, place, blocks * rows, blocks * columns)


def _block_layer(module: Any) -> Layout:
    rows, columns = (tuple(map(int, places)) for places in (module.block_row, module.block_col))
    diagonal = rows == columns == tuple(range(len(rows)))
    form = "block_sparse" if not diagonal else "dense" if len(rows) == 1 else "block_diagonal"
    return Layout(lambda tensor: tensor, form, rows, columns, module.out_features, module.in_features)


def _stacked(module: nn.Module, parameter: torch.Tensor) -> dict[str, Layout]:
    """Of a block layer; of a bilinear one a form a block; of any other (experts) a matrix a block, on the diagonal."""
    if hasattr(module, "block_row"):
        return {"": _block_layer(module)}
    blocks, rows, columns = parameter.shape
    if min(rows, columns) == 1:
        return {}
    if isinstance(module, nn.Bilinear):
        places = tuple(range(blocks)), (0,) * blocks
        return {"": Layout(lambda tensor: tensor, "block_sparse", *places, blocks * rows, columns)}
    return {"": _diagonal(lambda tensor: tensor, parameter)}


def _parts(module: nn.Module, attribute: str) -> str:
    """Letters of the equal row blocks that a packed weight consists of; empty if it is one matrix."""
    if isinstance(module, nn.MultiheadAttention) and attribute == "in_proj_weight":
        return "qkv"
    if attribute.startswith(("weight_ih", "weight_hh")):
        return next((gates for kind, gates in _GATES.items() if isinstance(module, kind)), "")
    return ""


def _slice(k: int, parts: int) -> Callable[[torch.Tensor], torch.Tensor]:
    return lambda tensor: tensor.chunk(parts)[k][None]


def _filters(groups: int, transposed: bool) -> Callable[[torch.Tensor], torch.Tensor]:
    """Convolution weights to (group, out, in * kernel); a transposed one stores its inputs first."""

    def view(tensor: torch.Tensor) -> torch.Tensor:
        grouped = tensor.unflatten(0, (groups, -1))
        return (grouped.transpose(1, 2) if transposed else grouped).flatten(2)

    return view
