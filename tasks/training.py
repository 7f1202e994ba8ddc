"""The task that trains a pack."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from prefect import State, Task, get_run_logger, task
from prefect.cache_policies import NO_CACHE
from prefect.client.schemas.objects import TaskRun

from pipeline.errors import RequestError, SystemFault
from pipeline.text import span
from pipeline.training.config import TrainConfig
from pipeline.training.loop import Step, Trainer
from tasks.artifacts import ProgressArtifact, publish_preview


def may_pass(task: Task[..., Any], run: TaskRun, state: State[Any]) -> bool:
    """Whether to train again: not if the settings are wrong, or it would diverge again."""
    fault = state.result(raise_on_failure=False)
    return not isinstance(fault, RequestError | SystemFault)


@task(
    name="train",
    task_run_name="train for {config.all_steps} steps",
    # It goes on from its last checkpoint.
    retries=2,
    retry_delay_seconds=10,
    retry_condition_fn=may_pass,
    cache_policy=NO_CACHE,
    persist_result=False,
)
def train_network(config: TrainConfig) -> Path:
    """Train, tell how far it is and show what it makes of some photos; the pack.

    Raises:
        RequestError: paintings, photos or the feature network cannot be read. SystemFault: the
            training has diverged.
    """
    logger = get_run_logger()
    trainer = Trainer(config)
    progress = ProgressArtifact("train-progress")
    logger.info(
        "%d paintings, %d photos, on %s; begins at step %d",
        len(trainer.paintings), len(trainer.content), trainer.device, trainer.step,
    )  # fmt: skip

    def show(step: Step) -> None:
        left = trainer.seconds / step.number * (config.all_steps - step.number)
        text = (
            f"step {step.number:,} of {config.all_steps:,}, style {step.style:.2f}, content "
            f"{step.content:.2f}, {span(left)} left"
        )
        progress.show(100 * step.number / config.all_steps, text, step.number == config.all_steps)

    def show_results() -> None:
        publish_preview(trainer.preview(), f"after {trainer.step:,} of {config.all_steps:,} steps")
        logger.info("%d steps done", trainer.step)

    trainer.run(show, show_results)
    if config.all_steps % config.checkpoint_every:
        show_results()
    return trainer.pack
