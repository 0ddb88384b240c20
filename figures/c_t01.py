"""C-T1, C-T2 and C-X2 as tables: test perplexities, the paper's and ours; and the miniature's, at equal cost.

    python figures/c_t01.py RESULTS.nc > tables.md

RESULTS.nc is made by ``c_reduce.py`` from runs of ``qrnn_ptb``, ``dynamic_lstm_ptb`` or ``dynamic_small``; rows without
runs are marked.  Ours is the mean over seeds, with half their range where there are several; "multiplied" is what is
multiplied for a word, gates counted, embedding and scores not, over the same of the dense model.
"""

import sys
from pathlib import Path

import numpy as np
import xarray as xr

from rmtnet.results import read

# Run -> the paper's perplexity and its "comput.".
QRNN = {
    "dense": ("54.93", "1.0"),
    "small-810": ("57.23", "0.5"),
    "small-660": ("58.76", "0.4"),
    "small-500": ("60.82", "0.2"),
    "small-350": ("64.08", "0.1"),
    "dynamic-50": ("56.17", "0.5"),
    "dynamic-60": ("57.93", "0.4"),
    "dynamic-80": ("60.70", "0.2"),
    "dynamic-90": ("63.59", "0.1"),
    **{f"agp-{percent}": ("", "") for percent in (50, 60, 80, 90)},
    **{f"small-{percent}-equal": ("", "") for percent in (50, 60, 80, 90)},
}
# Run -> the paper's perplexities of PTB and WikiText-2.
LSTM = {
    "dense": ("78.57", "85.0"),
    "agp-50": ("80.92", "86.91"),
    "agp-75": ("81.06", "88.45"),
    "agp-90": ("81.75", "89.48"),
    "dynamic-50": ("78.50", "85.31"),
    "dynamic-75": ("79.12", "86.76"),
    "dynamic-90": ("80.34", "88.44"),
    **{f"small-{percent}": ("", "") for percent in (50, 75, 90)},
}
# Dropout -> the paper's perplexities: given for 0.65 (C-T2) and, as differences, for 0.60.
DROPOUT = {"0.4": ("", ""), "0.5": ("", ""), "0.55": ("", ""), "0.6": ("77.19", "84.74"), "0.65": ("78.50", "85.31")}
NOT_RUN = "not run"
Row = tuple[str, ...]


def c_t01(results: xr.Dataset) -> list[Row]:
    head = ("C-T1: QRNN, PTB", "paper", "ours", "comput., paper", "multiplied")
    rows: list[Row] = [head]
    for name, (paper, comput) in QRNN.items():
        rows.append((name, paper, perplexity(results, name), comput, multiplied(results, name, "dense")))
    return rows


def c_t02(results: xr.Dataset) -> list[Row]:
    head = ("C-T2: LSTM", "PTB, paper", "PTB, ours", "WikiText-2, paper", "WikiText-2, ours", "multiplied")
    rows: list[Row] = [head]
    for name, papers in LSTM.items():
        ours = [perplexity(results, f"{corpus}-{name}") for corpus in ("ptb", "wikitext-2")]
        rows.append((name, papers[0], ours[0], papers[1], ours[1], multiplied(results, f"ptb-{name}", "ptb-dense")))
    return rows


def c_x02(results: xr.Dataset) -> list[Row]:
    head = ("C-X2: dropout, dynamic 50 %", "PTB, paper", "PTB, ours", "WikiText-2, paper", "WikiText-2, ours")
    rows: list[Row] = [head]
    for dropout, (ptb, wikitext) in DROPOUT.items():
        name = "dynamic-50" if dropout == "0.65" else f"dropout-{dropout}"
        ours = [perplexity(results, f"{corpus}-{name}") for corpus in ("ptb", "wikitext-2")]
        rows.append((dropout, ptb, ours[0], wikitext, ours[1]))
    return rows


def miniature(results: xr.Dataset) -> list[Row]:
    """Test perplexity of each kind of model, at the multiplications of the dynamic one."""
    rows: list[Row] = [("miniature", "multiplied", "small dense", "AGP", "dynamic")]
    for model in ("qrnn", "lstm"):
        dense = f"{model}-dense"
        rows.append((f"{model}, dense", multiplied(results, dense, dense), perplexity(results, dense), "", ""))
        for percent in (50, 90):
            names = [f"{model}-{kind}-{percent}" for kind in ("small", "agp", "dynamic")]
            cost = multiplied(results, names[2], dense)
            rows.append((f"{model}, {percent} % closed", cost, *(perplexity(results, name) for name in names)))
    return rows


def perplexity(results: xr.Dataset, name: str) -> str:
    """Of the test text after the last epoch."""
    runs = _runs(results, name)
    return shown(_last(runs["test_perplexity"])) if runs.sizes["run"] else NOT_RUN


def multiplied(results: xr.Dataset, name: str, dense: str) -> str:
    runs, whole = _runs(results, name), _runs(results, dense)
    if not runs.sizes["run"] or not whole.sizes["run"]:
        return NOT_RUN
    return f"{float(_last(runs['multiplications'])[0] / _last(whole['multiplications'])[0]):.3f}"


def shown(values: np.ndarray) -> str:
    """Mean over seeds, and half their range if there are several."""
    return f"{values.mean():.2f}" + (f" ± {np.ptp(values) / 2:.2f}" if len(values) > 1 else "")


def _runs(results: xr.Dataset, name: str) -> xr.Dataset:
    return results.isel(run=results["run"].values == name)


def _last(values: xr.DataArray) -> np.ndarray:
    """Of each run the last value that there is."""
    return np.array([row[~np.isnan(row)][-1] for row in values.transpose("run", "epoch").values])


def table(rows: list[Row]) -> str:
    """As Markdown."""
    head, *rest = rows
    return "\n".join("| " + " | ".join(cells) + " |" for cells in [head, ("---",) * len(head), *rest])


if __name__ == "__main__":
    if len(sys.argv) != 2:
        sys.exit("usage: c_t01.py RESULTS.nc")
    opened = read(Path(sys.argv[1]))
    print("\n\n".join(table(rows(opened)) for rows in (miniature, c_t01, c_t02, c_x02)))
