"""What programs print of their epochs."""

from __future__ import annotations

import tarfile
from pathlib import Path

import pytest

from energyest.errors import ConfigurationError
from energyest.program.epoch_patterns import (
    BUILT_IN,
    EpochReader,
    LineReader,
    SeenEpoch,
    users_pattern,
)

BAR = "Epoch {}: {:3d}%|{}| {}/50 [00:00<00:01, 41.2it/s, v_num=3]"


def seen_in(*pieces: bytes | str, reader: EpochReader | None = None) -> list[tuple]:
    """Epochs in what comes in these pieces, without repetitions."""
    lines, reader = LineReader(), reader or EpochReader()
    found: list[tuple] = []
    for piece in pieces:
        for line in lines.feed(piece.encode() if isinstance(piece, str) else piece):
            seen = reader.read(line)
            if seen is not None and (seen.number, seen.epochs) not in found:
                found.append((seen.number, seen.epochs))
    return found


# What the programs in tests/support/programs printed in three epochs, into a pipe and to a terminal
# of 120 columns, with Lightning 2.6.6, transformers 5.24, Keras 3.15 and ultralytics 8.4.
OUTPUT = Path(__file__).parent / "data" / "program_output.tar.gz"
TELLS_OF_EPOCHS = [(0, 3), (1, 3), (2, 3)]
HIDES_THE_NUMBER = [(0, None), (1, None), (2, None)]


@pytest.mark.parametrize("place", ["pipe", "terminal"])
@pytest.mark.parametrize(
    ("name", "epochs"),
    [
        ("lightning_tqdm", HIDES_THE_NUMBER),
        ("lightning_rich", TELLS_OF_EPOCHS),
        ("huggingface_bar", TELLS_OF_EPOCHS),
        ("huggingface_no-bar", HIDES_THE_NUMBER),
        ("keras", TELLS_OF_EPOCHS),
        ("ultralytics", TELLS_OF_EPOCHS),
    ],
)
def test_what_real_programs_print(name: str, place: str, epochs: list[tuple]) -> None:
    with tarfile.open(OUTPUT) as archive:
        file = archive.extractfile(f"{name}_{place}.txt")
        assert file is not None
        output = file.read()
    if (name, place) == ("lightning_rich", "pipe"):
        epochs = []  # its bar is drawn once, when the training is over
    whole = seen_in(output)
    in_pieces = seen_in(*(output[i : i + 7] for i in range(0, len(output), 7)))
    for seen in (whole, in_pieces):
        known = [number for number, _ in seen]
        assert sorted(known) == known
        # How many there are to be may be told after the epoch.
        assert [(n, e) for n, e in seen if e is not None or (n, None) in epochs] == epochs


def test_lightning_by_tqdm() -> None:
    bars = ["\r" + BAR.format(e, 2 * s, "█", s) for e in range(3) for s in (0, 25, 50)]
    assert seen_in("  | Name | Type\n", *bars) == [(0, None), (1, None), (2, None)]
    # A bar is seen when it is drawn first, not when it is drawn again.
    assert seen_in("\r" + BAR.format(0, 0, " ", 0)) == [(0, None)]


def test_lightning_by_rich() -> None:
    line = "\x1b[2K\x1b[37mEpoch 3/9\x1b[0m  \x1b[38;5;11m━━━━\x1b[0m 0/50 0:00:01\r\x1b[1A"
    assert seen_in(line) == [(3, 10)]
    assert seen_in(line.replace(" 0/50", " 5/--")) == [(3, 10)]
    assert seen_in(line.replace(" 0/50", " 5/50")) == [(3, 10)]
    # A full one has not just begun; where it is no terminal, there are no others.
    assert seen_in(line.replace(" 0/50", " 50/50")) == []


def test_keras() -> None:
    text = "Epoch 1/3\n\x1b[1m10/10\x1b[0m ━━━━ 1s 3ms/step - loss: 0.2\nEpoch 2/3\r\n"
    assert seen_in(text) == [(0, 3), (1, 3)]
    assert seen_in("Epoch 1/1", "0\n") == [(0, 10)]  # in two pieces


def test_ultralytics() -> None:
    head = "      Epoch    GPU_mem   box_loss   cls_loss   dfl_loss  Instances       Size\n"
    line = "\r        1/100      2.51G      1.178      2.92   1.22    13    640:  50%|█| 4/8"
    assert seen_in(head, line, line.replace(" 1/100", " 2/100")) == [(0, 100), (1, 100)]
    assert seen_in("      1/3         0G      1.1      2:   0%|   | 0/8\r") == [(0, 3)]


def test_examples_of_pytorch() -> None:
    text = "Train Epoch: {} [{}/60000 (0%)]\tLoss: 2.3\n"
    lines = [text.format(e, s) for e in (1, 2) for s in (0, 640)]
    assert seen_in(*lines, "Test set: Average loss: 0.1\n") == [(0, None), (1, None)]


@pytest.mark.parametrize(
    "line",
    [
        "{{'loss': 0.52, 'grad_norm': 1.2, 'learning_rate': 5e-05, 'epoch': {}}}\n",
        "{{'loss': '0.52', 'grad_norm': '1.2', 'epoch': '{}'}}\n",
    ],
)
def test_huggingface(line: str) -> None:
    text = [line.format(e) for e in (0.43, 0.87, 1.0, 1.3, 2.0)]
    assert seen_in(*text) == [(0, None), (1, None)]


def test_huggingface_with_its_bar() -> None:
    line = "{'loss': 0.52, 'epoch': 1.0}\n"
    bars = "\r  0%|          | 0/300 [00:00<?, ?it/s]", "\r 33%|███  | 98/300 [00:05<00:10]\r"
    again = "\r 33%|███  | 100/300 [00:05<00:10]\r"
    assert seen_in(*bars, line) == [(0, None)]  # the bar is two steps late
    assert seen_in(*bars, line, again) == [(0, None), (0, 3)]
    evaluation = "\r 50%|████  | 5/10 [00:00<00:00]\r"
    assert seen_in(*bars, line, evaluation, again) == [(0, None), (0, 3)]
    # A training that ends within an epoch: how many there are is not told.
    shorter = [bar.replace("300", "250") for bar in (*bars, again)]
    assert seen_in(*shorter[:2], line, shorter[2]) == [(0, None)]
    long = line.replace("1.0", "1.01"), "\r  1%|  | 101/5400 [00:05<00:10]\r"
    assert seen_in(bars[0].replace("300", "5400") + "\r", *long) == [(0, None), (0, 54)]


def test_ends_and_beginnings() -> None:
    edges = {pattern.name: pattern.edge for pattern in BUILT_IN}
    assert edges == {
        "lightning": "begins",
        "keras": "begins",
        "ultralytics": "begins",
        "pytorch": "begins",
        "huggingface": "ends",
    }


def test_the_first_that_fits_is_the_programs() -> None:
    reader = EpochReader()
    assert reader.read("Epoch 1/10") == SeenEpoch(0, 10, "begins", "keras")
    assert reader.read("Train Epoch: 7 [0/60 (0%)]") is None
    assert reader.read("Epoch 2/10") is not None


@pytest.mark.parametrize(
    "line",
    [
        "",
        "Epochs: 10",
        "Loading epoch data 3/10",
        "10/10 ━━━━ 1s 3ms/step - loss: 0.2",
        "100%|████| 10/10 [00:00<00:00]",
        "{'eval_loss': 0.5}",
        "Downloading 3/10 files",
        "\ufffd\x00",
    ],
)
def test_lines_that_are_not_epochs(line: str) -> None:
    assert EpochReader().read(line) is None


def test_a_line_without_end_is_bounded() -> None:
    lines = LineReader()
    for _ in range(100):
        assert all(len(line) <= 4096 for line in lines.feed(b"%" * 10_000))
    assert len(lines._open) <= 4096


def test_a_users_pattern() -> None:
    reader = EpochReader([users_pattern(r"(?i)round (?P<epoch>\w+)/(?P<epochs>\d+)", "begins")])
    assert seen_in("Round x/5\nROUND 0/5\nround 1/5\n", reader=reader) == [(0, 5), (1, 5)]
    for wrong, says in (("(", "epoch pattern"), ("round", "no group named epoch")):
        with pytest.raises(ConfigurationError, match=says):
            users_pattern(wrong, "ends")
