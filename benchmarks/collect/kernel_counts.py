"""Count the kernels that one operation starts on a GPU: grouped convolutions, recurrent layers.

Some run as one kernel, and some as one for each group or time step, which costs far more than their
arithmetic. `energyest.estimators.pre.physics` has rules for these cases, which come from this
table. Exits with 2 without a GPU.

    python -m benchmarks.collect.kernel_counts --out FOLDER
"""

from __future__ import annotations

import argparse
import itertools
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pandas as pd
import torch
from torch import Tensor, nn

DTYPES = {"bf16": torch.bfloat16, "fp16": torch.float16, "tf32": torch.float32}
BATCH, STEPS = 16, 32


def counted(run: Callable[[], Any]) -> dict[str, float]:
    """Kernels of one call, their time on the GPU, and the time of the call on the CPU."""
    for _ in range(3):
        run()
    torch.cuda.synchronize()
    began_s = time.perf_counter()
    for _ in range(10):
        run()
    cpu_s = (time.perf_counter() - began_s) / 10
    torch.cuda.synchronize()
    both = [torch.profiler.ProfilerActivity.CPU, torch.profiler.ProfilerActivity.CUDA]
    with torch.profiler.profile(activities=both) as profile:
        run()
        torch.cuda.synchronize()
    kernels = [
        e
        for e in profile.events()
        if e.device_type == torch.autograd.DeviceType.CUDA and not e.name.startswith("Mem")
    ]
    return {
        "kernels": len(kernels),
        "gpu_s": sum(e.device_time_total for e in kernels) / 1e6,
        "cpu_s": cpu_s,
    }


def both_passes(module: nn.Module, inputs: Tensor) -> dict[str, float]:
    """Forward alone, and backward with gradients of inputs and weights."""

    def forward() -> Tensor:
        result = module(inputs)
        return result[0] if isinstance(result, tuple) else result

    output = forward()
    gradient = torch.ones_like(output)
    parameters = [inputs, *module.parameters()]

    def backward() -> object:
        return torch.autograd.grad(output, parameters, gradient, retain_graph=True)

    found = {}
    for name, run in (("forward", forward), ("backward", backward)):
        found |= {f"{name}_{key}": value for key, value in counted(run).items()}
    return found


def convolutions() -> Iterator[dict[str, Any]]:
    cases = itertools.product(
        ("nchw", "nhwc"), DTYPES, (1, 3, 5), (1, 2, 4, 16, 32), (1, 2), (8, 32), (2, 14)
    )
    for layout, dtype, taps, inputs, more, groups, side in cases:
        case = {
            "operation": "convolution",
            "layout": layout,
            "dtype": dtype,
            "filter": taps,
            "inputs_per_group": inputs,
            "outputs_per_group": inputs * more,
            "groups": groups,
            "side": side,
        }
        form = torch.channels_last if layout == "nhwc" else torch.contiguous_format
        channels = inputs * groups
        module = nn.Conv2d(channels, channels * more, taps, padding=taps // 2, groups=groups)
        images = torch.rand(BATCH, channels, side, side, device="cuda", dtype=DTYPES[dtype])
        images = images.to(memory_format=form).requires_grad_()
        module = module.to("cuda", DTYPES[dtype], memory_format=form)
        yield case | both_passes(module, images)


def recurrent_layers() -> Iterator[dict[str, Any]]:
    cases = itertools.product(
        (nn.LSTM, nn.GRU), DTYPES, (64, 128, 192, 384, 512, 1024), (1, 2), (False, True), (16, 128)
    )
    for kind, dtype, width, layers, two_ways, batch in cases:
        case = {
            "operation": kind.__name__.lower(),
            "dtype": dtype,
            "width": width,
            "layers": layers,
            "two_ways": two_ways,
            "steps": STEPS,
            "batch": batch,
        }
        module = kind(width, width, layers, batch_first=True, bidirectional=two_ways)
        module = module.to("cuda", DTYPES[dtype])
        inputs = torch.rand(batch, STEPS, width, device="cuda", dtype=DTYPES[dtype])
        yield case | both_passes(module, inputs.requires_grad_())


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, required=True, help="folder of kernel_counts.csv")
    out = parser.parse_args().out
    if not torch.cuda.is_available():
        print("kernel_counts: torch sees no NVIDIA GPU; nothing was measured")
        return 2
    torch.backends.cudnn.allow_tf32 = torch.backends.cuda.matmul.allow_tf32 = True
    out.mkdir(parents=True, exist_ok=True)
    rows = []
    for case in itertools.chain(convolutions(), recurrent_layers()):
        rows.append(case)
        if len(rows) % 50 == 0:
            print(len(rows), flush=True)
            write(rows, out)
    write(rows, out)
    return 0


def write(rows: list[dict[str, Any]], out: Path) -> None:
    table = (
        pd.DataFrame(rows)
        .convert_dtypes()
        .assign(
            device=torch.cuda.get_device_name(0),
            torch=torch.__version__,
            date=time.strftime("%Y-%m-%d", time.gmtime()),
        )
    )
    times = [name for name in table.columns if name.endswith("_s")]
    table[times] = table[times].map("{:.3g}".format)
    table.to_csv(out / "kernel_counts.csv", index=False)


if __name__ == "__main__":
    raise SystemExit(main())
