"""How many workers, and on what."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
import torch

from pipeline import devices
from pipeline.devices import cpu_count, devices_for, shard_rows
from pipeline.job import Job


def test_one_worker_a_core_but_no_more_than_pay(job: Job, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(devices, "memory_size", lambda: 1 << 20)
    auto = job.model_copy(update={"workers": "auto"})
    monkeypatch.setattr(devices, "cpu_count", lambda: 4)
    assert devices_for(auto, 100_000) == ["cpu"] * 4
    small, native = (auto.model_copy(update={"size": size}) for size in ("256", "native"))
    assert devices_for(small, 600) == ["cpu"] * 2
    assert devices_for(small, 200) == ["cpu"]
    assert devices_for(native, 200) == ["cpu"] * 4
    assert devices_for(auto, 0) == ["cpu"]


def test_as_many_workers_as_asked_for_share_the_device(job: Job) -> None:
    assert devices_for(job.model_copy(update={"workers": 3}), 1000) == ["cpu"] * 3
    assert devices_for(job.model_copy(update={"workers": 3}), 2) == ["cpu"] * 2
    one_gpu = job.model_copy(update={"workers": 2, "device": "cuda:1"})
    assert devices_for(one_gpu, 1000) == ["cuda:1"] * 2
    auto = one_gpu.model_copy(update={"workers": "auto"})
    assert devices_for(auto, 10**6) == ["cuda:1"]


def test_shards_are_larger_where_work_is_quick_unless_their_size_is_given(
    job: Job, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(devices, "_has_amx", lambda: False)
    auto = job.model_copy(update={"shard_size": "auto"})
    assert shard_rows(auto, ["cuda:0", "cuda:1"]) > shard_rows(auto, ["cpu"]) > 100
    assert shard_rows(auto, ["cpu"], 5e6) == shard_rows(auto, ["cpu"])
    sizes = [auto.model_copy(update={"size": size}) for size in ("128", "256", "512", "2048")]
    assert [shard_rows(one, ["cpu"]) for one in sizes] == [512, 512, 128, 8]
    native = auto.model_copy(update={"size": "native"})
    assert [shard_rows(native, ["cpu"], n) for n in (None, 1e5, 5e6)] == [32, 83, 8]
    assert shard_rows(job.model_copy(update={"shard_size": 3}), ["cuda:0"]) == 3
    monkeypatch.setattr(devices, "_has_amx", lambda: True)
    assert shard_rows(auto, ["cpu"]) == 2048


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_a_gpu_that_torch_cannot_use_is_none_and_is_told(
    job: Job, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(devices, "machine_gpus", lambda: 1)
    monkeypatch.setattr(devices, "cpu_count", lambda: 1)
    devices.gpu_count.cache_clear()
    auto = job.model_copy(update={"workers": "auto", "device": "auto"})
    assert devices_for(auto, 10**6) == ["auto"]
    assert "torch cannot use it" in caplog.text
    devices.gpu_count.cache_clear()


@pytest.mark.parametrize(
    ("said", "each", "alone"),
    [
        ("143771, Default\n143771, Default\n", 4, 8),  # of eight cores
        ("143771, Default\n8192, Default\n", 2, 2),
        ("2048, Default\n", 1, 1),
        ("143771, Exclusive_Process\n", 1, 1),
        ("[N/A], Default\n", 1, 1),
    ],
)
def test_workers_share_a_gpu_as_far_as_cores_and_its_memory_go(
    job: Job, said: str, each: int, alone: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    program = tmp_path / "nvidia-smi"
    program.write_text(f"#!/bin/sh\nprintf '{said}'\n")
    program.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path), prepend=os.pathsep)
    monkeypatch.setattr(devices, "gpu_count", lambda: 2)
    devices._room_on_gpu.cache_clear()
    monkeypatch.setattr(devices, "cpu_count", lambda: 8)
    monkeypatch.setattr(devices, "memory_size", lambda: 64 << 10)
    auto = job.model_copy(update={"workers": "auto", "device": "auto"})
    assert devices_for(auto, 10**6) == ["cuda:0", "cuda:1"] * each
    small = auto.model_copy(update={"size": "256"})
    assert devices_for(small, 3100) == (["cuda:0", "cuda:1"] * each)[:3]
    one = auto.model_copy(update={"device": "cuda:1"})
    assert devices_for(one, 10**6) == ["cuda:1"] * alone
    devices._room_on_gpu.cache_clear()


@pytest.mark.parametrize(
    ("said", "cores"),
    [
        (["max 100000"], 4),
        (["250000 100000"], 3),
        (["50000 100000"], 1),
        (["1600000 100000"], 4),
        (["-1", "100000"], 4),
        (["200000", "100000"], 2),
        ([], 4),
    ],
)
def test_a_containers_share_of_the_processors_is_not_exceeded(
    said: list[str], cores: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    files = [tmp_path / str(number) for number, _ in enumerate(said)]
    for file, words in zip(files, said, strict=True):
        file.write_text(words + "\n")
    files = files or [tmp_path / "missing"]
    monkeypatch.setattr(devices, "QUOTAS", [files])
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(4)))
    assert cpu_count() == cores


@pytest.mark.parametrize(("said", "workers"), [("max", 4), (str(4 << 30), 2), (str(1 << 20), 1)])
def test_there_are_no_more_workers_than_its_memory_has_room_for(
    job: Job, said: str, workers: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "memory.max").write_text(f"{said}\n")
    monkeypatch.setattr(devices, "LIMITS", [tmp_path / "missing", tmp_path / "memory.max"])
    monkeypatch.setattr(devices, "cpu_count", lambda: 4)
    assert devices_for(job.model_copy(update={"workers": "auto"}), 10**6) == ["cpu"] * workers
