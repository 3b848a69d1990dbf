"""Make development certificates: a throw-away authority and a chain for localhost.

    python scripts/make_certs.py [FOLDER]     (default: certs/)

Writes ca.pem, server.pem (chain) and server.key (mode 0600) unless they are
there and have a day left. Nothing here is worth anything outside this machine.
"""

from __future__ import annotations

import argparse
import datetime
import os
import sys
from pathlib import Path

import trustme
from cryptography import x509

NAMES = ("localhost", "127.0.0.1", "::1")
FILES = ("ca.pem", "server.pem", "server.key")
_DEFAULT = Path(__file__).resolve().parents[1] / "certs"


def is_fresh(folder: Path) -> bool:
    """Whether all files are there and the leaf is valid for another day."""
    if not all((folder / name).is_file() for name in FILES):
        return False
    leaf = x509.load_pem_x509_certificate((folder / "server.pem").read_bytes())
    # not_valid_after_utc is younger than the oldest cryptography that we take.
    end = getattr(leaf, "not_valid_after_utc", None)
    if end is None:
        end = leaf.not_valid_after.replace(tzinfo=datetime.UTC)
    now = datetime.datetime.now(datetime.UTC)
    return bool(end > now + datetime.timedelta(days=1))


def make_certificates(folder: Path) -> bool:
    """Write the three files unless they are fresh; whether they were written."""
    folder.mkdir(parents=True, exist_ok=True)
    if is_fresh(folder):
        return False
    authority = trustme.CA(organization_name="ktlsgate development")
    leaf = authority.issue_cert(*NAMES)
    authority.cert_pem.write_to_path(str(folder / "ca.pem"))
    chain = b"".join(blob.bytes() for blob in leaf.cert_chain_pems)
    (folder / "server.pem").write_bytes(chain)
    _write_private(folder / "server.key", leaf.private_key_pem.bytes())
    return True


def _write_private(path: Path, data: bytes) -> None:
    path.unlink(missing_ok=True)
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    with os.fdopen(descriptor, "wb") as file:
        file.write(data)


def main() -> int:
    """Run as a program."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("folder", nargs="?", type=Path, default=_DEFAULT)
    folder = parser.parse_args().folder
    try:
        written = make_certificates(folder)
    except OSError as exc:
        print(f"make_certs: {exc.filename or folder}: {exc.strerror}", file=sys.stderr)
        return 1
    print(f"{folder}: {'written' if written else 'still good'}: {', '.join(FILES)}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
