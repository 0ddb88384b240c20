import json
import runpy
from pathlib import Path

import numpy as np
import pytest
import torch
from click.testing import CliRunner
from matplotlib.backends.backend_agg import FigureCanvasAgg
from numpy.testing import assert_allclose, assert_array_equal
from scipy.spatial.distance import jaccard
from scipy.stats import binom, chi2_contingency
from torch import nn

from rmtnet import cli, publish, results
from rmtnet.gates import (
    class_similarity,
    classes,
    collecting_gates,
    effective_spectra,
    effective_spectrum,
    gate_information,
    gate_shares,
    open_fraction,
    pattern_information,
)
from rmtnet.layers.dynamic import DynamicBlockSparseLinear, counting_open
from rmtnet.layers.gating import RankGate
from rmtnet.networks.dynamic import DynamicNet
from rmtnet.record import Recorder
from rmtnet.schedules import at
from rmtnet.spectra import singular_values
from rmtnet.store import open_run
from rmtnet.study import load_studies
from rmtnet.training import run


def small_net():
    torch.manual_seed(0)
    return DynamicNet(20, width=16, layers=2, block=4, sparsity=0.75, classes=3)


# --- shares


def test_open_fraction_counts_inputs():
    patterns = np.array([[2.0, 0, 0], [0.5, 0, 1], [3, 0, 0], [1, 0, 0]])
    assert_array_equal(open_fraction(patterns), [1, 0, 0.25])
    assert_array_equal(open_fraction(torch.tensor(patterns) != 0), [1, 0, 0.25])


@pytest.mark.parametrize(
    ("patterns", "message"),
    [([True, False], "input, gate"), (np.empty((0, 3), bool), "at least one"), ([[np.nan, 1]], "finite")],
)
def test_what_is_no_pattern_is_refused(patterns, message):
    with pytest.raises(ValueError, match=message):
        open_fraction(patterns)


def test_gates_are_shared_out_at_95_per_cent():
    fraction = [[1.0, 0.96, 0.95, 0.5], [0.06, 0.05, 0.04, 0.0]]
    assert gate_shares(fraction) == (2 / 8, 2 / 8, 4 / 8)
    assert gate_shares(fraction, level=0.5) == (3 / 8, 4 / 8, 1 / 8)
    assert gate_shares([0.3]) == (0, 0, 1)


@pytest.mark.parametrize("fraction", [[0.2, np.nan], [1.1], [-0.1], []])
def test_shares_need_fractions(fraction):
    with pytest.raises(ValueError, match="was any input counted"):
        gate_shares(fraction)


def test_shares_need_a_level_of_a_half_or_more():
    with pytest.raises(ValueError, match="level"):
        gate_shares([0.3], level=0.4)


# --- collecting


@pytest.mark.parametrize("grad", [True, False])
def test_collected_gates_are_those_of_each_layers_input(grad):
    model, images, inputs = small_net().eval(), torch.randn(7, 20), {}
    for name in ("hidden1", "hidden2"):
        layer = getattr(model, name)
        layer.register_forward_hook(lambda module, given, out, name=name: inputs.update({name: given[0]}))
    with torch.set_grad_enabled(grad):
        expected = model(images)
        with collecting_gates(model) as patterns, torch.set_grad_enabled(grad):
            torch.testing.assert_close(model(images), expected)
        with collecting_gates(model, values=True) as values:
            model(images)
        model(images)
    assert list(patterns) == ["hidden1", "hidden2"]
    for name, found in patterns.items():
        gates = getattr(model, name).gates(inputs[name]).detach().numpy()
        assert found.dtype == bool and found.shape == (7, 16)
        assert_array_equal(found, gates != 0)
        assert_allclose(values[name], gates, rtol=1e-5)
        assert not getattr(model, name).gate._forward_hooks


def test_no_more_inputs_are_collected_than_asked_for():
    layer = DynamicBlockSparseLinear(8, 8, block=4)
    inputs = torch.randn(5, 3, 8)
    with collecting_gates(nn.Sequential(layer), limit=8) as patterns:
        for part in inputs.split(2):
            layer(part)
    assert_array_equal(patterns["0"], (layer.gates(inputs).flatten(0, 1)[:8] != 0).numpy())


def test_a_shared_gate_is_collected_once_for_both_layers():
    gate = RankGate(8, 4)
    model = nn.Sequential(*(DynamicBlockSparseLinear(8, 8, block=4, gate=gate) for _ in range(2)))
    with collecting_gates(model) as patterns:
        model(torch.randn(6, 8))
    assert patterns["0"] is patterns["1"]
    assert patterns["0"].shape == (12, 4)


def test_hooks_go_when_the_run_fails():
    layer = DynamicBlockSparseLinear(8, 8, block=4)
    with pytest.raises(KeyError), collecting_gates(layer) as patterns:
        raise KeyError
    assert not layer.gate._forward_hooks and patterns == {}


def test_a_model_without_gates_is_refused():
    with pytest.raises(ValueError, match="no dynamic layers"), collecting_gates(nn.Linear(2, 2)):
        pass


# --- information


def drawn(inputs, gates, classes, keep, seed=0):
    """Each gate says whether the class is among the first half, except for a share of 1 - keep, when it guesses."""
    rng = np.random.default_rng(seed)
    labels = rng.integers(classes, size=inputs)
    told = rng.random((inputs, gates)) < keep
    return np.where(told, (labels < classes / 2)[:, None], rng.random((inputs, gates)) < 0.5), labels


def test_a_gates_information_is_the_g_statistic_less_its_bias():
    patterns, labels = drawn(400, 3, 4, keep=0.4)
    found = gate_information(patterns, labels)
    for gate, bits in zip(patterns.T, found.bits, strict=True):
        table = [[np.sum((gate == opened) & (labels == own)) for own in range(4)] for opened in (True, False)]
        g = chi2_contingency(table, lambda_="log-likelihood", correction=False)
        assert_allclose(bits, (g.statistic - g.dof) / (2 * 400 * np.log(2)), rtol=1e-10)


def test_information_of_a_noisy_channel():
    inputs, flip = 100_000, 0.11
    rng = np.random.default_rng(1)
    labels = rng.integers(2, size=inputs)
    opened = (labels ^ (rng.random(inputs) < flip))[:, None]
    exact = 1 + flip * np.log2(flip) + (1 - flip) * np.log2(1 - flip)
    for bits, error in (gate_information(opened, labels), pattern_information(opened, labels)):
        assert abs(bits - exact) < 3 * error
        assert error < 0.01


def test_gates_that_do_not_heed_the_class_tell_nothing():
    patterns, labels = drawn(300, 1000, 10, keep=0)
    bits, error = gate_information(patterns, labels)
    assert abs(bits.mean()) < 4 * bits.std() / np.sqrt(1000)
    assert bits.mean() + 9 / (2 * 300 * np.log(2)) > 50 * bits.std() / np.sqrt(1000)  # without the correction
    assert_allclose(bits.std(), np.sqrt(9 / 2) / 300 / np.log(2), rtol=0.1)
    assert np.all(error > bits.std() * 0.9)


def test_the_error_is_the_spread_over_samples():
    patterns, labels = zip(*(drawn(400, 1, 2, keep=0.6, seed=seed) for seed in range(400)), strict=True)
    found = [gate_information(*pair) for pair in zip(patterns, labels, strict=True)]
    bits, errors = (np.array([each[k][0] for each in found]) for k in (0, 1))
    assert_allclose(errors.mean(), bits.std(), rtol=0.1)


def test_a_gate_that_never_changes_tells_nothing():
    bits, error = gate_information(np.ones((50, 2), bool), np.arange(50) % 5)
    assert_array_equal(bits, 0)
    assert_array_equal(error, 0)


def test_a_pattern_tells_what_its_gates_tell_together():
    labels = np.arange(4000) % 4
    patterns = np.stack([labels // 2 == 1, labels % 2 == 1], axis=1)
    assert_allclose(gate_information(patterns, labels).bits, 1, atol=1e-3)
    found = pattern_information(patterns, labels)
    assert_allclose(found.bits, 2, atol=4e-3)


def test_a_pattern_that_does_not_heed_the_class_tells_nothing():
    found = [pattern_information(*drawn(400, 30, 5, keep=0, seed=seed)) for seed in range(60)]
    bits, errors = (np.array([each[k] for each in found]) for k in (0, 1))
    assert abs(bits.mean()) < 4 * bits.std() / np.sqrt(60)
    assert np.all(np.abs(bits) < 5 * errors)


@pytest.mark.parametrize("measure", [gate_information, pattern_information, class_similarity])
def test_there_must_be_a_label_for_each_input(measure):
    with pytest.raises(ValueError, match="labels must be one for each of 3 inputs"):
        measure(np.ones((3, 2), bool), [0, 1])


def test_two_halves_need_four_inputs():
    with pytest.raises(ValueError, match="at least 4 inputs"):
        pattern_information(np.ones((3, 2), bool), [0, 1, 1])


# --- similarity


def similarity_in_loops(patterns, labels):
    pairs = [(i, j) for i in range(len(labels)) for j in range(i)]
    alike = {pair: 1 - jaccard(*patterns[list(pair)]) for pair in pairs}
    own = [alike[i, j] for i, j in pairs if labels[i] == labels[j]]
    other = [alike[i, j] for i, j in pairs if labels[i] != labels[j]]
    mixed = [alike[i, j] for i, j in pairs if {labels[i], labels[j]} == {0, 2}]
    return np.mean(own), np.mean(other), np.mean(mixed)


@pytest.mark.parametrize("chunk", [50, classes._CHUNK])
def test_similarity_is_the_mean_over_pairs(monkeypatch, chunk):
    monkeypatch.setattr(classes, "_CHUNK", chunk)
    patterns, labels = drawn(40, 6, 3, keep=0.5)
    patterns[:2] = False  # alike
    found = class_similarity(patterns, labels, draws=1)
    within, between, mixed = similarity_in_loops(patterns, labels)
    assert_allclose(
        (found.within, found.between, found.table[0, 2], found.table[2, 0]), (within, between, mixed, mixed)
    )
    assert_array_equal(found.classes, [0, 1, 2])


def test_a_class_of_one_input_has_no_pairs_of_its_own():
    found = class_similarity([[True, False], [True, False], [False, True]], ["b", "b", "a"], draws=9)
    assert np.isnan(found.table[0, 0]) and found.table[1, 1] == 1 and found.table[0, 1] == 0


def test_p_values_of_similarity():
    patterns, labels = drawn(100, 20, 4, keep=0.5)
    assert class_similarity(patterns, labels, draws=99).p_value == 0.01
    p = [class_similarity(*drawn(40, 20, 4, keep=0, seed=seed), draws=39).p_value for seed in range(200)]
    alarms = np.sum(np.array(p) <= 0.1)
    assert binom(200, 0.1).ppf(1e-4) <= alarms <= binom(200, 0.1).isf(1e-4)


def test_of_many_inputs_some_are_compared():
    patterns, labels = drawn(3000, 8, 2, keep=0.5)
    few, all_ = (class_similarity(patterns, labels, draws=1, most=most) for most in (600, 3000))
    assert few.within != all_.within
    assert_allclose([few.within, few.between], [all_.within, all_.between], atol=0.03)


@pytest.mark.parametrize("labels", [[0, 0, 0], [0, 1, 2]])
def test_similarity_needs_classes_and_pairs(labels):
    with pytest.raises(ValueError, match="two classes"):
        class_similarity(np.ones((3, 2), bool), labels)


# --- effective matrices


def test_effective_singular_values_are_those_of_the_effective_weight():
    torch.manual_seed(1)
    layer = DynamicBlockSparseLinear(96, 64, block=(16, 32), sparsity=0.6, dtype=torch.float64)
    inputs = torch.randn(4, 96, dtype=torch.float64)
    for x, found in zip(inputs, effective_spectra(layer, inputs, draws=20), strict=True):
        dense = layer.effective_weight(x).detach()
        assert_allclose(found.singular_values, np.linalg.svd(dense.numpy())[1], atol=1e-12)
        assert_allclose(found.eigenvalues, found.singular_values**2 / 96)
        assert_allclose(found.law.mean(), (dense**2).sum() / 64 / 96, rtol=1e-10)


def test_equal_gates_leave_the_law_of_the_weight():
    rng = np.random.default_rng(0)
    found = effective_spectrum(rng.normal(size=(4, 64, 64)), np.full(4, 3.0), (2, 2), draws=50)
    assert_allclose(found.law.edges[1], 9 * 4, rtol=0.05)  # Marchenko-Pastur's, of a square matrix
    assert found.distance < 0.02
    assert found.p_value > 0.01


def test_blocks_that_are_far_apart_are_parts():
    rng = np.random.default_rng(0)
    weight, gates = rng.normal(size=(4, 50, 50)), np.array([1.0, 0, 0, 2.0])
    found = effective_spectrum(weight, gates, (2, 2))
    apart = np.concatenate([singular_values(weight[0]), 2 * singular_values(weight[3])])
    assert_allclose(found.singular_values, np.sort(apart)[::-1])
    weight[0] += 0.3  # a spike below what the other block has
    spiked = effective_spectrum(weight, gates, (2, 2))
    assert spiked.singular_values[0] == found.singular_values[0]
    assert found.p_value > 0.01 > 1e-6 > spiked.p_value


def test_closed_rows_are_the_laws_atom():
    rng = np.random.default_rng(0)
    found = effective_spectrum(rng.normal(size=(4, 40, 40)), [1, 0.5, 0, 0], (2, 2), draws=20)
    assert_array_equal(found.singular_values[40:], 0)
    assert found.law.atom == 0.5
    assert found.distance < 0.03


def test_a_gate_open_for_nothing_counts_as_closed():
    rng = np.random.default_rng(0)
    weight = rng.normal(size=(2, 30, 30))
    tiny, none = (effective_spectrum(weight, [1, small], (2, 1), draws=20) for small in (1e-30, 0))
    assert_array_equal(tiny.singular_values, none.singular_values)
    assert tiny.law == none.law


def test_what_training_put_in_is_far_from_the_law():
    torch.manual_seed(0)
    layer, inputs = DynamicBlockSparseLinear(256, 256, block=64, sparsity=0.5), torch.randn(2, 256)
    before = effective_spectra(layer, inputs, draws=40)
    with torch.no_grad():
        layer.weight += 0.1 * torch.randn(16, 64, 1) * torch.randn(16, 1, 64)
    after = effective_spectra(layer, inputs, draws=40)
    assert all(found.distance < 0.02 and found.p_value > 0.01 for found in before)
    assert all(found.distance > 0.04 and found.p_value < 1e-6 for found in after)


@pytest.mark.parametrize(
    ("weight", "gates", "message"),
    [
        (np.ones((3, 2, 2)), np.ones(3), "weight must be"),
        (np.ones((4, 2)), np.ones(4), "weight must be"),
        (np.ones((4, 2, 2)), np.ones(3), "gates must be one"),
        (np.ones((4, 2, 2)), [1, 1, 1, -1], "negative"),
        (np.ones((4, 2, 2)), np.zeros(4), "no noise"),
        (np.zeros((4, 2, 2)), np.ones(4), "no noise"),
    ],
)
def test_what_makes_no_effective_matrix(weight, gates, message):
    with pytest.raises(ValueError, match=message):
        effective_spectrum(weight, gates, (2, 2))


def test_inputs_are_a_table():
    with pytest.raises(ValueError, match="inputs must be"):
        effective_spectra(DynamicBlockSparseLinear(4, 4, block=2), torch.ones(4))


@pytest.mark.slow
def test_untrained_layers_raise_alarms_as_often_as_they_should():
    p = []
    for seed in range(100):
        torch.manual_seed(seed)
        layer = DynamicBlockSparseLinear(96, 96, block=32, sparsity=0.5)
        p += [found.p_value for found in effective_spectra(layer, torch.randn(1, 96), draws=100, seed=seed)]
    p = np.array(p)[np.isfinite(p)]
    assert len(p) > 85
    for level in (0.01, 0.05, 0.2):
        assert np.sum(p < level) <= binom(len(p), level).isf(1e-3)
    assert np.sum(p < 0.2) >= binom(len(p), 0.2).ppf(1e-3)


# --- the network, recorded


def test_the_network_is_that_of_the_paper():
    model = DynamicNet()
    hidden = [module for module in model if isinstance(module, DynamicBlockSparseLinear)]
    assert [tuple(layer.weight.shape) for layer in hidden] == [(64, 128, 128)] * 5
    assert {layer.gate.open_blocks.item() for layer in hidden} == {6}
    assert model(torch.zeros(2, 1, 28, 28)).shape == (2, 10)


def test_the_dense_sister_has_no_gates():
    model = DynamicNet(20, width=7, layers=2, sparsity=None, classes=3)
    assert [type(module) for module in model].count(nn.Linear) == 4
    with pytest.raises(ValueError, match="layers of a DynamicNet"):
        DynamicNet(layers=0)
    with pytest.raises(ValueError, match="blocks must divide"):
        DynamicNet(width=100)


def trained_and_recorded(path):
    """A training loop that counts the gates over its data after every step; gives the counts."""
    model, shares = small_net(), []
    images, labels = torch.randn(30, 20), torch.arange(30) % 3
    optimizer = torch.optim.SGD(model.parameters(), lr=0.5, momentum=0.9)
    with Recorder(model, path, layers=["hidden?"], when=at(), what=("weights", "gates")) as recorder:
        recorder.attach(optimizer)
        for _ in range(4):
            with torch.no_grad(), counting_open(model), collecting_gates(model) as patterns:
                model(images[:10]), model(images[10:])
            recorder.observe()
            shares.append({name: open_fraction(own).reshape(4, 4) for name, own in patterns.items()})
            optimizer.zero_grad()
            nn.functional.cross_entropy(model(images), labels).backward()
            optimizer.step()
    return shares


def test_open_fractions_are_recorded_beside_the_weights(tmp_path):
    shares = trained_and_recorded(tmp_path / "a.zarr")
    recorded_run = open_run(tmp_path / "a.zarr")
    for name in ("hidden1", "hidden2"):
        recorded = recorded_run.gates[name]
        assert recorded.dims == ("step", "gate_row", "gate_col")
        assert_array_equal(recorded["step"], [0, 1, 2, 3])
        assert_allclose(recorded, [each[name] for each in shares], rtol=1e-6)
        assert_allclose(recorded.mean(("gate_row", "gate_col")), 0.25, rtol=1e-6)
        assert recorded_run[name].sizes["block"] == 16
        assert gate_shares(recorded[-1]).input_dependent > 0
    assert not np.array_equal(shares[0]["hidden1"], shares[-1]["hidden1"])


def test_gates_that_were_never_counted_are_recorded_as_nan(tmp_path):
    model = small_net()
    with Recorder(model, tmp_path / "a.zarr", what=("gates",), when=at()) as recorder:
        recorder.observe()
    assert np.isnan(open_run(tmp_path / "a.zarr").gates["hidden1"]).all()


def test_a_dynamic_layers_blocks_are_analysed_like_any_others(tmp_path):
    trained_and_recorded(tmp_path / "a.zarr")
    told = CliRunner().invoke(cli.main, ["info", str(tmp_path / "a.zarr")])
    assert told.exit_code == 0 and "hidden1" in told.output
    found = CliRunner().invoke(
        cli.main,
        ["analyze", str(tmp_path / "a.zarr"), "--steps", "last", "--layer", "hidden1", "--format", "json"],
        catch_exceptions=False,
    )
    assert found.exit_code == 0
    rows = json.loads(found.stdout)
    assert {row["layer"] for row in rows} == {"hidden1"}
    assert {row["blocks"] for row in rows} == {16}


# --- figures

FIGURES = Path(__file__).parents[1] / "figures"
STUDY = """
from functools import partial
import numpy as np
from rmtnet.datasets import Images
from rmtnet.networks.dynamic import DynamicNet
from rmtnet.schedules import at
from rmtnet.study import Study

def images():
    rng = np.random.default_rng(0)
    made = [rng.integers(256, size=(count, 1, 4, 4), dtype=np.uint8) for count in (40, 60)]
    labels = [np.arange(len(part)) % 3 for part in made]
    return Images("made", "here", made[0], labels[0], made[1], labels[1])

network = partial(DynamicNet, 16, 8, layers=2, block=2, sparsity=0.8, classes=3)
study = Study(name="dynamic", network=network, dataset=images, iterations=3, record=at(0), evaluate=at(0, 2),
              evaluate_train=10)
"""


@pytest.fixture(scope="module")
def reduced(tmp_path_factory):
    folder = tmp_path_factory.mktemp("runs")
    (folder / "study.py").write_text(STUDY)
    run(load_studies(folder / "study.py")[0], folder)
    script = runpy.run_path(str(FIGURES / "c_reduce_mnist.py"))
    arguments = [str(folder / "study.py"), str(folder), "-o", str(folder / "results.nc")]
    CliRunner().invoke(script["main"], arguments, catch_exceptions=False)
    return results.read(folder / "results.nc")


def drawn_figure(name, dataset):
    with publish.paper_style():
        figure = runpy.run_path(str(FIGURES / f"{name}.py"))["draw"](dataset)
        FigureCanvasAgg(figure).draw()
    return figure


def test_runs_are_reduced_to_what_their_gates_tell(reduced):
    assert_array_equal(reduced["step"], [0, 2, 3])
    assert reduced.attrs["step"] == 3
    assert reduced["gates"].shape == (3, 8, 4, 4)
    assert_allclose(reduced["open_fraction"].mean(("gate_row", "gate_col")), 3 / 16, rtol=1e-6)
    assert_allclose(reduced["class_open_fraction"].mean("class"), reduced["open_fraction"], atol=1e-6)
    assert reduced["distance"].dims == ("state", "layer", "image")
    assert not np.array_equal(*reduced["distance"])
    assert np.all(reduced["pattern_bits"] < np.log2(3) + 3 * reduced["pattern_bits_error"])


def test_pictures_show_the_gates_of_the_two_classes_least_alike(reduced):
    told = reduced["similarity"].values.copy()
    told[-1] = [[0.9, 0.5, 0.5], [0.5, 0.9, 0.3], [0.5, 0.3, 0.1]]
    figure = drawn_figure("c_f01", reduced.assign(similarity=(reduced["similarity"].dims, told)))
    pictures = [ax for ax in figure.axes if ax.images]
    assert [ax.get_ylabel() for ax in pictures if ax.get_ylabel()] == ["digit 1", "digit 2"]
    shown = reduced["gates"].sel({"class": [1, 2]}).values[:, :6].reshape(12, 4, 4)
    for ax, gates in zip(pictures, shown, strict=True):
        assert_allclose(ax.images[0].get_array().filled(0), gates)


def test_bars_are_the_shares_of_gates(reduced):
    figure = drawn_figure("c_f02", reduced)
    heights = np.array([[bar.get_height() for bar in bars] for bars in figure.axes[0].containers])
    assert_allclose(heights.sum(0), 100)
    for column, fraction in zip(heights.T, reduced["open_fraction"].values, strict=True):
        opened, closed, rest = gate_shares(fraction)
        assert_allclose(column, [100 * opened, 100 * rest, 100 * closed])


@pytest.mark.parametrize(("name", "lost"), [("c_f01", "gates"), ("c_f02", "open_fraction")])
def test_figures_name_what_is_missing(reduced, name, lost):
    with pytest.raises(ValueError, match=rf"{lost}.*c_reduce_mnist"):
        drawn_figure(name, reduced.drop_vars(lost))
