"""How fast block layers are, against dense ones: the tables of docs/benchmarks.md and what figures A-F1 to A-F3 draw.

    python tests/benchmarks/block_layers.py [SECTION ...] [--device cuda] [-o FILE.json]
    python tests/benchmarks/block_layers.py --results FILE.json -o data/results/speed_cpu.nc

Sections, all by default: check (every product against float64), square (A-F1), small (n below 512), layers (A-F3), mask
(block-sparse), pruning (A-F2). With -o, or OUT in the environment, the measurements are also written as JSON, after
each section; --results makes of such a file the results that the figures read.

On a CPU: thread CPU seconds, one thread. On a GPU: device events, with calls from Python ("eager") and replayed from a
CUDA graph ("graph"), where launching costs nothing. The variants of a comparison take turns: a ratio is the median over
rounds of dense over variant in the same round, with its range. Inputs are the same at every call: what fits a cache is
read from it.
"""

import argparse
import itertools
import json
import math
import multiprocessing
import os
import platform
import statistics
import time
import warnings
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from rmtnet.layers import BlockDiagonalLinear, kernels, products_diagonal
from rmtnet.layers.block_sparse import BlockSparseLinear
from rmtnet.pruning import BlockDiagonalPruning

Row = dict[str, Any]
Call = Callable[[], object]
Variants = dict[str, tuple[Callable[[Tensor], Tensor], tuple[Tensor, ...]]]

SEED, BATCH = 0, 100
DTYPES = {"fp32": torch.float32, "tf32": torch.float32, "bf16": torch.bfloat16}
BOUNDS = {"fp32": 1e-5, "tf32": 2e-3, "bf16": 2e-2}
# (layer, inputs, outputs, batch, numbers of blocks): the inner product layers of LeNet-5 and of cuda-convnet.
PAPER_LAYERS = [
    ("LeNet-5 ip1", 800, 500, 64, (1, 2, 4, 5, 10, 20, 25, 50, 100)),
    ("LeNet-5 ip2", 500, 10, 64, (1, 2, 5, 10)),
    ("cuda-convnet ip1", 1024, 64, 100, (1, 2, 4, 8, 16, 32, 64)),
    ("cuda-convnet ip2", 64, 10, 100, (1, 2)),
]


# --- clocks


class CpuClock:
    """Thread CPU seconds; a sample is as many calls as fill 2 ms."""

    device, launches, rounds = "cpu", ("eager",), 7

    def sampler(self, call: Call, launch: str) -> Callable[[], float]:
        call()
        began = time.thread_time()
        call()
        count = math.ceil(2e-3 / max(time.thread_time() - began, 2e-6))

        def sample() -> float:
            began = time.thread_time()
            for _ in range(count):
                call()
            return (time.thread_time() - began) / count

        return sample


class CudaClock:
    """Seconds on the device, between two events: around up to 20 calls, or around the replay of a graph of them."""

    device, launches, rounds = "cuda", ("eager", "graph"), 15

    def sampler(self, call: Call, launch: str) -> Callable[[], float]:
        call()
        count = min(20, math.ceil(2e-3 / self._seconds(call)))

        def loop() -> None:
            for _ in range(count):
                call()

        run = self._graph(loop, call) if launch == "graph" else loop
        run()
        return lambda: self._seconds(run) / count

    def _seconds(self, run: Call) -> float:
        start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        torch.cuda.synchronize()
        start.record()
        run()
        end.record()
        torch.cuda.synchronize()
        return start.elapsed_time(end) / 1000

    def _graph(self, loop: Call, call: Call) -> Call:
        side = torch.cuda.Stream()
        side.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(side):
            call()
        torch.cuda.current_stream().wait_stream(side)
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph):
            loop()
        return graph.replay


class Warming:
    """No clock: one of several processes that share the cases, so that kernels are compiled before the clock runs."""

    device, launches, rounds = "cuda", ("eager",), 0

    def __init__(self, worker: int, workers: int):
        self.worker, self.workers, self.seen = worker, workers, 0

    def sampler(self, call: Call, launch: str) -> Callable[[], float]:
        self.seen += 1
        if self.seen % self.workers == self.worker:
            call()
        return lambda: 0.0


Clock = CpuClock | CudaClock | Warming


NOTES: list[str] = []


def note(text: str) -> None:
    NOTES.append(text)
    print(text, flush=True)


def measure(clock: Clock, calls: dict[str, Call], launch: str, **labels: Any) -> Iterator[Row]:
    """A row for each variant: median and range over rounds in which the variants take turns."""
    samplers: dict[str, Callable[[], float]] = {}
    for variant, call in calls.items():
        try:
            samplers[variant] = clock.sampler(call, launch)
        except (RuntimeError, NotImplementedError, ValueError) as error:
            note(f"not measured: {variant}, {launch}, {labels}: {str(error).splitlines()[0]}")
    if not clock.rounds:
        return
    taken = {variant: [sample()] for variant, sample in samplers.items()}
    # Not more than a second, unless 3 rounds take longer.
    lasts = max(sum(seconds[0] for seconds in taken.values()), 1e-6)
    for _ in range(max(3, min(clock.rounds, int(1 / lasts))) - 1):
        for variant, sample in samplers.items():
            taken[variant].append(sample())
    for variant, seconds in taken.items():
        row = {**labels, "variant": variant, "launch": launch, **_spread("seconds", seconds)}
        if "dense" in taken:
            row |= _spread("speedup", [dense / own for dense, own in zip(taken["dense"], seconds, strict=True)])
        yield row


def _spread(name: str, values: list[float]) -> dict[str, float]:
    return {name: statistics.median(values), f"{name}_low": min(values), f"{name}_high": max(values)}


def forward(function: Callable[[Tensor], Tensor], x: Tensor) -> Call:
    def call() -> Tensor:
        with torch.no_grad():
            return function(x)

    return call


def both(function: Callable[[Tensor], Tensor], parameters: tuple[Tensor, ...], x: Tensor, outputs: int) -> Call:
    """Forward, then the gradients of the inputs and of all parameters: the three products of a training step."""
    inputs = (x.detach().requires_grad_(), *parameters)
    grad = torch.randn(len(x), outputs, device=x.device, dtype=x.dtype)

    def call() -> tuple[Tensor, ...]:
        return torch.autograd.grad(function(inputs[0]), inputs, grad)

    return call


# --- sections


class Bench:
    """A clock, its device, and the device's two ceilings: bytes a second copied, operations a second multiplied."""

    def __init__(self, clock: Clock, quick: bool):
        self.clock, self.device, self.quick = clock, clock.device, quick
        self.gpu = self.device == "cuda"
        self.precisions = ("fp32", "tf32", "bf16") if self.gpu else ("fp32",)
        self.bandwidth, self.peaks = math.nan, dict.fromkeys(self.precisions, math.nan)

    def options(self, precision: str) -> dict[str, Any]:
        torch.set_float32_matmul_precision("high" if precision == "tf32" else "highest")
        return {"device": self.device, "dtype": DTYPES[precision]}

    def ceilings(self) -> None:
        count, side = (2**28, 8192) if self.gpu else (2**23, 1024)
        source = torch.randn(count, device=self.device)
        target = torch.empty_like(source)
        for row in measure(self.clock, {"copy": lambda: target.copy_(source)}, "eager"):
            self.bandwidth = 8 * count / row["seconds_low"]
        for precision in self.precisions:
            left, right = (torch.randn(side, side, **self.options(precision)) for _ in range(2))
            for row in measure(self.clock, {"product": forward(right.matmul, left)}, "eager"):
                self.peaks[precision] = 2 * side**3 / row["seconds_low"]

    def measure(self, variants: Variants, x: Tensor, **labels: Any) -> Iterator[Row]:
        """Forward, and forward and backward of those that have parameters; with the least seconds there could be.

        These are bytes (each of x, W, y read or written once a product) over the copy's rate, operations over the
        product's. Launching by Python is measured in float32 only.
        """
        trainable = {name: both(*pair, x, labels["m"]) for name, pair in variants.items() if pair[1]}
        directions = {"forward": {name: forward(pair[0], x) for name, pair in variants.items()}, "both": trainable}
        launches = self.clock.launches if labels["precision"] == "fp32" else self.clock.launches[-1:]
        for (direction, calls), launch in itertools.product(directions.items(), launches):
            # The sparse libraries wait for the device, which a graph cannot hold.
            own = {name: call for name, call in calls.items() if launch == "eager" or name not in ("CSR", "BSR")}
            for row in measure(self.clock, own, launch, direction=direction, **labels):
                weights = labels["m"] * labels["n"] if row["variant"] == "dense" else labels["weights"]
                yield {**row, **self._floors(labels, weights, 1 if direction == "forward" else 3)}

    def _floors(self, labels: Row, weights: int, products: int) -> dict[str, float]:
        size, precision, batch = DTYPES[labels["precision"]].itemsize, labels["precision"], labels["batch"]
        moved = products * size * (weights + batch * (labels["m"] + labels["n"]))
        operations = products * 2 * batch * weights
        return {"copy_floor": moved / self.bandwidth, "matrix_floor": operations / self.peaks[precision]}


def check(bench: Bench) -> Iterator[Row]:
    """Relative error of every product and gradient against a dense float64 layer of the same numbers."""
    for precision in bench.precisions:
        options = bench.options(precision)
        for what, layer, dense, batch in checked(options):
            for memory in ("batch-major", "feature-major"):
                x = torch.randn(batch, layer.in_features, **options)
                x = x if memory == "batch-major" else x.mT.contiguous().mT
                if isinstance(bench.clock, Warming):
                    bench.clock.sampler(lambda layer=layer, dense=dense, x=x: errors(layer, dense, x), "eager")
                    continue
                found = errors(layer, dense, x)
                # A NaN must fail too.
                if not all(error < BOUNDS[precision] for error in found.values()):
                    note(f"WRONG: {what}, batch {batch}, {precision}, {memory}: {found}")
                yield {"layer": what, "batch": batch, "precision": precision, "memory": memory, **found}
    if bench.gpu and not isinstance(bench.clock, Warming):
        compiled(bench.options("fp32"))


def checked(options: Row) -> Iterator[tuple[str, Any, nn.Module, int]]:
    device = options["device"]
    triton = kernels.available(torch.empty(1, **options))
    sizes = [(130, 1, 1), (40, 3, 5), (64, 4, 4), (33, 8, 8), (20, 15, 13), (10, 1, 50), (10, 50, 80), (8, 64, 64)]
    for (blocks, out, width), batch in itertools.product(sizes, (1, 100, 3000)):
        layer = BlockDiagonalLinear(blocks * width, blocks * out, blocks, **options)
        dense = layer.to_dense().double()
        yield f"block diagonal, {blocks} of {out} x {width}", layer, dense, batch
        if triton:
            yield f"block diagonal, Triton, {blocks} of {out} x {width}", Kernel(layer), dense, batch
            ordered = Kernel(layer, order=torch.randperm(blocks, device=device), relu=True)
            whole = nn.Sequential(Reordered(ordered.order, width), dense, nn.ReLU())
            yield f"block diagonal, Triton, order, relu, {blocks} of {out} x {width}", ordered, whole, batch
    for (out, width), batch in itertools.product([(16, 16), (32, 64), (50, 40), (128, 128), (8, 200)], (1, 100, 3000)):
        mask = torch.rand(7, 5) < 0.4
        mask[2], mask[:, 3], mask[0, 0] = False, False, True
        layer = BlockSparseLinear(5 * width, 7 * out, mask, **options)
        layer.remove_blocks(torch.arange(len(layer.kept)) % 4 == 3)
        dense = layer.to_dense().double()
        yield f"mask of {out} x {width}", layer, dense, batch
        if triton:
            yield f"mask, Triton, of {out} x {width}", Kernel(layer), dense, batch


def compiled(options: Row) -> None:
    """A model of both kinds of layers gives the same in one compiled graph."""
    parts = BlockDiagonalLinear(256, 256, 64, **options), BlockSparseLinear(256, 128, torch.eye(4) == 1, **options)
    model = nn.Sequential(parts[0], nn.ReLU(), parts[1])
    x = torch.randn(BATCH, 256, **options, requires_grad=True)
    inputs = (x, *model.parameters())
    ways = (model, torch.compile(model, fullgraph=True))
    plain, traced = (torch.autograd.grad(way(x).square().sum(), inputs) for way in ways)
    worst = max(((one - two).norm() / one.norm()).item() for one, two in zip(plain, traced, strict=True))
    note(f"{'compiled' if worst < BOUNDS['fp32'] else 'WRONG: compiled'}, against eager: {worst:.1e}")


class Kernel(nn.Module):
    """A layer's numbers through the Triton kernels, whatever the layer itself would choose."""

    def __init__(self, layer: Any, order: Tensor | None = None, relu: bool = False):
        super().__init__()
        self.in_features, self.weight, self.bias, self.order, self.relu = (
            *(layer.in_features, layer.weight, layer.bias),
            *(order, relu),
        )
        self.block_row, self.block_col, self.kept = layer.block_row, layer.block_col, getattr(layer, "kept", None)
        self.index = None if self.kept is None else kernels.block_index(self.block_row, self.block_col, *layer.grid)

    def forward(self, x: Tensor) -> Tensor:
        if self.index is None:
            return kernels.block_diagonal(x, self.weight, self.bias, order=self.order, relu=self.relu)
        return kernels.block_sparse(x, self.weight, self.bias, self.index, kept=self.kept, relu=self.relu)


class Reordered(nn.Module):
    """Whole slices of the inputs in another order."""

    def __init__(self, order: Tensor, width: int):
        super().__init__()
        self.order, self.width = order, width

    def forward(self, x: Tensor) -> Tensor:
        return x.unflatten(1, (-1, self.width))[:, self.order].flatten(1)


def errors(layer: Any, dense: nn.Module, x: Tensor) -> dict[str, float]:
    """Of the outputs and of the three gradients, in norm."""
    # What is freed is handed out again: an element that nobody writes shows as NaN.
    torch.full((x.numel() + 2**18,), math.nan, device=x.device, dtype=x.dtype)
    own = x.detach().requires_grad_()
    found = layer(own)
    exact = x.detach().double().requires_grad_()
    wanted = dense(exact)
    # Where rounding takes an output over 0, a ReLU's gradient is another.
    grad = torch.randn_like(found) * ((found > 0) == (wanted > 0))
    gradients = torch.autograd.grad(found, (own, layer.weight, layer.bias), grad)
    linear = next(part for part in dense.modules() if isinstance(part, nn.Linear))
    dx, dw, db = torch.autograd.grad(wanted, (exact, linear.weight, linear.bias), grad.double())
    pairs = zip((found, *gradients), (wanted, dx, blocks_of(dw, layer), db), strict=True)
    return {
        name: ((one.double() - other).norm() / other.norm().clamp_min(1e-30)).item()
        for name, (one, other) in zip(("y", "dx", "dw", "db"), pairs, strict=True)
    }


def blocks_of(dense: Tensor, layer: Any) -> Tensor:
    """The blocks (nnz, o, k) of a dense gradient that a layer keeps."""
    _, out, width = layer.weight.shape
    row, col = (torch.as_tensor(list(place), device=dense.device) for place in (layer.block_row, layer.block_col))
    blocks = dense.unflatten(1, (-1, width)).unflatten(0, (-1, out)).transpose(1, 2)[row, col]
    kept = getattr(layer, "kept", None)
    return blocks if kept is None else blocks * kept[:, None, None]


def square(bench: Bench) -> Iterator[Row]:
    """A-F1: n x n block diagonal layers, every power of two as the number of blocks."""
    sides = (512, 2048) if bench.quick else (512, 1024, 2048, 4096, 8192)
    for precision, n in itertools.product(bench.precisions, sides):
        yield from powers(bench, "square", precision, n)


def small(bench: Bench) -> Iterator[Row]:
    """Where the crossover lies: n below 512."""
    for n in (32, 64, 128, 256):
        yield from powers(bench, "small", "fp32", n)


def powers(bench: Bench, name: str, precision: str, n: int) -> Iterator[Row]:
    options = bench.options(precision)
    x, dense = torch.randn(BATCH, n, **options), nn.Linear(n, n, **options)
    labels = {"layer": name, "n": n, "m": n, "batch": BATCH, "precision": precision}
    for blocks in (2**power for power in range(1, n.bit_length())):
        layer = BlockDiagonalLinear(n, n, blocks, **options)
        variants: Variants = {"dense": of(dense), "block": of(layer)}
        if bench.gpu:
            variants["bmm"] = (partial_bmm(layer), tuple(layer.parameters()))
            if n // blocks <= 128:
                variants["triton"] = of(Kernel(layer))
        yield from bench.measure(variants, x, **labels, blocks=blocks, weights=n * n // blocks)


def of(layer: nn.Module) -> tuple[nn.Module, tuple[Tensor, ...]]:
    return layer, tuple(layer.parameters())


def partial_bmm(layer: BlockDiagonalLinear) -> Callable[[Tensor], Tensor]:
    return lambda x: products_diagonal.batch_major(x, layer.weight, layer.bias)


def layers(bench: Bench) -> Iterator[Row]:
    """A-F3: the papers' inner product layers: dense, block, CSR of as many random entries, BSR of the blocks."""
    options = bench.options("fp32")
    for name, n, m, batch, numbers in PAPER_LAYERS:
        x, dense = torch.randn(batch, n, **options), nn.Linear(n, m, **options)
        labels = {"layer": name, "n": n, "m": m, "batch": batch, "precision": "fp32"}
        for blocks in numbers:
            layer, count = BlockDiagonalLinear(n, m, blocks, **options), n * m // blocks
            variants: Variants = {"dense": of(dense), "block": of(layer)}
            variants["CSR"] = (sparse_linear(random_csr(m, n, count, options), dense.bias), ())
            side = math.gcd(m // blocks, n // blocks)
            variants["BSR"] = (sparse_linear(as_bsr(layer, side), layer.bias), ())
            yield from bench.measure(variants, x, **labels, blocks=blocks, weights=count)


def random_csr(m: int, n: int, count: int, options: Row) -> Tensor:
    matrix = torch.zeros(m * n, **options)
    matrix[torch.randperm(m * n, device=matrix.device)[:count]] = torch.randn(count, **options)
    return matrix.view(m, n).to_sparse_csr()


def as_bsr(layer: Any, side: int) -> Tensor:
    return layer.to_dense().weight.detach().to_sparse_bsr((side, side))


def sparse_linear(matrix: Tensor, bias: Tensor) -> Callable[[Tensor], Tensor]:
    return lambda x: (matrix @ x.mT).mT + bias


def mask(bench: Bench) -> Iterator[Row]:
    """Random masks of square blocks, each row of blocks keeping as many."""
    sides, batches = ((2048, 8192), (100, 1024)) if bench.gpu else ((2048,), (100,))
    grid = itertools.product(("fp32", "bf16") if bench.gpu else ("fp32",), sides, batches)
    for precision, n, batch in grid:
        options = bench.options(precision)
        x, dense = torch.randn(batch, n, **options), nn.Linear(n, n, **options)
        labels = {"layer": "mask", "n": n, "m": n, "batch": batch, "precision": precision}
        for block, density in itertools.product((16, 32, 64, 128), (0.05, 0.1, 0.25, 0.5)):
            if bench.quick and block != 64:
                continue
            layer = BlockSparseLinear(n, n, balanced_mask(n // block, density), **options)
            variants: Variants = {"dense": of(dense), "block": of(layer)}
            if bench.gpu:
                variants["gather"] = (gathered(layer), tuple(layer.parameters()))
            if precision == "fp32":
                variants["BSR"] = (sparse_linear(as_bsr(layer, block), layer.bias), ())
            count = layer.weight.numel()
            yield from bench.measure(variants, x, **labels, block=block, density=count / n**2, weights=count)


def balanced_mask(places: int, density: float) -> Tensor:
    return torch.rand(places, places).argsort(1) < max(1, round(density * places))


def gathered(layer: BlockSparseLinear) -> Callable[[Tensor], Tensor]:
    """The product without Triton."""
    product = torch.ops.rmtnet.block_sparse_product
    return lambda x: product(x, layer.weight, layer.bias, layer.block_row, layer.block_col, None, layer.out_features)


def pruning(bench: Bench) -> Iterator[Row]:
    """A-F2: forward and backward of the dense and of the block layer, and one step of pruning one to the other."""
    options = bench.options("fp32")
    sides = (512, 2048) if bench.quick else (512, 1024, 2048, 4096, *([8192] if bench.gpu else []))
    shapes = [("pruning", n, n, BATCH, [2**power for power in range(1, n.bit_length())]) for n in sides]
    shapes += [(name, n, m, batch, list(numbers[1:])) for name, n, m, batch, numbers in PAPER_LAYERS]
    for name, n, m, batch, numbers in shapes:
        x, dense = torch.randn(batch, n, **options), nn.Linear(n, m, **options)
        labels = {"layer": name, "n": n, "m": m, "batch": batch, "precision": "fp32", "direction": "both"}
        for blocks in numbers:
            layer = BlockDiagonalLinear(n, m, blocks, **options)
            calls = {"dense": both(*of(dense), x, m), "block": both(*of(layer), x, m)}
            calls["prune"] = pruning_step(nn.Linear(n, m, **options), blocks)
            for launch in bench.clock.launches:
                for row in measure(bench.clock, calls, launch, **labels, blocks=blocks, weights=n * m // blocks):
                    yield {**row, "section": "pruning"}


def pruning_step(linear: nn.Linear, blocks: int) -> Call:
    """What the pruning phase adds to a training step: the penalty, its gradient, the threshold, the mask held."""
    model = nn.Sequential(linear)
    optimizer = Idle(model.parameters(), {})
    recipe = BlockDiagonalPruning({"0": blocks}, dense=0, pruning=2**30, alpha=1e-3, threshold=1e-3)
    pruner = recipe(model, optimizer)
    linear.weight.grad = torch.zeros_like(linear.weight)

    def call() -> None:
        penalty = pruner.penalty()
        if penalty.requires_grad:
            penalty.backward()
        optimizer.step()
        pruner.step(1)

    return call


class Idle(torch.optim.Optimizer):
    """Leaves all as it is: of its step only the hooks remain."""

    def step(self, closure: Any = None) -> None:  # type: ignore[override]
        return None


SECTIONS: dict[str, Callable[[Bench], Iterator[Row]]] = {
    "check": check,
    "square": square,
    "small": small,
    "layers": layers,
    "mask": mask,
    "pruning": pruning,
}


# --- what is printed and written


def summary(section: str, rows: list[Row]) -> str:
    """Tables in markdown, one for each precision, direction and way of launching."""
    if section == "check":
        return worst(rows)
    text = []
    for key, group in grouped(rows, ("precision", "direction", "launch", "batch")):
        text.append(f"**{section}: {', '.join(map(str, key))}**: dense over each (share of the floor)\n")
        squares = [row for row in group if row["layer"] in ("square", "small", "pruning")]
        others = [row for row in group if row not in squares]
        text += [make(some) for make, some in ((sides, squares), (variants, others)) if some]
    return "\n".join(text)


def worst(rows: list[Row]) -> str:
    found: dict[tuple[str, str], float] = {}
    for row in rows:
        kind = row["layer"].split(",")[0].split(" of ")[0] + (", Triton" if "Triton" in row["layer"] else "")
        own = max(row[name] for name in ("y", "dx", "dw", "db"))
        found[kind, row["precision"]] = max(own, found.get((kind, row["precision"]), 0.0))
    return table(["product", "precision", "largest error"], [[*key, f"{value:.1e}"] for key, value in found.items()])


def sides(rows: list[Row]) -> str:
    """Blocks downwards, n to the right: a part for each variant."""
    sizes = sorted({row["n"] for row in rows})
    found = {(row["variant"], row["blocks"], row["n"]): row for row in rows}
    dense = [f"{found['dense', 2, n]['seconds'] * 1e6:.0f} us" for n in sizes]
    lines = [["dense", "", *dense]]
    for variant, blocks in dict.fromkeys((row["variant"], row["blocks"]) for row in sorted(rows, key=by_variant)):
        if variant != "dense":
            lines.append([variant, blocks, *(cell(found.get((variant, blocks, n))) for n in sizes)])
    return table(["", "blocks", *(f"n = {n}" for n in sizes)], lines)


def by_variant(row: Row) -> tuple[str, int]:
    return row["variant"], row["blocks"]


def variants(rows: list[Row]) -> str:
    """A line for each layer, variants to the right."""
    names = [name for name in dict.fromkeys(row["variant"] for row in rows) if name != "dense"]
    lines = []
    for (layer, n, blocks, block, density), group in grouped(rows, ("layer", "n", "blocks", "block", "density")):
        found = {row["variant"]: row for row in group}
        own = blocks if density is None else f"{block}, {density:.3f}"
        lines.append(
            [layer, n, own, f"{found['dense']['seconds'] * 1e6:.0f}", *(cell(found.get(name)) for name in names)]
        )
    return table(["layer", "n", "blocks", "dense us", *names], lines)


def cell(row: Row | None) -> str:
    if row is None:
        return ""
    share = f" ({max(row['copy_floor'], row['matrix_floor']) / row['seconds']:.2f})" if "copy_floor" in row else ""
    return f"{row.get('speedup', math.nan):.3g}{share}"


def grouped(rows: list[Row], names: tuple[str, ...]) -> Iterator[tuple[tuple[Any, ...], list[Row]]]:
    groups: dict[tuple[Any, ...], list[Row]] = {}
    for row in rows:
        groups.setdefault(tuple(row.get(name) for name in names), []).append(row)
    return iter(groups.items())


def table(header: list[str], lines: Iterable[Iterable[Any]]) -> str:
    rule = ["---"] * len(header)
    return "".join(f"| {' | '.join(map(str, line))} |\n" for line in [header, rule, *lines])


def machine(bench: Bench) -> dict[str, Any]:
    name = torch.cuda.get_device_name() if bench.gpu else processor()
    versions = {"python": platform.python_version(), "torch": torch.__version__}
    if bench.gpu:
        import triton

        versions["triton"] = triton.__version__
    ceilings = {"copy bytes/s": bench.bandwidth, **{f"{key} operations/s": rate for key, rate in bench.peaks.items()}}
    return {"device": name, "threads": torch.get_num_threads(), "seed": SEED, **versions, **ceilings}


def processor() -> str:
    lines = Path("/proc/cpuinfo").read_text().splitlines() if Path("/proc/cpuinfo").exists() else []
    return next((line.split(":")[1].strip() for line in lines if line.startswith("model name")), platform.processor())


def to_results(source: Path, target: Path) -> None:
    """The table of measurements as a Dataset, a row each."""
    import pandas as pd
    import xarray as xr

    from rmtnet import results

    written = json.loads(source.read_text())
    rows = pd.DataFrame([row for row in written["rows"] if row["section"] != "check"])
    rows = rows.drop(columns=[name for name in ("memory", "y", "dx", "dw", "db") if name in rows])
    texts = rows.select_dtypes(exclude="number").columns
    rows[texts] = rows[texts].fillna("").astype(str)
    dataset = xr.Dataset.from_dataframe(rows.rename_axis("row")).drop_vars("row")
    results.write(dataset.assign_attrs(written["machine"]), target)


def warm(sections: list[str], quick: bool, worker: int, workers: int) -> None:
    torch.set_num_threads(1)
    torch.manual_seed(SEED)
    bench = Bench(Warming(worker, workers), quick)
    for section in sections:
        for _ in SECTIONS[section](bench):
            pass


def compile_kernels(sections: list[str], quick: bool) -> None:
    workers = max(1, (os.cpu_count() or 1) - 3)
    context = multiprocessing.get_context("spawn")
    processes = [context.Process(target=warm, args=(sections, quick, each, workers)) for each in range(workers)]
    for process in processes:
        process.start()
    for process in processes:
        process.join()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("sections", nargs="*", metavar="SECTION", help=f"of {', '.join(SECTIONS)}; default: all")
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu")
    parser.add_argument("--quick", action="store_true", help="two sides only")
    parser.add_argument("--results", type=Path, metavar="FILE.json", help="measurements to turn into results")
    parser.add_argument("-o", "--output", type=Path, metavar="FILE")
    arguments = parser.parse_args()
    if arguments.results:
        to_results(arguments.results, arguments.output)
        return
    sections = arguments.sections or list(SECTIONS)
    if unknown := [section for section in sections if section not in SECTIONS]:
        parser.error(f"no section {', '.join(unknown)}: there are {', '.join(SECTIONS)}")
    output = arguments.output
    if output is None and "OUT" in os.environ:
        output = Path(os.environ["OUT"]) / f"speed_{arguments.device}.json"
    run(sections, arguments.device, arguments.quick, output)


def run(sections: list[str], device: str, quick: bool, output: Path | None) -> None:
    torch.set_num_threads(1)
    torch.manual_seed(SEED)
    warnings.filterwarnings("ignore", "Sparse (CSR|BSR) tensor support is in beta")
    began = time.monotonic()
    if device == "cuda":
        compile_kernels(sections, quick)
        print(f"kernels compiled: {time.monotonic() - began:.0f} s", flush=True)
    bench = Bench(CudaClock() if device == "cuda" else CpuClock(), quick)
    bench.ceilings()
    print(json.dumps(machine(bench), indent=1), flush=True)
    rows: list[Row] = []
    text: list[str] = []
    for section in sections:
        own = [{"section": section, **row} for row in SECTIONS[section](bench)]
        rows += own
        text.append(f"{summary(section, own)}\n{section}: {time.monotonic() - began:.0f} s\n")
        print(text[-1], flush=True)
        if output:
            output.write_text(json.dumps({"machine": machine(bench), "notes": NOTES, "rows": rows}, indent=0))
            output.with_suffix(".md").write_text("\n".join(text))
    print("\n".join([*text[: sections[:1] == ["check"]], *NOTES]))


if __name__ == "__main__":
    main()
