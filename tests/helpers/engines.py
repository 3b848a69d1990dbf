"""What each engine gives on this machine: asked of loopback handshakes, once."""

from __future__ import annotations

import functools

import pytest
from helpers.front import expected_offload
from helpers.ktls import kernel_table, require_ktls

from ktlsgate.config import Offload
from ktlsgate.kernel.engines import Engine
from ktlsgate.kernel.openssl_probe import OpenSslReport, probe_openssl
from ktlsgate.wire.ciphers import SUITES, KernelCipher, Version


@functools.cache
def openssl_report() -> OpenSslReport:
    """Both engines' trials on this kernel."""
    return probe_openssl(kernel_table())


def openssl_gives(version: Version) -> Offload:
    """What engine ``openssl`` gives here for a version."""
    return openssl_report().trial(Engine.OPENSSL, version).offload


def why_no_openssl() -> str:
    """Why engine ``openssl`` cannot be used here; empty where it can."""
    if kernel_table().ulp_reason:
        return f"no kTLS: {kernel_table().ulp_reason}"
    if not openssl_report().has_ktls:
        return f"{openssl_report().libraries.openssl} was built without kTLS"
    return ""


def require_openssl() -> None:
    """Skip where this OpenSSL cannot move keys, with the reason."""
    require_ktls()
    if why := why_no_openssl():
        pytest.skip(why)


def engine_offload(engine: Engine, cipher: str) -> Offload:
    """What a connection gets of an engine and this kernel, by OpenSSL's name of its suite."""
    able = expected_offload(cipher)
    if engine is Engine.DIRECT or able is Offload.NONE:
        return able
    suite = SUITES[cipher]
    gives = openssl_gives(suite.version)
    # OpenSSL 3.0 and 3.1, which only send TLS 1.3, do not move AES-CCM there at all.
    if gives is not Offload.BOTH and suite.cipher is KernelCipher.AES_CCM_128:
        return Offload.NONE
    return able.at_most(gives)
