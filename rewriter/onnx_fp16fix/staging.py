"""Files that appear whole or not at all: written beside their place, then renamed.

A symbolic link stays one: what it points to is replaced. A file that is replaced keeps its permissions.
"""

from __future__ import annotations

import errno
import os
import stat
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

__all__ = ["check_place", "staged"]


@contextmanager
def staged(path: Path) -> Iterator[Path]:
    """A temporary file that takes the place of ``path`` when the block ends without an error.

    Raises OSError where that cannot be: a folder, a device, a place that cannot be written.
    """
    target, mode = _place(path)
    handle, name = tempfile.mkstemp(prefix=f".{target.name[:50]}.", dir=target.parent)
    os.close(handle)
    temporary = Path(name)
    try:
        yield temporary
        temporary.chmod(mode)
        temporary.replace(target)
    finally:
        temporary.unlink(missing_ok=True)


def check_place(path: Path) -> None:
    """Before work that takes long: raise the OSError that ``staged`` would raise, as far as that can be known."""
    target, _ = _place(path)
    if not target.parent.is_dir():
        raise FileNotFoundError(errno.ENOENT, f"there is no folder '{target.parent}'")
    if not os.access(target.parent, os.W_OK | os.X_OK):
        raise PermissionError(errno.EACCES, f"its folder '{target.parent}' is read-only")


def _place(path: Path) -> tuple[Path, int]:
    """What is to be replaced, links followed, and the permissions that the new file gets."""
    target = Path(os.path.realpath(path)) if path.is_symlink() else path
    try:
        found = target.lstat()
    except FileNotFoundError:
        mask = os.umask(0)
        os.umask(mask)
        return target, 0o666 & ~mask
    if stat.S_ISDIR(found.st_mode):
        raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR))
    if stat.S_ISLNK(found.st_mode):  # realpath gives a link for one that leads back to itself
        raise OSError(errno.ELOOP, os.strerror(errno.ELOOP))
    if not stat.S_ISREG(found.st_mode):
        raise OSError(errno.EINVAL, "it is a device or a pipe, which no file can replace")
    return target, stat.S_IMODE(found.st_mode)
