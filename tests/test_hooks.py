"""The recipes, run as they are: what they record is what the model's state was at those steps."""

import importlib.util
import os
import re
import runpy
import shutil
import socket
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import multiprocessing
from torch.distributed.checkpoint.state_dict import StateDictOptions, get_model_state_dict
from torch.optim.optimizer import register_optimizer_step_post_hook

from rmtnet import store
from rmtnet.record import Recorder

HOOKS = Path(__file__).parents[1] / "hooks"
# Recipe -> the library it needs, the optimizer steps that it does, the layers.  (Of amp's 50 the scaler skips one.)
ALONE = {
    "plain_loop": ("torch", 200, {"0", "2"}),
    "amp": ("torch", 49, {"0", "2"}),
    "compiled": ("torch", 50, {"0", "2"}),
    "lightning_trainer": ("lightning", 48, {"net.0", "net.2"}),
    "huggingface_trainer": (
        "transformers", 32,
        {f"model.layers.{k}.{part}_proj" for k in (0, 1) for part in (
            "self_attn.q", "self_attn.k", "self_attn.v", "self_attn.o", "mlp.gate", "mlp.up", "mlp.down")},
    ),
    "accelerate_loop": ("accelerate", 20, {"0", "2"}),
}  # fmt: skip
TOGETHER = {"ddp": (50, {"0", "2"}), "fsdp": (50, {"0", "2"})}
pytestmark = [
    # Of frameworks, about their own surroundings.
    pytest.mark.filterwarnings("ignore:.*does not have many workers"),
    pytest.mark.filterwarnings("ignore:.*LeafSpec.*is deprecated"),
]


class Witness:
    """Copies of the whole state of the recorded model: when its recorder was made and after every optimizer step.

    It hears of steps from torch's hook of all optimizers and takes names and values as torch's checkpoints do.
    """

    def __init__(self, monkeypatch):
        self.states: list[dict[str, torch.Tensor]] = []
        self.model = None
        original = Recorder.__init__

        def watched(recorder, model, *args, **options):
            self.model, self.states = model, []
            self.see()
            original(recorder, model, *args, **options)

        monkeypatch.setattr(Recorder, "__init__", watched)
        self.hook = register_optimizer_step_post_hook(lambda *_: self.see())

    def see(self):
        if self.model is not None:
            full = StateDictOptions(full_state_dict=True, cpu_offload=True)
            state = get_model_state_dict(self.model, options=full)
            self.states.append({name: tensor.clone() for name, tensor in state.items()})


@pytest.fixture
def witness(monkeypatch):
    witness = Witness(monkeypatch)
    yield witness
    witness.hook.remove()


def assert_recorded(path, states, last, layers):
    """Every recorded row is the state of its step, bit for bit."""
    run = store.open_run(path)
    assert set(run) == layers
    steps = run.steps.values
    assert steps[0] == 0 and steps[-1] == last == len(states) - 1 and len(steps) > 4
    for layer in layers:
        name = run[layer].attrs["torch_name"]
        expected = torch.stack([states[step][name] for step in steps])
        assert (expected[1:] != expected[:-1]).flatten(1).any(1).all(), "the weights must change"
        assert run[layer].values.tobytes() == expected.numpy().tobytes()
    assert np.isfinite(run.metrics["loss"]).sum() > 4


@pytest.mark.parametrize("recipe", ALONE)
def test_a_recipe_records_the_states_of_its_model(recipe, tmp_path, monkeypatch, witness):
    library, last, layers = ALONE[recipe]
    pytest.importorskip(library, reason=f"needs {library}: pip install 'rmtnet[test]'")
    # Compiling C++ takes most of a minute: its own test below.
    monkeypatch.setattr(shutil, "which", lambda name: None)
    monkeypatch.setattr(sys, "argv", [recipe, str(tmp_path / "run.zarr")])
    runpy.run_path(str(HOOKS / f"{recipe}.py"), run_name="__main__")
    assert_recorded(tmp_path / "run.zarr", witness.states, last, layers)


@pytest.mark.slow
@pytest.mark.skipif(shutil.which("g++") is None, reason="torch's inductor needs a C++ compiler")
@pytest.mark.filterwarnings("ignore:.*torch.jit.script:DeprecationWarning")
def test_a_model_that_is_really_compiled_is_recorded(tmp_path, monkeypatch, witness):
    monkeypatch.setattr(sys, "argv", ["compiled", str(tmp_path / "run.zarr")])
    runpy.run_path(str(HOOKS / "compiled.py"), run_name="__main__")
    assert_recorded(tmp_path / "run.zarr", witness.states, *ALONE["compiled"][1:])


def one_rank(rank, recipe, folder, port):
    """A process as torchrun starts it, with a witness."""
    torch.set_num_threads(1)
    os.environ |= {"RANK": str(rank), "WORLD_SIZE": "2", "MASTER_ADDR": "localhost", "MASTER_PORT": str(port)}
    with pytest.MonkeyPatch.context() as monkeypatch:
        witness = Witness(monkeypatch)
        monkeypatch.setattr(sys, "argv", [recipe, f"{folder}/run.zarr"])
        runpy.run_path(str(HOOKS / f"{recipe}.py"), run_name="__main__")
    torch.save(witness.states, f"{folder}/states-{rank}.pt")
    # Gloo's threads sometimes abort a process that takes its interpreter down in order.
    os._exit(0)


def free_port():
    with socket.socket() as listener:
        listener.bind(("localhost", 0))
        return listener.getsockname()[1]


@pytest.mark.parametrize("recipe", TOGETHER)
def test_two_processes_record_one_run(recipe, tmp_path):
    arguments = (recipe, str(tmp_path), free_port())
    multiprocessing.start_processes(one_rank, arguments, nprocs=2, start_method="forkserver")
    states = torch.load(tmp_path / "states-0.pt", weights_only=True)
    assert_recorded(tmp_path / "run.zarr", states, *TOGETHER[recipe])
    assert not list(tmp_path.glob("*superseded*"))


def ended_well(done):
    """Gloo's threads sometimes abort a data-parallel process at its very end, with no recorder too (torch 2.13)."""
    return done.returncode == 0 or "terminate called without an active exception" in done.stderr


@pytest.mark.slow
@pytest.mark.parametrize("recipe", [*ALONE, *TOGETHER])
def test_a_recipe_runs_as_a_script(recipe, tmp_path):
    """As the first lines of each say, from another folder."""
    if recipe in ALONE:
        pytest.importorskip(ALONE[recipe][0])
    command = [sys.executable, str(HOOKS / f"{recipe}.py"), "run.zarr"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0 or (recipe in TOGETHER and ended_well(done)), done.stderr
    assert done.returncode != 0 or "recorded; now:  rmtnet analyze run.zarr" in done.stdout
    assert len(store.open_run(tmp_path / "run.zarr").steps) > 4


@pytest.mark.slow
@pytest.mark.parametrize(("recipe", "last"), [("accelerate_loop", 10), ("huggingface_trainer", 16)])
def test_a_framework_records_one_run_from_two_processes(recipe, last, tmp_path):
    """They train data-parallel when torchrun starts them: half as many steps."""
    pytest.importorskip(ALONE[recipe][0])
    torchrun = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2"]
    done = subprocess.run(
        [*torchrun, str(HOOKS / f"{recipe}.py"), "run.zarr"], cwd=tmp_path, capture_output=True, text=True, timeout=300
    )
    assert ended_well(done), done.stderr
    run = store.open_run(tmp_path / "run.zarr")
    assert set(run) == ALONE[recipe][2] and run.steps.values[-1] == last
    assert [path.name for path in tmp_path.iterdir()] == ["run.zarr"]


@pytest.mark.parametrize("recipe", sorted(HOOKS.glob("*.py")), ids=lambda path: path.stem)
def test_a_recipe_is_named_shown_and_short(recipe):
    # `python hooks/X.py` puts hooks/ first on the path: a recipe named accelerate would be found for the library.
    assert importlib.util.find_spec(recipe.stem) is None
    assert recipe.stem in {*ALONE, *TOGETHER}
    assert f"`{recipe.name}`" in (HOOKS / "README.md").read_text()
    source = recipe.read_text()
    assert len(source.splitlines()) <= 50
    assert re.search(rf"^python hooks/{recipe.name} \[RUN.zarr\]|or    python hooks/{recipe.name}", source, re.M)
