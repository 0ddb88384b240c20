import dataclasses
import itertools
import math
import runpy
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch
from click.testing import CliRunner
from hypothesis import given
from hypothesis import strategies as st
from matplotlib.backends.backend_agg import FigureCanvasAgg
from numpy.testing import assert_allclose, assert_array_equal
from torch import nn

from rmtnet import language, publish, results, store
from rmtnet.datasets.text import text_of_lines
from rmtnet.language import NTASGD, LanguageStudy, LanguageTraining, columns, perplexity, windows
from rmtnet.language import training as language_training
from rmtnet.networks.language import AWDLSTM, Output
from rmtnet.pruning import Combined, GradualPruning, GroupLasso, RandomPruning, linear
from rmtnet.schedules import at, every

WITHOUT_DROPOUT = {
    "dropout": 0.0, "dropout_hidden": 0.0, "dropout_input": 0.0, "dropout_words": 0.0, "weight_drop": 0.0,
}  # fmt: skip


def small(words=30, **changes):
    torch.manual_seed(0)
    return AWDLSTM(words, **{"embedding": 8, "hidden": 12, "layers": 3, **changes})


def random_words(shape, words=30, seed=0):
    return torch.from_numpy(np.random.default_rng(seed).integers(0, words, shape))


# --- the text in columns and windows


def test_columns_are_stretches_of_the_text_side_by_side():
    assert_array_equal(columns(np.arange(11), 2), [[0, 5], [1, 6], [2, 7], [3, 8], [4, 9]])


def test_a_text_shorter_than_its_batch_is_refused():
    with pytest.raises(ValueError, match="a text of 7 words is too short for a batch of 4: at least 8"):
        columns(np.arange(7), 4)


@given(st.integers(2, 500), st.integers(5, 80), st.integers(0, 9))
def test_windows_tell_every_word_but_the_first_once(length, bptt, seed):
    told = [start + 1 + k for start, size in windows(length, bptt, np.random.default_rng(seed)) for k in range(size)]
    assert told == list(range(1, length))


def test_lengths_of_windows_are_those_of_the_paper():
    sizes = np.array([size for _, size in windows(10**6, 70, np.random.default_rng(0))][:-1])
    short = sizes < 52.5
    # Truncated, so half a word less than the normal distributions' means.
    assert_allclose(sizes[~short].mean(), 69.5, atol=0.3)
    assert_allclose(sizes[~short].std(), 5, rtol=0.05)
    assert_allclose(sizes[short].mean(), 34.5, atol=0.7)
    assert_allclose(short.mean(), 0.05, atol=0.006)
    assert min(size for _, size in windows(10**4, 5, np.random.default_rng(0))) >= 1
    assert [size for _, size in windows(10**3, 5, np.random.default_rng(0))].count(5) > 50


class Bigrams(nn.Module):
    """Scores that depend on the last word and the number of words before it: what a state must carry on."""

    def __init__(self, words):
        super().__init__()
        generator = torch.Generator().manual_seed(1)
        self.table = nn.Parameter(torch.randn(words, words, generator=generator))

    def forward(self, words, state=None):
        first = 0 if state is None else state
        times = first + torch.arange(len(words), dtype=torch.float32)
        scores = self.table[words] * (1 + times[:, None, None] / 10)
        return Output(scores, first + len(words), scores, scores)


@pytest.mark.parametrize("bptt", [5, 7, 100])
def test_perplexity_is_that_of_the_whole_text_however_it_is_cut(bptt):
    model, text = Bigrams(6), random_words((23, 3), 6)
    logs = []
    for t in range(22):
        for k in range(3):
            scores = model.table[text[t, k]].detach().double().numpy() * (1 + t / 10)
            logs.append(scores[text[t + 1, k]] - np.log(np.exp(scores).sum()))
    assert_allclose(perplexity(model, text, bptt), math.exp(-np.mean(logs)), rtol=1e-5)


def test_perplexity_of_a_guess_is_the_number_of_words():
    model = small(**WITHOUT_DROPOUT)
    nn.init.zeros_(model.embedding.weight)
    assert_allclose(perplexity(model, random_words((40, 2))), 30, rtol=1e-5)


# --- the model


def test_sizes_are_those_of_the_reference_implementation():
    # "Model total parameters" that awd-lstm-lm prints for Penn Treebank and WikiText-2.
    for words, parameters in ((10_000, 24_221_600), (33_278, 33_556_078)):
        assert sum(parameter.numel() for parameter in AWDLSTM(words).parameters()) == parameters


def test_a_text_in_two_parts_goes_on_where_it_was():
    model, words = small().eval(), random_words((13, 4))
    whole, first = model(words), model(words[:6])
    second = model(words[6:], first.state)
    torch.testing.assert_close(torch.cat([first.scores, second.scores]), whole.scores)
    for one, other in zip(second.state, whole.state, strict=True):
        torch.testing.assert_close(one, other)


def test_without_dropout_it_is_three_lstms_of_torch():
    model, words = small(**WITHOUT_DROPOUT), random_words((9, 4))
    features = model.embedding.weight[words]
    for lstm in model.lstms:
        features, _ = lstm.to_lstm()(features)
    expected = features @ model.embedding.weight.T + model.bias
    torch.testing.assert_close(model(words).scores, expected)


def test_dropout_is_locked_in_time_and_scaled():
    model = small(words=500, **{**WITHOUT_DROPOUT, "dropout": 0.4}).train()
    output = model(random_words((20, 50), 500))
    share = output.dropped / output.raw
    assert_allclose(share.detach(), share[:1].detach().expand_as(share), rtol=1e-5)
    values, counts = share.detach().round(decimals=4).unique(return_counts=True)
    assert_allclose(values, [0, 1 / 0.6], rtol=1e-4)
    assert_allclose(counts[0] / counts.sum(), 0.4, atol=0.08)


def test_a_dropped_word_is_dropped_wherever_it_stands():
    model = small(words=50, **{**WITHOUT_DROPOUT, "dropout_words": 0.5}).train()
    words = random_words((40, 10), 50)
    share = (model._embedded(words) / model.embedding.weight[words]).detach()
    assert_allclose(share, share[..., :1].expand_as(share), rtol=1e-5)
    for word in range(50):
        assert len(share[..., 0][words == word].round(decimals=4).unique()) <= 1
    assert set(share.round(decimals=4).unique().tolist()) == {0.0, 2.0}


def test_evaluation_drops_nothing():
    model, words = small(), random_words((9, 4))
    peer = small(**WITHOUT_DROPOUT)
    torch.testing.assert_close(model.eval()(words).scores, peer(words).scores)
    assert not torch.equal(model.train()(words).scores, model(words).scores)


@pytest.mark.parametrize(
    "changes, fault",
    [
        ({"words": 0}, "words must be at least 1, got 0"),
        ({"layers": 0}, "layers must be at least 1"),
        ({"dropout": 1.0}, r"dropout must lie in \[0, 1\), got 1.0"),
        ({"weight_drop": -0.1}, r"weight_drop must lie in \[0, 1\)"),
        ({"block": 5}, "block must divide hidden_size: 5 of 5 x 5 does not divide 12"),
    ],
)
def test_a_model_that_cannot_be_is_refused(changes, fault):
    with pytest.raises(ValueError, match=fault):
        small(**changes)


# --- NT-ASGD


def quadratic(weights, step):
    """A loss whose gradient changes from step to step."""
    return sum(((weight - math.sin(step)) ** 2 * (1 + k)).sum() for k, weight in enumerate(weights))


def started():
    return [nn.Parameter(torch.linspace(-1, 2, n, dtype=torch.float64)) for n in (3, 5)]


def descend(weights, optimizer, steps, first=0):
    for step in range(first, first + steps):
        optimizer.zero_grad()
        quadratic(weights, step).backward()
        optimizer.step()


def test_it_is_sgd_before_the_trigger_and_asgd_after_it():
    ours, theirs = started(), started()
    optimizer = NTASGD(ours, 0.05, weight_decay=0.01)
    sgd = torch.optim.SGD(theirs, 0.05, weight_decay=0.01)
    descend(ours, optimizer, 20)
    descend(theirs, sgd, 20)
    torch.testing.assert_close(ours, theirs)
    with optimizer.mean_weights():
        torch.testing.assert_close(ours, theirs)
    for loss in (1, 2, 3, 4, 5, 6, 7):
        optimizer.judge(loss)
    assert optimizer.averages
    # With t0=0 it would leave the first weights out of its mean.
    asgd = torch.optim.ASGD(theirs, 0.05, lambd=0.0, t0=-1.0, weight_decay=0.01)
    descend(ours, optimizer, 30, first=20)
    descend(theirs, asgd, 30, first=20)
    torch.testing.assert_close(ours, theirs)
    with optimizer.mean_weights():
        torch.testing.assert_close(
            [weight.detach() for weight in ours], [asgd.state[weight]["ax"] for weight in theirs]
        )
    torch.testing.assert_close(ours, theirs)


@pytest.mark.parametrize(
    "losses, triggered",
    [
        ([5, 4, 3, 2, 1, 0.5], False),
        ([1, 2, 3], False),  # too few to judge by
        ([1, 2, 3, 4], True),  # above the loss of three times ago
        ([3, 2.9, 2.8, 2.7, 2.75], False),  # worse than the last one, better than those before it
        ([1, 5, 5, 0.9], False),
    ],
)
def test_the_trigger_looks_back_beyond_the_last_ones(losses, triggered):
    optimizer = NTASGD(started(), 1.0, nonmono=2)
    for loss in losses:
        optimizer.judge(loss)
    assert optimizer.averages == triggered


def test_an_optimizer_goes_on_from_its_state():
    ours, restored = started(), started()
    optimizer, other = NTASGD(ours, 0.05), NTASGD(restored, 0.05)
    for loss in (1, 2, 3, 4, 5, 6, 7):
        optimizer.judge(loss)
    descend(ours, optimizer, 5)
    other.load_state_dict(optimizer.state_dict())
    with torch.no_grad():
        for weight, value in zip(restored, ours, strict=True):
            weight.copy_(value)
    descend(ours, optimizer, 5, first=5)
    descend(restored, other, 5, first=5)
    with optimizer.mean_weights(), other.mean_weights():
        torch.testing.assert_close(ours, restored, rtol=0, atol=0)
    assert other.losses == optimizer.losses


@pytest.mark.parametrize("lr, changes", [(0.0, {}), (math.nan, {}), (1.0, {"weight_decay": -1}), (1.0, {"nonmono": 0})])
def test_an_optimizer_that_cannot_be_is_refused(lr, changes):
    with pytest.raises(ValueError, match="lr must be positive"):
        NTASGD(started(), lr, **changes)


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


STUDY = LanguageStudy(
    name="pets",
    network=partial(AWDLSTM, embedding=8, hidden=12, layers=2, dropout=0.1, dropout_hidden=0.1, dropout_input=0.1),
    corpus=corpus,
    epochs=4,
    batch=4,
    bptt=10,
    rate=5.0,
    clip=1.0,
    activation_penalty=0.1,
    slowness_penalty=0.1,
    nonmono=1,
    record=every(2),
    test=every(2),
)


def changed(**fields):
    return dataclasses.replace(STUDY, **fields)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("runs")
    seen = []
    language.run(STUDY, folder, progress=lambda *told: seen.append(told))
    assert_allclose([seen[0][0] * len(seen) / 4, seen[-1][0]], [1, 4], atol=0.2)
    return folder


def test_it_learns_and_tells_of_each_epoch(folder):
    run = store.open_run(folder / "pets.zarr")
    told = run.metrics.where(run.metrics["epoch"].notnull(), drop=True)
    assert_array_equal(told["epoch"], [1, 2, 3, 4])
    assert_array_equal(told["test_perplexity"].notnull(), [False, True, False, True])
    # Nine words; within sentences of a known form there are 2, 3, 3 and 1 choices: (2 * 3 * 3) ** (1 / 4) = 2.06.
    assert 2 < told["valid_perplexity"][-1] < 3.5
    assert told["valid_perplexity"][-1] < told["valid_perplexity"][0] < 9
    assert told["train_perplexity"][-1] < told["train_perplexity"][0]


def test_weights_are_recorded_after_the_epochs_that_are_due(folder):
    run = store.open_run(folder / "pets.zarr")
    epochs = run.metrics["epoch"].dropna("step")
    steps = [0, int(epochs["step"][1]), int(epochs["step"][3])]
    assert_array_equal(run["embedding"]["step"], steps)
    state = torch.load(folder / "pets.checkpoint.pt", weights_only=True)["model"]
    assert_array_equal(run["embedding"][-1, 0], state["embedding.weight"])


def test_a_finished_run_is_not_trained_again(folder):
    assert language.steps_done(STUDY, folder) == 4
    before = (folder / "pets.checkpoint.pt").stat().st_mtime_ns
    language.run(STUDY, folder)
    assert (folder / "pets.checkpoint.pt").stat().st_mtime_ns == before


@pytest.mark.parametrize("epochs", [pytest.param(0.6, marks=pytest.mark.slow), 2.3])
def test_a_stopped_run_goes_on_as_if_it_had_not_stopped(folder, tmp_path, monkeypatch, epochs):
    monkeypatch.setattr(language_training, "_CHECKPOINT_SECONDS", 0.05)

    def stop(done, loss):
        if done > epochs:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        language.run(STUDY, tmp_path, progress=stop)
    assert language.steps_done(STUDY, tmp_path) == int(epochs)
    language.run(STUDY, tmp_path)
    whole, parts = (store.open_run(each / "pets.zarr") for each in (folder, tmp_path))
    assert whole.metrics.equals(parts.metrics)
    assert whole["lstms.0.weight_hh_l0"].equals(parts["lstms.0.weight_hh_l0"])


def test_another_study_of_that_name_is_refused(folder):
    with pytest.raises(ValueError, match=r"another study \(rate is 5\.0, now 4\.0\)"):
        language.run(changed(rate=4.0), folder)


def test_the_rate_follows_the_length_of_the_window_and_gradients_are_clipped():
    training = LanguageTraining(changed(rate=1.0, clip=1e-3, weight_decay=0.0))
    for _ in range(5):
        size = training._windows[training._window][1]
        before = [parameter.detach().clone() for parameter in training.model.parameters()]
        training.advance()
        moved = [now.detach() - old for now, old in zip(training.model.parameters(), before, strict=True)]
        norm = torch.cat([each.flatten() for each in moved]).norm()
        assert_allclose(norm, 1e-3 * size / 10, rtol=1e-3)


def test_penalties_of_activation_and_slowness_are_added_to_the_gradient():
    plain = {"activation_penalty": 0.0, "slowness_penalty": 0.0, "clip": 1e9, "weight_decay": 0.0}
    steps = {}
    for name, changes in {"plain": {}, "ar": {"activation_penalty": 2.0}, "tar": {"slowness_penalty": 3.0}}.items():
        training = LanguageTraining(changed(**{**plain, **changes}))
        before = torch.nn.utils.parameters_to_vector(training.model.parameters()).detach().double()
        size = training._windows[0][1]
        torch.manual_seed(7)
        training.advance()
        after = torch.nn.utils.parameters_to_vector(training.model.parameters()).detach().double()
        steps[name] = (before - after) / (STUDY.rate * size / STUDY.bptt)
    training = LanguageTraining(changed(**plain))
    torch.manual_seed(7)
    output = training.model.train()(training.train[:size])
    terms = {
        "ar": 2 * (output.dropped**2).sum() / output.dropped.numel(),
        "tar": 3 * ((output.raw[1:] - output.raw[:-1]) ** 2).mean(),
    }
    for name, term in terms.items():
        training.model.zero_grad()
        term.backward(retain_graph=True)
        expected = [
            torch.zeros_like(parameter) if parameter.grad is None else parameter.grad
            for parameter in training.model.parameters()
        ]
        expected = torch.cat([each.flatten() for each in expected]).double()
        assert_allclose(steps[name] - steps["plain"], expected, atol=2e-6)
        assert expected.norm() > 1e-3


@pytest.mark.parametrize(
    "changes, fault",
    [
        ({"name": "a/b"}, "name must be a plain file name"),
        ({"epochs": 0}, "epochs must be a whole number of at least 1, got 0"),
        ({"batch": 1.5}, "batch must be a whole number"),
        ({"bptt": 4}, "bptt must be a whole number of at least 5"),
        ({"rate": 0}, "rate must be a number, positive, got 0"),
        ({"clip": math.inf}, "clip must be a number, positive, got inf"),
        ({"slowness_penalty": -1}, "slowness_penalty must be a number, 0 or more, got -1"),
        ({"weight_decay": math.nan}, "weight_decay must be a number"),
        ({"corpus": 3}, "corpus must be a name or a function"),
        ({"pruning": "lasso"}, "pruning must be a recipe"),
        ({"network": None}, "network must be callable"),
        ({"device": 0}, "device must be a name"),
    ],
)
def test_a_study_that_cannot_be_is_refused(changes, fault):
    with pytest.raises((ValueError, TypeError), match=fault):
        changed(**changes)


def test_a_study_whose_parts_fail_says_whose_they_are(tmp_path):
    with pytest.raises(TypeError, match="the corpus function of study 'pets' must give a Text, got int"):
        language.run(changed(corpus=lambda: 3), tmp_path)
    with pytest.raises(ValueError, match="a text of 1600 words is too short for a batch of 1500"):
        language.run(changed(batch=1500), tmp_path)


def test_a_loss_that_diverges_ends_the_run(tmp_path):
    with pytest.raises(FloatingPointError, match="lower the rate"):
        language.run(changed(rate=1e38, clip=1e38), tmp_path)


# --- pruning, and the paper's table and pictures

LASSO = GroupLasso(1e-3, limit=10.0)
METHODS = {
    "baseline": None,
    "lasso": LASSO,
    "gradual": Combined((LASSO, GradualPruning(sparsity=linear(1, 3, final=0.75), unit="blocks"))),
    "pre-pruned": Combined((LASSO, RandomPruning(sparsity=0.75))),
}
LAYER = "lstms.0.weight_hh_l0"


def pruned(method, **fields):
    return changed(
        name=method,
        network=partial(AWDLSTM, embedding=8, hidden=16, layers=2, block=4),
        pruning=METHODS[method],
        epochs=3,
        batch=8,
        layers=[LAYER],
        record=at(0, 2, 3),
        **fields,
    )


@pytest.fixture(scope="module")
def four_runs(tmp_path_factory):
    folder = tmp_path_factory.mktemp("methods")
    return {method: language.run(pruned(method), folder) for method in METHODS}


def test_sparsity_rises_as_the_paper_has_it(four_runs):
    for method, expected in {"baseline": [0] * 3, "lasso": [0] * 3, "gradual": [0, 0.375, 0.75]}.items():
        told = store.open_run(four_runs[method]).metrics["sparsity"].dropna("step")
        assert_allclose(told, expected, atol=0.01)
    last = store.open_run(four_runs["pre-pruned"])[LAYER]
    assert_allclose((last == 0).all(("out", "in")).mean("block"), 0.75)


def test_blocks_once_removed_stay_removed(four_runs):
    weights = store.open_run(four_runs["gradual"])[LAYER]
    gone = (weights == 0).all(("out", "in")).values
    assert_allclose(gone.mean(1), [0, 0.375, 0.75])
    assert not (gone[1] & ~gone[2]).any()


def test_a_stopped_pruning_goes_on_as_if_it_had_not_stopped(four_runs, tmp_path, monkeypatch):
    monkeypatch.setattr(language_training, "_CHECKPOINT_SECONDS", 0.0)

    def stop(done, loss):
        if done > 2.2:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        language.run(pruned("gradual"), tmp_path, progress=stop)
    language.run(pruned("gradual"), tmp_path)
    whole, parts = (store.open_run(path) for path in (four_runs["gradual"], tmp_path / "gradual.zarr"))
    assert whole.metrics.equals(parts.metrics)
    assert whole[LAYER].equals(parts[LAYER])


def test_means_of_weights_forget_the_blocks_that_are_removed():
    training = LanguageTraining(pruned("gradual"))
    for loss in (1, 2, 3):
        training.optimizer.judge(loss)
    assert training.optimizer.averages
    for _ in range(3):
        while not training.at_end_of_epoch:
            training.advance()
        training.end_epoch()
    training.advance()
    with training.optimizer.mean_weights():
        for lstm in training.model.lstms:
            for matrix in (lstm.weight_ih_l0, lstm.weight_hh_l0):
                zeros = (matrix.weight == 0).all(2).all(1)
                assert_array_equal(zeros, ~matrix.kept)
                assert zeros.any()


def figure(name):
    return runpy.run_path(str(Path(__file__).parents[1] / "figures" / f"{name}.py"))


@pytest.fixture(scope="module")
def reduced(four_runs, tmp_path_factory):
    target = tmp_path_factory.mktemp("reduced") / "results.nc"
    command = figure("b_reduce")["main"]
    done = CliRunner().invoke(command, [*map(str, four_runs.values()), "-o", str(target)])
    assert done.exit_code == 0, done.output
    return results.read(target)


def test_reduced_results_hold_the_weights_to_eight_bits(four_runs, reduced):
    matrix = figure("b_reduce")["matrix"]
    for method, path in four_runs.items():
        weights = store.open_run(path)[LAYER]
        ours = (reduced["weight"].astype(float) * reduced["scale"]).sel(run=method)
        for picture, step in enumerate(weights["step"].values):
            dense = matrix(weights.sel(step=step))
            assert dense.shape == (64, 16)
            assert_allclose(ours[picture], dense, atol=np.abs(dense).max() / 250)
    assert_array_equal(reduced["picture_epoch"], [0, 2, 3])
    state = torch.load(four_runs["baseline"].with_name("baseline.checkpoint.pt"), weights_only=True)["model"]
    lstm = AWDLSTM(len(corpus().vocabulary), 8, 16, 2, block=4).lstms[0]
    lstm.load_state_dict({key.removeprefix("lstms.0."): state[key] for key in state if key.startswith("lstms.0.")})
    dense = matrix(store.open_run(four_runs["baseline"])[LAYER][-1])
    assert_array_equal(dense, lstm.to_lstm().weight_hh_l0.detach())


def test_the_table_has_the_papers_numbers_beside_ours(reduced):
    lines = figure("b_t01")["table"](reduced).splitlines()
    assert len(lines) == 2 + 2 * len(METHODS)
    assert lines[6] == "| gradual | paper | 189.62 | 151.05 | 140.87 | 80 | 1.9 |"
    cells = [line.strip("| ").split(" | ") for line in lines[3::2]]
    assert [row[-2] for row in cells] == ["0", "0", "75", "75"]
    # Speed-up: 3 / (3 - sum of the sparsities).
    assert [row[-1] for row in cells] == ["1.0", "1.0", "1.6", "4.0"]
    told = float(reduced["test_perplexity"].sel(run="lasso")[-1])
    assert f"{told:.2f}" in cells[1]
    with pytest.raises(ValueError, match="hold no run 'lasso'"):
        figure("b_t01")["table"](reduced.drop_sel(run="lasso"))


def test_the_figure_shows_twelve_matrices_and_nothing_overlaps(reduced):
    with publish.paper_style():
        drawn = figure("b_f01")["draw"](reduced)
        FigureCanvasAgg(drawn).draw()
    pictures = [ax.get_images()[0].get_array() for ax in drawn.axes[:12]]
    assert [picture.shape for picture in pictures] == [(16, 64)] * 12
    assert_allclose(np.mean(pictures[8] == 0), 0.75, atol=0.02)
    assert [ax.get_title() for ax in drawn.axes[:3]] == ["epoch 0", "epoch 2", "epoch 3"]
    renderer = FigureCanvasAgg(drawn).get_renderer()
    labels = [ax.yaxis.label.get_window_extent(renderer) for ax in drawn.axes[:12:3]]
    for one, two in itertools.pairwise(labels):
        assert not one.overlaps(two)
    assert all(drawn.bbox.contains(*corner) for box in labels for corner in (box.min, box.max))
    with pytest.raises(ValueError, match="hold no 'gradual'"):
        figure("b_f01")["draw"](reduced.drop_sel(run="gradual"))
