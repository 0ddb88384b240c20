import dataclasses
import json
from functools import partial

import pytest
import torch
from torch import nn

from rmtnet.caffe import Solver
from rmtnet.networks import LeNet5
from rmtnet.study import Study, chosen, load_studies, with_settings


def study(**fields):
    return Study(**{"name": "b1", "network": LeNet5, "dataset": "mnist5k", "iterations": 10, **fields})


def load(tmp_path, text):
    path = tmp_path / "study.py"
    path.write_text(text)
    return load_studies(path)


HEAD = "from rmtnet.networks import LeNet5\nfrom rmtnet.study import Study\n"
ONE = "Study(name={!r}, network=LeNet5, dataset='mnist5k', iterations=10)"


def test_a_file_declares_one_study_or_a_list_of_them(tmp_path):
    assert load(tmp_path, HEAD + f"study = {ONE.format('a')}") == [study(name="a")]
    both = load(tmp_path, HEAD + f"study = [{ONE.format('a')}, {ONE.format('b')}]")
    assert [one.name for one in both] == ["a", "b"]


def test_functions_of_a_study_file_still_see_its_globals(tmp_path):
    text = HEAD + "from torch import nn\nWIDTH = 3\ndef net():\n    return nn.Linear(WIDTH, 2)\n"
    [one] = load(tmp_path, text + "study = Study(name='a', network=net, dataset='mnist5k', iterations=1)")
    assert one.network().in_features == 3


@pytest.mark.parametrize(
    "text, message",
    [
        (HEAD + "\nstudy = Study(\n    name='a', network=LeNet5, dataset='mnist5k', itertions=10)",
         r"study\.py:[45]: TypeError: .*'itertions'.*; did you mean 'iterations'\?"),
        (HEAD + "study = Study(name='a', network=LeNet5, dataset='mnist5k', iterations=10, q=1)", r":3: .*'q'$"),
        (HEAD + "study = Study(name='a', network=LeNet5, dataset='mnist5k')", r"study\.py:3: .*'iterations'$"),
        (HEAD + "\n\nstudy = Study(name='a', network=LeNet5, dataset='mnist5k', iterations=0)",
         r"study\.py:5: ValueError: iterations must be a whole number of at least 1, got 0"),
        ("study = (", r"study\.py:1: SyntaxError: "),
        ("\nimport nosuchthing", r"study\.py:2: ModuleNotFoundError"),
        ("def f():\n    return 1 / 0\n\nf()", r"study\.py:2: ZeroDivisionError"),
        ("", r"study\.py: set 'study' to a Study or a list of them"),
        ("study = 3", "set 'study' to a Study"),
        ("study = []", "set 'study' to a Study"),
        (HEAD + f"study = [{ONE.format('a')}, 3]", "set 'study' to a Study"),
        (HEAD + f"study = [{ONE.format('a')}, {ONE.format('a')}]", "two studies are named 'a'"),
    ],
)  # fmt: skip
def test_a_bad_study_file_is_named_with_its_line(tmp_path, text, message):
    with pytest.raises(ValueError, match=message):
        load(tmp_path, text)


def test_the_line_is_found_when_the_path_is_relative(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "study.py").write_text("\n\n1 / 0\n")
    with pytest.raises(ValueError, match=r"^study\.py:3: ZeroDivisionError"):
        load_studies("study.py")
    with pytest.raises(FileNotFoundError, match=r"nothing\.py: no such study file"):
        load_studies("nothing.py")


@pytest.mark.parametrize(
    "fields, error, message",
    [
        ({"name": ""}, ValueError, "name must be a plain file name, got ''"),
        ({"name": "a/b"}, ValueError, "plain file name"),
        ({"name": ".."}, ValueError, "plain file name"),
        ({"name": 5}, ValueError, "plain file name, got 5"),
        ({"iterations": 1.5}, ValueError, "iterations must be a whole number of at least 1, got 1.5"),
        ({"batch": 0}, ValueError, "batch must be a whole number of at least 1, got 0"),
        ({"seed": -1}, ValueError, "seed must be a whole number of at least 0, got -1"),
        ({"network": nn.Linear(2, 2).weight}, TypeError, "network must be callable"),
        ({"evaluate_train": -1}, ValueError, "evaluate_train must be a whole number of at least 0, got -1"),
        ({"record": 100}, TypeError, "record must be callable, got 100"),
        ({"pruning": 0.5}, TypeError, "pruning must be callable or None, got 0.5"),
        ({"centre": 1}, TypeError, "centre must be True or False, got 1"),
        ({"what": "weights"}, TypeError, "what must be a list of names such as 'weights' and 'moments', got 'weights'"),
    ],
)
def test_a_study_checks_itself(fields, error, message):
    with pytest.raises(error, match=message):
        study(**fields)


GRID = [study(name="b1", network=partial(LeNet5, b1=1)), study(name="b10", network=partial(LeNet5, b1=10))]


def test_only_chooses_by_name():
    assert chosen(GRID, "*") == GRID
    assert chosen(GRID, "b10") == GRID[1:]
    with pytest.raises(ValueError, match="no study matches 'x'; there are b1, b10"):
        chosen(GRID, "x")


def test_settings_change_a_field_of_every_study():
    changed = with_settings(GRID, {"iterations": "600", "pixel_scale": "1e-2", "device": "cuda", "dataset": "mnist"})
    expected = {"iterations": 600, "pixel_scale": 0.01, "device": "cuda", "dataset": "mnist"}
    assert changed == [dataclasses.replace(one, **expected) for one in GRID]
    assert with_settings(GRID, {}) == GRID


@pytest.mark.parametrize(
    "settings, message",
    [
        ({"iteration": "5"}, "cannot set 'iteration'; these can be set: batch, dataset, device, evaluate_train"),
        ({"network": "LeNet5"}, "cannot set 'network'"),
        ({"name": "x"}, "cannot set 'name'"),
        ({"iterations": "many"}, "iterations must be a whole number, got 'many'"),
        ({"iterations": "1.5"}, "iterations must be a whole number, got '1.5'"),
        ({"pixel_scale": "x"}, "pixel_scale must be a number, got 'x'"),
        ({"iterations": "-5"}, "iterations must be a whole number of at least 1, got -5"),
    ],
)
def test_a_setting_that_does_not_fit_is_refused(settings, message):
    with pytest.raises(ValueError, match=message):
        with_settings(GRID, settings)


def test_what_tells_studies_apart_cannot_be_set():
    with pytest.raises(ValueError, match="cannot set 'seed': it is what tells these studies apart"):
        with_settings([study(name="a", seed=0), study(name="b", seed=1)], {"seed": "2"})


def activation(x):
    return x


class Loss:
    """A callable whose repr is python's own, with an address."""

    def __call__(self, scores, labels):
        return scores.sum()


def test_a_description_does_not_depend_on_addresses():
    def described():
        network = partial(LeNet5, activation=lambda x: x, b1=10, norm=activation)
        return study(network=network, loss=Loss(), optimizer=Solver(rate=0.5)).described

    one, keep, other = described(), [Loss() for _ in range(10)], described()
    assert one == other and len(keep) == 10
    assert "0x" not in json.dumps(one)
    assert one["network"].startswith("LeNet5(") and "b1=10, norm=activation" in one["network"]
    assert "rate=0.5" in one["optimizer"]


def test_a_description_tells_strings_from_names():
    one = study(network=partial(LeNet5, activation="sigmoid"))
    assert one.described["network"] == "LeNet5(activation='sigmoid')"
    assert json.loads(one.to_json()) == one.described
    assert one.described["loss"] == "cross_entropy" and study(loss=torch.nn.functional.nll_loss) != one
