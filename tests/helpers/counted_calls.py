"""What is asked of OpenSSL: each call of a record layer, by its name."""

from __future__ import annotations

__all__ = ["counted"]


class Counted:
    """OpenSSL's object; counts what is asked of it."""

    def __init__(self, connection):
        self.connection = connection
        self.calls = []

    def __getattr__(self, name):
        self.calls.append(name)
        return getattr(self.connection, name)


def counted(records):
    """Put a counting stand-in around a `RecordLayer`'s connection, and return it."""
    records._connection = Counted(records._connection)
    return records._connection
