"""Training as a Prefect flow, for machines that are watched from elsewhere."""

# Annotations are not put off here: a deployment loads this file in a way that leaves Prefect
# nowhere to look their names up.

from prefect import State, flow
from prefect.runtime import flow_run
from prefect.states import Completed

from pipeline.training.config import TrainConfig
from tasks.training import train_network


def run_name() -> str:
    """What the UI calls a run: the styles."""
    config = flow_run.parameters["config"]
    config = config if isinstance(config, TrainConfig) else TrainConfig.model_validate(config)
    return ", ".join(config.names).encode("ascii", "replace").decode()[:120]


@flow(name="train", flow_run_name=run_name, persist_result=False)
def train(config: TrainConfig) -> State[str]:
    """Teach a network the styles of some paintings; a run that was stopped goes on."""
    pack = str(train_network(config))
    return Completed(message=f"{pack} is ready", data=pack)
