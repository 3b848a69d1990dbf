"""Counters that the gate bumps and the service reads.

A counter is a plain integer in a dictionary keyed by its labels: about 0.1 µs
a bump, where a metrics library's labelled look-up costs several. Rendering is
the reader's business. There is no module-level state: one `Metrics` is made
per process and passed down.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field

__all__ = ["Metrics"]


@dataclass(slots=True)
class Metrics:
    """What happened since the process started.

    Attributes:
        accepted: connections accepted.
        held: connections that the gate holds now.
        outcomes: ended connections by event (``handoff``, ``relay``, ``refused`` ...).
        handoffs: by (version, cipher, offload).
        relays: relayed connections by reason (``cipher``, ``no_ulp``, ``policy`` ...).
        failures: by reason class of the connection's log line.
    """

    accepted: int = 0
    held: int = 0
    outcomes: Counter[str] = field(default_factory=Counter)
    handoffs: Counter[tuple[str, str, str]] = field(default_factory=Counter)
    relays: Counter[str] = field(default_factory=Counter)
    failures: Counter[str] = field(default_factory=Counter)
