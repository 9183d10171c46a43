import os
import signal
import subprocess
import sys
import textwrap

import pytest

from refimpl import files
from refimpl.files import replace_file, sync_folder


def test_replaces_the_content_and_leaves_nothing_else(tmp_path):
    path = tmp_path / "a.json"
    replace_file(path, b"old")
    replace_file(path, memoryview(b"new and longer"))
    assert path.read_bytes() == b"new and longer"
    assert [p.name for p in tmp_path.iterdir()] == ["a.json"]


@pytest.mark.parametrize("step", ["fsync", "replace"])
def test_a_failure_leaves_the_old_content_and_no_rest(tmp_path, monkeypatch, step):
    path = tmp_path / "a.json"
    replace_file(path, b"old")

    def fail(*_):
        raise OSError("disk full")

    monkeypatch.setattr(files.os, step, fail)
    with pytest.raises(OSError, match="disk full"):
        replace_file(path, b"new")
    assert path.read_bytes() == b"old"
    assert [p.name for p in tmp_path.iterdir()] == ["a.json"]


def test_the_bytes_are_on_the_disk_before_the_name_is(tmp_path, monkeypatch):
    """A rename that reaches the disk before the bytes would leave an empty file after a power cut."""
    order = []
    for name in ("fsync", "replace"):
        real = getattr(os, name)
        monkeypatch.setattr(files.os, name, lambda *a, n=name, f=real: (order.append(n), f(*a))[1])
    replace_file(tmp_path / "a", b"x")
    assert order == ["fsync", "replace"]


@pytest.mark.skipif(os.name != "posix", reason="needs SIGKILL")
def test_killed_between_writing_and_renaming(tmp_path):
    path = tmp_path / "a.json"
    replace_file(path, b"old")
    code = textwrap.dedent(
        f"""
        import os, signal
        from refimpl import files
        files.os.replace = lambda *a: os.kill(os.getpid(), signal.SIGKILL)
        files.replace_file({str(path)!r}, b"new")
        """
    )
    done = subprocess.run([sys.executable, "-c", code], check=False)
    assert done.returncode == -signal.SIGKILL
    assert path.read_bytes() == b"old"
    left = [p.name for p in tmp_path.iterdir() if p != path]
    assert len(left) == 1 and left[0].startswith(".writing-")


def test_no_folder_is_made(tmp_path):
    with pytest.raises(FileNotFoundError):
        replace_file(tmp_path / "no" / "a", b"x")
    assert not (tmp_path / "no").exists()


def test_sync_folder(tmp_path, monkeypatch):
    seen = []
    real = os.fsync
    monkeypatch.setattr(files.os, "fsync", lambda h: (seen.append(os.fstat(h).st_ino), real(h))[1])
    sync_folder(tmp_path)
    assert seen == ([tmp_path.stat().st_ino] if os.name == "posix" else [])
