# SPDX-License-Identifier: GPL-2.0-or-later
"""The kernel in a dump: memory by virtual address, symbols, types, log, stacks; from nothing but the dump."""
