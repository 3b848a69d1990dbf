"""What the bench asks of the lab."""

from pathlib import Path

import pytest
from bench.lab import guest_command, main


def test_the_guest_gets_the_checkout_and_the_programs():
    command = guest_command("forky", Path("/ours"), ["--only", "conn,keep"])
    copied = [Path(command[at + 1]).name for at, word in enumerate(command) if word == "--copy"]
    assert copied == ["ktlsgate", "scripts", "bin"]
    assert command[2:4] == ["run", "forky"]
    assert command[-1] == (
        'PATH="$PWD/bin:$PATH" PYTHONPATH=.:scripts python3 -m bench'
        " --programs bin --no-newest --json /tmp/bench.json --only conn,keep"
    )


def test_another_suite_is_refused(capsys):
    with pytest.raises(SystemExit):
        main(["buster"])
    assert "invalid choice: 'buster'" in capsys.readouterr().err
