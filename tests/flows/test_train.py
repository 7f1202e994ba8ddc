"""Training: as a flow, as a command, and killed."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any
from unittest.mock import Mock

import httpx
import pytest
import torch
from safetensors.torch import load_file

import tasks.training
from flows.train import train
from pipeline.errors import RequestError, SystemFault
from pipeline.styles.pack import read_pack
from pipeline.training.config import TrainConfig
from tests.conftest import jpeg, write_photos

Config = Callable[[str], dict[str, Any]]


@pytest.fixture
def config(tmp_path: Path, small_features: str) -> Config:
    """The settings of a short run, by the name of its pack."""
    write_photos(tmp_path / "photos", 4)
    (tmp_path / "dots.jpg").write_bytes(jpeg(80, 70, seed=5))

    def made(name: str, **more: Any) -> dict[str, Any]:
        return {
            "images": [str(tmp_path / "dots.jpg")], "content": str(tmp_path / "photos"),
            "features": small_features, "device": "cpu", "out": str(tmp_path / name),
            "steps": 12, "batch": 2, "crop": 64, "style_size": 64, "style_scales": 1,
            "checkpoint_every": 5, **more,
        }  # fmt: skip

    return made


def test_the_flow_shows_how_far_it_is_and_what_it_looks_like(config: Config, prefect: str) -> None:
    state = train(TrainConfig.model_validate(config("flow.safetensors")), return_state=True)
    assert state.is_completed()
    assert state.message is not None
    assert state.message.endswith("flow.safetensors is ready")
    assert read_pack(Path(state.result())).names == ["dots"]

    def ask(what: str) -> list[dict[str, Any]]:
        return httpx.post(f"{prefect}/{what}/filter", json={}).raise_for_status().json()

    (run,) = (run for run in ask("flow_runs") if run["name"] == "dots")
    mine = [a for a in ask("artifacts") if a["flow_run_id"] == run["id"]]
    (progress,) = (a for a in mine if a["key"] == "train-progress")
    assert progress["data"] == 100
    assert "step 12 of 12" in progress["description"]
    previews = [a for a in mine if a["key"] == "train-preview"]
    assert sorted(a["description"] for a in previews) == [
        "after 10 of 12 steps", "after 12 of 12 steps", "after 5 of 12 steps",
    ]  # fmt: skip
    assert all("data:image/jpeg;base64," in a["data"] for a in previews)


@pytest.mark.parametrize("fault", [RequestError("no painting"), SystemFault("it diverged")])
def test_what_would_fail_again_is_not_tried_again(
    config: Config, prefect: str, monkeypatch: pytest.MonkeyPatch, fault: Exception
) -> None:
    trainer = Mock(side_effect=fault)
    monkeypatch.setattr(tasks.training, "Trainer", trainer)
    settings = TrainConfig.model_validate(config("wrong.safetensors"))
    assert train(settings, return_state=True).is_failed()
    assert trainer.call_count == 1


def command(settings: dict[str, Any]) -> list[str]:
    options = {name: value for name, value in settings.items() if name != "images"}
    flags = [
        text
        for name, value in options.items()
        for text in (f"--{name.replace('_', '-')}", str(value))
    ]
    return [str(Path(sys.executable).with_name("restyle")), "train", *settings["images"], *flags]


def test_a_training_that_is_killed_ends_as_if_it_had_not_been(config: Config) -> None:
    whole, killed = config("whole.safetensors", steps=60), config("killed.safetensors", steps=60)
    subprocess.run(command(whole), check=True, capture_output=True)

    checkpoint = Path(killed["out"]).with_suffix(".checkpoint")
    child = subprocess.Popen(command(killed), stdout=subprocess.DEVNULL, start_new_session=True)
    until = time.monotonic() + 60
    while not checkpoint.exists():
        assert time.monotonic() < until
        assert child.poll() is None
        time.sleep(0.005)
    os.killpg(child.pid, signal.SIGKILL)
    assert child.wait() == -signal.SIGKILL
    assert not Path(killed["out"]).exists()

    done = subprocess.run(command(killed), check=True, capture_output=True, text=True)
    assert "is ready" in done.stdout
    ours, theirs = load_file(killed["out"]), load_file(whole["out"])
    assert ours.keys() == theirs.keys()
    assert all(torch.equal(ours[name], theirs[name]) for name in ours)
    assert not checkpoint.exists()
