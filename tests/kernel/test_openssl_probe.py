"""What is reported of OpenSSL: versions, whether it has kTLS, and its absence as a value."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import cryptography
import OpenSSL
import pytest
import trio
from helpers.ktls import kernel_table, require_ktls
from OpenSSL import SSL

import ktlsgate
from ktlsgate.kernel.engines import Engine, EngineTrial
from ktlsgate.kernel.openssl_probe import Libraries, OpenSslReport, has_ktls, probe_openssl
from ktlsgate.kernel.probe import OffloadTable
from ktlsgate.kernel.trials import DONE, NOT_TRIED, Outcome
from ktlsgate.wire.ciphers import Version

NO = Outcome(ok=False, reason="no")


def own(**changes: Outcome) -> tuple[EngineTrial, ...]:
    return (EngineTrial(engine=Engine.OPENSSL, version=Version.TLS12, **changes),)


@pytest.mark.parametrize(
    ("trials", "table", "answer"),
    [
        (own(handshake=DONE, tx=DONE, rx=NO), OffloadTable.all(), True),
        (own(handshake=DONE, tx=NO, rx=NO), OffloadTable.all(), False),
        (own(handshake=DONE, tx=NO, rx=NO), OffloadTable.none("no module"), None),
        (own(handshake=NO), OffloadTable.all(), None),
        ((), OffloadTable.all(), None),
    ],
    ids=["gave a key", "kept its keys", "kernel has none", "no handshake", "not tried"],
)
def test_a_silent_openssl_is_told_from_a_kernel_without_ktls(trials, table, answer) -> None:
    assert has_ktls(trials, table) is answer


def test_engine_directs_success_says_nothing_of_openssls_build() -> None:
    direct = EngineTrial(
        engine=Engine.DIRECT, version=Version.TLS12, handshake=DONE, tx=DONE, rx=DONE, data=DONE
    )
    assert has_ktls((direct,), OffloadTable.all()) is None


def test_both_engines_are_tried_with_both_versions() -> None:
    report = probe_openssl(kernel_table())
    assert report.problem == ""
    assert [(t.engine, t.version) for t in report.trials] == [
        (Engine.DIRECT, Version.TLS13),
        (Engine.DIRECT, Version.TLS12),
        (Engine.OPENSSL, Version.TLS13),
        (Engine.OPENSSL, Version.TLS12),
    ]


def test_versions_are_what_the_libraries_say() -> None:
    assert probe_openssl(OffloadTable.none("not asked")).libraries == Libraries(
        openssl=SSL.SSLeay_version(SSL.SSLEAY_VERSION).decode(),
        pyopenssl=OpenSSL.__version__,
        cryptography=cryptography.__version__,
        trio=trio.__version__,
    )


@pytest.mark.ktls
def test_whether_openssl_has_ktls_is_known_where_the_kernel_has() -> None:
    require_ktls()
    assert probe_openssl(kernel_table()).has_ktls in {True, False}


def test_an_unknown_trial_was_not_tried() -> None:
    report = OpenSslReport(libraries=Libraries(), problem="no")
    assert report.trial(Engine.DIRECT, Version.TLS13).handshake is NOT_TRIED


def run_without_site_packages(root: Path, code: str) -> str:
    source = f"import sys; sys.path.insert(0, {str(root)!r})\n{code}"
    done = subprocess.run(
        [sys.executable, "-B", "-I", "-S", "-c", source],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.stderr == ""
    return done.stdout


@pytest.fixture
def alone(tmp_path: Path) -> Path:
    """A folder with our package and no other, wherever it is installed."""
    folder = tmp_path / "alone"
    folder.mkdir()
    (folder / "ktlsgate").symlink_to(Path(ktlsgate.__file__).parent)
    return folder


def test_pyopenssls_absence_is_a_value(alone) -> None:
    output = run_without_site_packages(
        alone,
        "from ktlsgate.kernel.openssl_probe import probe_openssl\n"
        "from ktlsgate.kernel.probe import OffloadTable\n"
        "report = probe_openssl(OffloadTable.all())\n"
        "print(report.problem, report.trials, report.has_ktls, report.libraries, sep='|')",
    )
    assert output == (
        "pyOpenSSL is not installed: engines not tried|()|None|"
        "Libraries(openssl='', pyopenssl='', cryptography='', trio='')\n"
    )


def test_a_broken_pyopenssl_is_a_value(tmp_path, alone) -> None:
    """Mismatched versions of pyOpenSSL and cryptography fail with AttributeError on import."""
    (tmp_path / "OpenSSL.py").write_text("raise AttributeError('module lib has no X')")
    (tmp_path / "cryptography.py").write_text("__version__ = '1.2'")
    output = run_without_site_packages(
        alone,
        f"sys.path.insert(0, {str(tmp_path)!r})\n"
        "from ktlsgate.kernel.openssl_probe import probe_openssl\n"
        "from ktlsgate.kernel.probe import OffloadTable\n"
        "report = probe_openssl(OffloadTable.all())\n"
        "print(report.problem, report.libraries.cryptography, sep='|')",
    )
    assert output == "AttributeError: module lib has no X: engines not tried|1.2\n"
