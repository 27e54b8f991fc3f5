# SPDX-License-Identifier: GPL-2.0-or-later
"""`net -s [TASK]`: the sockets that a task has open, with addresses and ports; -S with both structures."""

from __future__ import annotations

import ipaddress
import stat
from collections.abc import Iterator, Sequence
from typing import Any

from . import Problem, Words, context, selected_tasks, task_heading

# numbers of Linux, whatever the machine of the analysis has
_NAMES = """
    UNSPEC UNIX INET AX25 IPX APPLETALK NETROM BRIDGE ATMPVC X25 INET6 ROSE DECNET NETBEUI SECURITY KEY NETLINK PACKET
    ASH ECONET ATMSVC RDS SNA IRDA PPPOX WANPIPE LLC IB MPLS CAN TIPC BLUETOOTH IUCV RXRPC ISDN PHONET IEEE802154 CAIF
    ALG NFC VSOCK KCM QIPCRTR SMC XDP MCTP
"""
_FAMILIES = _NAMES.split()
_TYPES = {1: "STREAM", 2: "DGRAM", 3: "RAW", 4: "RDM", 5: "SEQPACKET", 6: "DCCP", 10: "PACKET"}
_INET, _INET6 = 2, 10


def run(prog: Any, words: Sequence[str]) -> Iterator[str]:
    """Yield the sockets of the task named, or of the one that panicked.

    Raises:
        Problem: Something could not be read.
    """
    args = _parse(words)
    task = args.structures or args.sockets
    chosen = list(selected_tasks(prog, [task])) if task else [context(prog)]
    yield from _of_tasks(prog, chosen, structures=args.structures is not None)


def run_for_each(prog: Any, selection: Sequence[str], words: Sequence[str]) -> Iterator[str]:
    """Yield the sockets of many tasks.

    Raises:
        Problem: Something could not be read.
    """
    args = _parse(words)
    if args.structures or args.sockets:
        raise Problem("foreach has its tasks before the command")
    yield from _of_tasks(prog, selected_tasks(prog, selection), structures=args.structures is not None)


def _parse(words: Sequence[str]) -> Any:
    parser = Words("net")
    which = parser.add_mutually_exclusive_group(required=True)
    which.add_argument("-s", dest="sockets", nargs="?", const="", metavar="PID|TASK")
    which.add_argument("-S", dest="structures", nargs="?", const="", metavar="PID|TASK")
    return parser.parse_args(list(words))


def _of_tasks(prog: Any, tasks: Any, *, structures: bool) -> Iterator[str]:
    from drgn import FaultError

    unread = []
    for number, task in enumerate(tasks):
        if number:
            yield ""
        yield task_heading(task)
        try:
            yield from _of_task(prog, task, structures=structures)
        except FaultError as error:
            unread.append(f"task {task.pid.value_()}: memory at {error.address:#x} cannot be read: {error.message}")
    if unread:
        raise Problem("; ".join(unread[:4]) + (f" and {len(unread) - 4} more" if len(unread) > 4 else ""))


def _of_task(prog: Any, task: Any, *, structures: bool) -> Iterator[str]:
    from drgn.helpers.linux.fs import for_each_file
    from drgn.helpers.linux.net import SOCKET_I

    some = False
    for number, file in for_each_file(task) if task.files else ():
        if not file:  # taken by an accept or open that has not ended
            continue
        inode = file.f_inode
        if not stat.S_ISSOCK(inode.i_mode.value_()):
            continue
        found = SOCKET_I(inode)
        if not some or structures:
            width = 2 * prog.type("void *").size
            more = "" if structures else " FAMILY:TYPE SOURCE-PORT DESTINATION-PORT"
            yield f"FD  {'SOCKET':^{width}}  {'SOCK':^{width}}{more}"
        some = True
        text = "" if structures else f" {_ends(prog, found)}"
        yield f"{number:>2} {found.value_():x} {found.sk.value_():x}{text}"
        if structures:
            yield ""
            for each in (found, found.sk):
                yield from str(each[0]).splitlines() if each else ()
            yield ""
    if not some:
        yield "No open sockets."


def _ends(prog: Any, found: Any) -> str:
    """Return family and type, source and destination of a socket as crash has them."""
    from drgn import cast

    sock = found.sk
    kind = _TYPES.get(found.type.value_(), "UNKNOWN")
    if not sock:
        return f"UNSPEC:{kind}"
    common = sock.__sk_common
    family = common.skc_family.value_()
    text = f"{_FAMILIES[family] if family < len(_FAMILIES) else 'UNKNOWN'}:{kind}"
    if family not in (_INET, _INET6):
        return text
    ends = []
    inet = cast("struct inet_sock *", sock)
    for is_source in (True, False):
        if family == _INET:
            raw = (inet.inet_saddr if is_source else common.skc_daddr).value_()
            address: Any = ipaddress.IPv4Address(_bytes(prog, raw, 4))
        else:
            six = common.skc_v6_rcv_saddr if is_source else common.skc_v6_daddr
            address = ipaddress.IPv6Address(bytes(six.in6_u.u6_addr8.value_()))
            if address.ipv4_mapped is not None:
                address = f"::ffff:{address.ipv4_mapped}"
        port = (inet.inet_sport if is_source else common.skc_dport).value_()
        ends.append(f"{address}-{int.from_bytes(_bytes(prog, port, 2), 'big')}")
    return f"{text}  {' '.join(ends)}"


def _bytes(prog: Any, value: int, size: int) -> bytes:
    # as they lie in memory: addresses and ports are in the network's order
    from drgn import PlatformFlags

    return value.to_bytes(size, "little" if prog.platform.flags & PlatformFlags.IS_LITTLE_ENDIAN else "big")
