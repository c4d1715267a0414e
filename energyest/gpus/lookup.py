"""`resolve_gpu`: the GPU that a user names, from the table or as NVML describes it."""

from __future__ import annotations

import difflib
import re

from energyest.checks import short
from energyest.errors import EstimateError
from energyest.gpus.gpu import Gpu
from energyest.gpus.present import gpus_present
from energyest.gpus.several import advice_on_several
from energyest.gpus.table import find_gpu, spelling, spellings


def resolve_gpu(gpu: str | Gpu) -> Gpu:
    """Resolve a GPU: a `Gpu` itself, or a name or alias ("H100", "3090").

    A name that the table lacks is looked up among the GPUs of this machine, for which NVML gives
    the numbers.

    Raises:
        EstimateError: no GPU with this name is in the table or in this machine (the message lists
            the closest names), or several GPUs are named ("8x A100", ["A100", "A100"]; the message
            says what to pass instead).

    Examples:
        >>> from energyest.gpus import resolve_gpu
        >>> resolve_gpu('RTX 3090').name
        'GeForce RTX 3090'
    """
    if isinstance(gpu, Gpu):
        return gpu
    known = find_gpu(gpu) if isinstance(gpu, str) else None
    if known is not None:
        return known
    advice = advice_on_several(gpu)
    if advice:
        raise EstimateError(advice)
    if not isinstance(gpu, str):
        raise EstimateError(f"gpu={short(gpu)} must be the name of a GPU or a Gpu(...)")
    wanted = spelling(gpu)
    for present in gpus_present() if wanted else []:
        if spelling(present.name) == wanted:
            return present
    raise EstimateError(_unknown(gpu))


def _unknown(name: str) -> str:
    names = _nearest(name)
    message = f"unknown GPU {name!r}: it is neither in the table of GPUs nor in this machine"
    if re.search(r"\bMIG\b", name, re.IGNORECASE):
        message += " (a MIG slice has a part of its GPU's cores and memory)"
    if names:
        message += f"; the closest names are {', '.join(names)}"
    return f"{message}. Its data-sheet values can be passed as an energyest.gpus.Gpu(...)"


def _nearest(name: str) -> list[str]:
    wanted, known = spelling(name), spellings()
    if not wanted:
        return []
    # "TITAN X" is the beginning of several names, which similarity ranks behind shorter names.
    longer = [key for key in known if key.startswith(wanted)]
    alike = difflib.get_close_matches(wanted, known, n=12, cutoff=0.6)
    return list(dict.fromkeys(known[key].name for key in (*longer, *alike)))[:4]
