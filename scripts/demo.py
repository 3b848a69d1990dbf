"""The whole thing on one machine: certificates, a demo backend, the gate, and what to try.

    python scripts/demo.py [--port 8443]

The backend is a process of its own, as in real life; this process is the gate.
Ctrl-C ends both.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from make_certs import make_certificates

from ktlsgate.errors import ConfigError
from ktlsgate.kernel.probe import probe_offload
from ktlsgate.service.config_file import config_from_flags
from ktlsgate.service.config_flags import Flags
from ktlsgate.service.worker import run

CERTS = Path(__file__).resolve().parents[1] / "certs"
_START_SECONDS = 20.0


@contextmanager
def demo_backend(path: Path) -> Iterator[None]:
    """Run the demo backend on a Unix socket until the block ends."""
    command = [sys.executable, "-m", "ktlsgate.backend.demo", "--socket", str(path)]
    process = subprocess.Popen([*command, "--mode", "600"])
    try:
        deadline = time.monotonic() + _START_SECONDS
        while not path.is_socket():
            if process.poll() is not None or time.monotonic() > deadline:
                raise ConfigError("the demo backend did not start")
            time.sleep(0.05)
        yield
    finally:
        process.terminate()
        try:
            process.wait(10)
        except subprocess.TimeoutExpired:
            process.kill()


def _try_lines(port: int) -> str:
    ca = CERTS / "ca.pem"
    if ca.is_relative_to(Path.cwd()):
        ca = ca.relative_to(Path.cwd())
    base = f"https://localhost:{port}"
    return f"""
{probe_offload().summary()}

  curl --cacert {ca} {base}/     what the backend was handed
  curl --cacert {ca} -o /dev/null '{base}/big?size=100M'     by sendfile
  curl --cacert {ca} --data-binary @README.md {base}/sha256
  {base}/ws echoes WebSocket messages. Ctrl-C ends it.
"""


def main() -> int:
    """Run as a program."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--port", type=int, default=8443)
    port = parser.parse_args().port
    try:
        make_certificates(CERTS)
        with tempfile.TemporaryDirectory(prefix="ktlsgate-") as folder:
            path = Path(folder) / "demo.sock"
            config = config_from_flags(
                Flags(
                    listen=(f"127.0.0.1:{port}", f"[::1]:{port}"),
                    cert=str(CERTS / "server.pem"),
                    key=str(CERTS / "server.key"),
                    backend=f"unix:{path}",
                    log_format="text",
                )
            )
            with demo_backend(path):
                return run(config, ready=lambda _: print(_try_lines(port), flush=True))
    except (ConfigError, OSError) as exc:
        print(f"demo: {exc}", file=sys.stderr)
        return 1


if __name__ == "__main__":
    sys.exit(main())
