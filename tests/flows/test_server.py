from __future__ import annotations

from flows.server import _port


def test_servers_that_start_at_the_same_time_have_ports_of_their_own() -> None:
    with _port() as one, _port() as another:
        assert one != another
