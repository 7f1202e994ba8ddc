"""Style packs: the weights of a transform network with a card for each of its styles.

A pack is one safetensors file. The key ``restyle`` of its header is a JSON object that says which
network the weights are for (``network``), how that is built (``config``), and has a card for each
style (``cards``). A checkpoint of the PyTorch examples (``.pth``) serves as a pack of one style.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from safetensors import SafetensorError, safe_open

from pipeline.errors import RequestError
from pipeline.storage import Storage
from pipeline.url import describe

if TYPE_CHECKING:
    from torch import Tensor

    from pipeline.networks.fast import FastTransformNet
    from pipeline.networks.johnson import JohnsonNet

SHIPPED = Path(__file__).parent / "classics.safetensors"

# What the PyTorch examples call their checkpoints.
CHECKPOINTS = (".pth", ".pt", ".model")

RIGHTS = ("title", "artist", "year", "rights", "source")


@dataclass(frozen=True)
class Card:
    """What a person wants to know of a style.

    ``training`` and ``quality`` hold settings and measured figures as plain JSON values.
    """

    name: str
    title: str = ""
    artist: str = ""
    year: str = ""
    rights: str = ""
    source: str = ""
    training: dict[str, Any] = field(default_factory=dict)
    quality: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Pack:
    """A pack on disk; reading it needs no torch until the network is asked for."""

    path: Path
    network: str
    config: dict[str, Any]
    cards: tuple[Card, ...]

    @property
    def names(self) -> list[str]:
        """The styles, in the order of the network's rows."""
        return [card.name for card in self.cards]

    @cached_property
    def digest(self) -> str:
        """sha256 of the file, in hexadecimal."""
        return hashlib.sha256(self.path.read_bytes()).hexdigest()

    def load(self) -> FastTransformNet | JohnsonNet:
        """The network, float32, on the CPU, in eval mode.

        Raises:
            RequestError: the weights do not fit the network that the pack names.
        """
        from pipeline.networks.fast import FastTransformNet
        from pipeline.networks.johnson import from_example_checkpoint

        try:
            if self.network == "johnson":
                return from_example_checkpoint(self.weights())
            if self.network != "fast" or self.config["styles"] != len(self.cards):
                raise ValueError(f"a network '{self.network}' of {len(self.cards)} styles")
            network = FastTransformNet(**self.config)
            network.load_state_dict(self.weights())
        except Exception as error:  # whatever a foreign file can provoke
            raise RequestError(
                f"{self.path}: the weights cannot be loaded: {describe(error)}"
            ) from error
        return network.eval()

    def weights(self) -> dict[str, Tensor]:
        """What is in the file, under the file's own names."""
        if self.path.suffix in CHECKPOINTS:
            import torch

            try:
                state: dict[str, Tensor] = torch.load(
                    self.path, map_location="cpu", weights_only=True
                )
            except Exception as error:  # with advice to load whatever it is
                raise ValueError("no checkpoint, or one that holds more than weights") from error
            return state
        from safetensors.torch import load_file

        return load_file(self.path)


def read_pack(path: Path) -> Pack:
    """The pack at ``path``, from its header alone.

    Raises:
        RequestError: no such file, or not a style pack.
    """
    if not path.is_file():
        raise RequestError(f"no style pack at {path}")
    if path.suffix in CHECKPOINTS:
        return Pack(path, "johnson", {}, (Card(path.stem, source=path.name),))
    try:
        with safe_open(path, framework="numpy") as file:
            header = json.loads((file.metadata() or {})["restyle"])
        cards = tuple(Card(**card) for card in header["cards"])
        return Pack(path, header["network"], header["config"], cards)
    except (SafetensorError, KeyError, TypeError, json.JSONDecodeError) as error:
        raise RequestError(f"{path} is not a style pack: {error}") from error


def save_pack(path: Path, network: FastTransformNet, cards: Sequence[Card]) -> None:
    """Write ``network`` and a card for each of its styles, in the order of its rows.

    Raises:
        ValueError: not one card for each style. SystemFault: it cannot be written.
    """
    if len(cards) != len(network.styles):
        raise ValueError(f"{len(network.styles)} styles but {len(cards)} cards")
    _write(path, network.state_dict(), "fast", network.config, cards)


def copy_pack(pack: Pack, path: Path, cards: Sequence[Card]) -> None:
    """Write a pack with other cards; its weights stay as they are.

    Raises:
        ValueError: not one card for each style. SystemFault: it cannot be written.
    """
    if len(cards) != len(pack.cards):
        raise ValueError(f"{len(pack.cards)} styles but {len(cards)} cards")
    _write(path, pack.weights(), pack.network, pack.config, cards)


def find_pack(path: str) -> Pack:
    """The pack at ``path``; the shipped one if ``path`` is empty."""
    return read_pack(Path(path).expanduser() if path else SHIPPED)


def _write(
    path: Path,
    weights: Mapping[str, Tensor],
    network: str,
    config: Mapping[str, Any],
    cards: Sequence[Card],
) -> None:
    from safetensors.torch import save

    header = {"network": network, "config": config, "cards": [asdict(card) for card in cards]}
    # One key, because safetensors writes several in any order.
    metadata = {"restyle": json.dumps(header, ensure_ascii=False)}
    laid_out = {name: tensor.contiguous() for name, tensor in weights.items()}
    Storage().write_last(os.path.realpath(path), save(laid_out, metadata=metadata))
