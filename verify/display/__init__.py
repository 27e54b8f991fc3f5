# SPDX-License-Identifier: GPL-2.0-or-later
"""What reports for people are drawn with: a page's style and parts, the map of memory. Knows dumps, no checks."""
