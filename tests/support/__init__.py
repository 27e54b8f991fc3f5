# SPDX-License-Identifier: GPL-2.0-or-later
"""Builders, the reference decoder and oracles of the tests; nothing in here imports dumpconv."""
