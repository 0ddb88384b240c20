import pytest

from rmtnet.files import write_whole


def test_a_file_is_replaced_whole(tmp_path):
    for content in (b"first", memoryview(b"second")):
        write_whole(tmp_path / "file", content)
        assert (tmp_path / "file").read_bytes() == content
    assert [path.name for path in tmp_path.iterdir()] == ["file"]


@pytest.mark.parametrize("target", ["pathlib.Path.write_bytes", "os.replace"])
def test_what_was_there_stays_when_the_disk_is_full(tmp_path, monkeypatch, target):
    (tmp_path / "file").write_bytes(b"first")

    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(target, full)
    with pytest.raises(OSError, match=r"No space left on device: '.*file'"):
        write_whole(tmp_path / "file", b"second")
    monkeypatch.undo()
    assert (tmp_path / "file").read_bytes() == b"first"
    assert [path.name for path in tmp_path.iterdir()] == ["file"]
