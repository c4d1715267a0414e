"""A detector by ultralytics, measured by its callbacks.

A small YOLO, made from its configuration, looks for squares in pictures that are made here; no
weights are downloaded.
Lines that end in `# +` are all that measuring adds.

python examples/popular/ultralytics_callbacks.py [--epochs 2] [--output out-ultralytics]
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

import cv2
import numpy as np
from ultralytics import YOLO

from energyest import track  # +

SIZE = 64


def make_pictures(folder: Path, number: int) -> None:
    """Pictures with a bright square each, and where it is."""
    random = np.random.default_rng(0)
    for kind in ("images", "labels"):
        (folder / kind).mkdir(parents=True, exist_ok=True)
    for i in range(number):
        picture = random.integers(0, 80, (SIZE, SIZE, 3), dtype=np.uint8)
        side = int(random.integers(12, 28))
        left, top = (int(n) for n in random.integers(0, SIZE - side, 2))
        picture[top : top + side, left : left + side] = 255
        cv2.imwrite(str(folder / "images" / f"{i}.png"), picture)
        box = [(left + side / 2) / SIZE, (top + side / 2) / SIZE, side / SIZE, side / SIZE]
        (folder / "labels" / f"{i}.txt").write_text(" ".join(["0", *map(str, box)]))


def main(arguments: Sequence[str] | None = None) -> None:
    """Train a detector."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--epochs", type=int, default=2)
    parser.add_argument("--output", type=Path, default=Path("out-ultralytics"))
    options = parser.parse_args(arguments)
    output = options.output.resolve()
    for part, number in (("train", 16), ("val", 8)):
        make_pictures(output / "data" / part, number)
    data = output / "data.yaml"
    data.write_text(
        f"path: {output / 'data'}\ntrain: train/images\nval: val/images\nnames: {{0: square}}\n"
    )

    model = YOLO("yolov8n.yaml")
    with track(output / "energy", epochs=options.epochs) as run:  # +
        model.add_callback("on_train_epoch_start", lambda t: run.start_epoch(t.epoch))  # +
        model.add_callback("on_val_start", lambda validator: run.start_validation())  # +
        model.add_callback("on_val_end", lambda validator: run.end_validation())  # +
        # This one is called once more, after the training, for the best checkpoint.
        model.add_callback(  # +
            "on_fit_epoch_end",  # +
            lambda t: t.validator.training and run.end_epoch(**t.metrics),  # +
        )  # +
        model.train(
            data=str(data),
            epochs=options.epochs,
            imgsz=SIZE,
            batch=8,
            workers=0,
            device="cpu",
            amp=False,
            plots=False,
            project=str(output),
            name="run",
        )


if __name__ == "__main__":
    main()
