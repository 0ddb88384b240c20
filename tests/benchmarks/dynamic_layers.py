"""How fast layers with gated blocks are, against dense ones.

    python tests/benchmarks/dynamic_layers.py [SECTION ...] [--device cuda] [-o FILE.json]

Sections, all by default: check (against float64), step (one input: gate, selection, product), batch (inputs that open
different blocks), training (forward and backward, with peak memory), tiles (a GPU's choices). With -o, or OUT in the
environment, the measurements are also written as JSON, after each section.

Clocks are those of block_layers.py. Copies of a layer, each with an input of its own, take turns, so many that caches
cannot hold what they read, and each call opens other blocks. The ideal of a step is the time in which open blocks and
the gate's matrix are read, at the rate of a copy; "as many bytes" is the product with a dense matrix of that size.
"""

import argparse
import itertools
import json
import math
import multiprocessing
import os
import time
import traceback
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import torch
from block_layers import (
    BOUNDS,
    NOTES,
    SEED,
    Bench,
    Call,
    CpuClock,
    CudaClock,
    Row,
    Warming,
    both,
    grouped,
    machine,
    measure,
    note,
    table,
)
from torch import Tensor, nn
from torch.nn import functional

from rmtnet.layers.dynamic import DynamicBlockSparseLinear
from rmtnet.layers.gating import rank_gates
from rmtnet.layers.kernels import dynamic, launch_dynamic
from rmtnet.layers.kernels.launch_dynamic import Slices

BLOCK = 128
SHAPES = [(6144, 1536), (8192, 8192), (1536, 1536)]
Ring = list[tuple[Any, ...]]


class LongGraphs(CudaClock):
    """Graphs of so many calls that starting one costs nothing."""

    rounds = 7

    def sampler(self, call: Call, launch: str) -> Callable[[], float]:
        if launch == "eager":
            return super().sampler(call, launch)
        call()
        once = max(self._seconds(call), 2e-6)
        count = max(8, min(128, math.ceil(5e-3 / once)))
        run = self._graph(lambda: [call() for _ in range(count)], call)
        run()
        return lambda: self._seconds(run) / count


def rotating(function: Callable[..., object], ring: Ring) -> Call:
    """The function of the next arguments, without gradients."""
    turns = itertools.cycle(ring)

    def call() -> object:
        with torch.no_grad():
            return function(*next(turns))

    return call


def overlapping(call: Call) -> Call:
    """The call with programs that start early: an option of the kernels that is measured here."""

    def run() -> object:
        launch_dynamic.OVERLAP = True
        try:
            return call()
        finally:
            launch_dynamic.OVERLAP = False

    return run


def layers(bench: Bench, out: int, width: int, precision: str, least_bytes: float) -> list[DynamicBlockSparseLinear]:
    """Copies of a layer that hold so many bytes together."""
    options = bench.options(precision)
    number = math.ceil(least_bytes / (out * width * options["dtype"].itemsize))
    return [DynamicBlockSparseLinear(width, out, BLOCK, 0.5, **options) for _ in range(max(2, min(64, number)))]


def dense_weight(layer: DynamicBlockSparseLinear) -> Tensor:
    """The blocks in their places, (out, in)."""
    return layer.weight.detach().unflatten(0, layer.grid).transpose(1, 2).flatten(2).flatten(0, 1)


def gated_weight(layer: DynamicBlockSparseLinear, gates: Tensor) -> Tensor:
    """The same times the gates of one input, in float64."""
    blocks = layer.weight.detach().double() * gates.double()[:, None, None]
    return blocks.unflatten(0, layer.grid).transpose(1, 2).flatten(2).flatten(0, 1)


def step_of(layer: DynamicBlockSparseLinear, x: Tensor) -> tuple[Tensor, Tensor]:
    gate: Any = layer.gate
    last = gate.linear
    return dynamic.gated_step(x, gate.features(x), last.weight, last.bias, gate.open_blocks, layer.weight, layer.bias)


# --- sections


def check(bench: Bench) -> Iterator[Row]:
    """Relative errors of outputs and gradients against float64; a wrong one is noted."""
    for precision in bench.precisions:
        options = bench.options(precision)
        for (rows, cols, out, width), batch in itertools.product(
            [(48, 12, 128, 128), (5, 7, 20, 40), (2, 3, 16, 300), (7, 2, 3, 1)], (1, 100)
        ):
            layer = DynamicBlockSparseLinear(cols * width, rows * out, (out, width), 0.7, **options)
            x = torch.randn(batch, layer.in_features, **options)
            call = partial(_errors, layer, x, precision)
            if isinstance(bench.clock, Warming):
                bench.clock.sampler(call, "eager")
                continue
            found = call()
            if not all(error < BOUNDS[precision] for error in found.values()):
                note(f"WRONG: {rows} x {cols} blocks of {out} x {width}, batch {batch}, {precision}: {found}")
            yield {"blocks": f"{rows} x {cols} of {out} x {width}", "batch": batch, "precision": precision, **found}
    if bench.gpu:
        _check_selection(bench)
    if bench.gpu and not isinstance(bench.clock, Warming):
        _check_graph(bench)


def _errors(layer: DynamicBlockSparseLinear, x: Tensor, precision: str) -> dict[str, float]:
    weight, bias, found = layer.weight, layer.bias, {}
    # What is freed is handed out again: an element that nobody writes shows as NaN.
    torch.full((x.numel() + 2**20,), math.nan, device=x.device, dtype=x.dtype)
    with torch.no_grad():
        gates = layer.gates(x)
        wanted = _exact(layer, x, gates)
        # Where scores are rounded, kernels and torch may open different blocks.
        if precision == "fp32":
            found["layer"] = _error(layer(x), wanted)
        if x.is_cuda:
            found["matvec"] = _error(dynamic.gated_matvec(x, weight, gates, bias), wanted)
            y, own = step_of(layer, x)
            found["step"] = _error(y, _exact(layer, x, own))
    return found | _gradient_errors(layer, x, gates) if x.is_cuda else found


def _exact(layer: DynamicBlockSparseLinear, x: Tensor, gates: Tensor) -> Tensor:
    products = [gated_weight(layer, row) @ one.double() for row, one in zip(gates, x, strict=True)]
    return torch.stack(products) + layer.bias.double()


def _gradient_errors(layer: DynamicBlockSparseLinear, x: Tensor, gates: Tensor) -> dict[str, float]:
    given = [each.detach().clone().requires_grad_() for each in (x, layer.weight, gates, layer.bias)]
    exact = [each.detach().double().requires_grad_() for each in given]
    y = dynamic.gated_product(*given)
    rows, cols = layer.grid
    matrix = exact[1].unflatten(0, (rows, cols))
    parts = torch.einsum("rcow,bcw->bcro", matrix, exact[0].unflatten(1, (cols, -1)))
    table_of = exact[2].unflatten(1, (rows, cols)).mT.unsqueeze(-1)
    wanted = (parts * table_of).sum(1).flatten(1) + exact[3]
    grad = torch.randn_like(y)
    pairs = zip(
        (y, *torch.autograd.grad(y, given, grad)),
        (wanted, *torch.autograd.grad(wanted, exact, grad.double())),
        strict=True,
    )
    return {name: _error(*pair) for name, pair in zip(("y", "dx", "dw", "dg", "db"), pairs, strict=True)}


def _error(one: Tensor, other: Tensor) -> float:
    return ((one.double() - other).norm() / other.norm().clamp_min(1e-30)).item()


def _check_selection(bench: Bench) -> None:
    for number, ties in itertools.product((1, 100, 576, 4096), (True, False)):
        scores = torch.randn(3, number, device=bench.device)
        scores = scores.round(decimals=1) if ties else scores
        for opened in {1, max(1, number // 4), number}:
            found = dynamic.select(scores, torch.tensor(opened, device=bench.device))
            wanted = rank_gates(scores, opened)
            if not torch.equal(found != 0, wanted != 0) or _error(found, wanted.double()) > 1e-6:
                note(f"WRONG: selection of {opened} of {number}, ties {ties}: {_error(found, wanted.double()):.1e}")


def _check_graph(bench: Bench) -> None:
    """A captured step follows its input and the number of open blocks; so does a compiled one."""
    layer = DynamicBlockSparseLinear(512, 1024, BLOCK, 0.5, **bench.options("fp32"))
    x = torch.randn(1, 512, device=bench.device)
    plain = partial(step_of, layer, x)
    with torch.no_grad():
        traced = torch.compile(lambda x: step_of(layer, x)[0], fullgraph=True)
        note(f"{'compiled' if torch.equal(traced(x), plain()[0]) else 'WRONG: compiled'}, against eager")
        for name, call in (("alone", plain), ("overlapping", overlapping(plain))):
            call()
            torch.cuda.synchronize()
            graph = torch.cuda.CUDAGraph()
            with torch.cuda.graph(graph):
                captured: Any = [call() for _ in range(3)]
            for sparsity in (0.9, 0.2, 0.5):
                layer.set_sparsity(sparsity)
                x.copy_(torch.randn_like(x))
                graph.replay()
                if not all(torch.equal(one, two) for each in captured for one, two in zip(each, plain(), strict=True)):
                    note(f"WRONG: step in a graph, {name}, sparsity {sparsity}")


def step(bench: Bench) -> Iterator[Row]:
    """One input: the whole step, its parts, and the dense product in its best form."""
    for precision, (out, width) in itertools.product([p for p in bench.precisions if p != "tf32"], SHAPES):
        if bench.quick and (out, width) != SHAPES[0]:
            continue
        ring = layers(bench, out, width, precision, 6e8 if bench.gpu else 2e8)
        xs = [torch.randn(1, width, **bench.options(precision)) for _ in ring]
        dense = [(dense_weight(layer), layer.bias.detach(), x[0]) for layer, x in zip(ring, xs, strict=True)]
        turned = [(weight.mT.contiguous(), bias, x) for weight, bias, x in dense]
        calls = {
            "dense": rotating(lambda weight, bias, x: torch.addmv(bias, weight, x), dense),
            "dense linear": rotating(lambda weight, bias, x: functional.linear(x[None], weight, bias), dense),
            "dense turned": rotating(lambda weight, bias, x: torch.addmv(bias, weight.mT, x), turned),
        }
        pairs = list(zip(ring, xs, strict=True))
        labels = {"out": out, "in": width, "precision": precision, "batch": 1}
        bytes_of = {"all": out * width, "gate": ring[0].weight.shape[0] * width}
        yield from _timed(bench, calls, labels | {"open": 1.0}, bytes_of)
        for share in (0.1, 0.25, 0.5):
            for layer in ring:
                layer.set_sparsity(1 - share)
            rows = round(share * out) + ring[0].weight.shape[0]
            reading = [(weight[:rows], x) for weight, _, x in dense]
            calls = {"as many bytes": rotating(torch.mv, reading)} | _steps(bench, pairs)
            yield from _timed(bench, calls, labels | {"open": share}, bytes_of)


def _steps(bench: Bench, pairs: Ring) -> dict[str, Call]:
    calls = {"layer": rotating(lambda layer, x: layer(x), pairs)}
    if not bench.gpu:
        return calls
    last = [(layer.gate.linear, x, layer.gate.open_blocks) for layer, x in pairs]
    with torch.no_grad():
        scores = [(linear(x), opened) for linear, x, opened in last]
        gated = [(x, layer.weight, layer.gates(x), layer.bias) for layer, x in pairs]
    whole = rotating(step_of, pairs)
    return calls | {
        "step": whole,
        "step, overlapping": overlapping(whole),
        "scores": rotating(lambda last, x, _: launch_dynamic.matvec(x, last.weight[None], None, last.bias), last),
        "torch scores": rotating(lambda last, x, _: last(x), last),
        "selection": rotating(launch_dynamic.chosen, scores),
        "product": rotating(dynamic.gated_matvec, gated),
    }


def _timed(bench: Bench, calls: dict[str, Call], labels: Row, numbers: dict[str, int]) -> Iterator[Row]:
    """Rows with their ideal: what has to be read, at the rate of a copy."""
    size = {"fp32": 4, "bf16": 2}[labels["precision"]]
    opened = labels["open"] * numbers["all"]
    read = {"scores": numbers["gate"], "torch scores": numbers["gate"], "selection": 0, "product": opened}
    for launch in bench.clock.launches:
        for row in measure(bench.clock, calls, launch, **labels):
            whole = numbers["all"] if row["variant"].startswith("dense") else opened + numbers["gate"]
            ideal = size * read.get(row["variant"], whole) / bench.bandwidth
            yield {**row, "ideal": ideal, "share": ideal / row["seconds"]}


def batch(bench: Bench) -> Iterator[Row]:
    """Several inputs, each with its own open blocks: where skipping stops to pay."""
    out, width = SHAPES[0]
    for precision in [p for p in bench.precisions if p != "tf32"]:
        ring = layers(bench, out, width, precision, 3e8 if bench.gpu else 1e8)
        dense = [(nn.functional.linear, dense_weight(layer), layer.bias.detach()) for layer in ring]
        for number, share in itertools.product((1, 2, 4, 8, 16, 32, 128), (0.1, 0.5)):
            for layer in ring:
                layer.set_sparsity(1 - share)
            xs = [torch.randn(number, width, **bench.options(precision)) for _ in ring]
            calls: dict[str, Call] = {
                "dense": rotating(lambda x, part: part[0](x, part[1], part[2]), list(zip(xs, dense, strict=True))),
                "layer": rotating(lambda layer, x: layer(x), list(zip(ring, xs, strict=True))),
            }
            if bench.gpu:
                with torch.no_grad():
                    gated = [(x, layer.weight, layer.gates(x), layer.bias) for layer, x in zip(ring, xs, strict=True)]
                calls["open blocks"] = rotating(dynamic.gated_matvec, gated)
                calls["all blocks"] = rotating(launch_dynamic.product, gated)
            labels = {"out": out, "in": width, "precision": precision, "batch": number, "open": share}
            yield from measure(bench.clock, calls, bench.clock.launches[-1], **labels)


def training(bench: Bench) -> Iterator[Row]:
    """Forward and the gradients of inputs, weights, gates and bias; and the most memory that they take."""
    out, width = SHAPES[0]
    for precision, number in itertools.product(bench.precisions, (128, 4480) if bench.gpu else (128,)):
        options = bench.options(precision)
        layer, x = DynamicBlockSparseLinear(width, out, BLOCK, 0.5, **options), torch.randn(number, width, **options)
        gates = layer.gates(x).detach().requires_grad_()
        linear = nn.Linear(width, out, **options)
        given = layer.weight, gates, layer.bias
        products = {"torch": partial(torch_product, given)}
        if bench.gpu:
            products["kernel"] = partial(kernel_product, given)
        calls = {"dense": both(linear, tuple(linear.parameters()), x, out)}
        calls |= {name: both(own, given, x, out) for name, own in products.items()}
        calls["layer"] = both(layer, tuple(layer.parameters()), x, out)
        labels = {"out": out, "in": width, "precision": precision, "batch": number, "open": 0.5}
        for row in measure(bench.clock, calls, "eager", **labels):
            yield {**row, "peak": _peak(calls[row["variant"]]) if bench.gpu else math.nan}


def torch_product(given: tuple[Tensor, ...], x: Tensor) -> Tensor:
    weight, gates, bias = given
    product: Tensor = torch.ops.rmtnet.gated_product(x, weight, gates)
    return product + bias


def kernel_product(given: tuple[Tensor, ...], x: Tensor) -> Tensor:
    return dynamic.gated_product(x, *given)


def _peak(call: Call) -> float:
    """Bytes taken beyond those that were taken before."""
    torch.cuda.synchronize()
    before = torch.cuda.memory_allocated()
    torch.cuda.reset_peak_memory_stats()
    call()
    return float(torch.cuda.max_memory_allocated() - before)


def tiles(bench: Bench) -> Iterator[Row]:
    """Tiles of the product with open blocks, and of the scores."""
    if not bench.gpu:
        return
    choices = [(8, 4, 4), (4, 4, 4), (4, 8, 4), (8, 2, 4), (8, 8, 4), (16, 2, 4), (16, 4, 4), (16, 4, 8), (4, 2, 2)]
    for out, width in SHAPES[:2]:
        ring = layers(bench, out, width, "fp32", 6e8)
        pairs: Ring = [(layer, torch.randn(1, width, **bench.options("fp32"))) for layer in ring]
        numbers = {"all": out * width, "gate": ring[0].weight.shape[0] * width}
        labels = {"out": out, "in": width, "precision": "fp32", "batch": 1}
        for share in (0.25, 0.5):
            for layer in ring:
                layer.set_sparsity(1 - share)
            with torch.no_grad():
                gated = [(x, layer.weight, layer.gates(x), layer.bias) for layer, x in pairs]
            for choice in choices:
                own = Slices(choice[0], 128, *choice[1:])
                call = rotating(lambda *given, own=own: launch_dynamic.matvec(*given, tiles=own), gated)
                for row in _timed(bench, {"product": call}, labels | {"open": share}, numbers):
                    yield row | {"variant": f"product {choice}"}
        last = [(x, layer.gate.linear.weight[None], None, layer.gate.linear.bias) for layer, x in pairs]
        for choice in [(1, 16, 4), (2, 16, 4), (2, 8, 4), (4, 8, 4), (4, 16, 8), (8, 4, 4)]:
            own = Slices(choice[0], 128, *choice[1:])
            call = rotating(lambda *given, own=own: launch_dynamic.matvec(*given, tiles=own), last)
            for row in _timed(bench, {"scores": call}, labels | {"open": 1.0}, numbers):
                yield row | {"variant": f"scores {choice}"}


SECTIONS: dict[str, Callable[[Bench], Iterator[Row]]] = {
    "check": check,
    "step": step,
    "batch": batch,
    "training": training,
    "tiles": tiles,
}


# --- what is printed and written


def summary(section: str, rows: list[Row]) -> str:
    if section == "check":
        names = [name for row in rows for name, value in row.items() if isinstance(value, float)]
        lines = [
            [precision, *(f"{max(row.get(name, 0.0) for row in group):.1e}" for name in dict.fromkeys(names))]
            for (precision,), group in grouped(rows, ("precision",))
        ]
        return table(["largest error", *dict.fromkeys(names)], lines)
    text = []
    for (precision, launch), group in grouped(rows, ("precision", "launch")):
        text.append(f"**{section}: {precision}, {launch}**: microseconds (share of the ideal, or MB)\n")
        names = list(dict.fromkeys(row["variant"] for row in group))
        lines = []
        for (out, width, number, share), some in grouped(group, ("out", "in", "batch", "open")):
            found = {row["variant"]: row for row in some}
            lines.append([f"{out} x {width}", number, share, *(cell(found.get(name)) for name in names)])
        text.append(table(["layer", "batch", "open", *names], lines))
    return "\n".join(text)


def cell(row: Row | None) -> str:
    if row is None:
        return ""
    more = f" ({row['share']:.2f})" if row.get("share") else f" ({row['peak'] / 1e6:.0f})" if "peak" in row else ""
    return f"{row['seconds'] * 1e6:.4g}{more}"


def warm(sections: list[str], quick: bool, worker: int, workers: int) -> None:
    torch.set_num_threads(1)
    torch.manual_seed(SEED)
    bench = Bench(Warming(worker, workers), quick)
    for section in sections:
        for _ in SECTIONS[section](bench):
            pass


def compile_kernels(sections: list[str], quick: bool) -> None:
    """Several processes share the compilation, so that the clock waits for none."""
    workers = max(1, min(13, (os.cpu_count() or 1) - 3))
    context = multiprocessing.get_context("spawn")
    processes = [context.Process(target=warm, args=(sections, quick, each, workers)) for each in range(workers)]
    for process in processes:
        process.start()
    for process in processes:
        process.join()


def run(sections: list[str], device: str, quick: bool, output: Path | None) -> None:
    torch.set_num_threads(1)
    torch.manual_seed(SEED)
    began = time.monotonic()
    if device == "cuda":
        compile_kernels(sections, quick)
        print(f"kernels compiled: {time.monotonic() - began:.0f} s", flush=True)
    bench = Bench(LongGraphs() if device == "cuda" else CpuClock(), quick)
    bench.ceilings()
    print(json.dumps(machine(bench), indent=1), flush=True)
    rows: list[Row] = []
    text: list[str] = []
    for section in sections:
        own: list[Row] = []
        try:
            own.extend({"section": section, **row} for row in SECTIONS[section](bench))
        except Exception:  # what is measured already and the other sections are kept
            note(f"{section} broke off:\n{traceback.format_exc()}")
        rows += own
        text.append(f"{summary(section, own) if own else ''}\n{section}: {time.monotonic() - began:.0f} s\n")
        print(text[-1], flush=True)
        if output:
            output.write_text(json.dumps({"machine": machine(bench), "notes": NOTES, "rows": rows}, indent=0))
            output.with_suffix(".md").write_text("\n".join(text))
    print("\n".join(NOTES))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("sections", nargs="*", metavar="SECTION", help=f"of {', '.join(SECTIONS)}; default: all")
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu")
    parser.add_argument("--quick", action="store_true", help="one shape only")
    parser.add_argument("-o", "--output", type=Path, metavar="FILE")
    arguments = parser.parse_args()
    sections = arguments.sections or list(SECTIONS)
    if unknown := [section for section in sections if section not in SECTIONS]:
        parser.error(f"no section {', '.join(unknown)}: there are {', '.join(SECTIONS)}")
    output = arguments.output
    if output is None and "OUT" in os.environ:
        output = Path(os.environ["OUT"]) / f"dynamic_{arguments.device}.json"
    run(sections, arguments.device, arguments.quick, output)


if __name__ == "__main__":
    main()
