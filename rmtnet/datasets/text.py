"""Texts to train language models on, as numbers of words."""

import gzip
import sys
import zlib
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import chain
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from rmtnet.datasets.fetching import fetch, find_source

END, UNKNOWN = "<eos>", "<unk>"
PARTS = ("train", "valid", "test")
_STRETCH, _RARE = 20, 3


@dataclass(frozen=True, eq=False)
class Text:
    """A text in three parts, each the numbers of its words in order.

    Raises
    ------
    ValueError
        If a part is empty or not 1-dimensional, or holds a number that the vocabulary does not.
    """

    name: str
    source: str
    """Where the bytes came from, for people."""
    vocabulary: tuple[str, ...]
    train: NDArray[np.int64]
    valid: NDArray[np.int64]
    test: NDArray[np.int64]

    def __post_init__(self) -> None:
        for part in PARTS:
            words = np.asarray(getattr(self, part))
            if words.ndim != 1 or not words.size or words.dtype.kind not in "iu":
                raise ValueError(f"{part} must be one number a word, at least one; got {words.dtype} {words.shape}")
            if words.min() < 0 or words.max() >= len(self.vocabulary):
                got = f"{words.min()} to {words.max()}"
                raise ValueError(f"{part} must hold numbers of {len(self.vocabulary)} words, got {got}")
            object.__setattr__(self, part, words.astype(np.int64))

    def with_words(self, number: int) -> "Text":
        """The same text where all but the ``number`` most frequent words of train (<unk> is one) are <unk>.

        Words of equal frequency are kept in the order of the vocabulary.
        """
        if UNKNOWN not in self.vocabulary:
            raise ValueError(f"{self.name} has no {UNKNOWN} that could stand for its rarer words")
        if not 2 <= number <= len(self.vocabulary):
            raise ValueError(f"number of words must be 2 to {len(self.vocabulary)}, got {number}")
        counts = np.bincount(self.train, minlength=len(self.vocabulary))
        unknown = self.vocabulary.index(UNKNOWN)
        counts[unknown] = len(self.train)
        kept = np.sort(np.argsort(-counts, kind="stable")[:number])
        place = np.full(len(counts), np.searchsorted(kept, unknown))
        place[kept] = np.arange(number)
        parts = {part: place[getattr(self, part)] for part in PARTS}
        return replace(self, vocabulary=tuple(self.vocabulary[word] for word in kept), **parts)

    def with_length(self, **lengths: int) -> "Text":
        """The same text with only the first words of some parts: ``text.with_length(train=100_000)``."""
        for part, length in lengths.items():
            if part not in PARTS or not 1 <= length <= len(getattr(self, part)):
                held = ", ".join(f"{part} {len(getattr(self, part)):,}" for part in PARTS)
                raise ValueError(f"{self.name}: cannot take {length:,} words of {part!r}; there are {held}")
        return replace(self, **{part: getattr(self, part)[:length] for part, length in lengths.items()})


def load_text(name: str) -> Text:
    """A text that :data:`rmtnet.datasets.SOURCES` knows; its words are what stands between blanks, and <eos> a line.

    ``"ptb"`` is the Penn Treebank as Mikolov et al. (Interspeech 2010) split it: 929,589, 73,760 and 82,430 words,
    vocabulary 10,000.  ``"wikitext-2"`` is that of Merity et al. (arXiv:1609.07843): 2,088,628, 217,646 and 245,569,
    vocabulary 33,278.  ``"pydoc"`` is the documentation of the running Python's language, which its standard library
    carries: about 50,000 words, not the same in every version.

    Raises
    ------
    ValueError, OSError
        As :func:`rmtnet.datasets.fetch`; and for a dataset that is no text.
    """
    if name == "pydoc":
        return _pydoc()
    files = [file.name for file in find_source(name).files]
    wanted = [next((file for file in files if f".{part}." in file), None) for part in PARTS]
    if None in wanted:
        raise ValueError(f"dataset {name!r} is no text; texts are pydoc, ptb and wikitext-2")
    paths = {path.name: path for path in fetch(name)}
    train, valid, test = (paths[str(file)] for file in wanted)
    source = " and ".join(dict.fromkeys(str(path.parent) for path in paths.values())) + ", SHA-256 verified"
    return read_text(train, valid, test, name=name, source=source)


def read_text(
    train: Path | str, valid: Path | str, test: Path | str, *, name: str = "text", source: str | None = None
) -> Text:
    """A text from three files in UTF-8, plain or gzipped (``.gz``): words between blanks, <eos> at the end of a line.

    Raises
    ------
    ValueError
        If a file is empty or damaged, or a word of ``valid`` or ``test`` is not in ``train`` and <unk> is not either.
    """
    paths = dict(zip(PARTS, map(Path, (train, valid, test)), strict=True))
    lines = {part: _lines(path) for part, path in paths.items()}
    return text_of_lines(lines, name=name, source=source or ", ".join(map(str, paths.values())))


def text_of_lines(lines: Mapping[str, Sequence[str]], *, name: str, source: str) -> Text:
    """A text from the lines of its parts ``train``, ``valid`` and ``test``; its vocabulary is that of train."""
    words = {part: [*chain.from_iterable((*line.split(), END) for line in lines[part])] for part in PARTS}
    numbers = {word: number for number, word in enumerate(dict.fromkeys(words["train"]))}
    parts = {part: _numbered(words[part], numbers, f"{part} of {name}") for part in PARTS}
    return Text(name, source, tuple(numbers), **parts)


def _numbered(words: Sequence[str], numbers: Mapping[str, int], what: str) -> NDArray[np.int64]:
    unknown = numbers.get(UNKNOWN)
    found = [numbers.get(word, unknown) for word in words]
    if None in found:
        word = words[found.index(None)]
        raise ValueError(f"{what}: {word!r} is not in the training part, and no {UNKNOWN} that could stand for it")
    return np.array(found, dtype=np.int64)


def _lines(path: Path) -> list[str]:
    try:
        content = path.read_bytes()
        text = (gzip.decompress(content) if path.suffix == ".gz" else content).decode()
    except (EOFError, gzip.BadGzipFile, zlib.error, UnicodeDecodeError) as error:
        raise ValueError(f"{path} is damaged or no UTF-8 text ({error}): fetch it again") from error
    if not text.strip():
        raise ValueError(f"{path} holds no words")
    # Not splitlines: it also cuts at characters that are rare, but stand within lines of WikiText.
    return text.removesuffix("\n").split("\n")


def _pydoc() -> Text:
    """Stretches of paragraphs in the order of topics, 8 in 10 to train; a paragraph that topics share is told once."""
    from pydoc_data.topics import topics

    paragraphs = dict.fromkeys(" ".join(each.split()) for key in sorted(topics) for each in topics[key].split("\n\n"))
    told = [paragraph for paragraph in paragraphs if paragraph]
    role = ("train",) * 8 + ("valid", "test")
    lines: dict[str, list[str]] = {part: [] for part in PARTS}
    for k, paragraph in enumerate(told):
        lines[role[k // _STRETCH % len(role)]].append(paragraph)
    lines["train"] = _without_rare(lines["train"])
    version = ".".join(map(str, sys.version_info[:3]))
    return text_of_lines(lines, name="pydoc", source=f"documentation that Python {version} carries (pydoc_data.topics)")


def _without_rare(lines: Iterable[str]) -> list[str]:
    """The lines with <unk> for words that are rarer than 3, WikiText's rule."""
    split = [line.split() for line in lines]
    counts = Counter(chain.from_iterable(split))
    return [" ".join(word if counts[word] >= _RARE else UNKNOWN for word in words) for words in split]
