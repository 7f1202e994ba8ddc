"""A job whose every secret is the same word, which is then looked for everywhere."""

from __future__ import annotations

import sqlite3
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from flows.cli import main
from pipeline.storage import Storage
from pipeline.url import join
from tests.conftest import jpeg
from tests.pipeline.servers import files, serving
from tests.processes import RESTYLE

CANARY = "Tweety8675309"


def restyle(*arguments: str) -> str:
    """What the command says, as a program of its own."""
    ended = subprocess.run(
        [*RESTYLE, *arguments],
        text=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, check=False,
    )  # fmt: skip
    return ended.stdout


def texts_of(database: Path) -> Iterator[str]:
    with sqlite3.connect(database) as connection:
        yield from connection.iterdump()


@pytest.mark.slow
def test_no_secret_is_kept_or_told(
    s3: str,
    pack: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", CANARY)
    monkeypatch.setenv("AWS_SESSION_TOKEN", CANARY)
    monkeypatch.setenv("PREFECT_HOME", str(tmp_path / "prefect"))
    monkeypatch.delenv("PREFECT_API_URL", raising=False)
    out = join(s3, "out")
    with serving(files({"/a.jpg": jpeg(), "/b.jpg": jpeg(seed=1), "/c.jpg": b"bad"})) as server:
        host = server.url.removeprefix("http://")
        (tmp_path / "rows.csv").write_text(
            "uri,id\n"
            f"{server.url}/a.jpg?X-Amz-Signature={CANARY},signed\n"
            f"http://me:{CANARY}@{host}/b.jpg,user\n"
            f"{server.url}/c.jpg?X-Amz-Signature={CANARY},bad\n"
            f"{server.url}/missing.jpg?sig={CANARY},missing\n"
            f"http://me:{CANARY}@127.0.0.1:9/away.jpg,away\n"
        )
        said = restyle(
            "run", str(tmp_path / "rows.csv"), "--out", out, "--style", "red", "--pack", pack,
            "--allow-scheme", "http", "--allow-private", "--max-failed", "1", "--device", "cpu",
        )  # fmt: skip
        assert "2 of 5 stylized, 3 failed" in said
        for command in ("status", "verify", "report"):
            main([command, out])
        main(["run", str(tmp_path / "rows.csv"), "--style", "red",
              "--out", f"s3://me:{CANARY}@bucket/out"])  # fmt: skip
        said += "".join(capfd.readouterr())
        assert "was given with credentials" in said
    kept = {"what was said": said}
    for folder in ("", "images", "metadata"):
        for name in Storage().names(join(out, folder)):
            data = Storage().read_one(join(out, folder, name)) or b""
            if name.endswith(".parquet"):
                (tmp_path / "part.parquet").write_bytes(data)
                data = str(pq.read_table(tmp_path / "part.parquet").to_pylist()).encode()
            kept[name] = data.decode("latin-1")
    assert {"job.json", "report.html", "_SUCCESS"} <= set(kept)
    database = "\n".join(texts_of(tmp_path / "prefect" / "prefect.db"))
    assert "X-Amz" not in database
    assert "missing.jpg" in database  # so the right things are looked at
    kept["what Prefect knows"] = database
    assert [name for name, text in kept.items() if CANARY in text] == []
