"""What a job accepts, and what makes two jobs the same."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError

from pipeline.job import Job


def make(**settings: Any) -> Job:
    return Job(**{"source": "photos", "out": "out", "style": "wave", **settings})


@pytest.mark.parametrize(
    ("size", "pixels"),
    [("native", None), ("256", (256, 256)), ("512x384", (512, 384)), ("1x99999", (1, 99999))],
)
def test_a_size_is_native_a_side_or_width_by_height(
    size: str, pixels: tuple[int, int] | None
) -> None:
    assert make(size=size).pixels == pixels


@pytest.mark.parametrize(
    "size", ["", "0", "0x5", "5x0", "-5", "256x", "x256", "1x2x3", "100000", "25 6", "256\n", "big"]
)
def test_other_sizes_are_refused_with_examples(size: str) -> None:
    with pytest.raises(ValidationError, match="give native, 256 or 512x384"):
        make(size=size)


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("strength", -0.1),
        ("strength", 1.1),
        ("strength", float("nan")),
        ("quality", 0),
        ("quality", 101),
        ("variants", 0),
        ("limit", 0),
        ("max_failed", 1.5),
        ("shard_size", 0),
        ("workers", 0),
        ("workers", "many"),
        ("max_pixels", 0),
        ("format", "gif"),
        ("device", "tpu"),
        ("device", "cuda:x"),
        ("precision", "fp8"),
    ],
)
def test_values_out_of_range_are_refused(field: str, value: Any) -> None:
    with pytest.raises(ValidationError) as caught:
        make(**{field: value})
    assert {error["loc"][0] for error in caught.value.errors()} == {field}


@pytest.mark.parametrize("missing", ["source", "out", "style"])
def test_source_out_and_style_are_needed(missing: str) -> None:
    settings = {"source": "photos", "out": "out", "style": "wave"}
    del settings[missing]
    with pytest.raises(ValidationError, match=missing):
        Job(**settings)


def test_a_setting_that_does_not_exist_is_refused() -> None:
    with pytest.raises(ValidationError, match="strenght"):
        make(strenght=0.5)


def test_a_job_cannot_be_changed() -> None:
    with pytest.raises(ValidationError, match="frozen"):
        make().strength = 0.5


def test_storage_options_become_a_mapping() -> None:
    job = make(storage_option=("endpoint_url=http://minio:9000/?a=b", "anon=true", "profile="))
    assert job.options == {
        "endpoint_url": "http://minio:9000/?a=b", "anon": "true", "profile": ""
    }  # fmt: skip


@pytest.mark.parametrize(
    "option",
    [
        "key=hunter2",
        "KEY=hunter2",
        "secret=hunter2",
        "aws_secret_access_key=hunter2",
        "token=hunter2",
        "aws_session_token=hunter2",
        "Password=hunter2",
        "endpoint_url=https://me:hunter2@minio:9000",
    ],
)
def test_credentials_are_refused_and_not_repeated(option: str) -> None:
    with pytest.raises(ValidationError) as caught:
        make(storage_option=("region=eu-west-1", option))
    assert "hunter2" not in str(caught.value)
    assert "environment" in str(caught.value) or "AWS_SECRET_ACCESS_KEY" in str(caught.value)


def test_places_with_credentials_are_refused_and_azure_containers_are_not() -> None:
    with pytest.raises(ValidationError, match="sftp://host/photos was given with credentials"):
        make(source="sftp://me:hunter2@host/photos")
    azure = "abfs://photos@account.dfs.core.windows.net/set"
    assert make(source=azure, out=azure).source == azure


def test_an_option_without_a_value_is_refused() -> None:
    with pytest.raises(ValidationError, match="'region' is not of the form key=value"):
        make(storage_option=("region",))


RESULTS_DEPEND_ON = {
    "style", "strength", "preserve_colour", "size", "format", "quality", "layout", "variants",
    "seed", "precision",
}  # fmt: skip

CHANGES: dict[str, Any] = {
    "source": "others",
    "out": "elsewhere",
    "style": "wave,starry",
    "strength": 0.5,
    "preserve_colour": True,
    "require_rights": True,
    "size": "256",
    "format": "png",
    "quality": 80,
    "layout": "webdataset",
    "variants": 2,
    "seed": 1,
    "limit": 10,
    "retry_failed": True,
    "overwrite": True,
    "max_failed": 0.5,
    "shard_size": 64,
    "workers": 3,
    "runner": "ray",
    "gpus_per_worker": 0.5,
    "device": "cpu",
    "precision": "fp32",
    "pack": "mine.safetensors",
    "max_pixels": 1000,
    "allow_scheme": ("https",),
    "allow_private": True,
    "max_seconds": 5.0,
    "storage_option": ("region=eu-west-1",),
}


@pytest.mark.parametrize("field", sorted(CHANGES))
def test_the_digest_changes_with_what_the_results_depend_on_and_nothing_else(field: str) -> None:
    changed = make(**{field: CHANGES[field]})
    assert (changed.digest("weights") != make().digest("weights")) == (field in RESULTS_DEPEND_ON)


def test_every_setting_was_considered_for_the_digest() -> None:
    assert set(CHANGES) == set(Job.model_fields)


def test_the_digest_changes_with_the_weights() -> None:
    assert make().digest("one") != make().digest("another")
    assert make().digest("one") == make().digest("one")


def test_a_job_survives_its_own_json() -> None:
    job = make(allow_scheme=("https",), storage_option=("anon=true",), limit=3, workers=2)
    assert Job.model_validate_json(job.model_dump_json()) == job


def test_a_resolved_job_names_its_places_in_full(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    job = make(source="photos", out="s3://bucket/out", pack="packs/mine.safetensors").resolved()
    assert job.source == os.path.join(tmp_path, "photos")
    assert job.out == "s3://bucket/out"
    assert job.pack == os.path.join(tmp_path, "packs", "mine.safetensors")
    assert job.resolved() == job


def test_a_resolved_job_without_a_pack_still_has_none() -> None:
    assert make().resolved().pack == ""
