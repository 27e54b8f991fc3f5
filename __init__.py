# SPDX-License-Identifier: GPL-2.0-or-later
"""dumpconv: read any Linux kernel crash dump, rebuild memory as one canonical ELF vmcore."""

__version__ = "0.1.0"
__all__ = ["__version__"]
