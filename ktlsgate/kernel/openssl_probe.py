"""Whether handshakes here end in kernel keys: libraries' versions and both engines tried.

No symbol, option bit or version text tells whether an OpenSSL was built with kTLS:
all builds accept the option and `ssl.OP_ENABLE_KTLS` only mirrors a header. So it
shakes hands for real (`ktlsgate.kernel.engines`), and the sockets are asked.

Rules: pyOpenSSL and cryptography are imported inside functions, their absence is a
value, nothing raises.
"""

from __future__ import annotations

import contextlib
import datetime as dt
import importlib.metadata
from dataclasses import dataclass

from ..config import Offload
from ..wire.ciphers import Version
from .engines import Engine, EngineTrial, Identity, try_engine
from .probe import OffloadTable
from .trials import attempt

__all__ = ["Libraries", "OpenSslReport", "has_ktls", "make_identity", "probe_openssl"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Libraries:
    """Versions as the libraries say them; empty where one is absent."""

    openssl: str = ""
    pyopenssl: str = ""
    cryptography: str = ""
    trio: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class OpenSslReport:
    """What became of OpenSSL's part.

    Attributes:
        libraries: their versions.
        problem: why the engines were not tried; empty when they were.
        trials: each engine with each version; empty when they were not tried.
        has_ktls: whether OpenSSL was built with kTLS; None where that cannot be known,
            because the kernel has none or no handshake came about.
    """

    libraries: Libraries
    problem: str = ""
    trials: tuple[EngineTrial, ...] = ()
    has_ktls: bool | None = None

    def trial(self, engine: Engine, version: Version) -> EngineTrial:
        """Find one; an untried one when there was none."""
        for trial in self.trials:
            if (trial.engine, trial.version) == (engine, version):
                return trial
        return EngineTrial(engine=engine, version=version)


def make_identity() -> Identity:
    """Make a P-256 key and a certificate that it signs itself, good for a day around now.

    Raises:
        ModuleNotFoundError: cryptography is not installed.
    """
    from cryptography import x509
    from cryptography.hazmat.primitives import hashes
    from cryptography.hazmat.primitives.asymmetric import ec
    from cryptography.x509.oid import NameOID

    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "ktlsgate probe")])
    now, day = dt.datetime.now(dt.UTC), dt.timedelta(days=1)
    builder = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - day)
        .not_valid_after(now + day)
    )
    return Identity(certificate=builder.sign(key, hashes.SHA256()), key=key)


def _read_versions(into: dict[str, str]) -> None:
    with contextlib.suppress(importlib.metadata.PackageNotFoundError):
        into["trio"] = importlib.metadata.version("trio")  # the probe itself does without it
    with contextlib.suppress(ModuleNotFoundError):  # then pyOpenSSL's import says so below
        import cryptography

        into["cryptography"] = cryptography.__version__
    import OpenSSL
    from OpenSSL import SSL

    into["pyopenssl"] = OpenSSL.__version__
    into["openssl"] = SSL.SSLeay_version(SSL.SSLEAY_VERSION).decode("ascii", "replace")


def has_ktls(trials: tuple[EngineTrial, ...], table: OffloadTable) -> bool | None:
    """Conclude from the trials whether OpenSSL was built with kTLS; None if they cannot tell."""
    own = [trial for trial in trials if trial.engine is Engine.OPENSSL]
    if any(trial.tx.ok or trial.rx.ok for trial in own):
        return True
    tried = table.best is not Offload.NONE and any(trial.handshake.ok for trial in own)
    return False if tried else None


_NAMES = {"OpenSSL": "pyOpenSSL", "cryptography": "cryptography"}


def probe_openssl(table: OffloadTable) -> OpenSslReport:
    """Try both engines with both versions; about 15 ms after the first imports, never raises.

    Args:
        table: what the kernel can do by itself; without it a silent OpenSSL
            could not be told from a kernel that refused.
    """
    versions: dict[str, str] = {}
    identities: list[Identity] = []

    def prepare() -> str | None:
        try:
            _read_versions(versions)
        except ModuleNotFoundError as exc:
            name = _NAMES.get(exc.name or "", exc.name)
            return f"{name} is not installed"
        identities.append(make_identity())
        return None

    prepared = attempt(prepare)
    libraries = Libraries(**versions)
    if not prepared.ok:
        return OpenSslReport(libraries=libraries, problem=f"{prepared.reason}: engines not tried")
    trials = tuple(
        try_engine(engine, version, identities[0])
        for engine in Engine
        for version in reversed(Version)
    )
    return OpenSslReport(libraries=libraries, trials=trials, has_ktls=has_ktls(trials, table))
