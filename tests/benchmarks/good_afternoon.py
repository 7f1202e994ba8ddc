"""The best that a good engineer writes in an afternoon, with restyle's own network.

DataLoader workers that decode, batches of 32, the network compiled and in the precision that
pays on this machine, a pool of threads that saves. No ledger, no retries, no bad images.

python good_afternoon.py PHOTOS OUT
"""

from __future__ import annotations

import os
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import torch
from PIL import Image
from torch import Tensor
from torch.utils.data import DataLoader, Dataset
from torchvision.transforms.functional import pil_to_tensor

from pipeline.styles.pack import find_pack
from pipeline.stylizer import pick_device, pick_dtype

BATCH = 32


class Photos(Dataset[tuple[Tensor, str]]):
    """Decoded photos and their names."""

    def __init__(self, folder: str) -> None:
        self.paths = sorted(Path(folder).iterdir())

    def __len__(self) -> int:
        return len(self.paths)

    def __getitem__(self, index: int) -> tuple[Tensor, str]:
        path = self.paths[index]
        return pil_to_tensor(Image.open(path).convert("RGB")), path.name


def main(photos: str, out: str) -> None:
    """Stylize all photos in a folder; they have one size."""
    device = pick_device("auto")
    dtype = pick_dtype("auto", device)
    network = find_pack("").load().to(device, memory_format=torch.channels_last).eval()
    torch._dynamo.config.suppress_errors = True  # uncompiled where there is no compiler
    run = torch.compile(network)
    style = torch.eye(len(find_pack("").names), device=device)[:1]
    cores = len(os.sched_getaffinity(0))

    def save(name: str, pixels: Tensor) -> None:
        Image.fromarray(pixels.numpy()).save(Path(out, name), quality=92)

    loader = DataLoader(Photos(photos), BATCH, num_workers=cores, pin_memory=device.type == "cuda")
    with ThreadPoolExecutor(cores) as pool, torch.inference_mode():
        for batch, names in loader:
            given = batch.to(device, memory_format=torch.channels_last).float() / 255
            with torch.autocast(device.type, dtype, enabled=dtype != torch.float32):
                result = run(given, style)
            done = result.float().mul(255).round().clamp(0, 255).to(torch.uint8)
            for name, pixels in zip(names, done.permute(0, 2, 3, 1).cpu(), strict=True):
                pool.submit(save, name, pixels)


if __name__ == "__main__":
    main(*sys.argv[1:])
