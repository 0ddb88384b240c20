"""Who may import whom: the floors of the house, checked from the source and at run time."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
STANDARD = sys.stdlib_module_names
ARRAYS = {"numpy", "scipy"}

# Module (or package) -> what its top level may import besides the standard library and itself.
FLOORS: dict[str, set[str]] = {
    "checks": {"numpy"},
    "spectra": {"numpy", "rmtnet.checks"},
    "schedules": set(),
    "laws": ARRAYS | {"rmtnet.checks"},
    "nulls": {"numpy", "rmtnet.checks", "rmtnet.spectra"},
    "bulk": ARRAYS | {"rmtnet.checks", "rmtnet.laws", "rmtnet.nulls", "rmtnet.spectra"},
    "edges": ARRAYS | {"rmtnet.checks", "rmtnet.laws", "rmtnet.nulls", "rmtnet.bulk", "rmtnet.spectra"},
    "measures": {"numpy", "rmtnet.checks"},
    "tails": {"numpy", "rmtnet.checks"},
    "local": {"numpy", "rmtnet.checks"},
    "sisters": {"numpy", "rmtnet.checks", "rmtnet.nulls", "rmtnet.spectra"},
    "budget": {"numpy", "rmtnet.checks"},
    "trends": {"numpy", "rmtnet.checks"},
    "labelled": {
        *("numpy", "xarray", "rmtnet.nulls", "rmtnet.spectra", "rmtnet.bulk", "rmtnet.edges"),
        *("rmtnet.tails", "rmtnet.measures", "rmtnet.local", "rmtnet.sisters", "rmtnet.budget", "rmtnet.trends"),
    },
    "analysis": {"rmtnet._version", "numpy", "pandas", "xarray", "rmtnet.labelled", "rmtnet.store"},
    "results": {"xarray", "rmtnet.files"},
    "plots": {"numpy", "xarray", "matplotlib", "rmtnet.laws", "rmtnet.local"},
    "publish": {"xarray", "matplotlib", "seaborn", "click", "rmtnet.files", "rmtnet.plots", "rmtnet.results"},
    "store": {"numpy", "xarray", "zarr", "numcodecs", "google_crc32c"},
    "ring": {"numpy"},
    "writer": {"numpy", "rmtnet.ring", "rmtnet.spectra", "rmtnet.store"},
    "ranks": {"torch"},
    "layers": {"numpy", "torch", "triton", "numba"},
    "pruning": ARRAYS | {"torch", "rmtnet.layers"},
    "caffe": {"torch"},
    "networks": {"torch", "rmtnet.caffe", "rmtnet.layers"},
    "matrices": {"numpy", "torch"},
    "record": {
        *("numpy", "torch", "rmtnet._version", "rmtnet.matrices", "rmtnet.ranks", "rmtnet.ring"),
        *("rmtnet.schedules", "rmtnet.spectra", "rmtnet.store", "rmtnet.writer"),
    },
    "integrations": {"rmtnet.record", "transformers", "lightning", "pytorch_lightning"},
    "datasets": {"numpy", "pooch"},
    "study": {
        "rmtnet.fingerprint",
        "torch",
        "rmtnet.caffe",
        "rmtnet.language",
        "rmtnet.datasets",
        "rmtnet.pruning",
        "rmtnet.schedules",
    },
    "checkpoints": {"torch", "rmtnet.files", "rmtnet.fingerprint", "rmtnet.store"},
    "training": {
        *("rmtnet.checkpoints", "rmtnet.pruning"),
        *("numpy", "torch", "rmtnet.datasets", "rmtnet.record", "rmtnet.schedules", "rmtnet.store", "rmtnet.study"),
    },
    "language": {
        *("numpy", "torch", "rmtnet.checkpoints", "rmtnet.datasets", "rmtnet.fingerprint", "rmtnet.layers"),
        "rmtnet.networks",
        *("rmtnet.pruning", "rmtnet.record", "rmtnet.schedules", "rmtnet.store"),
    },
    "gates": {"numpy", "rmtnet.checks", "rmtnet.edges", "rmtnet.laws", "rmtnet.spectra"},
    "speed": {"numpy"},
    "files": set(),
    "fingerprint": set(),
    "_version": set(),
    "terminal": {"numpy", "xarray", "rich", "rmtnet.store"},
    "cli": {"click", "rmtnet._version"},
    "__init__": {"rmtnet._version"},
    "__main__": {"rmtnet.cli"},
}


def imported_at_top(source: str) -> set[str]:
    """Modules that a source imports when it is loaded: not inside functions, not under TYPE_CHECKING."""
    found: set[str] = set()
    waiting: list[ast.AST] = list(ast.parse(source).body)
    while waiting:
        node = waiting.pop()
        if isinstance(node, ast.Import):
            found.update(alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            module = node.module or ""
            found.update({f"rmtnet.{alias.name}" for alias in node.names} if module == "rmtnet" else {module})
        elif isinstance(node, ast.If | ast.Try | ast.With | ast.ClassDef):
            guarded = isinstance(node, ast.If) and "TYPE_CHECKING" in ast.dump(node.test)
            waiting += [] if guarded else list(ast.iter_child_nodes(node))
    return found


def breaches(module: str, source: str) -> list[str]:
    """Imports of a module's source that its floor does not carry."""
    allowed = FLOORS[module]
    own = f"rmtnet.{module}"
    wrong = []
    for name in imported_at_top(source):
        top = name.split(".")[0]
        if top in STANDARD or name == own or name.startswith(own + ".") or name == "rmtnet.__version__":
            continue
        place = ".".join(name.split(".")[:2]) if top == "rmtnet" else top
        if place not in allowed:
            wrong.append(name)
    return wrong


def sources() -> list[tuple[str, Path]]:
    package = ROOT / "rmtnet"
    return [(path.relative_to(package).parts[0].removesuffix(".py"), path) for path in sorted(package.rglob("*.py"))]


@pytest.mark.parametrize(("module", "path"), sources(), ids=lambda value: getattr(value, "name", value))
def test_every_module_keeps_to_its_floor(module, path):
    assert breaches(module, path.read_text()) == []


@pytest.mark.parametrize(
    ("module", "source"),
    [
        ("spectra", "import torch"),
        ("spectra", "from rmtnet.record import Recorder"),
        ("laws", "import xarray as xr"),
        ("sisters", "from statsmodels.api import OLS"),
        ("store", "from torch import nn"),
        ("labelled", "from rmtnet import store"),
        ("layers", "from rmtnet.record import Recorder"),
        ("cli", "try:\n    import torch\nexcept ImportError:\n    pass"),
    ],
)
def test_planted_violations_are_found(module, source):
    assert breaches(module, source)


def test_no_import_is_circular():
    graph: dict[str, set[str]] = {}
    for module, path in sources():
        names = {name.split(".")[1] for name in imported_at_top(path.read_text()) if name.startswith("rmtnet.")}
        graph.setdefault(module, set()).update(names - {module, "__version__"})
    while leaves := [module for module, needs in graph.items() if not needs & graph.keys()]:
        for leaf in leaves:
            del graph[leaf]
    assert graph == {}


def test_the_library_names_no_room():
    for _, path in sources():
        for name in imported_at_top(path.read_text()):
            assert name.split(".")[0] not in {"hooks", "studies", "figures", "data", "tests", "docs"}


@pytest.mark.parametrize(
    ("statement", "absent"),
    [
        ("import rmtnet", {"torch", "xarray", "scipy", "zarr", "numpy"}),
        ("import rmtnet.cli", {"torch", "xarray", "scipy", "zarr", "rich", "pandas"}),
        ("import rmtnet.laws, rmtnet.bulk, rmtnet.nulls, rmtnet.sisters", {"torch", "xarray", "scipy.stats"}),
        ("import rmtnet.labelled", {"torch", "zarr", "matplotlib"}),
        ("import rmtnet.store", {"torch", "matplotlib"}),
        ("import rmtnet.plots", {"torch", "matplotlib.pyplot"}),
        ("import rmtnet.datasets", {"torch", "pooch", "mlxtend"}),
        ("import rmtnet.layers, rmtnet.pruning", {"triton", "numba", "scipy.optimize", "xarray"}),
    ],
)
def test_what_an_import_does_not_load(statement, absent):
    code = f"import sys; {statement}; print(' '.join(sys.modules))"
    loaded = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.split()
    assert absent.isdisjoint(loaded)


def test_the_public_names_exist_and_are_few():
    import rmtnet

    assert len(rmtnet.__all__) <= 25
    assert all(hasattr(rmtnet, name) for name in rmtnet.__all__)
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        _ = rmtnet.nothing
