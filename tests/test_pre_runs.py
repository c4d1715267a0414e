"""How a training is run: layout, compiled, accumulation, several GPUs, limits, probes elsewhere."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn, rand, randint

from energyest import EnergyTrace, describe_workload, estimate_pre
from energyest.errors import EstimateError, WorkloadError
from energyest.estimate import Estimate
from energyest.estimators.pre.blend import deviation_of
from energyest.estimators.pre.fitted import packaged
from energyest.estimators.pre.gpu_distance import distance
from energyest.estimators.pre.limits import behind_loader, under_power_limit
from energyest.estimators.pre.probed import PROBE_DEVIATION
from energyest.gpus import known_gpus, link_bytes_per_s, resolve_gpu
from energyest.records.probe import Probe
from energyest.records.workload import Operation, Workload
from tests.support.roofline_runs import LARGE
from tests.support.roofline_runs import workload as workload_of

IMAGES, LABELS = rand(32, 3, 64, 64), randint(10, (32,))
LAST = torch.channels_last


def net() -> nn.Sequential:
    layers = [nn.Conv2d(3, 128, 3), nn.BatchNorm2d(128), nn.ReLU()]
    for _ in range(6):
        layers += [nn.Conv2d(128, 128, 3, padding=1), nn.BatchNorm2d(128), nn.ReLU()]
    return nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(128, 10))


@pytest.fixture(scope="module")
def load() -> Workload:
    """What bounds it is the GPU, not its CPU."""
    batch = (torch.empty(512, 3, 64, 64, device="meta"), randint(10, (512,), device="meta"))
    return describe_workload(net(), batch, precision="bf16", optimizer="adamw")


def asked(load: Workload, gpu: str = "A100", **how: object) -> Estimate:
    return estimate_pre(load, gpu, epochs=1, train_samples=512_000, **how)  # type: ignore[arg-type]


# ------------------------------------------------------------------ what is described


@pytest.mark.parametrize(
    ("model", "batch", "layout"),
    [
        (net(), (IMAGES, LABELS), "contiguous"),
        (net().to(memory_format=LAST), (IMAGES, LABELS), "channels_last"),
        (net(), (IMAGES.to(memory_format=LAST), LABELS), "channels_last"),
        # Of one channel and of one pixel, both layouts are the same.
        (nn.Sequential(nn.Conv2d(1, 4, 1), nn.Flatten()), (rand(2, 1, 5, 5), None), "contiguous"),
        (nn.Linear(64, 10), (IMAGES[:, 0, 0], LABELS), "contiguous"),
    ],
    ids=["neither", "weights", "images", "one channel", "no images"],
)
def test_the_layout_is_seen(model: nn.Module, batch: tuple[Tensor, ...], layout: str) -> None:
    assert describe_workload(model, batch).layout == layout


def test_a_compiled_model_is_seen() -> None:
    inside = nn.Linear(8, 10)
    batch = (rand(32, 8), LABELS)
    assert not describe_workload(inside, batch).compiled
    assert describe_workload(torch.compile(inside), batch).compiled
    inside.compile()
    assert describe_workload(nn.Sequential(inside), batch).compiled


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_weights_in_half_precision_move_half(dtype: torch.dtype) -> None:
    """Twice as little of all, and nothing is cast; the FLOPs are the same."""
    half, single = net().to(dtype), net()
    batch = (IMAGES, LABELS)
    found = describe_workload(half, (IMAGES.to(dtype), LABELS), optimizer="adamw")
    plain = describe_workload(single, batch, optimizer="adamw")
    mixed = describe_workload(single, batch, optimizer="adamw", precision="bf16")
    assert found.precision == {torch.bfloat16: "bf16", torch.float16: "fp16"}[dtype]
    assert found.flops_per_step == plain.flops_per_step
    assert found.optimizer_bytes == plain.optimizer_bytes / 2
    assert found.bytes_per_step == pytest.approx(plain.bytes_per_step / 2, rel=0.01)
    assert found.bytes_per_step < mixed.bytes_per_step
    assert found.saved_bytes < mixed.saved_bytes
    assert not found.notes
    assert {p.dtype for p in half.parameters()} == {dtype}


def test_half_weights_beside_a_batch_in_single_precision() -> None:
    found = describe_workload(net().bfloat16(), (IMAGES, LABELS), precision="bf16")
    assert found == describe_workload(net().bfloat16(), (IMAGES.bfloat16(), LABELS))


def test_a_workload_that_was_stored_before_these_fields(load: Workload) -> None:
    new = replace(load, layout="channels_last", compiled=True, accumulate=2, devices=8)
    new = replace(new, parameter_bytes=2)
    assert Workload.from_dict(new.to_dict()) == new
    old = {
        name: value
        for name, value in new.to_dict().items()
        if name not in ("layout", "compiled", "accumulate", "devices", "parameter_bytes")
    }
    assert Workload.from_dict(old) == load


@pytest.mark.parametrize(
    ("name", "value"),
    [("layout", "nhwc"), ("compiled", 1), ("accumulate", 0), ("devices", 0), ("devices", 1.5)],
)
def test_unknown_ways_to_run_are_refused(load: Workload, name: str, value: object) -> None:
    with pytest.raises(WorkloadError, match=name):
        Workload.from_dict({**load.to_dict(), name: value})
    if name != "layout":
        with pytest.raises(EstimateError, match=name):
            asked(load, **{name: value})


# ------------------------------------------------------------------ formats and GPUs


@pytest.mark.parametrize("gpu", ["RTX 3090", "A100", "H100"])
def test_channels_last_is_faster_in_two_bytes_and_hardly_matters_else(
    load: Workload, gpu: str
) -> None:
    last = replace(load, layout="channels_last")
    assert asked(last, gpu).duration_s < 0.9 * asked(load, gpu).duration_s
    single, single_last = replace(load, precision="fp32"), replace(last, precision="fp32")
    assert asked(single_last, gpu).duration_s == pytest.approx(
        asked(single, gpu).duration_s, rel=0.05
    )


@pytest.mark.parametrize("precision", ["bf16", "fp16", "tf32"])
def test_wide_tensor_units_are_not_all_used(load: Workload, precision: str) -> None:
    """A B200 has 2.3 times the peaks of an H200, and not 2.3 times its rate."""
    workload = replace(load, precision=precision, layout="channels_last")
    times = {gpu: asked(workload, gpu).duration_s for gpu in ("H200", "B200", "RTX 4090", "A6000")}
    assert times["H200"] / 2 < times["B200"] < times["H200"]
    assert times["RTX 4090"] < times["A6000"]


def test_a_compiled_model_is_faster(load: Workload) -> None:
    found = asked(load, compiled=True)
    assert found.duration_s < asked(load).duration_s
    assert "compiled" in found.method
    assert found == asked(replace(load, compiled=True))
    # The compiler chooses the layout itself.
    last = replace(load, layout="channels_last")
    assert asked(last, compiled=True).duration_s == found.duration_s


# ------------------------------------------------------------------ accumulation and several GPUs


def test_accumulation_leaves_out_steps_of_the_optimizer(load: Workload) -> None:
    """Only the optimizer's work is left out, except for the sums of gradients."""
    large = replace(load, parameters=10**9, trainable_parameters=10**9)
    without = replace(load, parameters=10**9, trainable_parameters=0)
    once, twice, often = (asked(large, accumulate=k).duration_s for k in (1, 2, 1000))
    assert asked(without).duration_s < often < twice < once
    # AdamW moves 7 numbers for a parameter, slowly; adding gradients up moves 3.
    bare = asked(without).duration_s
    assert often - bare < 3 / 7 * (once - bare)


def test_a_host_has_no_more_than_16_gpus(load: Workload) -> None:
    assert asked(load, devices=16).duration_s > 0
    with pytest.raises(EstimateError, match="devices=1000 is more than the 16 GPUs"):
        asked(load, devices=1000)


def test_eight_gpus_take_an_eighth_and_their_energy_is_all_of_it(load: Workload) -> None:
    one, eight = asked(load), asked(load, devices=8)
    assert eight.duration_s == pytest.approx(one.duration_s / 8, rel=0.1)
    assert eight.energy_J == pytest.approx(one.energy_J, rel=0.1)
    assert "on 8 A100" in eight.method
    assert any("GPUs alone" in said for said in eight.assumptions)
    a100 = resolve_gpu("A100")
    alone, several = (packaged().predict([(replace(load, devices=n), a100)]) for n in (1, 8))
    for name in ("deviation_step", "deviation_energy"):
        before, after = getattr(alone, name)[0], getattr(several, name)[0]
        assert after == pytest.approx(math.hypot(before, 0.1), rel=0.02)


def test_gradients_of_a_large_model_wait_for_the_slot(load: Workload) -> None:
    large = replace(load, parameters=10**9, trainable_parameters=10**9)
    sent_s = 2 * (3 / 4) * 4e9 / (32e9 * 0.8)
    steps = 512_000 / 512 / 4
    backward_s = asked(load, "A100 PCIe").duration_s / (512_000 / 512)
    waits_s = asked(large, "A100 PCIe", devices=4).duration_s / steps
    waits_s -= asked(large, "A100 PCIe").duration_s / (512_000 / 512)
    assert sent_s - backward_s < waits_s < sent_s
    linked = asked(large, "A100", devices=4).duration_s - asked(large, "A100").duration_s / 4
    assert linked / steps < waits_s / 5  # nine times as fast, and more of it is hidden


@pytest.mark.parametrize(
    ("gpu", "gigabytes"),
    [
        ("P100 SXM2", 80),
        ("V100 SXM2", 150),
        ("V100 PCIe", 16),
        ("A100", 300),
        ("A100 PCIe", 32),
        ("RTX 3090", 16),
        ("RTX A6000", 32),
        ("H100", 450),
        ("H100 PCIe", 64),
        ("H200", 450),
        ("H800", 200),
        ("H800 PCIe", 64),
        ("B200", 900),
        ("RTX 4090", 16),
    ],
)
def test_links(gpu: str, gigabytes: float) -> None:
    """Half of the figure in data sheets, which is for both directions together."""
    assert link_bytes_per_s(resolve_gpu(gpu)) == gigabytes * 1e9


def test_all_gpus_have_a_link() -> None:
    assert all(8e9 <= link_bytes_per_s(gpu) <= 900e9 for gpu in known_gpus())


# ------------------------------------------------------------------ what holds a training back


def test_a_power_limit_slows_and_saves(load: Workload) -> None:
    free = asked(load, "H100")
    drawn_W = free.energy_J / free.duration_s
    above = asked(load, "H100", power_limit_W=1.2 * drawn_W)
    assert replace(above, assumptions=free.assumptions) == free
    rest_W = float(packaged().rest_W([resolve_gpu("H100")])[0])
    of_limit = max(0.95, drawn_W / resolve_gpu("H100").tdp_W)
    before = free
    for share in (0.9, 0.7, 0.5):
        limited = asked(load, "H100", power_limit_W=share * drawn_W)
        assert limited.energy_J / limited.duration_s == pytest.approx(of_limit * share * drawn_W)
        clock = ((of_limit * share * drawn_W - rest_W) / (drawn_W - rest_W)) ** (1 / 3)
        assert limited.duration_s == pytest.approx(free.duration_s / clock)
        assert limited.duration_s > before.duration_s
        before = limited
    assert asked(load, "H100", power_limit_W=0.7 * drawn_W).energy_J < free.energy_J


def test_the_limit_of_the_board_is_no_limit() -> None:
    """A training that draws all that the board allows is slowed by lower limits alone."""
    busy = workload_of(LARGE, replace(LARGE, phase="backward", count=2))
    board_W = resolve_gpu("H100").tdp_W
    free = asked(busy, "H100")
    assert free.energy_J / free.duration_s > 0.95 * board_W
    for limit_W in (board_W, 1.05 * board_W):
        limited = asked(busy, "H100", power_limit_W=limit_W)
        assert (limited.energy_J, limited.duration_s) == (free.energy_J, free.duration_s)
    lower = asked(busy, "H100", power_limit_W=0.999 * board_W)
    assert 0 < lower.duration_s / free.duration_s - 1 < 1e-3


def test_no_limit_brings_a_gpu_below_its_power_at_rest(load: Workload) -> None:
    with pytest.raises(EstimateError, match=r"power_limit_W=1 is too low: H100 .* W at rest"):
        asked(load, "H100", power_limit_W=1.0)


def test_a_limit_that_holds_a_training_back_widens_the_interval(load: Workload) -> None:
    free = asked(load, "H100")
    drawn_W = free.energy_J / free.duration_s
    limited = asked(load, "H100", power_limit_W=0.6 * drawn_W)
    assert deviation_of(limited) > deviation_of(free)
    assert any("lowers its clock" in said for said in limited.assumptions)
    probe = as_predicted(load, "H100")
    probed = asked(load, "H100", probe=probe, power_limit_W=0.6 * drawn_W)
    assert deviation_of(probed) == pytest.approx(math.hypot(PROBE_DEVIATION, 0.12))
    assert any("what differs from them is predicted" in said for said in probed.assumptions)


def test_a_slow_loader_bounds_the_time_and_the_gpu_rests(load: Workload) -> None:
    free = asked(load)
    assert asked(load, loader_samples_per_s=1e9).energy_J == free.energy_J
    slow = asked(load, loader_samples_per_s=100.0)
    assert slow.duration_s == pytest.approx(5120)
    rest_W = float(packaged().rest_W([resolve_gpu("A100")])[0])
    waits_s = slow.duration_s - free.duration_s
    assert slow.energy_J == pytest.approx(free.energy_J + rest_W * waits_s)
    both = asked(load, loader_samples_per_s=100.0, devices=2)
    assert both.duration_s == pytest.approx(5120)
    assert both.energy_J > slow.energy_J
    assert any("100 samples/s" in said for said in slow.assumptions)
    # However long the steps are, the training lasts no less than its loading.
    assert slow.duration_lower_s == slow.duration_upper_s == pytest.approx(5120)
    near = asked(load, loader_samples_per_s=0.95 * 512_000 / free.duration_s)
    assert near.duration_lower_s == pytest.approx(near.duration_s)
    assert near.duration_upper_s == pytest.approx(free.duration_upper_s)


def test_a_gpu_that_waits_draws_no_more_than_one_that_works(load: Workload) -> None:
    probe = replace(as_predicted(load, "RTX 4090"), power_W=60.0)
    slow = asked(load, "RTX 4090", probe=probe, loader_samples_per_s=10.0)
    assert slow.energy_J / slow.duration_s == pytest.approx(60.0)


@pytest.mark.parametrize("name", ["power_limit_W", "loader_samples_per_s"])
@pytest.mark.parametrize("value", [0, -1, math.nan, math.inf, "200", True])
def test_limits_are_positive_numbers(load: Workload, name: str, value: object) -> None:
    with pytest.raises(EstimateError, match=name):
        asked(load, **{name: value})


@settings(max_examples=50, deadline=None)
@given(limit_W=st.floats(1, 1000), batch_s=st.floats(1e-6, 10))
def test_limits_never_make_a_step_shorter(limit_W: float, batch_s: float, load: Workload) -> None:
    predicted = packaged().predict([(load, resolve_gpu("H100"))])
    rest_W = packaged().rest_W([resolve_gpu("H100")])
    limited = under_power_limit(predicted, limit_W, resolve_gpu("H100").tdp_W, rest_W)
    waiting = behind_loader(limited, np.array([batch_s]), rest_W)
    assert predicted.step_s[0] <= limited.step_s[0] <= waiting.step_s[0]
    assert limited.power_W[0] <= predicted.power_W[0]
    assert waiting.energy_J[0] >= limited.energy_J[0] * (1 - 1e-12)


# ------------------------------------------------------------------ a probe on another GPU


def as_predicted(load: Workload, gpu: str, factor: float = 1.0) -> Probe:
    """A probe whose steps take a multiple of the predicted time."""
    chosen = resolve_gpu(gpu)
    predicted = packaged().predict([(load, chosen)])
    return Probe(load, chosen, 30, factor * predicted.step_s[0], predicted.power_W[0])


def test_a_probe_elsewhere_corrects_what_the_gpus_share(load: Workload) -> None:
    plain = asked(load, "L40S")
    same = asked(load, "L40S", probe=as_predicted(load, "H100"))
    assert same.energy_J == pytest.approx(plain.energy_J)
    longer = asked(load, "L40S", probe=as_predicted(load, "H100", 1.3))
    assert 1.1 * plain.duration_s < longer.duration_s < 1.3 * plain.duration_s
    assert "on NVIDIA H100" not in longer.method
    assert "H100" in longer.method
    assert any("how L40S differs from it is predicted" in said for said in longer.assumptions)


@pytest.mark.parametrize("probed", ["H100", "A100", "V100", "T4", "RTX 4090", "B200"])
@pytest.mark.parametrize("gpu", ["H200", "A100 PCIe", "L4", "L40S"])
def test_a_probe_elsewhere_never_widens_the_interval(load: Workload, probed: str, gpu: str) -> None:
    load = replace(load, precision="fp32")
    plain, known = asked(load, gpu), asked(load, gpu, probe=as_predicted(load, probed, 1.2))
    assert deviation_of(known) < deviation_of(plain)
    # Between GPUs of which little is known, it moves less.
    assert plain.duration_s <= known.duration_s <= 1.2001 * plain.duration_s


def test_a_probe_on_a_gpu_that_is_hardly_known_moves_little(load: Workload) -> None:
    load = replace(load, precision="fp32")
    plain = asked(load, "H100")
    moved = [
        asked(load, "H100", probe=as_predicted(load, gpu, 1.3)).duration_s / plain.duration_s - 1
        for gpu in ("H200", "A100", "T4")
    ]
    assert moved == sorted(moved, reverse=True)
    assert moved[0] > 1.5 * moved[2] > 0


def test_of_similar_gpus_a_probe_tells_what_is_due_to_them(load: Workload) -> None:
    probe = as_predicted(load, "A100 40GB", 1.3)
    near, far = (
        asked(load, gpu, probe=probe).duration_s / asked(load, gpu).duration_s - 1
        for gpu in ("A100 80GB", "L4")
    )
    assert near > 1.05 * far > 0


def test_boards_of_one_chip_with_other_tensor_units_are_apart(load: Workload) -> None:
    a10, a10g = resolve_gpu("A10"), resolve_gpu("A10G")
    assert distance(a10, a10g) == pytest.approx(0, abs=0.2)
    assert distance(a10, a10g, "bf16") > 0.5
    half = replace(load, precision="bf16")
    on_it, elsewhere = (asked(half, gpu, probe=as_predicted(half, "A10")) for gpu in (a10, a10g))
    assert deviation_of(elsewhere) > 1.5 * deviation_of(on_it)


def test_the_nearer_the_two_gpus_the_narrower_the_interval(load: Workload) -> None:
    widths = [
        deviation_of(asked(load, gpu, probe=as_predicted(load, "H100")))
        for gpu in ("H100", "H200", "A100", "L4")
    ]
    assert widths[0] == pytest.approx(PROBE_DEVIATION)
    assert widths == sorted(widths)
    assert len(set(widths)) == 4
    assert widths[1] < deviation_of(asked(load, "H200"))


@pytest.mark.parametrize("factor", [0.3, 3.0])
def test_a_probe_with_the_expected_power_moves_no_power(load: Workload, factor: float) -> None:
    plain, moved = asked(load), asked(load, probe=as_predicted(load, "H100", factor))
    assert moved.duration_s != pytest.approx(plain.duration_s, rel=0.2)
    assert moved.energy_J / moved.duration_s == pytest.approx(plain.energy_J / plain.duration_s)


def test_a_probe_of_one_gpu_says_less_of_several(load: Workload) -> None:
    probe = as_predicted(load, "H100")
    one, eight = (asked(load, "H100", probe=probe, devices=n) for n in (1, 8))
    assert deviation_of(one) == pytest.approx(PROBE_DEVIATION)
    assert deviation_of(eight) == pytest.approx(math.hypot(PROBE_DEVIATION, 0.1))
    assert any("all training steps cost what the 30" in said for said in one.assumptions)
    assert any("what differs from them is predicted" in said for said in eight.assumptions)


def test_distance_is_one() -> None:
    h100, a100 = resolve_gpu("H100"), resolve_gpu("A100")
    assert distance(h100, h100) == 0
    assert distance(h100, a100) == pytest.approx(distance(a100, h100))


def test_a_trace_is_a_probe(load: Workload) -> None:
    probe = as_predicted(load, "H100", 1.3)
    duration_s = 1000 * probe.step_s
    trace = EnergyTrace.from_epochs(
        [9 * duration_s * probe.power_W] + 4 * [duration_s * probe.power_W],
        [9 * duration_s] + 4 * [duration_s],
        steps=5 * [1000],
        gpu_energy_J=[9 * duration_s * probe.power_W] + 4 * [duration_s * probe.power_W],
        meta={
            "workload": load.to_dict(),
            "devices": [{"name": "NVIDIA H100 80GB HBM3", "kind": "gpu"}],
        },
    )
    by_trace, by_probe = asked(load, "A100", probe=trace), asked(load, "A100", probe=probe)
    assert by_trace.energy_J == pytest.approx(by_probe.energy_J)
    assert by_trace.duration_s == pytest.approx(by_probe.duration_s)
    with pytest.raises(EstimateError, match="the trace holds no workload"):
        asked(load, "A100", probe=EnergyTrace.from_epochs([1.0, 1.0], [1.0, 1.0]))


def test_a_probe_of_another_layout_is_refused(load: Workload) -> None:
    with pytest.raises(EstimateError, match="layout is 'contiguous', not 'channels_last'"):
        asked(replace(load, layout="channels_last"), "A100", probe=as_predicted(load, "H100"))


# ------------------------------------------------------------------ runs without a power


def test_what_bounds_a_gpu_is_learnt_from_steps_whose_power_nobody_measured() -> None:
    from energyest.estimators.pre.physics.parameters import POWER, STEP
    from energyest.estimators.pre.roofline_model import RooflineModel

    def product(rows: int) -> Workload:
        flops = 2.0 * rows * 4096 * 4096
        o = Operation("forward", "mm", 50, flops, 4e3, rows, 4096, 4096)
        return Workload("net", 1, "bf16", "sgd", 0, 0, 0, 1.0, (o,), 1, 0, 1, 0, 0)

    pairs = [(product(4096 * (i + 1)), resolve_gpu("H100")) for i in range(4)]
    unseen = [(product(4096 * (i + 1)), resolve_gpu("RTX 3090")) for i in range(4)]
    start = RooflineModel.fit(
        pairs, np.full(4, 0.01), np.full(4, 300.0), hosts=["a"] * 4, calibrated=False
    )
    slow_s = 3 * start.predict(unseen).step_s
    taught = RooflineModel.fit(
        [*pairs, *unseen],
        np.concatenate([np.full(4, 0.01), slow_s]),
        np.array([300.0] * 4 + [math.nan] * 4),
        hosts=["a"] * 4 + [""] * 4,
        calibrated=False,
    )
    assert set(taught.step) == set(STEP)
    assert set(taught.power) == set(POWER)
    assert len(taught.step_correction.left_over) == 4  # nothing of the others is kept
    # Its times are known now, and its power is not.
    unsure = start.predict(unseen), taught.predict(unseen)
    times, energies = ([getattr(p, f"deviation_{n}") for p in unsure] for n in ("step", "energy"))
    assert (times[1] ** 2 < times[0] ** 2 - 0.01).all()
    assert energies[1] == pytest.approx(energies[0], rel=0.02)
    before, after = start.predict(unseen).step_s, taught.predict(unseen).step_s
    assert (np.abs(np.log(after / slow_s)) < np.abs(np.log(before / slow_s))).all()
