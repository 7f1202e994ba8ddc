from __future__ import annotations

from pathlib import Path

from flows.server import _port


def test_servers_that_start_at_the_same_time_have_ports_of_their_own(tmp_path: Path) -> None:
    with _port(tmp_path) as one, _port(tmp_path) as another:
        assert one != another
