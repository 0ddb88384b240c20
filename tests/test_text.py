import gzip
import os
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.testing import assert_array_equal

from rmtnet.datasets.text import PARTS, Text, load_text, read_text, text_of_lines

LINES = {
    "train": ["the cat sat", "", "the <unk> dog sat"],
    "valid": ["the dog"],
    "test": ["a cat"],
}


def made(**changes):
    return text_of_lines({**LINES, **changes}, name="pets", source="here")


def spelt(text, part):
    return " ".join(text.vocabulary[word] for word in getattr(text, part))


def test_words_stand_between_blanks_and_every_line_has_an_end():
    text = made()
    assert text.vocabulary == ("the", "cat", "sat", "<eos>", "<unk>", "dog")
    assert spelt(text, "train") == "the cat sat <eos> <eos> the <unk> dog sat <eos>"
    assert_array_equal(text.train, [0, 1, 2, 3, 3, 0, 4, 5, 2, 3])
    assert spelt(text, "test") == "<unk> cat <eos>"


def test_a_word_that_training_does_not_have_needs_unk():
    with pytest.raises(ValueError, match="test of pets: 'a' is not in the training part, and no <unk>"):
        made(train=["the cat sat", "the dog sat"])


@given(st.lists(st.lists(st.sampled_from("abcdefgh"), max_size=6), min_size=1, max_size=20), st.integers(2, 6))
def test_rarer_words_are_unk_and_the_others_stay(lines, number):
    lines = [" ".join(line) for line in [*lines, ["<unk>"], list("abcdefgh")]]
    text = text_of_lines({"train": lines, "valid": ["a"], "test": ["h"]}, name="letters", source="here")
    fewer = text.with_words(number)
    assert len(fewer.vocabulary) == number
    assert len(fewer.train) == len(text.train)
    before, after = spelt(text, "train").split(), spelt(fewer, "train").split()
    kept = set(fewer.vocabulary)
    assert after == [word if word in kept else "<unk>" for word in before]
    counts = {word: before.count(word) for word in text.vocabulary if word != "<unk>"}
    lost = [counts[word] for word in counts if word not in kept]
    assert not lost or max(lost) <= min(counts[word] for word in kept - {"<unk>"})


def test_a_vocabulary_that_cannot_be_cut_so_is_refused():
    with pytest.raises(ValueError, match="number of words must be 2 to 6, got 7"):
        made().with_words(7)
    with pytest.raises(ValueError, match="pets has no <unk>"):
        made(train=["a the cat dog"]).with_words(2)


def test_a_text_may_be_shortened():
    text = made().with_length(train=4, test=1)
    assert spelt(text, "train") == "the cat sat <eos>"
    assert [len(text.train), len(text.valid), len(text.test)] == [4, 3, 1]
    for lengths in ({"train": 11}, {"train": 0}, {"other": 1}):
        with pytest.raises(ValueError, match="pets: cannot take"):
            made().with_length(**lengths)


@pytest.mark.parametrize(
    "train, fault",
    [
        (np.array([0, 2]), "must hold numbers of 2 words, got 0 to 2"),
        (np.array([-1, 0]), "must hold numbers of 2 words, got -1 to 0"),
        (np.array([], dtype=int), "at least one"),
        (np.array([0.5]), "one number a word"),
        (np.zeros((2, 2), dtype=int), "one number a word"),
    ],
)
def test_numbers_that_are_no_words_are_refused(train, fault):
    with pytest.raises(ValueError, match=fault):
        Text("x", "here", ("a", "b"), train, np.array([0]), np.array([1]))


def test_files_may_be_plain_or_gzipped(tmp_path):
    paths = []
    for part in PARTS:
        path = tmp_path / f"{part}.txt"
        path.write_text("\n".join(LINES[part]) + "\n", encoding="utf-8")
        paths.append(path)
    packed = paths[0].with_suffix(".gz")
    packed.write_bytes(gzip.compress(paths[0].read_bytes()))
    plain, gzipped = read_text(*paths, name="pets"), read_text(packed, *map(str, paths[1:]), name="pets")
    for part in PARTS:
        assert_array_equal(getattr(plain, part), getattr(made(), part))
        assert_array_equal(getattr(gzipped, part), getattr(made(), part))
    assert str(packed) in gzipped.source


def test_only_ends_of_lines_end_lines(tmp_path):
    # These characters end lines for str.splitlines.
    path = tmp_path / "text.txt"
    path.write_bytes("one\u2028two\x85three\x0cfour\n".encode())
    assert spelt(read_text(path, path, path), "train").count("<eos>") == 1


@pytest.mark.parametrize(
    "name, content, fault",
    [
        ("empty.txt", b"", "holds no words"),
        ("blank.txt", b" \n\n", "holds no words"),
        ("latin.txt", b"caf\xe9", "damaged or no UTF-8 text"),
        ("cut.gz", gzip.compress(b"some words of a text", mtime=0)[:-9], "damaged or no UTF-8 text"),
        ("plain.gz", b"not gzipped", "damaged or no UTF-8 text"),
    ],
)
def test_a_file_that_holds_no_text_is_named(tmp_path, name, content, fault):
    path = tmp_path / name
    path.write_bytes(content)
    with pytest.raises(ValueError, match=f"{name} .*{fault}|{name} {fault}"):
        read_text(path, path, path)


def test_the_embedded_text_is_english_and_the_same_every_time():
    text, again = load_text("pydoc"), load_text("pydoc")
    for part in PARTS:
        assert_array_equal(getattr(text, part), getattr(again, part))
    assert len(text.train) > 30_000
    assert 3_000 < len(text.test) < len(text.train) / 4
    assert text.vocabulary == again.vocabulary
    assert 1_500 < len(text.vocabulary) < 5_000
    assert " the " in spelt(text, "test")
    assert "Python" in text.source
    told = [set(spelt(text, part).split(" <eos> ")) for part in ("train", "test")]
    shared = [line for line in told[0] & told[1] if len(line.split()) > 8 and "<unk>" not in line]
    assert shared == []


def test_a_dataset_that_is_no_text_is_refused():
    with pytest.raises(ValueError, match="dataset 'mnist' is no text; texts are pydoc, ptb and wikitext-2"):
        load_text("mnist")


REAL = {
    "ptb": (10_000, (929_589, 73_760, 82_430)),
    "wikitext-2": (33_278, (2_088_628, 217_646, 245_569)),
}


@pytest.mark.slow
@pytest.mark.parametrize("name", REAL)
def test_counts_of_the_real_texts_are_the_published_ones(name):
    words, lengths = REAL[name]
    folder = Path(os.environ.get("RMTNET_DATA", "")) / name
    if not folder.is_dir():
        pytest.skip(f"needs RMTNET_DATA with {name}")
    text = load_text(name)
    assert len(text.vocabulary) == words
    assert (len(text.train), len(text.valid), len(text.test)) == lengths
