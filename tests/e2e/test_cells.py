"""Every cell of the matrix (`helpers.matrix`), against gates that run with each engine.

``KTLSGATE_MATRIX=all`` makes all of them, else each shape and each cipher has its turn.
The run's last lines say what came of it (`helpers.matrix_report`).
"""

import dataclasses
import os
import subprocess
import sys

import pytest
from helpers.cells import gate_text, start_bench
from helpers.gate_process import WAIT, tls_files
from helpers.ktls import kernel_table, require_ktls
from helpers.matrix import (
    DIRECT,
    ENGINES,
    OPENSSL,
    cells_of,
    expect,
    generation_here,
    part_of,
    refused_by,
)

from ktlsgate.wire.ciphers import SUITES

GENERATION = generation_here()
SERVED = cells_of(GENERATION)
CELLS = SERVED if os.environ.get("KTLSGATE_MATRIX") == "all" else part_of(SERVED)
REFUSED = refused_by(GENERATION)
SERVING = [engine for engine in ENGINES if engine not in REFUSED]
ULP_REASON = kernel_table().ulp_reason
KTLS_LABELS = {"both": "tx+rx", "tx": "tx", "relay": "none"}


def reason_against(engine):
    """Why there is nothing to be seen of an engine here."""
    if engine == OPENSSL and ULP_REASON:
        return f"no kTLS: {ULP_REASON}"
    return ""


def require(cell):
    """Skip what cannot be seen here, with its reason."""
    if reason := reason_against(cell.engine):
        pytest.skip(reason)
    if cell.suite in SUITES and not ULP_REASON:
        require_ktls(SUITES[cell.suite])


@pytest.fixture(scope="module")
def bench(tmp_path_factory):
    engines = [engine for engine in SERVING if not reason_against(engine)]
    with start_bench(tmp_path_factory.mktemp("cells"), engines) as bench:
        yield bench


@pytest.mark.parametrize("cell", CELLS, ids=str)
def test_cell(bench, cell, record_property):
    """Who has the keys, at which numbers; and every byte of both ways."""
    require(cell)
    expected = expect(cell, GENERATION, has_ktls=not ULP_REASON)
    seen = bench.observe(cell)
    record_property("mode", seen.label)
    assert seen.label == expected.label
    assert seen.sequences == (expected.tx, expected.rx)
    check_report(cell, expected, seen.report)
    check_facts(cell, expected, seen.facts)
    seen.check_data()


def check_report(cell, expected, report):
    assert (report["tls"], report["cipher"]) == (f"TLSv{cell.version}", cell.suite)
    assert report["ktls"] == KTLS_LABELS[expected.mode]
    assert report["event"] == ("handoff" if expected.mode == "both" else "relay")
    assert report.get("resumed", False) is is_resumed(cell)
    assert report["engine"] == cell.engine


def check_facts(cell, expected, facts):
    environ = facts["environ"]
    assert (environ["SSL_PROTOCOL"], environ["SSL_CIPHER"]) == (f"TLSv{cell.version}", cell.suite)
    assert environ["KTLS_RX"] == ("0" if expected.mode == "tx" else "1")
    assert environ["SSL_SESSION_RESUMED"] == ("Resumed" if is_resumed(cell) else "Initial")
    assert facts["family"] == ("AF_UNIX" if expected.mode == "relay" else "AF_INET")
    suite = SUITES.get(cell.suite)
    key = [suite.version, suite.cipher] if suite else []
    assert facts["tx"] == ([] if expected.tx is None else key)
    assert facts["rx"] == ([] if expected.rx is None else key)
    verified = cell.shape in ("client_certificate", "large_chain")
    assert environ["SSL_CLIENT_VERIFY"] == ("SUCCESS" if verified else "NONE")
    assert (len(environ.get("SSL_CLIENT_CERT", "")) > 75_000) is (cell.shape == "large_chain")


def is_resumed(cell):
    """In TLS 1.2 only a client that resumes can glue something to its Finished."""
    is_glued = (cell.version, cell.shape) == ("1.2", "glued")
    return is_glued or cell.shape in ("ticket", "stateful")


def some(parameters, reason):
    """Parameters, or one test that is skipped for want of any."""
    return parameters or [pytest.param(None, marks=pytest.mark.skip(reason=reason), id="none")]


ORACLES = [cell for cell in CELLS if cell.engine == OPENSSL and expect(cell, GENERATION).has_key]


@pytest.mark.parametrize(
    "oracle", some(ORACLES, "this OpenSSL has no kTLS of its own, so no oracle"), ids=str
)
def test_numbers_are_those_that_openssl_told_the_kernel(bench, oracle):
    """What we counted on the wire, OpenSSL counted inside."""
    require(oracle)
    theirs = bench.observe(oracle).sequences
    ours = bench.observe(dataclasses.replace(oracle, engine=DIRECT)).sequences
    ways = 2 if expect(oracle, GENERATION).mode == "both" else 1
    assert None not in theirs[:ways]
    assert ours[:ways] == theirs[:ways]


@pytest.mark.parametrize("engine", some(REFUSED, "every engine works with this OpenSSL"))
def test_engine_is_refused(engine, tmp_path, record_property):
    """The gate does not start with what its OpenSSL cannot do, and says so."""
    if reason := reason_against(engine):
        pytest.skip(reason)
    tls_files(tmp_path)
    text = gate_text([engine]).replace("{folder}", str(tmp_path))
    (tmp_path / "ktlsgate.toml").write_text(text.replace("{backend}", f"unix:{tmp_path}/app.sock"))
    done = subprocess.run(
        [sys.executable, "-m", "ktlsgate", "run", "-c", str(tmp_path / "ktlsgate.toml")],
        check=False,
        capture_output=True,
        cwd=tmp_path,
        timeout=WAIT,
    )
    record_property("mode", "refused")
    assert done.returncode == 1, done.stderr
    assert b"engine: expected an OpenSSL with kTLS, got OpenSSL " in done.stderr
