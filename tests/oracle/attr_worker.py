# SPDX-License-Identifier: GPL-2.0-or-later
"""Registers, VMCOREINFO and virtual reads of a dump by libkdumpfile's Python module; runs in the system's Python.

    /usr/bin/python3 attr_worker.py FILE [VADDR...]

Prints one JSON object: "attrs" (arch, cpu.N registers and notes, VMCOREINFO) and "virtual" (32 bytes at each address,
translated by the page tables in the dump, or the error in words).
"""

import json
import sys

KEEP = ("arch.", "cpu.", "linux.vmcoreinfo.raw", "linux.version_code", "linux.uts.")


def walk(module, directory, prefix, found):
    """Collect the attributes whose path begins with one of KEEP."""
    for key in directory:
        path = prefix + key
        value = directory[key]
        if isinstance(value, module.attr_dir):
            walk(module, value, path + ".", found)
        elif path.startswith(KEEP):
            found[path] = plain(value)


def plain(value):
    """An attribute as JSON can hold it; a blob as hex."""
    if isinstance(value, (int, str)):
        return value
    return bytes(memoryview(value)).hex()


def main():
    """Print what the module says."""
    import kdumpfile

    dump = kdumpfile.kdumpfile(sys.argv[1])
    found = {}
    walk(kdumpfile, dump.attr, "", found)
    virtual = {}
    if sys.argv[2:]:
        dump.attr["addrxlat.ostype"] = "linux"
    for address in sys.argv[2:]:
        try:
            virtual[address] = bytes(dump.read(kdumpfile.KDUMP_KVADDR, int(address, 0), 32)).hex()
        except Exception as error:  # every error of the module is an answer
            virtual[address] = f"{type(error).__name__}: {error}"
    json.dump({"attrs": found, "virtual": virtual}, sys.stdout)


if __name__ == "__main__":
    main()
