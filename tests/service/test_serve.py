"""The verb ``serve``: its mistakes, and a server that begins and ends as told."""

import functools
import importlib.util
import signal
import subprocess
import sys

import pytest
from helpers.clients import read_to_end
from helpers.handoffs import hand_off, our_head, tcp_pair

from ktlsgate.errors import ConfigError
from ktlsgate.service.cli import ExitCode, main
from ktlsgate.service.serve import _is_asgi, load_application

APPLICATION = """
class Holder:
    async def asgi(scope, receive, send):
        if scope["type"] == "lifespan":
            await receive()
            return await send({"type": "lifespan.startup.complete"})
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": b"by " + scope["scheme"].encode()})

def app(environ, start_response):
    start_response("200 OK", [])
    return [b"by " + environ["wsgi.url_scheme"].encode()]
"""


@pytest.fixture
def folder(tmp_path, monkeypatch):
    (tmp_path / "served.py").write_text(APPLICATION)
    (tmp_path / "needy.py").write_text("import absent_dependency\n")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", list(sys.path))
    yield tmp_path
    sys.modules.pop("served", None)


def complaint(capsys, *arguments):
    assert main(["serve", *arguments]) == ExitCode.FAILED
    return capsys.readouterr().err


def test_application_of_the_current_folder_is_found(folder):
    module = load_application("served").__globals__
    assert load_application("served:app") is module["app"]
    assert load_application("served:Holder.asgi") is module["Holder"].asgi


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("nowhere_at_all:app", "expected a module 'nowhere_at_all', found none"),
        ("served:nothing", "expected 'nothing' in served, found no such name"),
        (":app", "expected a module '', found none"),
    ],
)
def test_application_that_is_not_there_is_named(folder, capsys, name, message):
    assert complaint(capsys, name, "--socket", "s") == f"ktlsgate: {message}\n"


def test_module_that_lacks_something_itself_is_not_called_absent(folder):
    with pytest.raises(ModuleNotFoundError, match="absent_dependency"):
        load_application("needy:app")


async def _function(scope, receive, send): ...


class _Callable:
    async def __call__(self, scope, receive, send): ...


@pytest.mark.parametrize(
    ("app", "expected"),
    [
        (_function, True),
        (_Callable(), True),
        (functools.partial(_function, {}), True),
        (lambda environ, start: [], False),
        (functools.partial(print), False),
    ],
)
def test_interface_is_what_the_application_is(app, expected):
    assert _is_asgi(app) is expected


@pytest.mark.parametrize("server", ["hypercorn", "uvicorn"])
def test_server_that_is_not_installed_is_named_with_the_remedy(folder, server):
    """In a process of its own, where it cannot be imported."""
    code = (
        f"import sys; sys.modules[{server!r}] = None\n"
        "from ktlsgate.service.cli import main\n"
        f"sys.exit(main(['serve', 'served:Holder.asgi', '--socket', 's', '--server', {server!r}]))"
    )
    done = subprocess.run([sys.executable, "-c", code], check=False, capture_output=True)
    assert done.returncode == ExitCode.FAILED
    assert done.stderr.decode() == (
        f"ktlsgate: --server {server}: expected {server} to be installed:"
        " pip install 'ktlsgate[serve]'\n"
    )
    assert not (folder / "s").exists()


def test_uvicorn_takes_no_wsgi(folder, capsys):
    text = complaint(capsys, "served:app", "--socket", "s", "--server", "uvicorn")
    assert text == "ktlsgate: --server uvicorn: expected an ASGI application, got a WSGI one\n"


@pytest.mark.parametrize(
    "arguments",
    [
        ["served"],
        ["--socket", "s"],
        ["served", "--socket", "s", "--server", "apache"],
        ["served", "--socket", "s", "--interface", "cgi"],
        ["served", "--socket", "s", "--mode", "999"],
        ["served", "--socket", "s", "--graceful-timeout", "-1"],
        ["served", "--socket", "s", "--graceful-timeout", "nan"],
    ],
)
def test_wrong_usage_is_wrong_usage(folder, capsys, arguments):
    assert main(["serve", *arguments]) == ExitCode.USAGE
    assert "usage: ktlsgate serve" in capsys.readouterr().err


def require(server):
    if importlib.util.find_spec(server) is None:
        pytest.skip(f"{server} is not installed")


def test_socket_that_cannot_be_made_is_named(folder, capsys):
    require("hypercorn")
    text = complaint(capsys, "served:app", "--socket", "absent/s")
    assert text == "ktlsgate: absent/s: No such file or directory\n"


@pytest.mark.parametrize(
    ("server", "name"),
    [("hypercorn", "Holder.asgi"), ("hypercorn", "app"), ("uvicorn", "Holder.asgi")],
)
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_server_answers_then_ends_cleanly_when_told(folder, server, name, number):
    require(server)
    path = str(folder / "s")
    command = [sys.executable, "-m", "ktlsgate", "serve", f"served:{name}", "--socket", path]
    with subprocess.Popen([*command, "--server", server], stderr=subprocess.PIPE) as process:
        try:
            assert process.stderr.readline().endswith(f"taking handoffs at {path}\n".encode())
            client, descriptor = tcp_pair()
            client.settimeout(30)
            head = our_head(HTTPS="on", HTTP_HOST="a", HTTP_CONNECTION="close")
            hand_off(path, head, descriptor).close()
            with client:
                assert b"by https" in read_to_end(client)
            process.send_signal(number)
            assert process.wait(30) == 0, process.stderr.read()
        finally:
            process.kill()
    assert not (folder / "s").exists()


def test_error_is_the_operators():
    with pytest.raises(ConfigError):
        load_application("nowhere_at_all")
