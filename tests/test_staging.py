"""Files appear whole or not at all; links stay links, devices are left alone."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from onnx_fp16fix.staging import staged


def write(path: Path, text: str = "new") -> None:
    with staged(path) as temporary:
        temporary.write_text(text)


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def test_an_error_leaves_what_was_there(tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_text("old")

    def interrupted() -> None:
        with staged(path) as temporary:
            temporary.write_text("half")
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        interrupted()
    assert (path.read_text(), names(tmp_path)) == ("old", ["file"])


def test_a_link_stays_one_and_its_target_is_replaced(tmp_path: Path) -> None:
    (tmp_path / "far").mkdir()
    target, link = tmp_path / "far" / "file", tmp_path / "link"
    link.symlink_to("far/file")
    write(link)  # the target need not be there
    assert (link.is_symlink(), target.read_text()) == (True, "new")
    write(link, "newer")
    assert (link.is_symlink(), target.read_text(), names(target.parent)) == (True, "newer", ["file"])


def test_permissions_are_kept_and_new_files_get_the_usual_ones(tmp_path: Path) -> None:
    path, mask = tmp_path / "file", os.umask(0o027)
    try:
        write(path)
        assert path.stat().st_mode & 0o777 == 0o640
        path.chmod(0o600)
        write(path)
        assert path.stat().st_mode & 0o777 == 0o600
    finally:
        os.umask(mask)


@pytest.mark.parametrize(
    ("make", "why"),
    [(os.mkdir, "directory"), (os.mkfifo, "pipe"), (lambda path: os.symlink(path, path), "symbolic links")],
)
def test_what_no_file_can_replace(make, why: str, tmp_path: Path) -> None:
    path = tmp_path / "place"
    make(path)
    with pytest.raises(OSError, match=why):
        write(path)
    assert names(tmp_path) == ["place"]
    assert path.is_symlink() or not path.is_file()


def test_a_name_as_long_as_names_may_be(tmp_path: Path) -> None:
    path = tmp_path / ("ü" * 127)
    write(path)
    assert path.read_text() == "new"
