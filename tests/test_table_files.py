"""Reading many lines of `epochs.jsonl` at once gives the same as one by one, valid or not."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from energyest.arrays import FloatArray
from energyest.errors import TraceError
from energyest.records import storage
from energyest.records.epoch_table import AMENDS, EpochTable
from energyest.records.safe_json import read_lines
from energyest.records.storage import encode_epoch, epoch_lines
from energyest.records.table_files import few_columns, take_plain

# Numbers as JSON writes them, and what is near to one.
NUMBERS = (
    "5",
    "-5",
    "0",
    "-0",
    "0.0",
    "-0.0",
    "1e5",
    "1E+5",
    "1e-400",
    "1" * 50,
    "1" * 400,
    "null",
)
NO_NUMBERS = (
    *("+5", "05", "-05", "00", ".5", "5.", "-.5", "1.e5", "1e.5", "1e", "-", "--5", "1-5", "1.2.3"),
    *(
        "1e999",
        "-1e999",
        "NaN",
        "Infinity",
        "nan",
        "true",
        '"1"',
        "[1]",
        "{}",
        "",
        " ",
        "5 5",
        "1_0",
    ),
    *("nul", "-null", "nulll", "e", "\0", "5\0", "5}", "{5", "5,", "5, 5", "5\r", '"', "é"),
)
# Names, which may stand for anything.
NAMES = ("loss", "late", "a b", "été", 'quo"te', "back\\", "n, :}", "epoch", "amends_row", "5")
tokens = st.one_of(
    st.integers(-(10**6), 10**6).map(str),
    st.floats(allow_nan=False, allow_infinity=False).map(repr),
    st.sampled_from(NUMBERS),
)
bad_tokens = st.sampled_from(NO_NUMBERS) | st.text("0123456789+-.eEnul", max_size=6)
#: What a text may have in place of one of its bytes, or before it.
BYTES = (b"", b"\n", b" ", b"}", b"{", b",", b":", b"5", b"\0", b"\r", b'"', b"\\", b"\xff")


@st.composite
def texts(draw: st.DrawFn) -> bytes:
    """Good lines of a few kinds; of them, one number or one byte may be another."""
    comma, colon = draw(st.sampled_from([(", ", ": "), (", ", ": "), (",", ":"), (",", ": ")]))
    chosen = st.lists(st.sampled_from(NAMES), max_size=3, unique=True)
    kinds = draw(st.lists(chosen, min_size=1, max_size=3))
    begins = ["epoch", *draw(st.lists(st.sampled_from(["epoch", "amends_row"]), max_size=7))]
    lines = []
    for number, begin in enumerate(begins):
        kind = [name for name in draw(st.sampled_from(kinds)) if name != begin]
        values = [(begin, str(draw(st.integers(0, max(0, number - 1)))))]
        values += [(name, draw(tokens)) for name in kind]
        lines.append([f"{json.dumps(name)}{colon}{token}" for name, token in values])
    change = draw(st.sampled_from(["nothing", "nothing", "number", "byte"]))
    if change == "number":
        line = draw(st.sampled_from(lines))
        place = draw(st.integers(0, len(line) - 1))
        line[place] = line[place][: line[place].rindex(colon)] + colon + draw(bad_tokens)
    text = "".join("{" + comma.join(line) + "}\n" for line in lines).encode()
    if change == "byte":
        at = draw(st.integers(0, len(text) - 1))
        text = text[:at] + draw(st.sampled_from(BYTES)) + text[at + draw(st.integers(0, 1)) :]
    return text


def read(folder: Path, monkeypatch: pytest.MonkeyPatch, many_bytes: float) -> Any:
    """The columns, or the error instead."""
    monkeypatch.setattr(storage, "_MANY_BYTES", many_bytes)
    try:
        return storage.read_folder(folder)[0]
    except TraceError as error:
        return str(error)


def assert_same(found: dict[str, FloatArray], expected: dict[str, FloatArray]) -> None:
    """The same columns in the same order, to the last bit."""
    assert [*found] == [*expected]
    for name, values in expected.items():
        assert found[name].tobytes() == values.tobytes(), name


def check(text: bytes, folder: Path) -> None:
    """Reading all lines at once gives the same result as reading line by line."""
    (folder / "meta.json").write_text('{"format": 1}')
    (folder / "epochs.jsonl").write_bytes(text)
    with pytest.MonkeyPatch.context() as monkeypatch:
        monkeypatch.setattr(storage, "few_columns", lambda _: {})
        expected = read(folder, monkeypatch, math.inf)
        monkeypatch.setattr(storage, "few_columns", few_columns)
        for part_bytes in (2**21, 100):
            monkeypatch.setattr(storage, "_PART_BYTES", part_bytes)
            for many_bytes in (0, math.inf):  # as columns, and as JSON
                found = read(folder, monkeypatch, many_bytes)
                if isinstance(expected, str):
                    assert found == expected
                else:
                    assert_same(found, expected)


@given(text=texts())
@example(text=b'5{"epoch": 0}\n')
@example(text=b'{"epoch": 0}\n5{"epoch": 1}\n')
@example(text=b'"epoch": 0}\n')
def test_all_at_once_is_one_by_one(text: bytes, tmp_path_factory: pytest.TempPathFactory) -> None:
    check(text, tmp_path_factory.mktemp("energy"))


@pytest.mark.parametrize("token", [*NUMBERS, *NO_NUMBERS])
@pytest.mark.parametrize("column", ["epoch", "loss", "late"])
def test_one_field_is_another(token: str, column: str, tmp_path: Path) -> None:
    lines = [encode_epoch({"epoch": 7.0, "loss": 7.0, "late": 7.0}) for _ in range(3)]
    for changed in range(3):
        line = lines[changed].replace(f'"{column}": 7', f'"{column}": {token}')
        check("".join([*lines[:changed], line, *lines[changed + 1 :]]).encode(), tmp_path)


@pytest.mark.parametrize("new", BYTES)
def test_one_byte_is_another(new: bytes, tmp_path: Path) -> None:
    row, late = {"epoch": 0.0, "loss": 0.5}, {"loss": 0.25}
    text = "".join(
        [encode_epoch(row), encode_epoch({AMENDS: 0, **late}), encode_epoch(row)]
    ).encode()
    for at in range(len(text)):
        check(text[:at] + new + text[at + 1 :], tmp_path)
        check(text[:at] + new + text[at:], tmp_path)


@pytest.mark.parametrize(
    "odd",
    [
        '{"epoch": 0, "late": 0.5}',
        '{"loss": 0.5, "epoch": 0}',
        '{"epoch": 0, "loss": }0.5',
        '{"epoch": 0}, "loss": 0.5',
        '"epoch": 0, "loss": 0.5}',
        '{"epoch": 0, {"loss": 0.5}',
        '{"epoch": 0, "loss"5: 0.5}',
        '{"epoch":0,"loss":0.5}',
        '{"epoch": 0, "loss": 0.5, "late": 1}, {"epoch": 0}',
        '{"amends_row": 0, "late": 0.5}',
        '{"late": 0.5, "amends_row": 0}',
        '{"amends_row": 0}',
        "",
    ],
)
def test_one_line_is_another(odd: str, tmp_path: Path) -> None:
    line = encode_epoch({"epoch": 0.0, "loss": 0.5})
    for text in (line + odd + "\n" + line, odd + "\n" + line, line + odd + "\n", odd + "\n"):
        check(text.encode(), tmp_path)


@pytest.mark.parametrize(
    "amendments",
    [
        [(0, {"loss": 1.0}), (0, {"loss": 2.0})],
        [(0, {"loss": 1.0}), (0, {"loss": 2.0, "late": 3.0}), (0, {"loss": 4.0})],
        [(0, {"loss": 1.0, "late": 3.0}), (1, {"loss": 4.0})],
        [(2, {"loss": 1.0})],
    ],
    ids=["twice", "by lines of two kinds", "a row to come", "no row"],
)
def test_amendments_count_in_their_order(
    amendments: list[tuple[int, dict[str, float]]], tmp_path: Path
) -> None:
    row = encode_epoch({"epoch": 0.0, "loss": 0.5})
    late = [encode_epoch({AMENDS: number, **values}) for number, values in amendments]
    check("".join([row, *late, row, row]).encode(), tmp_path)


def rows(number: int) -> list[dict[str, float]]:
    """Rows as a recorder has them: of some, something is not known, or was logged."""
    dice = np.random.default_rng(0)
    drawn = dice.lognormal(0, 20, (number, 4)).tolist()
    return [
        {
            **{"epoch": i, "start_s": 10.0 * i, "energy_J": energy_J, "loss_é": loss},
            "validation_s": validation_s if i % 3 else math.nan,
            **({"val_acc": accuracy} if i % 5 == 4 else {}),
        }
        for i, (energy_J, loss, validation_s, accuracy) in enumerate(drawn)
    ]


@pytest.mark.parametrize("amended", [False, True], ids=["rows", "rows that are amended"])
def test_what_is_written_is_plain(*, amended: bool) -> None:
    table, expected = EpochTable(), EpochTable()
    before = {"epoch": -1.0, "samples": 5.0}
    for one in (table, expected):
        one.append(before)
    lines = []
    for number, row in enumerate(rows(100), start=1):
        lines.append(encode_epoch(row))
        expected.append(row)
        if amended:
            for back, values in enumerate(({"val_acc": number}, {"val_acc": 0.5, "late": 1e-9})):
                lines.append(encode_epoch({AMENDS: number - back, **values}))
                expected.amend(values, number - back)
    assert take_plain(table, "".join(lines).encode()) == len(lines)
    assert_same(table.columns(), expected.columns())


def test_many_rows_are_written_as_one_is() -> None:
    awkward = [0.0, -0.0, 1.0, -7.0, 0.1, 1e-7, 5e-324, 2.0**53, 2.0**53 - 1, 1e16, 1e22, -1e300]
    awkward += [math.nan, math.inf, -math.inf, math.pi]
    numbers = np.array(awkward * 300)  # more than are written at a time
    columns = {"epoch": numbers[::-1], 'odd "%s" \u00e9 %': numbers, "loss": 0.3 * numbers}
    rows = (dict(zip(columns, of, strict=True)) for of in zip(*columns.values(), strict=True))
    assert list(epoch_lines(columns)) == list(map(encode_epoch, rows))
    assert not list(epoch_lines({}))


def test_columns_become_rows_after_those_that_are_there() -> None:
    table = EpochTable(most_rows=3)
    table.append({"epoch": 0.0, "loss": 0.5})
    columns = {"epoch": np.array([1.0, 2.0]), "late": np.array([math.nan, 7.0])}
    table.add_columns(columns)
    assert table.last() == pytest.approx({"epoch": 2.0, "loss": math.nan, "late": 7.0}, nan_ok=True)
    np.testing.assert_array_equal(table.columns()["late"], [math.nan, math.nan, 7.0])
    with pytest.raises(ValueError, match="5 rows of 3 columns are too many"):
        table.add_columns(columns)
    assert len(table) == 3


def test_what_is_not_plain_leaves_the_table_as_it_is() -> None:
    good = encode_epoch({"epoch": 0, "energy_J": 1.0})
    other = encode_epoch({"epoch": 0, "energy_J": 1.0, "loss": 2.0})
    for bad in (
        '{"epoch": 0, "energy_J": 1e999}\n',
        '{"epoch": 0, "energy_J": 05}\n',
        '{"energy_J": 1.0}\n',
        encode_epoch({AMENDS: 2, "energy_J": 1.0}),
        other.replace("}", ', "energy_J": 1}'),
    ):
        table = EpochTable()
        assert not take_plain(table, (good + other + bad).encode())
        assert not len(table)
        assert not table.columns()
    small = EpochTable(most_values=8)
    assert take_plain(small, (4 * good).encode()) == 4
    assert not take_plain(small, good.encode())
    assert len(small.columns()["epoch"]) == 4


def test_columns_are_handed_over() -> None:
    table = EpochTable()
    table.append({"epoch": 0.0})
    table.append({"epoch": 1.0, "loss": 2.0})
    expected = table.columns()
    assert_same(table.into_columns(), expected)
    assert not len(table)
    assert not table.columns()


@pytest.mark.parametrize("part_bytes", [1, 4, 100])
@pytest.mark.parametrize("end", ["", "cut"])
def test_parts_are_whole_lines(tmp_path: Path, part_bytes: int, end: str) -> None:
    path = tmp_path / "epochs.jsonl"
    path.write_text(f"one\n\ntwo\nthree\n{end}")
    parts = list(read_lines(path, 100, part_bytes))
    assert b"".join(parts) == b"one\n\ntwo\nthree\n"
    assert all(part.endswith(b"\n") for part in parts)
    with pytest.raises(ValueError, match="larger than 5 bytes"):
        list(read_lines(path, 5, part_bytes))
