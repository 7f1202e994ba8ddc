"""A PostgreSQL server of Debian's packages, on this machine, for as long as it is needed."""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from glob import glob

from tests.processes import wait_until

PROGRAMS = max(glob("/usr/lib/postgresql/*/bin"), default="")


@contextmanager
def postgres() -> Iterator[str]:
    """The URL of an empty database, as Prefect's server wants it."""
    user = "postgres" if os.getuid() == 0 else None  # it refuses to run as root
    folder = tempfile.mkdtemp(prefix="restyle-postgres-")
    with socket.create_server(("127.0.0.1", 0)) as probe:
        port = probe.getsockname()[1]
    if user:
        shutil.chown(folder, user)
    subprocess.run(
        [f"{PROGRAMS}/initdb", "-D", f"{folder}/data", "-A", "trust", "-U", "prefect"],
        user=user, cwd=folder, stdout=subprocess.DEVNULL, check=True,
    )  # fmt: skip
    server = subprocess.Popen(
        [f"{PROGRAMS}/postgres", "-D", f"{folder}/data", "-h", "127.0.0.1", "-p", str(port),
         "-k", folder],
        user=user, cwd=folder, stderr=subprocess.DEVNULL,
    )  # fmt: skip
    try:
        ready = [f"{PROGRAMS}/pg_isready", "-q", "-h", "127.0.0.1", "-p", str(port)]
        wait_until(lambda: not subprocess.run(ready, check=False).returncode)
        yield f"postgresql+asyncpg://prefect@127.0.0.1:{port}/postgres"
    finally:
        server.terminate()
        server.wait(30)
        shutil.rmtree(folder)
