from __future__ import annotations

from collections.abc import Iterator

import pytest

from flows.server import prefect_api


@pytest.fixture(scope="session")
def whole_prefect(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The API of a Prefect server with all its services, which the test harness has not."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PREFECT_HOME", str(tmp_path_factory.mktemp("prefect")))
        with prefect_api() as address:
            yield f"{address}/api"
