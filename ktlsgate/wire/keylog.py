"""One line of OpenSSL's key log: label and secret.

The format is NSS's (``LABEL client_random_hex secret_hex``; draft-ietf-tls-keylogfile).
Rule: a line is parsed and forgotten, never stored, shown or logged.
"""

from __future__ import annotations

import binascii

__all__ = ["CLIENT_TRAFFIC_SECRET", "SERVER_TRAFFIC_SECRET", "parse_keylog_line"]

CLIENT_TRAFFIC_SECRET = b"CLIENT_TRAFFIC_SECRET_0"
SERVER_TRAFFIC_SECRET = b"SERVER_TRAFFIC_SECRET_0"


def parse_keylog_line(line: bytes) -> tuple[bytes, bytes]:
    """Split a key log line.

    Args:
        line: as OpenSSL gives it, without line break.

    Returns:
        The label and the secret (32 or 48 bytes; RFC 8446 section 7.1).

    Raises:
        ValueError: the line has another form; the text does not repeat it.
    """
    parts = line.split(b" ")
    if len(parts) != 3:
        raise ValueError(f"expected a key log line of 3 words, got {len(parts)}")
    try:
        return parts[0], binascii.unhexlify(parts[2])
    except binascii.Error:
        raise ValueError("expected a key log secret in hexadecimal") from None
