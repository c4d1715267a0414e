"""Run the examples, and keep what they print for the gallery (`docs/gallery.md`).

    python docs/gallery.py              # all in `examples/`
    python docs/gallery.py popular      # all in `examples/popular/`; also `scale_out`
    python docs/gallery.py resume ddp   # these

`python -m nox -s gallery` installs what they need and runs them all. For each, `docs/gallery/` gets
the text that it printed, the picture that it saved, and, in `runs.json`, when that was and with
which versions. The popular scripts print what their libraries do; for them, it is what
`energyest show` says of the trace.
"""

from __future__ import annotations

import ast
import datetime
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from importlib.metadata import packages_distributions, version
from pathlib import Path
from typing import Any

from packaging.version import Version

import energyest

ROOT = Path(__file__).parents[1]
STORED = ROOT / "docs/gallery"
RUNS = STORED / "runs.json"
FOLDERS = ("popular", "scale_out")
# The demo, short.
ARGUMENTS = {"digits": ("--epochs", "12")}
# Between what an example prints and what energyest logs.
LOGGED = "\nOn standard error:\n\n"
# A build of torchvision for another torch would stop the libraries that import it.
_AS_MAIN = (
    "import runpy, sys; from tests.support.torchvision_operators import complete; complete(); "
    "sys.argv = sys.argv[1:]; runpy.run_path(sys.argv[0], run_name='__main__')"
)


def scripts(folder: str = ".") -> list[Path]:
    """The examples in a folder of `examples/`."""
    return sorted((ROOT / "examples" / folder).glob("*.py"))


def main(names: list[str]) -> None:
    """Run the examples of these names, or of these folders, or all that need no other package."""
    every = [script for folder in (".", *FOLDERS) for script in scripts(folder)]
    chosen = [s for s in every if s.stem in names or s.parent.name in {*names} & {*FOLDERS}]
    for script in chosen if names else scripts():
        print(f"{script.stem} ...", flush=True)
        _keep(script)


def _keep(script: Path) -> None:
    """Run an example in an empty folder, and keep its output."""
    is_popular = script.parent.name == "popular"
    with tempfile.TemporaryDirectory() as name:
        folder = Path(os.path.realpath(name))
        (folder / "matplotlibrc").write_text("svg.fonttype: none\nsvg.hashsalt: energyest\n")
        if is_popular:
            _run(folder, "-c", _AS_MAIN, str(script))
            (trace,) = folder.glob("*/energy")
            text, _ = _run(folder, "-m", "energyest", "show", str(trace.relative_to(folder)))
        else:
            text, errors = _run(folder, str(script), *ARGUMENTS.get(script.stem, ()))
            logged = "\n".join(_of_energyest(errors.splitlines()))
            text = _tidy(text) + (LOGGED + logged if logged else "")
        text = _tidy(text).replace(f"{folder}/", "")
        (STORED / f"{script.stem}.txt").write_text(text, encoding="utf-8")
        for picture in folder.glob("*.svg"):
            content = _tidy(picture.read_text(encoding="utf-8"))
            (STORED / f"{script.stem}.svg").write_text(content, encoding="utf-8")
    runs = json.loads(RUNS.read_text(encoding="utf-8")) if RUNS.exists() else {}
    runs[script.stem] = {
        "date": datetime.datetime.now(datetime.timezone.utc).date().isoformat(),
        "devices": device_names(),
        "versions": _versions(script),
    }
    text = json.dumps(dict(sorted(runs.items())), indent=1, ensure_ascii=False)
    RUNS.write_text(text + "\n", encoding="utf-8")


def _run(folder: Path, *command: str) -> tuple[str, str]:
    """What a program in Python prints, and what it says on standard error."""
    # One thread is enough for networks so small, and other work disturbs it less.
    settings = {"COLUMNS": "100", "OMP_NUM_THREADS": "1"}
    settings |= {"JAX_PLATFORMS": "cpu", "KERAS_BACKEND": "torch"}
    settings |= {"YOLO_CONFIG_DIR": str(folder), "YOLO_OFFLINE": "true", "HF_HUB_OFFLINE": "1"}
    ended = subprocess.run(
        [sys.executable, *command],
        cwd=folder,
        env={**os.environ, **settings, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        check=False,
    )
    if ended.returncode:
        sys.exit(ended.stdout + ended.stderr)
    return ended.stdout, ended.stderr


def device_names() -> list[str]:
    """What can be measured or modelled here, as `detect()` calls it."""
    return [sensor.device.name for sensor in energyest.detect().sensors]


def _tidy(text: str) -> str:
    """Without spaces at the ends of lines."""
    return "\n".join(line.rstrip() for line in text.splitlines()).strip("\n") + "\n"


def _of_energyest(lines: list[str]) -> Iterator[str]:
    """The messages of energyest, and the lines that belong to them."""
    belongs = False
    for line in lines:
        belongs = line.startswith("energyest: ") or (belongs and line.startswith("  "))
        if belongs:
            yield line


def _versions(script: Path) -> dict[str, str]:
    """Of Python, and of all packages that an example imports."""
    of_modules = packages_distributions()
    imported = _imported(ast.parse(script.read_text(encoding="utf-8")))
    others = {of_modules[name][0] for name in imported if name in of_modules}
    found = {"Python": ".".join(map(str, sys.version_info[:2]))}
    for distribution in ["energyest", *sorted(others - {"energyest"})]:
        found[distribution] = Version(version(distribution)).public
    return found


def _imported(tree: Any) -> Iterator[str]:
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom):
            yield (node.module or "").split(".")[0]
        elif isinstance(node, ast.Import):
            yield from (alias.name.split(".")[0] for alias in node.names)


if __name__ == "__main__":
    main(sys.argv[1:])
