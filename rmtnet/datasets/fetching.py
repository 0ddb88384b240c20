"""Files of a dataset: found on this machine or downloaded, and verified."""

import hashlib
import os
from importlib.util import find_spec
from pathlib import Path
from urllib.parse import urlsplit

from rmtnet.datasets.sources import SOURCES, File, Source

TIMEOUT = (5.0, 20.0)
"""Seconds a mirror may take to connect, and between two pieces of an answer."""


def fetch(name: str, *, progress: bool = True) -> list[Path]:
    """Paths of a dataset's files, verified; those not on this machine are downloaded into the cache.

    An embedded dataset has no files: the list is empty. ``progress`` draws bars on stderr.

    Raises
    ------
    ValueError
        For an unknown name, a wrong checksum (the file is left as it is), an ``RMTNET_DATA`` without folder.
    OSError
        When no mirror gives a file that is missing, or the cache cannot be written.
    """
    source = find_source(name)
    return [_verified(source, file, progress=progress) for file in source.files]


def locate(name: str) -> str:
    """Where :func:`fetch`, whose ValueErrors it shares, would find a dataset now; no file is opened.

    RMTNET_DATA, cache, both joined by "and", to download, embedded, or needs rmtnet[studies].
    """
    source = find_source(name)
    if not source.files:
        return "embedded" if find_spec(source.module) else "needs rmtnet[studies]"
    places = dict.fromkeys(_find(source, file)[0] for file in source.files)
    return "to download" if "to download" in places else " and ".join(places)


def find_source(name: str) -> Source:
    if name not in SOURCES:
        raise ValueError(f"no dataset is called {name!r}, there are: {', '.join(SOURCES)}")
    return SOURCES[name]


def _folders(source: Source) -> dict[str, Path]:
    """Folders on this machine that may hold the files, by what people call them; the first wins."""
    import pooch

    data = os.environ.get("RMTNET_DATA")
    if data and not Path(data).expanduser().is_dir():
        raise ValueError(f"RMTNET_DATA is {data!r}, which is no folder: correct it, or unset it to use the cache")
    roots = {"RMTNET_DATA": data, "cache": os.environ.get("RMTNET_CACHE") or pooch.os_cache("rmtnet")}
    return {place: Path(root).expanduser() / source.name for place, root in roots.items() if root}


def _find(source: Source, file: File) -> tuple[str, Path]:
    """Where a file is, as people call it, and its path: the one it will have if it is to be downloaded."""
    folders = _folders(source)
    for place, folder in folders.items():
        if (folder / file.name).is_file():
            return place, folder / file.name
    return "to download", folders["cache"] / file.name


def _verified(source: Source, file: File, *, progress: bool) -> Path:
    place, path = _find(source, file)
    if place == "to download":
        _download(source, file, progress=progress)
    elif (digest := _digest(path, file.algorithm)) != (expected := file.checksum.removeprefix("md5:")):
        cure = f"delete it and run 'rmtnet datasets fetch {source.name}'"
        raise ValueError(f"{path} has {file.algorithm} {digest[:12]}..., expected {expected[:12]}...: {cure}")
    return path


def _digest(path: Path, algorithm: str) -> str:
    with path.open("rb") as opened:
        return hashlib.file_digest(opened, algorithm.lower().replace("-", "")).hexdigest()


def _download(source: Source, file: File, *, progress: bool) -> None:
    folders = _folders(source)
    cache, tried = folders["cache"], []
    for mirror in source.mirrors:
        host = urlsplit(mirror).netloc
        try:
            _retrieve(mirror + file.name, cache, file, progress=progress)
            return
        except ValueError:
            tried.append(f"{host}: wrong {file.algorithm}")
        except OSError as error:
            # requests' errors are OSErrors without a number; one with a number is the disk's.
            if error.errno is not None:
                cause = f"cannot write to the cache {cache} ({error.strerror})"
                raise OSError(f"{cause}: set RMTNET_CACHE to another folder") from error
            status = getattr(getattr(error, "response", None), "status_code", "")
            tried.append(f"{host}: {type(error).__name__} {status}".rstrip())
    places = " or ".join(map(str, folders.values()))
    mirrors = f"no mirror gave it ({'; '.join(tried)})" if source.mirrors else "there is no mirror of it"
    cures = [f"set RMTNET_DATA to a folder that holds {source.name}/{file.name} etc.", source.advice]
    raise OSError(f"{file.name} is not in {places}, and {mirrors}: {', or '.join(filter(None, cures))}")


def _retrieve(url: str, folder: Path, file: File, *, progress: bool) -> None:
    import pooch
    from tqdm import tqdm

    logger = pooch.get_logger()
    level = logger.level
    logger.setLevel("WARNING")
    try:
        with tqdm(None, file.name, file.size, False, unit="B", unit_scale=True, disable=not progress) as bar:
            downloader = pooch.HTTPDownloader(progressbar=bar, chunk_size=2**16, timeout=TIMEOUT)
            pooch.retrieve(url, file.checksum, file.name, folder, downloader=downloader)
    finally:
        logger.setLevel(level)
