#!/usr/bin/env python3
"""Say what of kTLS works on this machine, from a checkout or a copy of it.

It needs Python 3.11 and nothing else: ``python3 scripts/ktls_probe.py [--json]``. Where
pyOpenSSL is absent the kernel is probed all the same, and the report says so. It is
``ktlsgate probe`` for machines on which ktlsgate is not installed.
"""

from __future__ import annotations

import sys
from pathlib import Path

# The folder that holds this copy's package comes first: an installed one may be older.
sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from ktlsgate.service.probe_report import main

if __name__ == "__main__":
    sys.exit(main(sys.argv[1:], prog="ktls_probe.py"))
