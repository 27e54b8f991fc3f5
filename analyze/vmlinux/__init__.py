# SPDX-License-Identifier: GPL-2.0-or-later
"""A vmlinux made from the dump alone: symbols from kallsyms, DWARF from BTF, contents from memory."""
