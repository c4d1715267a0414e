"""A script in the manner of timm: a model by name, its optimizer, scheduler, EMA and meters.

A small ResNet learns scikit-learn's digits; no weights are downloaded.
Lines that end in `# +` are all that measuring adds.

python examples/popular/timm_script.py [--model test_resnet] [--epochs 3] [--output out-timm]
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

import timm
import torch
from sklearn.datasets import load_digits
from timm.optim import create_optimizer_v2
from timm.scheduler import create_scheduler_v2
from timm.utils import AverageMeter, ModelEmaV3, accuracy
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

from energyest import track  # +

IMAGE_SIZE = 32


def make_loader(part: slice, batch_size: int, *, is_training: bool) -> DataLoader[tuple[Tensor]]:
    """Some of the digits, as pictures of 32 x 32 pixels in three colours."""
    images, labels = load_digits(return_X_y=True)
    pixels = torch.tensor(images[part], dtype=torch.float32).view(-1, 1, 8, 8) / 16
    pixels = nn.functional.interpolate(pixels, size=IMAGE_SIZE).expand(-1, 3, -1, -1)
    data = TensorDataset(pixels, torch.tensor(labels[part]))
    return DataLoader(data, batch_size, shuffle=is_training, drop_last=is_training)


def train_one_epoch(model, loader, optimizer, scheduler, ema, epoch: int) -> AverageMeter:
    """Train an epoch; the mean of its losses."""
    model.train()
    losses = AverageMeter()
    criterion = nn.CrossEntropyLoss(label_smoothing=0.1)
    for number, (images, labels) in enumerate(loader):
        loss = criterion(model(images), labels)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        step = epoch * len(loader) + number + 1
        ema.update(model, step=step)
        scheduler.step_update(step)
        losses.update(loss.item(), len(images))
    return losses


@torch.no_grad()
def validate(model, loader) -> float:
    """The share of images that are recognised, in percent."""
    model.eval()
    top1 = AverageMeter()
    for images, labels in loader:
        top1.update(accuracy(model(images), labels)[0].item(), len(images))
    return top1.avg


def main(arguments: Sequence[str] | None = None) -> None:
    """Train, and keep the best checkpoint."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--model", default="test_resnet")
    parser.add_argument("--epochs", type=int, default=3)
    parser.add_argument("--batch-size", type=int, default=64)
    parser.add_argument("--opt", default="sgd")
    parser.add_argument("--lr", type=float, default=0.1)
    parser.add_argument("--output", type=Path, default=Path("out-timm"))
    options = parser.parse_args(arguments)
    options.output.mkdir(parents=True, exist_ok=True)

    torch.manual_seed(42)
    model = timm.create_model(options.model, pretrained=False, num_classes=10)
    optimizer = create_optimizer_v2(model, opt=options.opt, lr=options.lr, momentum=0.9)
    scheduler, epochs = create_scheduler_v2(optimizer, num_epochs=options.epochs)
    ema = ModelEmaV3(model, decay=0.9)
    train_loader = make_loader(slice(0, 600), options.batch_size, is_training=True)
    eval_loader = make_loader(slice(1500, None), options.batch_size, is_training=False)

    best = 0.0
    with track(options.output / "energy") as run:  # +
        for epoch in run.epochs(epochs):  # +
            losses = train_one_epoch(model, train_loader, optimizer, scheduler, ema, epoch)
            with run.validation():  # +
                top1 = validate(ema.module, eval_loader)
            scheduler.step(epoch + 1, top1)
            run.log(train_loss=losses.avg, top1=top1, samples=losses.count)  # +
            print(f"Train: {epoch}  loss {losses.avg:.3f}  top1 {top1:.1f} %")
            if top1 > best:
                best = top1
                torch.save(model.state_dict(), options.output / "model_best.pth")


if __name__ == "__main__":
    main()
