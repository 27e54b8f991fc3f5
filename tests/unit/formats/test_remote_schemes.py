# SPDX-License-Identifier: GPL-2.0-or-later
"""https with a certificate of our own, and ssh to a real sshd on loopback, by the commands as users call them."""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

pytest.importorskip("fsspec", reason="dumpconv[remote] is not installed")
pytest.importorskip("aiohttp", reason="dumpconv[remote] is not installed")

from support import notes, patterns
from support.build_kdump import KdumpSpec, build
from support.command import dumpconv, dumpverify, environment, one_line
from support.range_server import serve

SSHD = shutil.which("sshd", path=f"{os.environ.get('PATH', '')}:/usr/sbin")


@pytest.fixture(scope="module")
def dump(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("dump") / "a dump é"
    pages = {16 + index: patterns.page(16 + index) for index in range(64)}
    build(KdumpSpec(pages=pages, notes=notes.machine_notes(cpus=1, text=notes.vmcoreinfo_text()))).write_to(path)
    return path


def run(*words: str | Path) -> None:
    subprocess.run(list(map(str, words)), check=True, stdin=subprocess.DEVNULL, capture_output=True)


def everything_reads(url: str, dump: Path, out: Path, env: dict[str, str]) -> None:
    """Convert with two workers of their own processes, compare, and check."""
    done = dumpconv(url, out, "--jobs", "2", "--executor", "processes", env=env)
    assert (done.returncode, done.stderr) == (0, b"")
    assert dumpconv("compare", dump, out).returncode == 0
    assert dumpconv("compare", url, out, "--executor", "serial", env=env).returncode == 0
    done = dumpverify(url, "--executor", "serial", env=env)
    assert (done.returncode, done.stderr) == (0, b"")


@pytest.mark.skipif(shutil.which("openssl") is None, reason="no openssl to make a certificate with")
def test_https_is_read_where_the_certificate_is_trusted(dump: Path, tmp_path: Path) -> None:
    both = tmp_path / "both.pem"
    run(
        *("openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes"),
        *("-subj", "/CN=x", "-addext", "subjectAltName=IP:127.0.0.1", "-keyout", both, "-out", tmp_path / "cert.pem"),
    )
    with both.open("a") as file:
        file.write((tmp_path / "cert.pem").read_text())
    with serve(files={"/d": dump.read_bytes()}, tls=str(both)) as site:
        url = f"{site.url}/d"
        done = dumpconv("info", url)
        assert (done.returncode, one_line(done)) == (
            1,
            f"dumpconv: {url}: cannot open: its certificate is not trusted: self-signed certificate; "
            "SSL_CERT_FILE=FILE names a file (PEM) of the certificates to trust",
        )
        everything_reads(url, dump, tmp_path / "o.elf", environment(SSL_CERT_FILE=str(tmp_path / "cert.pem")))
        plain = f"http://127.0.0.1:{site.url.rpartition(':')[2]}/d"
        site.raw = lambda *_: [f"HTTP/1.1 302 x\r\nLocation: {plain}?sig=geheim\r\nConnection: close\r\n\r\n".encode()]
        done = dumpconv("info", url, env=environment(SSL_CERT_FILE=str(tmp_path / "cert.pem")))
        assert f"cannot open: the server redirects from https to {plain} where" in one_line(done)


@pytest.fixture
def sshd(tmp_path: Path) -> Iterator[int]:
    """Run a server that takes one key of ours; give its port."""
    pytest.importorskip("sshfs", reason="dumpconv[ssh] is not installed")
    if SSHD is None or (os.geteuid() == 0 and not Path("/run/sshd").is_dir()):
        pytest.skip("no sshd to run")
    home = tmp_path / "home" / ".ssh"
    home.mkdir(parents=True, mode=0o700)
    for key in (tmp_path / "host", home / "id_ed25519"):
        run("ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", key)
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        port = found.getsockname()[1]
    (tmp_path / "config").write_text(
        f"Port {port}\nListenAddress 127.0.0.1\nHostKey {tmp_path}/host\nPidFile none\nStrictModes no\nUsePAM no\n"
        f"AuthorizedKeysFile {home}/id_ed25519.pub\nPasswordAuthentication no\nPermitRootLogin yes\n"
        "Subsystem sftp internal-sftp\n"
    )
    with subprocess.Popen([SSHD, "-D", "-e", "-f", tmp_path / "config"], stderr=subprocess.PIPE) as server:
        try:
            assert server.stderr is not None
            assert b"listening" in server.stderr.readline(), "sshd does not start"
            yield port
        finally:
            server.terminate()


def test_ssh_is_read_where_the_key_of_the_host_is_known(dump: Path, tmp_path: Path, sshd: int) -> None:
    url = f"ssh://127.0.0.1:{sshd}{dump}"
    env = environment(HOME=str(tmp_path / "home"))
    env.pop("SSH_AUTH_SOCK", None)
    done = dumpconv("info", url, env=env)
    assert done.returncode == 1
    assert "Host key is not trusted for host 127.0.0.1; ~/.ssh/known_hosts tells which" in one_line(done)
    key = " ".join((tmp_path / "host.pub").read_text().split()[:2])
    (tmp_path / "home" / ".ssh" / "known_hosts").write_text(f"[127.0.0.1]:{sshd} {key}\n")
    everything_reads(url, dump, tmp_path / "o.elf", env)
    done = dumpconv("info", f"{url}-not", env=env)
    assert (done.returncode, one_line(done)) == (1, f"dumpconv: {url}-not: cannot open: there is nothing")
    assert "is a directory, not a dump" in one_line(dumpconv("info", f"ssh://127.0.0.1:{sshd}{dump.parent}", env=env))


def test_ssh_says_what_to_install(tmp_path: Path) -> None:
    """The library that fsspec has for it believes every server."""
    for missing in (("sshfs",), ("sshfs", "paramiko"), ("s3fs",)):
        for each in missing:
            (tmp_path / f"{each}.py").write_text("raise ImportError\n")
        scheme, library = ("s3", "s3fs") if "s3fs" in missing else ("ssh", "sshfs")
        done = dumpconv("info", f"{scheme}://127.0.0.1:9/d", env=environment(PYTHONPATH=str(tmp_path)))
        assert done.returncode == 1
        assert f"{scheme} is read through {library}, which is not here; install dumpconv[{scheme}]" in one_line(done)


def test_a_proxy_of_the_environment_is_asked(dump: Path) -> None:
    with serve(files={"http://nowhere.example/a%20b::c": dump.read_bytes()}) as site:
        env = environment(http_proxy=site.url, no_proxy="")
        for name in ("a%20b::c", "a b::c"):
            done = dumpconv("info", f"http://nowhere.example/{name}", env=env)
            assert (done.returncode, done.stderr) == (0, b"")
    done = dumpconv("info", "http://nowhere.example/d", env={**env, "http_proxy": "http://me:geheim@127.0.0.1:9"})
    assert "cannot open: ClientProxyConnectionError" in one_line(done)
    assert b"geheim" not in done.stderr


@pytest.mark.parametrize("url", ["http://[::1]:80/a", "https://h/a::file:///etc/passwd", "ssh://[::1]:22/a::b"])
def test_two_colons_begin_no_other_url(url: str) -> None:
    """Chains are fsspec's: each part of one is opened."""
    done = subprocess.run(
        [
            *(sys.executable, "-c"),
            "import sys; from dumpconv.formats import schemes, urls; import asyncssh, sshfs.spec as spec\n"
            "spec.SSHFileSystem.connect = lambda *a, **k: (None, None)\n"
            "print(schemes.open_system(urls.Url(sys.argv[1]))[1], end='')",
            url,
        ],
        capture_output=True,
        text=True,
        check=False,
    )
    if "No module named 'asyncssh'" in done.stderr:
        pytest.skip("dumpconv[ssh] is not installed")
    assert done.stdout == (url if url.startswith("http") else "/a::b"), done.stderr
