import runpy
import subprocess
import sys
from functools import partial

import pytest

from rmtnet.caffe import Solver
from rmtnet.fingerprint import text
from rmtnet.networks import LeNet5
from rmtnet.schedules import every

STUDY = """
import torch
from functools import partial
from torch import nn
from rmtnet.networks import LeNet5

width = 12
rate = lambda: 0.1

def activation():
    return nn.ReLU()

sizes = [4, 5]

class Base(nn.Sequential):
    def describe(self):
        return "plain"

class Net(Base):
    gain = 3

    def __init__(self, blocks, act=torch.relu, start=lambda: 0):
        kind = "relu" if act in {"relu", "tanh", "sigmoid"} else "other"
        super().__init__(nn.Linear(4, width), activation(), nn.Linear(width, sizes[0]))

network = partial(Net, 3)
optimizer = lambda model: torch.optim.SGD(model.parameters(), lr=rate())
"""


def declared(tmp_path, name, source=STUDY):
    path = tmp_path / "study.py"
    path.write_text(source)
    return text(runpy.run_path(str(path))[name])


def test_what_packages_hold_is_named():
    assert text(partial(LeNet5, b1=10)) == "LeNet5(b1=10)"
    assert text(every(10)) == "every(10)"
    assert text(Solver()).startswith("Solver(rate=0.01")
    assert text("mnist") == "mnist"
    assert text(len) == "len"


@pytest.mark.parametrize("name", ["network", "optimizer"])
def test_the_same_file_gives_the_same_text_in_every_process(tmp_path, name):
    here = declared(tmp_path, name)
    code = f"import runpy; from rmtnet.fingerprint import text; print(text(runpy.run_path('study.py')['{name}']))"
    there = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True, check=True)
    assert there.stdout.strip() == here


@pytest.mark.parametrize(
    ("name", "old", "new"),
    [
        ("optimizer", "torch.optim.SGD", "torch.optim.Adam"),
        ("optimizer", "rate = lambda: 0.1", "rate = lambda: 0.2"),
        ("network", "nn.ReLU()", "nn.Tanh()"),
        ("network", "width = 12", "width = 13"),
        ("network", "sizes = [4, 5]", "sizes = [5, 5]"),
        ("network", "gain = 3", "gain = 4"),
        ("network", '"plain"', '"odd"'),
        ("network", '"tanh"', '"gelu"'),
        ("network", "partial(Net, 3)", "partial(Net, 4)"),
        ("network", "super().__init__(", "super().__init__(nn.Flatten(), "),
    ],
)
def test_edited_code_has_another_text(tmp_path, name, old, new):
    assert declared(tmp_path, name) != declared(tmp_path, name, STUDY.replace(old, new))


def test_comments_and_unrelated_code_do_not_matter(tmp_path):
    edited = STUDY.replace("width = 12", "# how wide\nwidth = 12") + "\nother = 5\n"
    assert declared(tmp_path, "network") == declared(tmp_path, "network", edited)
