"""Who runs a training, and where: user, project, machine, and the job of the scheduler."""

from __future__ import annotations

import getpass
import os
import platform
from collections.abc import Mapping

from energyest.settings import setting

# The variables in which a scheduler names a job: its id, and the number within an array.
_SCHEDULERS = {
    "slurm": (("SLURM_ARRAY_JOB_ID", "SLURM_JOB_ID", "SLURM_JOBID"), "SLURM_ARRAY_TASK_ID"),
    "pbs": (("PBS_JOBID",), "PBS_ARRAY_INDEX"),
    "lsf": (("LSB_JOBID",), "LSB_JOBINDEX"),
}
# Set in every container of Kubernetes. A pod's host name is its own name, unless it says otherwise.
_IN_KUBERNETES = "KUBERNETES_SERVICE_HOST"
_POD = ("POD_NAME", "HOSTNAME")
# Names longer than this are not names.
_MOST_CHARACTERS = 200


def provenance() -> dict[str, object]:
    """Facts for the meta of a run that starts now; what is not known is left out.

    Returns:
        `host`; `user`, unless the setting `record_user` turns it off; `project`, from the setting
        or else the account that Slurm charges; and `job`: the `scheduler` and the `id`, which is
        that of the pod in Kubernetes.
    """
    found: dict[str, object] = {"host": platform.node()}
    if setting("record_user"):
        found["user"] = _user()
    found["project"] = setting("project") or _short(os.environ.get("SLURM_JOB_ACCOUNT"))
    found["job"] = job_of(os.environ)
    return {name: value for name, value in found.items() if value}


def job_of(environment: Mapping[str, str]) -> dict[str, str]:
    """The job that these variables name: `scheduler` and `id`; empty if they name none.

    The id of a job in an array is that of the array and its number, such as `4711_3`.
    """
    for scheduler, (names, index_name) in _SCHEDULERS.items():
        job_id = _first(environment, names)
        if job_id:
            index = environment.get(index_name, "")
            # LSF numbers a job that is in no array 0; in PBS, the id holds the number already.
            in_array = index.isdigit() and index_name != "PBS_ARRAY_INDEX"
            if in_array and not (scheduler == "lsf" and index == "0"):
                job_id = f"{job_id}_{index}"
            return {"scheduler": scheduler, "id": job_id}
    pod = _first(environment, _POD) if environment.get(_IN_KUBERNETES) else ""
    return {"scheduler": "kubernetes", "id": pod} if pod else {}


def _user() -> str:
    try:
        # In a container that Slurm starts, the user may have another name, or none.
        return _short(os.environ.get("SLURM_JOB_USER")) or _short(getpass.getuser())
    except (KeyError, OSError, ImportError):  # a number without a name
        return ""


def _first(environment: Mapping[str, str], names: tuple[str, ...]) -> str:
    return next((text for name in names if (text := _short(environment.get(name)))), "")


def _short(text: str | None) -> str:
    """Text if it can be a name; else nothing."""
    is_name = text is not None and text.isprintable() and len(text) <= _MOST_CHARACTERS
    return text.strip() if text is not None and is_name else ""
