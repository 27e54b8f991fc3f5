# SPDX-License-Identifier: GPL-2.0-or-later
"""Memory to files: layout, writer, conversion."""
