# SPDX-License-Identifier: GPL-2.0-or-later
"""`fuser PATH|INODE`: the tasks that have a file open, mapped, or as root or working directory."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any

from . import Problem, Words, command, selected_tasks

_HEX = frozenset("0123456789abcdefABCDEF")


def run(prog: Any, words: Sequence[str]) -> Iterator[str]:
    """Yield a line for each task that uses the file.

    Raises:
        Problem: Nobody does, or a task's files could not be read.
    """
    from drgn import FaultError

    parser = Words("fuser")
    parser.add_argument("file", metavar="PATH|INODE")
    wanted = parser.parse_args(list(words)).file
    fits = _matcher(wanted)
    unread: list[int] = []
    some = False
    for task in selected_tasks(prog, ()):
        usage = []
        for name, uses in (("root", _root), ("cwd", _directory), ("fd", _descriptors), ("mmap", _mappings)):
            try:
                if any(fits(mount, dentry) for mount, dentry in uses(task)):
                    usage.append(name)
            except FaultError:
                unread.append(task.pid.value_())
        if not usage:
            continue
        if not some:
            yield " PID         TASK        COMM             USAGE"
        some = True
        quoted = f'"{command(task)}"'
        yield f"{task.pid.value_():>5}  {task.value_():x}  {quoted:<16} {' '.join(usage)}"
    if unread:
        pids = sorted(set(unread))
        said = ", ".join(map(str, pids[:8])) + (" ..." if len(pids) > 8 else "")
        raise Problem(f"the files of {len(pids)} tasks could not be read: {said}")
    if not some:
        raise Problem(f"no users of {wanted} found")


def _matcher(wanted: str) -> Callable[[Any, Any], bool]:
    from drgn.helpers.linux.fs import d_path

    plain = wanted.removeprefix("0x")
    if len(plain) > 4 and set(plain) <= _HEX:
        inode = int(plain, 16)
        return lambda mount, dentry: dentry.d_inode.value_() == inode
    path = wanted.encode("utf-8", "surrogateescape")
    last = path.rstrip(b"/").rsplit(b"/", 1)[-1]

    def fits(mount: Any, dentry: Any) -> bool:
        # a path is walked to its root only where its last name fits; that of a root is "/"
        name = dentry.d_name.name.string_()
        return (name in (last, b"/") or not last) and d_path(mount, dentry) == path

    return fits


def _root(task: Any) -> Iterator[tuple[Any, Any]]:
    if task.fs:
        yield task.fs.root.mnt, task.fs.root.dentry


def _directory(task: Any) -> Iterator[tuple[Any, Any]]:
    if task.fs:
        yield task.fs.pwd.mnt, task.fs.pwd.dentry


def _descriptors(task: Any) -> Iterator[tuple[Any, Any]]:
    from drgn.helpers.linux.fs import for_each_file

    if task.files:
        for _, file in for_each_file(task):
            if not file:  # taken by an accept or open that has not ended
                continue
            yield file.f_path.mnt, file.f_path.dentry


def _mappings(task: Any) -> Iterator[tuple[Any, Any]]:
    from drgn.helpers.linux.mm import for_each_vma

    if task.mm:
        for area in for_each_vma(task.mm):
            if area.vm_file:
                yield area.vm_file.f_path.mnt, area.vm_file.f_path.dentry
