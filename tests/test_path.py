"""The one way through the house: study -> store -> table -> results -> figure, as the README tells it."""

import re
import runpy
import subprocess
import sys
from pathlib import Path

import pytest
import xarray as xr
from click.testing import CliRunner
from test_analysis import few_draws  # noqa: F401

from rmtnet import cli, publish
from rmtnet.study import load_studies

ROOT = Path(__file__).parents[1]
# Those of the sisters that the demonstration trains.
FIGURES = ("a_f06", "a_f07", "a_f08", "a_f09")


def rmtnet(*arguments):
    outcome = CliRunner().invoke(cli.main, [str(argument) for argument in arguments])
    assert outcome.exit_code == 0, outcome.output
    return outcome.stdout


@pytest.fixture(scope="module")
def demo(tmp_path_factory) -> Path:
    """The study of `make demo`, cut to 40 iterations and three sisters."""
    folder = tmp_path_factory.mktemp("demo")
    study = ROOT / "studies" / "lenet5_embedded.py"
    for sister in ("b1", "b10", "b100"):
        rmtnet("train", study, "-o", folder, "--only", sister, "--set", "iterations=40")
    runs = sorted(folder.glob("*.zarr"))
    table = rmtnet("analyze", *runs, "--reference", folder / "b1.zarr", "--layer", "ip1", "-o", folder / "results.nc")
    assert all(name in table for name in ("b1", "b10", "b100", "variance", "ratio"))
    return folder


def test_sisters_start_with_their_variance_ratio_and_learn(demo):
    with xr.open_dataset(demo / "results.nc") as results:
        for blocks in (10, 100):
            ratio = results["variance_ratio"].sel(run=f"b{blocks}", layer="ip1", step=0).item()
            # Two sampled variances of uniform entries, 400,000 and 400,000 / b of them.
            assert ratio == pytest.approx(blocks, rel=5 * (0.8 * (1 + blocks) / 400_000) ** 0.5)
        accuracy = results["accuracy"].sel(step=40)
        assert (accuracy > 0.5).all()


@pytest.mark.parametrize("name", FIGURES)
def test_every_figure_is_drawn_from_what_was_trained(demo, name, tmp_path):
    with xr.open_dataset(demo / "results.nc") as results, publish.paper_style():
        figure = runpy.run_path(str(ROOT / "figures" / f"{name}.py"))["draw"](results.load())
        pdf, png = publish.save(figure, tmp_path / name)
    assert pdf.read_bytes().startswith(b"%PDF")
    assert png.stat().st_size > 10_000


@pytest.mark.parametrize("path", sorted((ROOT / "studies").glob("*.py")), ids=lambda path: path.stem)
def test_every_study_loads_and_asks_a_question(path):
    studies = load_studies(path)
    assert len({study.name for study in studies}) == len(studies)
    assert len((runpy.run_path(str(path))["__doc__"] or "").split()) > 10


def test_the_plain_recipe_runs(tmp_path):
    command = [sys.executable, str(ROOT / "hooks" / "plain_loop.py"), str(tmp_path / "run.zarr")]
    assert "rmtnet analyze" in subprocess.run(command, capture_output=True, text=True, check=True).stdout
    assert "64 x 20" in rmtnet("info", tmp_path / "run.zarr")


def test_the_studies_of_the_readme_run_as_they_stand(tmp_path):
    readme = (ROOT / "README.md").read_text()
    blocks = re.findall(r"```python\n(.*?)```", readme, flags=re.DOTALL)
    (study,) = [block for block in blocks if "study = " in block]
    assert len([line for line in study.splitlines() if line.strip()]) <= 15
    (tmp_path / "my_study.py").write_text(study)
    rmtnet("train", tmp_path / "my_study.py", "-o", tmp_path, "--set", "iterations=3")
    assert len(list(tmp_path.glob("*.zarr"))) == len(load_studies(tmp_path / "my_study.py"))
