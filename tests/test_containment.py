"""A module or a node and its parts: each joule counts once, and the parts stay visible."""

from __future__ import annotations

import logging
import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from energyest import EnergyTrace, load_trace, track
from energyest.errors import ConfigurationError
from energyest.measure.ledger import Ledger, Usage
from energyest.measure.sensors import Detection, Device
from energyest.measure.sensors.base import check_devices
from energyest.measure.sensors.detection import lost
from energyest.records.devices import containers, counted_devices, summed_columns
from energyest.records.ranks import merge
from energyest.report.tables import device_table
from energyest.summary import summary_of
from simulation.stepped import Clock
from tests.support.sensors import Constant, Failing

# ---------------------------------------------------------------------- the rule


@dataclass
class Part:
    """A device in a tree: what it draws itself, and what its parts draw."""

    name: str
    own_J: float
    parts: list[Part]
    is_read: bool = True

    @property
    def energy_J(self) -> float:
        return self.own_J + sum(part.energy_J for part in self.parts)

    def all_parts(self) -> list[Part]:
        return [part for child in self.parts for part in (child, *child.all_parts())]

    def measured_J(self) -> float:
        """The joules that some device has measured: those of the outermost ones that are read."""
        return self.energy_J if self.is_read else sum(part.measured_J() for part in self.parts)

    def measured_of_kind_J(self, kind: str) -> float:
        if self.is_read and self.name.partition(":")[0] == kind:
            return self.energy_J
        return sum(part.measured_of_kind_J(kind) for part in self.parts)


@st.composite
def machines(draw: st.DrawFn) -> Part:
    """A machine of any depth, whose devices each have power of their own."""
    number = 0

    def grow(depth: int) -> Part:
        nonlocal number
        number += 1
        kind = draw(st.sampled_from(["gpu", "cpu", "ram", "module", "system"]))
        name = f"{kind}:{number}"
        # Powers of 2 tell from the sum which of them it includes.
        parts = [grow(depth - 1) for _ in range(draw(st.integers(0, 3 if depth else 0)))]
        return Part(name, 2.0 ** int(name.partition(":")[2]), parts, draw(st.booleans()))

    return Part("none", 0.0, [grow(2) for _ in range(draw(st.integers(1, 3)))], is_read=False)


def devices_of(machine: Part, order: Sequence[int], *, deep: bool) -> list[tuple[Device, float]]:
    """The devices that are read; each names all that is in it, or its own parts alone."""
    found = []
    for part in machine.all_parts():
        if part.is_read:
            inner = part.all_parts() if deep else _next_read(part)
            device = Device(
                part.name,
                part.name.partition(":")[0],  # type: ignore[arg-type]
                "made up",
                "measured",
                "made up",
                contains=tuple(one.name for one in inner),
            )
            found.append((device, part.energy_J))
    return sorted(found, key=lambda one: order[int(one[0].device.partition(":")[2]) % len(order)])


def _next_read(part: Part) -> list[Part]:
    return [
        one for child in part.parts for one in ([child] if child.is_read else _next_read(child))
    ]


@given(machines(), st.permutations(range(7)), st.booleans())
def test_the_ledger_counts_each_joule_once(machine: Part, order: list[int], deep: bool) -> None:
    found = devices_of(machine, order, deep=deep)
    devices, energies_J = [d for d, _ in found], tuple(e for _, e in found)
    check_devices(devices)  # nothing overlaps
    ledger = Ledger(devices, origin_s=0.0)
    row = ledger.components(Usage(1.0, energies_J, (1.0,) * len(found)))
    for column, expected_J in {
        "energy_J": machine.measured_J(),
        **{f"{k}_energy_J": machine.measured_of_kind_J(k) for k in ("gpu", "cpu", "ram")},
    }.items():
        kind = column.partition("_")[0]
        is_there = [d for d in devices if column == "energy_J" or d.kind == kind]
        if is_there:
            assert row[column] == expected_J, column
        else:
            assert math.isnan(row[column])


@given(machines(), st.permutations(range(7)), st.lists(st.integers(0, 2), min_size=40, max_size=40))
def test_the_sum_of_ranks_counts_each_joule_once_or_is_unknown(
    machine: Part, order: list[int], rank_of: list[int]
) -> None:
    """Whichever rank of a machine measures which of its devices."""
    records: dict[int, EnergyTrace] = {}
    found = devices_of(machine, order, deep=True)
    for rank in range(3):
        mine = [
            (d.as_meta(), e) for d, e in found if rank_of[int(d.device.partition(":")[2])] == rank
        ]
        columns = summed_columns([entry for entry, _ in mine])
        sums = {
            name: np.array([sum(mine[at][1] for at in places)])
            for name, places in columns.items()
            if places
        }
        base = {"epoch": np.zeros(1), "start_s": np.zeros(1), "end_s": np.ones(1)}
        meta: dict[str, Any] = {"host": "one", "rank": rank, "world_size": 3, "run_id": "r"}
        meta["devices"] = [entry for entry, _ in mine]
        if mine:
            meta["total_J"] = float(sums["energy_J"][0])
        records[rank] = EnergyTrace(base | {"duration_s": np.ones(1)} | sums, meta=meta)
    whole = merge(records)
    (energy_J,) = whole.column("energy_J")
    if found:
        assert math.isnan(energy_J) or energy_J == machine.measured_J()
        assert math.isnan(whole.total_J) or whole.total_J == machine.measured_J()
    if len({rank_of[int(d.device.partition(":")[2])] for d, _ in found}) == 1:
        assert energy_J == machine.measured_J()


def test_a_node_contains_whatever_else_is_measured_unless_it_says_otherwise() -> None:
    entries = [{"device": f"{kind}:0"} for kind in ("system", "gpu", "cpu", "ram", "module")]
    assert counted_devices(entries) == entries[:1]
    entries[0]["contains"] = ["cpu"]  # type: ignore[assignment]
    assert [one["device"] for one in counted_devices(entries)] == [
        *("system:0", "gpu:0", "ram:0", "module:0")
    ]


def test_a_device_contains_only_devices_of_its_own_machine() -> None:
    entries = [
        {"device": "system:0", "host": "a"},
        {"device": "gpu:0", "host": "a"},
        {"device": "gpu:0@rank1", "host": "b"},
    ]
    assert containers(entries) == [frozenset(), {0}, frozenset()]


@pytest.mark.parametrize("number", [2, 3])
def test_devices_that_contain_each_other_in_an_edited_trace_count_once(number: int) -> None:
    entries = [
        {"device": f"gpu:{i}", "contains": [f"gpu:{(i + 1) % number}"]} for i in range(number)
    ]
    assert counted_devices(entries) == entries[:1]


@pytest.mark.parametrize("contains", ["gpu", 3, {"gpu": 1}, [None, {}]])
def test_rubbish_in_an_edited_trace_contains_nothing(contains: Any) -> None:
    entries = [{"device": "cpu:0", "contains": contains}, {"device": "gpu:0"}]
    assert counted_devices(entries) == entries


# ---------------------------------------------------------------------- what is refused


def refusal(*sensors: Constant) -> str:
    with pytest.raises(ConfigurationError) as refused:
        track(sensors=sensors)
    return str(refused.value)


def test_two_nodes_must_say_which_is_the_outer_one() -> None:
    ipmi, plug = Constant(500, "system:0"), Constant(550, "system:1")
    assert "system:0 and system:1 both contain cpu, gpu, module, ram" in refusal(ipmi, plug)
    track(sensors=[ipmi, Constant(550, "system:1", contains=("system:0",))])


def test_devices_that_contain_each_other_are_refused() -> None:
    said = refusal(
        Constant(1, "module:0", contains=("module:1",)),
        Constant(1, "module:1", contains=("module:0",)),
    )
    assert said.startswith("module:0 and module:1 contain each other")


def test_an_overlap_is_refused() -> None:
    said = refusal(
        Constant(1, "module:0", contains=("gpu", "cpu:0")),
        Constant(1, "module:1", contains=("cpu", "ram")),
        Constant(1, "cpu:0"),
    )
    assert "both contain cpu:0, whose energy would count twice" in said
    track(
        sensors=[
            Constant(1, "module:0", contains=("gpu:0",)),
            Constant(1, "module:1", contains=("gpu:1",)),
        ]
    )


# ---------------------------------------------------------------------- a run


def node() -> list[Constant]:
    return [
        Constant(300, "gpu:0"),
        Constant(100, "cpu:0"),
        Constant(700, "system:0", name="whole node"),
    ]


def test_a_run_counts_the_node_and_shows_its_parts(clock: Clock, tmp_path: Path) -> None:
    with track(tmp_path / "run", sensors=node()) as run:
        for _ in run.epochs(2):
            with run.validation():
                clock.sleep(1)
            clock.sleep(1)
        clock.sleep(1)
        assert run.total_J == pytest.approx(700 * 5)
    for trace in (run.trace, load_trace(tmp_path / "run")):
        assert trace.column("energy_J") == pytest.approx(1400)
        assert trace.column("validation_energy_J") == pytest.approx(700)
        assert trace.column("gpu_energy_J") == pytest.approx(600)
        assert trace.column("cpu_energy_J") == pytest.approx(200)
        assert trace.total_J == pytest.approx(700 * 5)
        assert [round(d["energy_J"]) for d in trace.devices] == [1500, 500, 3500]
        assert "GPU 42.9 %" in summary_of(trace)
        assert "gpu:0 (part of another)" in str(device_table(trace))
        # As if it had been killed: the total comes from rows and readings.
        known_later = ("total_J", "earlier_total_J")
        meta = {name: value for name, value in trace.meta.items() if name not in known_later}
        cut = EnergyTrace(trace.epoch_columns, trace.power_columns, {**meta, "status": "running"})
        assert cut.total_J == pytest.approx(700 * 5, rel=0.01)


def test_a_part_that_fails_is_unknown_and_the_node_is_not(
    clock: Clock, caplog: pytest.LogCaptureFixture
) -> None:
    gone = lost("gpu", "gpu:1", "a GPU", "it is gone")
    note = "GPU 1 is not measured: it is gone"
    sensors = Detection(
        (Failing(300, "gpu:0"), Constant(700, "system:0")), (note,), (gone,), (note,)
    )
    assert (sensors.unread, sensors.unknown) == (["gpu:1"], [])
    with track(sensors=sensors) as run:
        for _ in run.epochs(2):
            clock.sleep(1)
    assert run.trace.column("energy_J") == pytest.approx(700)
    assert np.isnan(run.trace.column("gpu_energy_J")).all()
    assert run.trace.total_J == pytest.approx(1400)
    assert note in run.trace.meta["notes"]
    assert not [r for r in caplog.records if r.levelno >= logging.WARNING]


def test_a_node_that_fails_is_unknown_and_never_the_sum_of_its_parts(clock: Clock) -> None:
    sensors = [Constant(300, "gpu:0"), Failing(700, "system:0")]
    with track(sensors=sensors) as run:
        for _ in run.epochs(2):
            clock.sleep(1)
    assert np.isnan(run.trace.column("energy_J")).all()
    assert math.isnan(run.trace.total_J)
    assert run.trace.column("gpu_energy_J") == pytest.approx(300)


def test_the_share_of_what_is_modelled_is_that_in_the_total(clock: Clock) -> None:
    with track(sensors=node()) as run:
        for _ in run.epochs(1):
            clock.sleep(1)
    devices = [dict(d) for d in run.trace.devices]
    devices[1]["source"] = "modelled"
    trace = EnergyTrace(run.trace.epoch_columns, {}, {**run.trace.meta, "devices": devices})
    assert "modelled" not in summary_of(trace)
    trace = EnergyTrace(trace.epoch_columns, {}, {**trace.meta, "devices": devices[:2]})
    assert "modelled 25 %" in summary_of(trace)


def test_a_log_of_a_node_and_its_gpus_counts_each_joule_once() -> None:
    trace = EnergyTrace.from_power(
        [0, 0, 2, 2], [700, 300, 700, 300], [2], device=["system:0", "gpu:0"] * 2
    )
    assert trace.column("energy_J") == 1400
    assert trace.column("gpu_energy_J") == 600
