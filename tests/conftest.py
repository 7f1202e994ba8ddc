"""What tests share: pictures, a small pack with random weights, an S3 server, a Prefect server."""

from __future__ import annotations

import io
import os
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from pipeline.codec import Pixels, encode
from pipeline.job import Job
from pipeline.styles.pack import Card, save_pack
from tests.pipeline import servers

BUCKET = "photos"


@pytest.hookimpl(tryfirst=True)  # before xdist looks at the marks
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Tests that share a Prefect server are for one process: a server costs 15 s."""
    for item in items:
        for server in {"prefect", "whole_prefect"} & set(getattr(item, "fixturenames", ())):
            item.add_marker(pytest.mark.xdist_group(server))


@pytest.fixture(autouse=True, scope="session")
def _own_home(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Nothing of the user's is read, and nothing is left behind."""
    home = tmp_path_factory.mktemp("home")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("HOME", str(home))
        patch.setenv("XDG_CACHE_HOME", str(home / "cache"))
        patch.delenv("PREFECT_API_URL", raising=False)
        patch.setenv("PREFECT_SERVER_ANALYTICS_ENABLED", "false")
        patch.setenv("DO_NOT_TRACK", "1")
        for name in list(os.environ):
            if name.startswith("AWS_"):
                patch.delenv(name)
        yield


def picture(width: int = 64, height: int = 64, seed: int = 0) -> Pixels:
    """A picture with coarse and fine detail, (height, width, 3) uint8."""
    rng = np.random.default_rng(seed)
    coarse = rng.integers(0, 256, (4, 4, 3), dtype=np.uint8)
    smooth = Image.fromarray(coarse).resize((width, height), Image.Resampling.BICUBIC)
    noise = rng.integers(-20, 21, (height, width, 3))
    return np.clip(np.asarray(smooth, np.int16) + noise, 0, 255).astype(np.uint8)


def jpeg(width: int = 64, height: int = 64, seed: int = 0) -> bytes:
    """A photo's file."""
    return encode(picture(width, height, seed), "jpg", 90)


def write_photos(folder: Path, count: int, first: int = 0, size: int = 64) -> Path:
    """``count`` different photos in ``folder``: 000.jpg, 001.jpg, ..."""
    folder.mkdir(parents=True, exist_ok=True)
    for number in range(first, first + count):
        (folder / f"{number:03d}.jpg").write_bytes(jpeg(size, size, number))
    return folder


def write_pack(path: Path, *names: str) -> None:
    """A small pack of styles with random weights."""
    import torch

    from pipeline.networks.fast import FastTransformNet

    torch.manual_seed(1)
    network = FastTransformNet(len(names), half=8, quarter=8, blocks=1)
    network.styles.data += 0.3 * torch.randn_like(network.styles)
    save_pack(path, network, [Card(name) for name in names])


def open_image(data: bytes) -> Pixels:
    """The pixels of a file."""
    return np.asarray(Image.open(io.BytesIO(data)).convert("RGB"))


@pytest.fixture(scope="session")
def pack(tmp_path_factory: pytest.TempPathFactory) -> str:
    """Path of a small pack of three styles with random weights: red, green, blue."""
    path = tmp_path_factory.mktemp("pack") / "small.safetensors"
    write_pack(path, "red", "green", "blue")
    return str(path)


@pytest.fixture
def job(tmp_path: Path, pack: str) -> Job:
    """A job for eight photos."""
    source = write_photos(tmp_path / "photos", 8)
    return Job(
        source=str(source), out=str(tmp_path / "out"), style="red", pack=pack, size="64",
        device="cpu", shard_size=4, workers=1,
    )  # fmt: skip


@pytest.fixture(scope="session")
def s3_server() -> str:
    """Address of an S3 server on this machine."""
    return servers.s3_server()


@pytest.fixture
def s3(s3_server: str, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """URL of an empty bucket; the environment leads there, for child processes too."""
    import boto3
    from s3fs import S3FileSystem

    for name, value in servers.s3_environment(s3_server).items():
        monkeypatch.setenv(name, value)
    S3FileSystem.clear_instance_cache()
    client = boto3.client("s3")
    client.create_bucket(Bucket=BUCKET)
    yield f"s3://{BUCKET}"
    paginator = client.get_paginator("list_objects_v2")
    for page in paginator.paginate(Bucket=BUCKET):
        for item in page.get("Contents", []):
            client.delete_object(Bucket=BUCKET, Key=item["Key"])
    client.delete_bucket(Bucket=BUCKET)


@pytest.fixture(scope="session")
def prefect() -> Iterator[str]:
    """Prefect's test harness; yields the address of its API."""
    from prefect.settings import PREFECT_API_URL
    from prefect.testing.utilities import prefect_test_harness

    with prefect_test_harness(server_startup_timeout=120):
        yield str(PREFECT_API_URL.value())


@pytest.fixture(scope="session")
def small_features(tmp_path_factory: pytest.TempPathFactory) -> str:
    """A small feature network with random weights."""
    import torch
    from safetensors.torch import save_file

    torch.manual_seed(0)
    weights = {"conv0.weight": torch.eye(3)[:, :, None, None], "conv0.bias": torch.zeros(3)}
    channels = 3
    for block, width in enumerate((8, 12, 16, 16, 16), start=1):
        weights[f"conv{block}_1.weight"] = torch.randn(width, channels, 3, 3) / channels**0.5 / 2
        weights[f"conv{block}_1.bias"] = 0.1 * torch.randn(width)
        channels = width
    path = tmp_path_factory.mktemp("features") / "small.safetensors"
    save_file(weights, path)
    return str(path)
