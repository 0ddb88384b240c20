"""What recording every step costs a step, and how fast rows are written, beside the plain copy and plain files."""

import itertools
import os
import shutil
import tempfile
from pathlib import Path

import numpy as np
import torch
from torch.nn import functional

from rmtnet.networks import LeNet5
from rmtnet.record import Recorder
from rmtnet.store import CODECS, MatrixSpec, RunWriter


class Step:
    """One optimizer step of LeNet-5 at batch 64, ip1 and ip2 recorded."""

    param_names = ("recorder",)
    params = (["none", "copy", "rmtnet", "torch.save"],)

    def setup(self, kind: str) -> None:
        torch.manual_seed(0)
        torch.set_num_threads(1)
        self.folder = Path(tempfile.mkdtemp())
        self.model = LeNet5()
        self.optimizer = torch.optim.SGD(self.model.parameters(), 1e-3, momentum=0.9)
        self.images, self.labels = torch.randn(64, 1, 28, 28), torch.randint(0, 10, (64,))
        self.weights = [self.model.ip1.weight, self.model.ip2.weight]
        self.ring = itertools.cycle([[np.ones(weight.shape, np.float32) for weight in self.weights] for _ in range(32)])
        self.recorder = None
        if kind == "rmtnet":
            self.recorder = Recorder(self.model, self.folder / "run.zarr", layers=["ip1", "ip2"])
            self.recorder.attach(self.optimizer)

    def time_step(self, kind: str) -> None:
        self.optimizer.zero_grad()
        functional.cross_entropy(self.model(self.images), self.labels).backward()
        self.optimizer.step()
        if kind == "copy":
            for room, weight in zip(next(self.ring), self.weights, strict=True):
                np.copyto(room, weight.detach().numpy())
        elif kind == "torch.save":
            torch.save(self.weights, self.folder / "step.pt")

    def teardown(self, kind: str) -> None:
        if self.recorder:
            self.recorder.close()
        shutil.rmtree(self.folder)


class Writing:
    """32 rows of 1.62 MB: committed, or as one plain file."""

    param_names = ("codec",)
    params = (list(CODECS),)

    def setup(self, codec: str) -> None:
        self.folder = Path(tempfile.mkdtemp())
        start, change = np.random.default_rng(0).normal(size=(2, 1, 500, 810)).astype(np.float32)
        self.rows = [start + 1e-4 * step * change for step in range(32)]
        self.writer = RunWriter.create(self.folder / "run.zarr", sync="never")
        self.writer.declare([MatrixSpec("ip1", (1, 500, 810), np.dtype("f4"))], codec=codec)  # type: ignore[arg-type]
        self.step = 0

    def time_append_and_commit(self, codec: str) -> None:
        self.writer.append(list(range(self.step, self.step + 32)), {"ip1": self.rows})
        self.writer.commit()
        self.step += 32

    def time_plain_file(self, codec: str) -> None:
        with open(self.folder / f"{self.step}.raw", "wb", buffering=0) as file:
            os.writev(file.fileno(), [row.data.cast("B") for row in self.rows])
        self.step += 32

    def teardown(self, codec: str) -> None:
        self.writer.close()
        shutil.rmtree(self.folder)
