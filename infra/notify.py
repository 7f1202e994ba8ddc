"""An automation that posts to a web hook when more than 2 % of a run's rows have failed.

python -m infra.notify https://hooks.example.com/...        # on the server of PREFECT_API_URL

Slack, Mattermost and Teams take what it posts, a JSON object with one key "text". Run again, it
replaces the automation that it made before.
"""

from __future__ import annotations

import sys
from typing import Any

from prefect.automations import Automation
from prefect.blocks.webhook import Webhook
from prefect.events.actions import CallWebhook
from prefect.events.schemas.automations import EventTrigger, Posture
from pydantic import SecretStr

from infra.automations import put
from tasks.events import RUN_DEGRADED

NAME = "restyle-degraded"
TEXT = """{{
    {"text": "restyle: " ~ event.payload.failed ~ " of " ~ event.payload.of ~ " images failed, "
             ~ event.resource.id} | tojson
}}"""


def main() -> int:
    """Make the automation; the exit code."""
    urls = sys.argv[1:]
    if len(urls) != 1 or not urls[0].startswith(("http://", "https://")):
        print("give the hook's URL: python -m infra.notify https://...", file=sys.stderr)
        return 2
    hook: Any = Webhook(method="POST", url=SecretStr(urls[0])).save(NAME, overwrite=True)
    put(
        Automation(
            name=NAME,
            description="More than 2 % of a run's images have failed.",
            trigger=EventTrigger(expect={RUN_DEGRADED}, posture=Posture.Reactive, threshold=1),
            actions=[CallWebhook(block_document_id=hook, payload=TEXT)],
        )
    )
    return 0


if __name__ == "__main__":
    sys.exit(main())
