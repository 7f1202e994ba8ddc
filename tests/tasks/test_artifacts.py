from __future__ import annotations

import socket

import pytest
from prefect.settings import (
    PREFECT_API_URL,
    PREFECT_CLIENT_MAX_RETRIES,
    temporary_settings,
)

from pipeline.results import Failure
from tasks.artifacts import ProgressArtifact, failures_table, page_of


@pytest.mark.parametrize(
    ("uri", "endpoint", "page"),
    [
        ("https://example.org/a b.jpg?v=1", "", "https://example.org/a%20b.jpg?v=1"),
        ("https://example.org/a).jpg", "", "https://example.org/a%29.jpg"),
        ("s3://bucket/in/a&b.jpg", "",
         "https://console.aws.amazon.com/s3/object/bucket?prefix=in%2Fa%26b.jpg"),
        ("s3://bucket/in/a b.jpg", "http://127.0.0.1:9000/",
         "http://127.0.0.1:9000/bucket/in/a%20b.jpg"),
        ("s3://bucket/a.jpg", "http://me:secret@store:9000", "http://store:9000/bucket/a.jpg"),
        ("s3://b)![x](http:/a.jpg", "http://store",
         "http://store/b%29%21%5Bx%5D%28http%3A/a.jpg"),
        ("/data/a.jpg", "", ""),
        ("javascript:alert(1)", "", ""),
        ("javascript://alert(1)", "", ""),
    ],
)  # fmt: skip
def test_a_source_is_linked_to_where_a_browser_shows_it(
    uri: str, endpoint: str, page: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("AWS_ENDPOINT_URL", raising=False)
    assert page_of(uri, {"endpoint_url": endpoint} if endpoint else {}) == page


def test_the_environment_may_name_the_endpoint(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://store:9000")
    assert page_of("s3://bucket/a.jpg", {}) == "http://store:9000/bucket/a.jpg"


def test_names_stay_in_their_cells() -> None:
    failure = Failure("a|b_[c]\n(d)<e>", "https://example.org/a|b.jpg", "input", "decode", "`is`")
    header, _, row = failures_table([failure], {}).splitlines()
    assert header == "| image | why | stage | kind | source |"
    assert row == (
        r"| a\|b\_\[c\] (d)&lt;e&gt; | 'is' | decode | input "
        r"| [https://example.org/a\|b.jpg](https://example.org/a%7Cb.jpg) |"
    )


def test_progress_that_nobody_is_there_to_be_told_is_no_fault() -> None:
    with socket.socket() as taken:  # and nobody listens
        taken.bind(("127.0.0.1", 0))
        away = f"http://127.0.0.1:{taken.getsockname()[1]}/api"
        with temporary_settings({PREFECT_API_URL: away, PREFECT_CLIENT_MAX_RETRIES: 0}):
            ProgressArtifact("progress").show(50.0, "half")
