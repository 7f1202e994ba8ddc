"""An automation that marks runs as Crashed whose process or machine has died.

python -m infra.crashed        # on the server of PREFECT_API_URL

Otherwise they are Running for ever in the UI. It listens for the heartbeats of the runs of
deployments, which PREFECT_FLOWS_HEARTBEAT_FREQUENCY switches on, as infra/prefect.yaml does. What
a dead run has left over, the next one does, with or without this.
"""

from __future__ import annotations

import sys
from datetime import timedelta

from prefect.automations import Automation
from prefect.client.schemas.objects import StateType
from prefect.events.actions import ChangeFlowRunState
from prefect.events.schemas.automations import EventTrigger, Posture
from prefect.events.schemas.events import ResourceSpecification

from infra.automations import put

NAME = "restyle-crashed"
HEARTBEAT = "prefect.flow-run.heartbeat"

# Seconds without a heartbeat: three are missing then, at the shortest interval that Prefect has.
SILENCE = 90

ENDINGS = ("Completed", "Failed", "Cancelled", "Cancelling", "Crashed", "Suspended")


def automation(silence: float = SILENCE) -> Automation:
    """The automation; a run is dead after so many seconds without a heartbeat."""
    return Automation(
        name=NAME,
        description="The process or the machine of a run has died.",
        trigger=EventTrigger(
            after={HEARTBEAT},
            expect={HEARTBEAT, *(f"prefect.flow-run.{state}" for state in ENDINGS)},
            match=ResourceSpecification({"prefect.resource.id": ["prefect.flow-run.*"]}),
            for_each={"prefect.resource.id"},
            posture=Posture.Proactive,
            threshold=1,
            within=timedelta(seconds=silence),
        ),
        actions=[
            ChangeFlowRunState(
                state=StateType.CRASHED, message="Its process has died; the next run carries on."
            )
        ],
    )


def main() -> int:
    """Make the automation, or make it anew."""
    put(automation())
    return 0


if __name__ == "__main__":
    sys.exit(main())
