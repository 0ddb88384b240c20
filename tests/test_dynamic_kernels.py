import importlib.util
import os
import re
import subprocess
import sys
from importlib.metadata import version
from pathlib import Path

import pytest

from rmtnet.layers.gating import rank_gates
from rmtnet.layers.kernels import launch_dynamic

HERE = Path(__file__).parent
needs_triton = pytest.mark.skipif(importlib.util.find_spec("triton") is None, reason="Triton is not installed")


def numbers(text: str) -> tuple[int, ...]:
    return tuple(int(part) for part in text.split(".")[:2])


def python(*arguments: object, **environment: str) -> str:
    done = subprocess.run(
        [sys.executable, *map(str, arguments)],
        env={name: value for name, value in os.environ.items() if name != "TRITON_INTERPRET"} | environment,
        cwd=HERE.parent,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@needs_triton
def test_kernels_give_the_dense_product_under_the_interpreter():
    if numbers(version("triton")) < (3, 7) and numbers(version("numpy")) >= (2, 4):
        pytest.skip("the interpreter of Triton below 3.7 fails with numpy 2.4 and newer")
    command = ("-m", "pytest", "-q", "-p", "no:cacheprovider", HERE / "interpreted_dynamic.py")
    said = python(*command, TRITON_INTERPRET="1", OMP_NUM_THREADS="1")
    assert re.search(r"\d+ passed", said) and "skipped" not in said


COMPILED = """
import re, sys
from triton import compile
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource
from rmtnet.layers.kernels import programs_dynamic as programs

FLOATS = ("gates", "sums", "normed", "kept", "gates_grad")
KINDS = dict.fromkeys(FLOATS, "*fp32") | {"open_blocks": "*i64"}
GIVEN = {"x", "weight", "bias", "y", "grad", "weight_grad", "x_grad", "scores"}

def assembled(name, kind, capability, warps, constants):
    program = getattr(programs, name)
    constants = {each: value for each, value in constants.items() if each in program.arg_names}
    signature = {
        each: "constexpr" if each in constants else f"*{kind}" if each in GIVEN else KINDS.get(each, "i32")
        for each in program.arg_names
    }
    # What the launcher finds out: pointers and sizes are multiples of 16.
    aligned = {
        (place,): [["tt.divisibility", 16]]
        for place, each in enumerate(program.arg_names) if signature[each] != "constexpr"
    }
    source = ASTSource(fn=program, signature=signature, constexprs=constants, attrs=aligned)
    return compile(source, target=GPUTarget("cuda", capability, 32), options={"num_warps": warps, "num_stages": 3})

for name, kind, warps, constants in eval(sys.argv[1]):
    for capability in (80, 90):
        if constants.get("OVERLAP") and capability < 90:
            continue
        made = assembled(name, kind, capability, warps, constants)
        ptx = made.asm["ptx"]
        found = (r"mma[.]", r"cp[.]async", r"[.]local", r"ld[.]global[^;]*v4", r"griddepcontrol")
        counts = (len(re.findall(what, ptx)) for what in found)
        print(name, capability, len(made.asm["cubin"]), made.metadata.shared, *counts)
"""
STRIDES = {"x_col": 1, "w_in": 1, "g_col": 1}
MATVEC = STRIDES | {"OUT": 128, "WIDTH": 128, "TILE_OUT": 8, "TILE_IN": 128, "AT_ONCE": 4}
MATVEC |= {"PLACES": 16, "SUMS": 128}
GIVEN = {"sums": None, "normed": None, "SUMS": 1}
SCORES = MATVEC | GIVEN | {"OUT": 576, "WIDTH": 1536, "PLACES": 1, "gates": None, "TILE_OUT": 2, "AT_ONCE": 16}
# What is 1 the launcher takes for a constant.
ONE = {"cols": 1, "rows": 1, "batch": 1, "number": 1}
SELECT = {"LEAST": 1e-19, "TILE": 8, "CHUNK": 1024}
TILED = STRIDES | {"OUT": 128, "WIDTH": 128, "TILE_BATCH": 64, "TILE_OUT": 128, "TILE_IN": 32, "PRECISION": "tf32x3"}
SWAPPED = TILED | {"TILE_OUT": 32, "TILE_IN": 128}
HALF = {"PRECISION": "ieee", "TILE_BATCH": 128}
USUAL = [
    ("open_matvec", "fp32", 4, MATVEC | {"OVERLAP": False}),
    ("open_matvec", "bf16", 4, MATVEC | {"OVERLAP": True}),
    ("choose", "fp32", 4, SELECT | {"OVERLAP": False}),
    ("gated_tiles", "fp32", 4, TILED),
    ("gated_input_gradient", "bf16", 8, SWAPPED | HALF | {"TILE_OUT": 64}),
    ("gated_weight_gradient", "fp32", 4, TILED | {"TILE_BATCH": 32, "TILE_OUT": 64, "TILE_IN": 64}),
]
OTHERS = [
    ("open_matvec", "fp32", 4, SCORES | ONE | {"OVERLAP": True}),
    ("open_matvec", "fp16", 4, MATVEC | GIVEN | {"OVERLAP": False}),
    ("choose", "bf16", 4, SELECT | ONE | {"OVERLAP": True, "CHUNK": 64}),
    ("gated_tiles", "bf16", 8, TILED | HALF | {"TILE_IN": 64}),
    ("gated_tiles", "fp16", 4, TILED | HALF | ONE),
    ("gated_input_gradient", "fp32", 8, SWAPPED | ONE),
    ("gated_weight_gradient", "bf16", 4, TILED | HALF | ONE | {"TILE_BATCH": 64, "TILE_OUT": 64, "TILE_IN": 64}),
]


@needs_triton
@pytest.mark.parametrize("cases", [USUAL, pytest.param(OTHERS, marks=pytest.mark.slow)], ids=["usual", "others"])
def test_programs_compile_for_ampere_and_hopper(tmp_path, cases):
    options = {"TRITON_CACHE_DIR": str(tmp_path), "TRITON_DEFAULT_FP_FUSION": "1"}
    lines = [line.split() for line in python("-c", COMPILED, repr(cases), **options).splitlines()]
    wanted = [
        (name, each, given.get("OVERLAP", False))
        for name, _, _, given in cases
        for each in ("80", "90")
        if each == "90" or not given.get("OVERLAP")
    ]
    assert [tuple(line[:2]) for line in lines] == [case[:2] for case in wanted]
    for (name, _, overlapping), line in zip(wanted, lines, strict=True):
        binary, shared, matrix, asynchronous, local, wide, dependent = map(int, line[2:])
        assert binary > 1000
        # 99 KB is what a program has on the smallest GPUs of the generation.
        assert shared <= 99 * 1024
        assert local == 0
        assert (matrix > 0) == name.startswith("gated")
        assert cases is OTHERS or (asynchronous > 0) == name.startswith("gated")
        assert name != "open_matvec" or wide >= 4
        assert dependent == 2 * overlapping


@pytest.mark.parametrize("rows, cols, out, width", [(48, 12, 128, 128), (1, 1, 576, 1536), (64, 64, 128, 128)])
def test_a_product_with_open_blocks_keeps_a_gpu_busy(rows, cols, out, width):
    tiles = launch_dynamic.slices(rows, cols, out, width)
    assert rows * -(-out // tiles.out) >= 264
    assert tiles.out * tiles.width * tiles.at_once <= launch_dynamic.LOADED


@pytest.mark.parametrize("rows, cols, out, width", [(1, 1, 1, 1), (3, 1, 7, 20), (2, 500, 16, 16), (1, 3, 5, 3000)])
def test_tiles_of_a_product_with_open_blocks_are_powers_of_two(rows, cols, out, width):
    tiles = launch_dynamic.slices(rows, cols, out, width)
    for tile, most in zip(tiles[:3], (2 * out, 2 * width, 2 * cols * width), strict=True):
        assert tile.bit_count() == 1 and 1 <= tile <= most


def test_the_least_score_is_the_gate_s():
    import torch

    scores = torch.tensor([0.0, launch_dynamic.LEAST, 2 * launch_dynamic.LEAST])
    assert rank_gates(scores, 1).tolist() == [0, 0, 3]
    assert rank_gates(scores, 2).tolist() == [1, 0, 2]
