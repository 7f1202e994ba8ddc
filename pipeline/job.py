"""What a job is: one model for the command line, the TOML file, the Prefect form and job.json."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterable
from typing import Annotated, Literal, Self

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, field_validator

from pipeline.url import absolute, has_user, join, redact_url

# What a result depends on. Everything else may change between two runs of one job.
IDENTITY = {
    "style", "strength", "preserve_colour", "size", "format", "quality", "layout", "variants",
    "seed", "precision",
}  # fmt: skip

# Where results lie below OUT, by layout.
FOLDERS = {"files": "images", "webdataset": "shards", "parquet": "shards"}

# Files in which they lie together are called by their shard, and a digest of all that is in them.
PACKED_NAME = r"([0-9a-f]{16})-[0-9a-f]{16}"


def device_name(name: str) -> str:
    """``name``, if a device can be called so; otherwise a ValueError."""
    if not re.fullmatch(r"auto|cpu|cuda(:\d+)?", name):
        raise ValueError("give auto, cpu, cuda or cuda:1")
    return name


Device = Annotated[str, AfterValidator(device_name)]

SECRET_OPTIONS = re.compile(r"secret|token|password|^key$", re.IGNORECASE)

Count = Literal["auto"] | Annotated[int, Field(ge=1)]


class Settings(BaseModel):
    """How to stylize, but not what."""

    model_config = ConfigDict(
        frozen=True, extra="forbid", hide_input_in_errors=True, allow_inf_nan=False
    )

    out: str = Field(description="Folder or URL for the results.")
    style: str = Field(
        description="wave: one style. wave,starry: one of these for each image. "
        "wave:0.7+starry:0.3: a blend."
    )
    strength: float = Field(1.0, ge=0, le=1, description="0 gives the photo, 1 the full style.")
    preserve_colour: bool = Field(False, description="Keep the photo's colours.")
    size: str = Field(
        "native",
        description="native, or 256, or 512x384 (width x height; scaled to cover, centre kept).",
    )
    format: Literal["jpg", "png", "webp"] = Field("jpg", description="Format of the results.")
    quality: int = Field(92, ge=1, le=100, description="Of JPEG and WebP.")
    layout: Literal["files", "webdataset", "parquet"] = Field(
        "files",
        description="files: each result in OUT/images. webdataset: tars in OUT/shards, with the "
        "labels beside each result. parquet: tables there, with the results in them.",
    )
    variants: int = Field(
        1, ge=1, description="Results for each image; each takes the next of several styles."
    )
    seed: int = Field(
        0, ge=-(2**63), lt=2**63, description="Decides which of several styles an image gets."
    )
    limit: int | None = Field(None, ge=1, description="Take only the first so many rows.")
    retry_failed: bool = Field(False, description="Try bad images again, too.")
    overwrite: bool = Field(False, description="Replace results that other settings made.")
    max_failed: float = Field(
        0.05, ge=0, le=1, description="Share of failed rows above which the run has failed."
    )
    shard_size: Count = Field(
        "auto",
        description="Rows that are committed together, at most; auto: 512, on a GPU or with AMX "
        "2,048, of images larger than 256x256 fewer.",
    )
    workers: Count = Field(
        "auto", description="Worker processes; auto: one a core, fewer for a few hundred images."
    )
    runner: Literal["local", "ray"] = Field(
        "local", description="local: workers on this machine. ray: on the cluster of RAY_ADDRESS."
    )
    gpus_per_worker: float = Field(
        1.0, gt=0, description="With --runner ray: GPUs that a worker takes; 0.5: two share one."
    )
    device: Device = Field("auto", description="auto, cpu, cuda or cuda:1.")
    precision: Literal["auto", "fp32", "bf16", "fp16"] = Field(
        "auto", description="Of the network; auto: bf16 where the device has it."
    )
    pack: str = Field(
        "",
        description="A style pack (.safetensors, or .pth) or a folder of packs; a path or a URL. "
        "Empty: the shipped one and those that you added.",
    )
    require_rights: bool = Field(
        False, description="Refuse styles whose cards do not say under what rights they are."
    )
    max_pixels: int = Field(
        100_000_000, ge=1, description="An image with more pixels than this is a failed row."
    )
    max_seconds: float = Field(
        60.0, gt=0, description="An image that takes longer to decode is a failed row."
    )
    allow_scheme: tuple[str, ...] = Field(
        (), description="Further URL schemes that a manifest may name, such as https."
    )
    allow_private: bool = Field(
        False, description="Let http(s) rows name hosts that are not on the public internet."
    )
    storage_option: tuple[str, ...] = Field(
        (), description="key=value for S3: endpoint_url, profile, region, anon."
    )

    @field_validator("size")
    @classmethod
    def _size(cls, value: str) -> str:
        if value != "native" and not re.fullmatch(r"[1-9]\d{0,4}(x[1-9]\d{0,4})?", value):
            raise ValueError("give native, 256 or 512x384")
        return value

    @field_validator("storage_option")
    @classmethod
    def _storage_option(cls, options: tuple[str, ...]) -> tuple[str, ...]:
        parse_options(options)
        return options

    @field_validator("out", "source", check_fields=False)
    @classmethod
    def _somewhere(cls, place: str) -> str:
        if not place:
            raise ValueError("is empty; is a variable of your shell not set?")
        return place

    @field_validator("out", "source", "pack", check_fields=False)
    @classmethod
    def _no_credentials(cls, url: str) -> str:
        if has_user(url):
            raise ValueError(
                f"{redact_url(url)} was given with credentials, which run histories would keep; "
                "give them in the environment"
            )
        return url

    @property
    def pixels(self) -> tuple[int, int] | None:
        """(width, height) of every result, or None for each image's own."""
        if self.size == "native":
            return None
        width, _, height = self.size.partition("x")
        return int(width), int(height or width)

    @property
    def folder(self) -> str:
        """Where the results lie."""
        return join(self.out, FOLDERS[self.layout])

    @property
    def options(self) -> dict[str, str]:
        """``storage_option`` as a mapping."""
        return parse_options(self.storage_option)

    def digest(self, model_digest: str) -> str:
        """Identity of the results: of all settings that they depend on, and of the weights."""
        identity = self.model_dump(mode="json", include=IDENTITY) | {"model": model_digest}
        if self.layout == "files":
            del identity["layout"]  # as before there were others
        text = json.dumps(identity, sort_keys=True)
        return hashlib.sha256(text.encode()).hexdigest()[:16]


def parse_options(options: Iterable[str]) -> dict[str, str]:
    """``key=value`` options as a mapping.

    Raises:
        ValueError: one is not of that form, or is a secret.
    """
    parsed = {}
    for option in options:
        name, equals, value = option.partition("=")
        if not equals:
            raise ValueError(f"'{name}' is not of the form key=value")
        if SECRET_OPTIONS.search(name):
            raise ValueError(
                f"'{name}' would be seen in process lists and run histories; set "
                "AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or name a profile"
            )
        if has_user(value):
            raise ValueError(f"'{name}' holds credentials; give them in the environment")
        parsed[name] = value
    return parsed


class Job(Settings):
    """Stylize a collection of images."""

    source: str = Field(
        description="Manifest (.parquet, .csv, .jsonl, .txt), folder, prefix, glob or .tar."
    )

    def resolved(self) -> Self:
        """The same job with all its places in full, so that any process can find them."""
        pack = absolute(self.pack) if self.pack else ""
        places = {"source": absolute(self.source), "out": absolute(self.out), "pack": pack}
        return self.model_copy(update=places)
