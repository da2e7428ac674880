"""Your own loop, with three instructions as plain functions.

    python examples/plain_loop.py

No recipe and no run folder: a model, a loop as everybody writes it, and a line each for the schedule of the
learning rate (08), the average of the weights (17) and the export to ONNX (32).
"""

from __future__ import annotations

from pathlib import Path

import torch
from torch import nn

import fulldeck as fd

EPOCHS, BATCH = 20, 50


def main(folder: Path = Path("runs/plain_loop")) -> float:
    """Learn whether a point lies in a ring, write `folder`/model.onnx, and return the test accuracy."""
    torch.manual_seed(0)
    points = torch.rand(1500, 2) * 2 - 1
    radius = points.norm(dim=1)
    inside = ((radius > 0.4) & (radius < 0.8)).long()
    model = nn.Sequential(nn.Linear(2, 64), nn.ReLU(), nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 2))
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2)
    steps = EPOCHS * 1000 // BATCH
    scheduler = fd.schedule(optimizer, "one_cycle", total_steps=steps, warmup_steps=steps // 4)  # 08
    average = fd.average_weights(model, "ema", decay=0.98)  # 17

    for _ in range(EPOCHS):
        for rows in torch.randperm(1000).split(BATCH):
            optimizer.zero_grad()
            nn.functional.cross_entropy(model(points[rows]), inside[rows]).backward()
            optimizer.step()
            scheduler.step()
            average.update()

    with average.swapped():  # the averaged weights are in the model inside this block
        fd.export_onnx(model.eval(), points[:20], folder / "model.onnx")  # 32: compared with the model first
        return float((model(points[1000:]).argmax(dim=1) == inside[1000:]).float().mean())


if __name__ == "__main__":
    print(f"test accuracy {main():.3f}; runs/plain_loop/model.onnx")
