# SPDX-License-Identifier: GPL-2.0-or-later
"""Reports on dumps that do not trust the converter: nothing here imports `convert`."""
