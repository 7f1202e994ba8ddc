"""What a training run is."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Literal, Self

from pydantic import BaseModel, ConfigDict, Field, field_validator, model_validator

from pipeline.folder import check_here
from pipeline.job import Device
from pipeline.styles.mix import check_style_name

STEPS = 2000
STEPS_TO_ADD = 200


class TrainSettings(BaseModel):
    """How to train, but not on which paintings."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    content: str = Field(
        description="Photos to practise on: a folder, a manifest or a prefix; a few hundred do."
    )
    name: tuple[str, ...] = Field(
        (), description="What to call the styles, in order; otherwise by their files."
    )
    out: str = Field(
        "", description="The style pack to write, a .safetensors; otherwise NAME.safetensors."
    )
    add_to: str = Field(
        "",
        description="A pack to add the styles to; its own stay as they are.",
    )
    start_from: str = Field(
        "", description="A pack whose network to start from; all of it is trained."
    )
    features: str = Field(
        "vgg16", description="vgg16, vgg19 (downloaded once) or a safetensors file."
    )
    cards: str = Field(
        "", description="JSON file with title, artist, year, rights and source of each name."
    )
    strength_target: Literal["low", "medium", "high"] = Field(
        "medium", description="How far the photo gives way to the painting."
    )
    steps: int = Field(
        0, ge=0, description=f"Batches to train on; 0: {STEPS}, or {STEPS_TO_ADD} to add styles."
    )
    batch: int = Field(4, ge=1, description="Photos in a batch.")
    crop: int = Field(
        224, ge=64, multiple_of=4, description="Side of the crops of the photos, pixels."
    )
    style_size: int = Field(
        512, ge=64, description="Longer side of the paintings, pixels; larger: larger strokes."
    )
    style_scales: int = Field(
        2, ge=1, le=3, description="Sizes at which the style is compared, each half the last."
    )
    blends: float = Field(
        0.1, ge=0, le=1, description="Share of the photos to be given a blend of two styles."
    )
    style_loss: Literal["statistics", "gram"] = Field(
        "statistics", description="What makes a style; gram is that of Gatys et al. 2016."
    )
    content_loss: Literal["normalized", "features", "ssim", "gradient"] = Field(
        "normalized", description="What is to be kept of the photo."
    )
    variation_loss: Literal["hinge", "plain"] = Field(
        "hinge", description="Pixel noise: beyond that of the painting, or any."
    )
    content_weight: float = Field(
        0.0, ge=0, description="For experts; 0: found while training, for each style."
    )
    variation_weight: float = Field(0.5, ge=0, description="For experts. More: less pixel noise.")
    learning_rate: float = Field(2e-3, gt=0, description="Of Adam, at its highest.")
    seed: int = Field(0, ge=0, le=2**63 - 1, description="Of everything that is drawn by lot.")
    device: Device = Field("auto", description="As in run.")
    checkpoint_every: int = Field(500, ge=1, description="Steps between two checkpoints.")

    @field_validator("out")
    @classmethod
    def _out(cls, out: str) -> str:
        if out and Path(out).suffix != ".safetensors":
            raise ValueError(f"{out} does not end in .safetensors, as a pack does")
        if out and Path(out).is_dir():
            raise ValueError(f"{out} is a folder; name the pack in it")
        return out


class TrainConfig(TrainSettings):
    """Teach a network the styles of some paintings."""

    images: tuple[str, ...] = Field(min_length=1, description="Paintings, one for each style.")

    @field_validator("images", "out", "add_to", "start_from", "features", "cards")
    @classmethod
    def _on_this_machine(cls, paths: str | tuple[str, ...]) -> str | tuple[str, ...]:
        for path in (paths,) if isinstance(paths, str) else paths:
            check_here(path)
        return paths

    @model_validator(mode="after")
    def _one_name_each(self) -> Self:
        names = self.names
        if len(names) != len(self.images):
            raise ValueError(f"{len(self.images)} images but {len(names)} names")
        if len(set(names)) < len(names):
            raise ValueError(f"two styles have one name: {', '.join(names)}")
        for name in names:
            check_style_name(name)
        return self

    @model_validator(mode="after")
    def _crops_for_all_scales(self) -> Self:
        least = 32 * 2 ** (self.style_scales - 1)
        if self.crop < least:
            raise ValueError(
                f"--style-scales {self.style_scales} needs a --crop of {least} or more"
            )
        return self

    @model_validator(mode="after")
    def _one_beginning(self) -> Self:
        if self.add_to and self.start_from:
            raise ValueError("--add-to and --start-from exclude each other")
        return self

    @property
    def names(self) -> tuple[str, ...]:
        """The styles' names, in the order of ``images``."""
        stems = (image.rsplit("/", 1)[-1].rsplit(".", 1)[0] for image in self.images)
        return self.name or tuple(stem.replace(" ", "_") for stem in stems)

    @property
    def all_steps(self) -> int:
        """Batches to train on."""
        return self.steps or (STEPS_TO_ADD if self.add_to else STEPS)

    @property
    def pack(self) -> str:
        """Path of the pack."""
        return self.out or f"{self.names[0]}.safetensors"

    @property
    def digest(self) -> str:
        """Identity: a checkpoint continues only the run that wrote it."""
        text = self.model_dump_json(exclude={"checkpoint_every", "device"})
        return hashlib.sha256(text.encode()).hexdigest()[:16]
