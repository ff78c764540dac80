"""A PostgreSQL server of one's own for the tests, from the programs of the system's package."""

import contextlib
import os
import pwd
import shutil
import signal
import subprocess
import tempfile
import time
import uuid
from collections.abc import Iterator
from pathlib import Path

import pytest

# Who may connect how: everybody without a password but one.
_ACCESS = "local all guarded scram-sha-256\nlocal all all trust\n"


class Server:
    """A cluster in a folder, reached through a socket there; ``start`` and ``stop`` may be called again and again."""

    def __init__(self, folder: Path, programs: Path) -> None:
        self.folder = folder
        self._programs = programs
        self._process: subprocess.Popen[bytes] | None = None

    def make(self) -> None:
        data = self.folder / "data"
        command = ["initdb", "-D", str(data), "-U", "tester", "-A", "trust", "--no-sync", "--locale=C", "-E", "UTF8"]
        subprocess.run(self._as_server(command), check=True, capture_output=True, cwd=self.folder)
        (data / "pg_hba.conf").write_text(_ACCESS)

    def start(self) -> None:
        import psycopg

        settings = {"listen_addresses": "", "unix_socket_directories": str(self.folder), "fsync": "off"}
        command = ["postgres", "-D", str(self.folder / "data")]
        command += [word for name, value in settings.items() for word in ("-c", f"{name}={value}")]
        with (self.folder / "log").open("ab") as log:
            self._process = subprocess.Popen(self._as_server(command), stdout=log, stderr=log, cwd=self.folder)
        deadline = time.monotonic() + 60
        while True:
            try:
                psycopg.connect(host=str(self.folder), user="tester", dbname="postgres").close()
                return
            except psycopg.OperationalError:
                if self._process.poll() is not None or time.monotonic() > deadline:
                    raise RuntimeError((self.folder / "log").read_text()) from None
                time.sleep(0.1)

    def stop(self) -> None:
        if self._process is not None:
            self._process.send_signal(signal.SIGINT)  # a fast shutdown
            self._process.wait(timeout=60)
            self._process = None

    def run(self, statement: str, database: str = "postgres") -> None:
        import psycopg

        with psycopg.connect(host=str(self.folder), user="tester", dbname=database, autocommit=True) as connection:
            connection.execute(statement)

    def url(self, database: str, user: str = "tester") -> str:
        return f"postgresql+psycopg://{user}@/{database}?host={self.folder}"

    def new(self) -> str:
        """Make a database and return its URL."""
        name = f"d{uuid.uuid4().hex[:12]}"
        self.run(f"CREATE DATABASE {name}")
        return self.url(name)

    def _as_server(self, command: list[str]) -> list[str]:
        """Root may not run a server; and whatever becomes of the tests, it ends with them."""
        account = pwd.getpwuid(self.folder.stat().st_uid)
        become = (
            [f"--reuid={account.pw_uid}", f"--regid={account.pw_gid}", "--clear-groups"] if os.getuid() == 0 else []
        )
        return ["setpriv", "--pdeathsig=INT", *become, str(self._programs / command[0]), *command[1:]]


def found_programs() -> Path | None:
    """Where the system keeps the server's programs, the newest of several; None if it has none."""
    found = [*Path("/usr/lib/postgresql").glob("*/bin/postgres"), *Path("/usr").glob("pgsql-*/bin/postgres")]
    found.sort(key=lambda path: [int(part) for part in path.parts[-3].replace("pgsql-", "").split(".")])
    there = shutil.which("postgres")
    return found[-1].parent if found else Path(there).resolve().parent if there else None


@contextlib.contextmanager
def running_server() -> Iterator[Server]:
    """Make, start, stop and remove a server; skips with the reason where that cannot be."""
    pytest.importorskip("psycopg", reason="psycopg is not installed")
    programs = found_programs()
    if programs is None or not (programs / "initdb").exists():
        pytest.skip("there is no PostgreSQL server here (Debian: apt install postgresql)")
    if shutil.which("setpriv") is None:
        pytest.skip("setpriv is missing, by which the server is tied to the tests (Debian: apt install util-linux)")
    # Not below pytest's own folder, which only the tests' user may enter; and the path of a socket is short.
    folder = Path(tempfile.mkdtemp(prefix="sddfkit-pg-"))
    server = Server(folder, programs)
    try:
        if os.getuid() == 0:
            os.chown(folder, pwd.getpwnam("nobody").pw_uid, -1)
        server.make()
        server.start()
        yield server
    finally:
        server.stop()
        shutil.rmtree(folder)
