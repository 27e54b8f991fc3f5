# SPDX-License-Identifier: GPL-2.0-or-later
"""`python -m dumpconv` is the `dumpconv` command."""

from .cli import run

if __name__ == "__main__":
    run()
