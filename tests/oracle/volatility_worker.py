# SPDX-License-Identifier: GPL-2.0-or-later
"""Reads frames of a LiME or AVML file by volatility3's layers: prints one SHA-256 over (pfn, page).

python volatility_worker.py lime|avml FILE < runs.json      [[start_pfn, end_pfn], ...]
"""

from __future__ import annotations

import hashlib
import json
import struct
import sys
from pathlib import Path

from volatility3.framework import contexts
from volatility3.framework.layers import avml, lime, physical

PAGE = 4096


def main() -> None:
    kind, path = sys.argv[1:]
    context = contexts.Context()
    context.config["file.location"] = Path(path).resolve().as_uri()
    context.add_layer(physical.FileLayer(context, "file", "base"))
    context.config["memory.base_layer"] = "base"
    layer = {"lime": lime.LimeLayer, "avml": avml.AVMLLayer}[kind](context, "memory", "memory")
    context.add_layer(layer)
    digest = hashlib.sha256()
    for start, end in json.load(sys.stdin):
        for pfn in range(start, end):
            digest.update(struct.pack("<Q", pfn) + layer.read(pfn * PAGE, PAGE))
    print(digest.hexdigest())


main()
