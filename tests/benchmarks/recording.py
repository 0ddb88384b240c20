"""What recording every step costs a training, how fast a run is written and read: the tables of docs/benchmarks.md.

    python tests/benchmarks/recording.py [overhead] [writing] [reading] [--device cuda]

Wall time, blocks of steps with and without each recorder in turn.  The writer has the second core: run it on a quiet
machine.  TensorBoard and wandb take part where they are installed.
"""

import argparse
import copy
import importlib.util
import itertools
import os
import platform
import shutil
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from importlib.metadata import version
from pathlib import Path

import numpy as np
import torch
import xarray as xr
import zarr
from numcodecs.blosc import Blosc
from numpy.typing import NDArray
from torch import nn
from torch.nn import functional

from rmtnet import __version__, store
from rmtnet.networks import LeNet5
from rmtnet.record import Recorder
from rmtnet.store import MatrixSpec, RunWriter
from rmtnet.store.schema import encode

SEED, BATCH = 0, 64


# --- what a step costs


class Training:
    """A model, its data and plain SGD with momentum."""

    def __init__(
        self, model: nn.Module, shape: tuple[int, ...], layers: list[str] | None, block: int, device: str = "cpu"
    ):
        self.model, self.layers, self.block, self.device = model.to(device), layers, block, device
        self.inputs = torch.randn(BATCH, *shape).to(device)
        self.labels = torch.randint(0, 10, (BATCH,)).to(device)
        self.optimizer = torch.optim.SGD(model.parameters(), 1e-3, momentum=0.9)

    @property
    def weights(self) -> dict[str, torch.Tensor]:
        chosen = self.model.named_parameters()
        wanted = (name for name in self.layers or [])
        names = {f"{name}.weight" for name in wanted}
        return {name: p for name, p in chosen if p.ndim == 2 and (self.layers is None or name in names)}

    def seconds(self, after: Callable[[], object] = lambda: None) -> float:
        """Of one step, the mean of a block, until a GPU has done it; what a recorder does after it is not in it."""
        self._wait()
        began = time.perf_counter()
        for _ in range(self.block):
            self.optimizer.zero_grad()
            functional.cross_entropy(self.model(self.inputs), self.labels).backward()
            self.optimizer.step()
            after()
        self._wait()
        return (time.perf_counter() - began) / self.block

    def _wait(self) -> None:
        if self.device != "cpu":
            torch.cuda.synchronize(self.device)


def trainings(device: str) -> Iterator[tuple[str, Training]]:
    torch.manual_seed(SEED)
    yield "LeNet-5, ip1 + ip2", Training(LeNet5(), (1, 28, 28), ["ip1", "ip2"], 40 if device == "cpu" else 400, device)
    mlp = nn.Sequential(nn.Linear(784, 300), nn.ReLU(), nn.Linear(300, 100), nn.ReLU(), nn.Linear(100, 10))
    yield "MLP 784-300-100-10", Training(mlp, (784,), None, 400, device)
    deep = nn.Sequential(*(part for _ in range(102) for part in (nn.Linear(131, 131), nn.ReLU())))
    yield "102-layer MLP", Training(deep, (131,), None, 40, device)
    if device != "cpu":
        feed_forward = [nn.Linear(1024, 4096), nn.GELU(), nn.Linear(4096, 1024)] * 4
        wide = nn.Sequential(*map(copy.deepcopy, feed_forward))
        yield "4 feed-forwards 1024-4096-1024", Training(wide, (1024,), ["0"], 400, device)


@contextmanager
def copying(training: Training, folder: Path) -> Iterator[Callable[[], object]]:
    """The floor: the rows into a ring in memory, as the recorder's hook does."""
    weights = list(training.weights.values())
    size = max(2, 64 * 2**20 // sum(weight.nbytes for weight in weights))
    ring = [[np.ones(tuple(weight.shape), np.float32) for weight in weights] for _ in range(size)]
    places = itertools.cycle(ring)

    def copy_rows() -> None:
        for room, weight in zip(next(places), weights, strict=True):
            np.copyto(room, weight.detach().cpu().numpy())

    yield copy_rows


@contextmanager
def recording(training: Training, folder: Path, **options: object) -> Iterator[Callable[[], object]]:
    recorder = Recorder(training.model, folder / "run.zarr", layers=training.layers, **options)  # type: ignore[arg-type]
    with recorder.attach(training.optimizer):
        yield lambda: None
    stalls.append(recorder.stalls)


stalls: list[int] = []


@contextmanager
def saving(training: Training, folder: Path) -> Iterator[Callable[[], object]]:
    steps = itertools.count()
    yield lambda: torch.save(training.weights, folder / f"{next(steps)}.pt")


@contextmanager
def appending(training: Training, folder: Path) -> Iterator[Callable[[], object]]:
    steps = itertools.count()

    def append() -> None:
        step = next(steps)
        rows = {
            name: (("step", f"{name}_out", f"{name}_in"), weight.detach().cpu().numpy()[None])
            for name, weight in training.weights.items()
        }
        dataset = xr.Dataset(rows, coords={"step": [step]})
        dataset.to_zarr(folder / "rows.zarr", append_dim="step" if step else None, mode="a" if step else "w")

    yield append


@contextmanager
def histograms(training: Training, folder: Path) -> Iterator[Callable[[], object]]:
    from torch.utils.tensorboard import SummaryWriter

    writer, steps = SummaryWriter(folder), itertools.count()

    def add() -> None:
        step = next(steps)
        for name, weight in training.weights.items():
            writer.add_histogram(name, weight, step)

    yield add
    writer.close()


CONTENDERS: dict[str, Callable[..., object]] = {
    "copy only (floor)": copying,
    "rmtnet (lz4)": recording,
    "rmtnet (none)": lambda training, folder: recording(training, folder, codec="none"),
    "torch.save": saving,
    "xarray append": appending,
    **({"TensorBoard histograms": histograms} if importlib.util.find_spec("tensorboard") else {}),
}


def overhead(rounds: int, device: str) -> None:
    print("| training | recorder | step alone | with it: median | min | max | stalls |\n|---|---|--:|--:|--:|--:|--:|")
    for what, training in trainings(device):
        training.seconds()
        for name, contender in CONTENDERS.items():
            slow = name in ("xarray append", "TensorBoard histograms")
            pairs = []
            stalls.clear()
            for _ in range(2 if slow else rounds):
                with tempfile.TemporaryDirectory() as folder:
                    before = training.seconds()
                    with contender(training, Path(folder)) as after:  # type: ignore[attr-defined]
                        during = training.seconds(after)
                    pairs.append((during, (before + training.seconds()) / 2))
            found = np.array(pairs)
            more = 100 * (found[:, 0] / found[:, 1] - 1)
            spread = " | ".join(f"{value:+.1f} %" for value in (np.median(more), more.min(), more.max()))
            print(
                f"| {what} | {name} | {1e3 * np.median(found[:, 1]):.2f} ms | {spread} | {sum(stalls) or ''} |",
                flush=True,
            )


# --- writing and reading

ROWS = 128


def real_rows(count: int) -> dict[str, NDArray[np.float32]]:
    """ip1 and ip2 of LeNet-5 over successive steps of training on noise: bits as training leaves them."""
    torch.manual_seed(SEED)
    training = Training(LeNet5(), (1, 28, 28), ["ip1", "ip2"], 1)
    distinct = 64
    rows = {name: np.empty((distinct, 1, *weight.shape), np.float32) for name, weight in training.weights.items()}
    for step in range(distinct):
        training.seconds()
        for name, weight in training.weights.items():
            rows[name][step, 0] = weight.detach().numpy()
    return {name: np.concatenate([values] * (count // distinct)) for name, values in rows.items()}


def write_run(path: Path, rows: dict[str, NDArray[np.float32]], codec: str, together: int = 32) -> float:
    shapes = {name: values.shape[1:] for name, values in rows.items()}
    with RunWriter.create(path, overwrite=True, sync="never") as writer:
        writer.declare([MatrixSpec(name, shape, np.dtype("f4")) for name, shape in shapes.items()], codec=codec)  # type: ignore[arg-type]
        began = time.perf_counter()
        for start in range(0, ROWS, together):
            steps = range(start, start + together)
            writer.append(list(steps), {name: list(values[start : start + together]) for name, values in rows.items()})
            writer.commit()
        return time.perf_counter() - began


def write_raw(path: Path, rows: dict[str, NDArray[np.float32]]) -> float:
    began = time.perf_counter()
    with open(path, "wb", buffering=0) as file:
        for step in range(ROWS):
            for values in rows.values():
                file.write(values[step].data)
    return time.perf_counter() - began


def encode_alone(rows: dict[str, NDArray[np.float32]], codec: str) -> float:
    """The same chunks, encoded and thrown away."""
    taken = 0.0
    with tempfile.TemporaryDirectory() as folder, RunWriter.create(Path(folder, "run.zarr"), sync="never") as writer:
        shapes = {name: values.shape[1:] for name, values in rows.items()}
        writer.declare([MatrixSpec(name, shape, np.dtype("f4")) for name, shape in shapes.items()], codec=codec)  # type: ignore[arg-type]
        for name, values in rows.items():
            array = zarr.open_array(Path(folder, "run.zarr/weights", encode(name)))
            encoders = chunk_encoders(array)
            depth, _, out, _ = array.chunks
            for start in range(0, ROWS, depth):
                for place in range(0, values.shape[2], out):
                    piece = values[start : start + depth, :, place : place + out]
                    began = time.perf_counter()
                    encoded = piece
                    for step in encoders:
                        encoded = step(encoded)
                    taken += time.perf_counter() - began
    return taken


def chunk_encoders(array: zarr.Array) -> list[Callable[[NDArray[np.float32]], NDArray[np.float32]]]:
    """What numpy and numcodecs do by themselves for the codecs of an array."""
    turn = (
        [lambda piece: np.ascontiguousarray(piece.transpose(1, 2, 3, 0))] if array.filters else [np.ascontiguousarray]
    )
    packed = [codec for codec in array.compressors if hasattr(codec, "cname")]
    return turn + [Blosc(codec.cname.value, codec.clevel, Blosc.BITSHUFFLE).encode for codec in packed]


def writing(rounds: int, device: str) -> None:
    rows = {name: values[:ROWS] for name, values in real_rows(512).items()}
    size = sum(values.nbytes for values in rows.values()) / 2**20
    print("| codec | MB/s | of raw `write()`: median | min | max | of the codec alone | size |")
    print("|---|--:|--:|--:|--:|--:|--:|")
    for codec in store.CODECS:
        found, ratio = [], 0.0
        for _ in range(rounds):
            with tempfile.TemporaryDirectory() as folder:
                raw = write_raw(Path(folder, "raw"), rows)
                os.unlink(Path(folder, "raw"))
                ours = write_run(Path(folder, "run.zarr"), rows, codec)
                found.append((ours, raw, encode_alone(rows, codec)))
                stored = sum(file.stat().st_blocks * 512 for file in Path(folder).rglob("c.*"))
                ratio = size * 2**20 / stored
        ours_, raw_, alone = np.array(found).T
        spread = " | ".join(
            f"{value:.2f}" for value in (np.median(raw_ / ours_), *np.percentile(raw_ / ours_, (0, 100)))
        )
        share = "" if codec == "none" else f"{np.median(alone / ours_):.2f}"
        print(f"| {codec} | {size / np.median(ours_):.0f} | {spread} | {share} | 1/{ratio:.2f} |", flush=True)


def timed(work: Callable[[], object], rounds: int) -> float:
    taken = []
    for _ in range(rounds):
        began = time.perf_counter()
        work()
        taken.append(time.perf_counter() - began)
    return float(np.median(taken))


def reading(rounds: int, device: str) -> None:
    rows = {name: np.concatenate([values] * 2)[:1000] for name, values in real_rows(512).items()}
    print("| what | codec | seconds | goal |\n|---|---|--:|--:|")
    folder = Path(tempfile.mkdtemp())
    for codec, goal in zip(store.CODECS, ("1", "3", "3", "3"), strict=True):
        path = folder / f"{codec}.zarr"
        with RunWriter.create(path, sync="never") as writer:
            specs = [MatrixSpec(name, values.shape[1:], np.dtype("f4")) for name, values in rows.items()]
            writer.declare(specs, codec=codec)  # type: ignore[arg-type]
            for start in range(0, 1000, 40):
                writer.append(
                    list(range(start, start + 40)),
                    {name: list(values[start : start + 40]) for name, values in rows.items()},
                )
                writer.commit()
        run = store.open_run(path)
        one = timed(lambda run=run: run["ip1.weight"].values, rounds)  # type: ignore[misc]
        all_layers = timed(lambda run=run: [run[name].sel(step=777).values for name in run], rounds)  # type: ignore[misc]
        print(f"| ip1, 1,000 steps of 1.6 MB | {codec} | {one:.3f} | {goal} |")
        print(f"| one step of both layers | {codec} | {all_layers:.4f} | 0.05 |", flush=True)
    shutil.rmtree(folder)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("tables", nargs="*", default=["overhead", "writing", "reading"])
    parser.add_argument("--rounds", type=int, default=8)
    parser.add_argument("--device", default="cpu", help="of the trainings whose overhead is measured")
    options = parser.parse_args()
    torch.set_num_threads(1)
    for table in options.tables:
        {"overhead": overhead, "writing": writing, "reading": reading}[table](options.rounds, options.device)
        print()
    packages = ", ".join(f"{name} {version(name)}" for name in ("torch", "numpy", "zarr", "xarray", "numcodecs"))
    print(f"Seed {SEED}; Python {platform.python_version()}, rmtnet {__version__}, {packages}; {os.cpu_count()} cores.")


if __name__ == "__main__":
    main()
