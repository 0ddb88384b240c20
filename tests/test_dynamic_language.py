import dataclasses
import math
import runpy
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch
from click.testing import CliRunner
from numpy.testing import assert_allclose, assert_array_equal
from torch import nn

from rmtnet import language, results, store
from rmtnet.datasets.text import text_of_lines
from rmtnet.language import LanguageStudy, LanguageTraining, columns, multiplications, perplexity, windows
from rmtnet.language import training as language_training
from rmtnet.language.cost import sparsity
from rmtnet.layers.block_sparse import BlockSparseLinear
from rmtnet.layers.dynamic import DynamicBlockSparseLinear
from rmtnet.layers.gating import set_sparsity
from rmtnet.networks.language import AWDQRNN, RegularizedLSTM
from rmtnet.pruning import GradualPruning, cubic, linear
from rmtnet.schedules import at

ROOT = Path(__file__).parents[1]
NO_DROPOUT = {
    "dropout": 0.0, "dropout_hidden": 0.0, "dropout_input": 0.0, "dropout_words": 0.0, "weight_drop": 0.0,
}  # fmt: skip
GATED = partial(DynamicBlockSparseLinear, block=4, sparsity=0.5)


def qrnn(words=30, **changes):
    torch.manual_seed(0)
    return AWDQRNN(words, **{"embedding": 8, "hidden": 12, "layers": 3, **changes})


def lstm(words=30, **changes):
    torch.manual_seed(0)
    return RegularizedLSTM(words, **{"hidden": 8, **changes})


def random_words(shape, words=30, seed=0):
    return torch.from_numpy(np.random.default_rng(seed).integers(0, words, shape))


def parameters(model):
    return sum(parameter.numel() for parameter in model.parameters())


MODELS = {
    "qrnn": qrnn,
    "dynamic qrnn": partial(qrnn, linear=GATED),
    "lstm": lstm,
    "dynamic lstm": partial(lstm, block=4, sparsity=0.5),
}

# --- the models


def test_sizes_of_the_qrnn_are_the_papers_which_hold_its_maps_twice():
    # Table 1.  Weight dropping, in the library that the paper used, keeps a second copy of each weight as a parameter.
    for hidden, millions in {1536: 47.4, 810: 20.3, 660: 16.3, 500: 12.6, 350: 9.7}.items():
        with torch.device("meta"):
            model = AWDQRNN(10_000, hidden=hidden)
        assert parameters(model) == 10_000 * 513 + 6 * hidden**2 + 4608 * hidden + 3 * (3 * hidden + 512)
        counted_twice = (parameters(model) + multiplications(model)) / 1e6
        assert -0.05 < counted_twice - millions < 0.25


def test_gates_add_half_a_million_weights_as_in_the_paper():
    gates = sum(
        (inputs // 256) * (outputs // 256) * (inputs + 1)
        for inputs, outputs in ((1024, 4608), (1536, 4608), (1536, 4608), (1536, 1536))
    )
    with torch.device("meta"):
        dense = parameters(AWDQRNN(10_000))
    dynamic = parameters(AWDQRNN(10_000, linear=partial(DynamicBlockSparseLinear, block=256)))
    assert dynamic - dense == gates
    assert 0.4e6 < gates < 0.6e6


def sigmoid(x):
    return 1 / (1 + np.exp(-x))


def test_the_qrnn_is_that_of_the_paper_word_by_word():
    model, words = qrnn(**NO_DROPOUT).double(), random_words((6, 2))
    weight = model.embedding.weight.detach().numpy()
    features = weight[words.numpy()]
    for k, layer in enumerate(model.qrnns):
        maps = layer.linears[0].weight.detach().numpy()
        bias = layer.linears[0].bias.detach().numpy()
        cell, before, outputs = 0.0, np.zeros_like(features[0]), []
        for x in features:
            z, f, o = np.split((np.hstack([x, before]) if k == 0 else x) @ maps.T + bias, 3, axis=1)
            cell = sigmoid(f) * cell + (1 - sigmoid(f)) * np.tanh(z)
            outputs.append(sigmoid(o) * cell)
            before = x
        features = np.stack(outputs)
    assert_allclose(model.eval()(words).scores.detach(), features @ weight.T, rtol=1e-9, atol=1e-12)


def test_the_dense_lstm_is_torchs():
    model, words = lstm(hidden=10).eval(), random_words((7, 3))
    theirs = nn.LSTM(10, 10, 2)
    state = {
        name if kind == "weight" else name.replace("weight", "bias"): value
        for name, matrix in model.lstm.named_children()
        for kind, value in matrix.state_dict().items()
    }
    theirs.load_state_dict(state)
    features, _ = theirs(model.embedding(words))
    torch.testing.assert_close(model(words).scores, features @ model.decoder.T + model.bias)


@pytest.mark.parametrize("name", MODELS)
def test_a_text_in_parts_goes_on_where_it_was(name):
    model, words = MODELS[name]().eval(), random_words((13, 4))
    whole, first = model(words), model(words[:1])
    second = model(words[1:6], first.state)
    third = model(words[6:], second.state)
    scores = torch.cat([first.scores, second.scores, third.scores])
    torch.testing.assert_close(scores, whole.scores, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("name", MODELS)
def test_skipping_blocks_tells_the_same_as_training(name):
    model, text = MODELS[name]().eval(), random_words((40, 3))
    scores = model(text[:-1]).scores.detach().double()
    expected = nn.functional.cross_entropy(scores.flatten(0, 1), text[1:].flatten()).exp()
    for bptt in (40, 7, 1):
        assert_allclose(perplexity(model, text, bptt), expected, rtol=1e-5)


def test_dropout_of_the_lstm_spares_its_recurrence():
    model = lstm(hidden=400, layers=1, dropout=0.4).train()
    output = model(random_words((20, 10)))
    values = (output.dropped / output.raw).detach().round(decimals=4)
    assert_allclose((values == 0).float().mean(), 0.4, atol=0.02)
    assert not (output.raw == 0).any()
    assert not torch.equal(values[0], values[1])  # drawn at each time anew


@pytest.mark.parametrize(
    "make, fault",
    [
        (partial(qrnn, hidden=0), "hidden must be at least 1, got 0"),
        (partial(qrnn, dropout_input=1.0), r"dropout_input must lie in \[0, 1\), got 1.0"),
        (partial(qrnn, window=(2, 1, 1)), "window must be two numbers"),
        (partial(qrnn, window=(0, 1)), "window must be at least 1"),
        (partial(lstm, words=0), "words must be at least 1"),
        (partial(lstm, dropout=-0.1), r"dropout must lie in \[0, 1\)"),
        (partial(lstm, block=3), "3 does not divide"),
        (partial(lstm, block=4, sparsity=1.0), r"sparsity, .* must lie in \[0, 1\), got 1.0"),
        (partial(lstm, sparsity=0.5), "a dense LSTM has no gates: give block, or leave out sparsity"),
    ],
)
def test_a_model_that_cannot_be_is_refused(make, fault):
    with pytest.raises(ValueError, match=fault):
        make()


# --- what is multiplied


def test_multiplications_count_open_blocks_gates_and_what_is_left():
    dense = nn.Linear(12, 8)
    assert (multiplications(dense), sparsity(dense)) == (96, 0)
    dense.register_buffer("weight_mask", torch.arange(96).view(8, 12) >= 24)
    assert (multiplications(dense), sparsity(dense)) == (72, 0.25)
    gated = DynamicBlockSparseLinear(12, 8, block=4, sparsity=0.5, gate_features=5, gate_hidden=3)
    assert multiplications(gated) == 3 * 16 + 5 * 3 + 3 * 6
    assert sparsity(gated) == 0.5
    blocks = BlockSparseLinear(12, 8, [[True, False, True], [True, True, True]])
    blocks.remove_blocks(torch.tensor([True, False, False, False, False]))
    assert (multiplications(blocks), sparsity(blocks)) == (4 * 16, pytest.approx(1 / 3))
    both = nn.Sequential(dense, gated, nn.Embedding(50, 4))
    assert multiplications(both) == 72 + 81
    assert sparsity(both) == (24 + 48) / 192
    assert sparsity(nn.Embedding(5, 2)) == 0


def test_a_gated_model_multiplies_its_open_blocks_and_its_gates():
    model = qrnn(linear=GATED)
    whole = multiplications(qrnn())
    set_sparsity(model, 0.75)
    gates = sum(layer.linears[0].gate.linear.weight.numel() for layer in model.qrnns)
    opened = sum(int(layer.linears[0].gate.open_blocks) * 16 for layer in model.qrnns)
    assert multiplications(model) == opened + gates
    assert_allclose(opened / whole, 0.25, atol=0.03)


# --- training


def corpus():
    """Sentences of a small grammar: there is something to learn."""
    rng = np.random.default_rng(3)
    lines = [
        f"{rng.choice(['a', 'the'])} {rng.choice(['cat', 'dog', 'cow'])} {rng.choice(['sat', 'ran', 'ate'])}"
        for _ in range(600)
    ]
    return text_of_lines(
        {"train": lines[:400], "valid": lines[400:500], "test": lines[500:]}, name="pets", source="here"
    )


SMALL = {"embedding": 8, "hidden": 16, "layers": 2, **NO_DROPOUT}
STUDY = LanguageStudy(
    name="dense",
    network=partial(AWDQRNN, **SMALL),
    corpus=corpus,
    epochs=5,
    batch=8,
    bptt=10,
    rate=0.03,
    optimizer=torch.optim.Adam,
    clip=1.0,
    activation_penalty=0.0,
    slowness_penalty=0.0,
    best_from=1,
    record=at(0, 5),
    test=at(),
)


def changed(**fields):
    return dataclasses.replace(STUDY, **fields)


KINDS = {
    "dense": STUDY,
    "agp": changed(name="agp", pruning=GradualPruning(cubic(1, 3, final=0.5)), best_from=3),
    "dynamic": changed(
        name="dynamic",
        network=partial(AWDQRNN, **SMALL, linear=partial(DynamicBlockSparseLinear, block=4, sparsity=0.0)),
        sparsity=linear(1, 3, final=0.5),
        best_from=3,
    ),
    "dynamic-lstm": changed(
        name="dynamic-lstm",
        network=partial(RegularizedLSTM, hidden=8, layers=1, dropout=0.0, block=4),
        batch=20,
        rate=0.06,
        sparsity=linear(1, 3, final=0.5),
        best_from=3,
    ),
}


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    folder = tmp_path_factory.mktemp("runs")
    return {name: language.run(study, folder) for name, study in KINDS.items()}


def told(path):
    metrics = store.open_run(path).metrics
    return metrics.where(metrics["epoch"].notnull(), drop=True)


def unigram_perplexity(text):
    shares = np.bincount(text.train, minlength=len(text.vocabulary)) / len(text.train)
    return math.exp(-np.log(shares[text.test]).mean())


@pytest.mark.parametrize("name", KINDS)
def test_every_kind_tells_more_than_the_frequencies_of_words(runs, name):
    test = float(told(runs[name])["test_perplexity"][-1])
    # Within sentences of a known form there are 2, 3, 3 and 1 choices: (2 * 3 * 3) ** (1 / 4) = 2.06.
    assert 2 < test < 3 < 6 < unigram_perplexity(corpus())


def test_sparsity_rises_with_the_schedule_and_stays(runs):
    for name, expected in {
        "dense": [0, 0, 0, 0, 0],
        "agp": [0, 0.4375, 0.5, 0.5, 0.5],
        "dynamic": [0, 0.25, 0.5, 0.5, 0.5],
        "dynamic-lstm": [0, 0.25, 0.5, 0.5, 0.5],
    }.items():
        assert_allclose(told(runs[name])["sparsity"], expected, atol=0.005)


def test_multiplications_are_told_of_each_epoch(runs):
    assert_array_equal(told(runs["dense"])["multiplications"], [16 * 48 + 16 * 24] * 5)
    blocks = 768 // 16 + 384 // 16
    gates = 16 * blocks
    opened = np.array([blocks, 54, 36, 36, 36]) * 16
    assert_array_equal(told(runs["dynamic"])["multiplications"], opened + gates)


@pytest.mark.parametrize("name", KINDS)
def test_the_last_test_is_of_the_best_weights_since_the_sparsity_is_reached(runs, name):
    study, metrics = KINDS[name], told(runs[name])
    valid = metrics["valid_perplexity"].values
    best = study.best_from + int(np.argmin(valid[study.best_from - 1 :]))
    assert int(metrics["best_epoch"][-1]) == best
    state = torch.load(runs[name].with_suffix("").with_suffix(".checkpoint.pt"), weights_only=True)
    training = LanguageTraining(study)
    if name == "agp":
        training.pruner.step(study.epochs)
    training.model.load_state_dict(state["best"]["model"])
    assert_allclose(perplexity(training.model, training.valid, study.bptt), valid[best - 1], rtol=1e-5)
    expected = perplexity(training.model, training.test, study.bptt)
    assert_allclose(metrics["test_perplexity"][-1], expected, rtol=1e-5)


def test_the_best_is_not_the_last_where_the_last_is_worse(tmp_path):
    study = changed(name="worse", decay=lambda epoch: 1.0 if epoch < 4 else 100.0, record=at())
    metrics = told(language.run(study, tmp_path))
    assert int(metrics["best_epoch"][-1]) < 5
    assert float(metrics["test_perplexity"][-1]) < 4 < float(metrics["valid_perplexity"][-1])


@pytest.mark.parametrize("name", ["agp", "dynamic", pytest.param("dynamic-lstm", marks=pytest.mark.slow)])
def test_a_stopped_run_goes_on_as_if_it_had_not_stopped(runs, tmp_path, monkeypatch, name):
    def stop(done, loss):
        if done > 3.2:
            monkeypatch.setattr(language_training, "_CHECKPOINT_SECONDS", 0.0)
        if done > 3.4:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        language.run(KINDS[name], tmp_path, progress=stop)
    assert language.steps_done(KINDS[name], tmp_path) == 3
    monkeypatch.setattr(language_training, "_CHECKPOINT_SECONDS", 60.0)
    path = language.run(KINDS[name], tmp_path)
    assert store.open_run(path).metrics.equals(store.open_run(runs[name]).metrics)


class Rates(torch.optim.SGD):
    """Notes the rate of each step."""

    def __init__(self, *args, **kwargs):
        super().__init__(*args, **kwargs)
        self.rates = []

    def step(self, closure=None):
        self.rates.append(self.param_groups[0]["lr"])
        return super().step(closure)


def test_windows_of_one_length_and_a_rate_that_decays():
    study = changed(optimizer=Rates, decay=lambda epoch: 0.5**epoch, rate=2.0, vary=False, bptt=50, batch=3)
    training = LanguageTraining(study)
    sizes = [size for _, size in training._windows]
    # 1600 words in three columns: 532 are told in each.
    assert sizes == [50] * 10 + [32]
    for _ in range(2):
        while not training.at_end_of_epoch:
            training.advance()
        training.end_epoch()
    rates = 2.0 * np.array(sizes) / 50
    assert_allclose(training.optimizer.rates, np.concatenate([rates, rates / 2]))


def test_windows_without_a_generator_are_all_of_one_length():
    assert list(windows(10, 4)) == [(0, 4), (4, 4), (8, 1)]


@pytest.mark.parametrize(
    "changes, fault",
    [
        ({"optimizer": "adam"}, "optimizer must be callable, got 'adam'"),
        ({"decay": 0.5}, "decay must be callable"),
        ({"sparsity": 0.5}, "sparsity must be callable"),
        ({"best_from": 0}, "best_from must be an epoch from 1 to 5, got 0"),
        ({"best_from": 6}, "best_from must be an epoch from 1 to 5, got 6"),
    ],
)
def test_a_study_that_cannot_be_is_refused(changes, fault):
    with pytest.raises((ValueError, TypeError), match=fault):
        changed(**changes)


def test_a_schedule_for_gates_needs_gates():
    with pytest.raises(ValueError, match="the model has no gates"):
        LanguageTraining(changed(sparsity=linear(1, 3, final=0.5)))


# --- studies and tables


def declared(name):
    return {study.name: study for study in runpy.run_path(str(ROOT / "studies" / f"{name}.py"))["study"]}


def cost_at_the_end(study):
    """Multiplications of a word after the last epoch."""
    if study.sparsity:
        model = study.network(1_000)
        set_sparsity(model, study.sparsity(study.epochs))
        return multiplications(model)
    left = 1 - study.pruning.sparsity.final if study.pruning else 1
    with torch.device("meta"):
        return multiplications(study.network(1_000)) * left


@pytest.mark.parametrize("model", ["qrnn", "lstm"])
@pytest.mark.parametrize("percent", [50, 90])
def test_the_miniature_compares_models_of_equal_cost(model, percent):
    studies = declared("dynamic_small")
    costs = {kind: cost_at_the_end(studies[f"{model}-{kind}-{percent}"]) for kind in ("small", "agp", "dynamic")}
    assert_allclose([costs["small"], costs["agp"]], costs["dynamic"], rtol=0.03)


def test_the_embedded_study_compares_models_of_equal_cost():
    costs = [cost_at_the_end(study) for name, study in declared("dynamic_embedded").items() if name != "dense"]
    assert_allclose(costs, 0.625 * cost_at_the_end(declared("dynamic_embedded")["dense"]), rtol=0.01)


def test_the_full_size_studies_have_small_models_of_equal_cost():
    studies = declared("qrnn_ptb")
    for percent in (50, 60, 80, 90):
        costs = [cost_at_the_end(studies[name]) for name in (f"small-{percent}-equal", f"dynamic-{percent}")]
        assert_allclose(*costs, rtol=0.01)


@pytest.mark.slow
def test_the_full_size_lstms_have_small_models_of_equal_cost():
    studies = declared("dynamic_lstm_ptb")
    for percent in (50, 75, 90):
        costs = [cost_at_the_end(studies[f"ptb-{kind}-{percent}"]) for kind in ("small", "dynamic")]
        assert_allclose(*costs, rtol=0.01)


def figure(name):
    return runpy.run_path(str(ROOT / "figures" / f"{name}.py"))


def test_every_row_of_the_tables_has_its_run():
    tables = figure("c_t01")
    assert set(tables["QRNN"]) == set(declared("qrnn_ptb"))
    rows = [*tables["LSTM"], *(f"dropout-{dropout}" for dropout in tables["DROPOUT"] if dropout != "0.65")]
    assert {f"{corpus}-{row}" for corpus in ("ptb", "wikitext-2") for row in rows} == set(declared("dynamic_lstm_ptb"))


def test_tables_show_means_over_seeds_and_mark_what_was_not_run(runs, tmp_path):
    target, again = tmp_path / "results.nc", tmp_path / "again"
    language.run(changed(seed=1), again)
    paths = [*map(str, runs.values()), str(again / "dense.zarr")]
    done = CliRunner().invoke(figure("c_reduce")["main"], [*paths, "-o", str(target)])
    assert done.exit_code == 0, done.output
    reduced = results.read(target)
    ends = [float(told(path)["test_perplexity"][-1]) for path in (runs["dense"], again / "dense.zarr")]
    tables = figure("c_t01")
    rows = {row[0]: row for row in tables["c_t01"](reduced)}
    assert rows["dense"][2] == f"{np.mean(ends):.2f} ± {abs(ends[0] - ends[1]) / 2:.2f}"
    assert rows["dense"][1] == "54.93"
    assert rows["dense"][4] == "1.000"
    assert rows["dynamic-50"][2] == "not run"
    assert all("not run" in row for row in tables["c_t02"](reduced)[1:])
    assert tables["table"](tables["c_x02"](reduced)).count("\n") == 6


def test_an_unfinished_run_is_left_out(runs, tmp_path):
    def stop(done, loss):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        language.run(changed(name="stopped"), tmp_path, progress=stop)
    command, target = figure("c_reduce")["main"], str(tmp_path / "results.nc")
    done = CliRunner().invoke(command, [str(tmp_path / "stopped.zarr"), str(runs["dense"]), "-o", target])
    assert "stopped.zarr is not complete: left out" in done.output
    assert results.read(Path(target))["run"].values.tolist() == ["dense"]
    done = CliRunner().invoke(command, [str(tmp_path / "stopped.zarr"), "-o", str(tmp_path / "none.nc")])
    assert done.exit_code == 1
    assert "none of these runs is complete" in done.output


def test_a_word_is_told_in_columns_however_many():
    text = corpus()
    model = qrnn(len(text.vocabulary), **NO_DROPOUT)
    found = [perplexity(model, columns(text.test, batch)) for batch in (1, 5)]
    assert_allclose(*found, rtol=0.02)
