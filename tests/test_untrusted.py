"""Files from anywhere: they are refused or read, run no code, lead nowhere, and stay small."""

from __future__ import annotations

import json
import math
import os
import re
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, get_args

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from energyest import EnergyTrace, estimate_step, load_trace
from energyest.errors import EstimateError, TraceError
from energyest.estimators import PreModel
from energyest.estimators.regression import table_model
from energyest.gpus import resolve_gpu
from energyest.profiling import Probe
from energyest.records import storage
from energyest.records.safe_json import DEEPEST, parse_json
from simulation.fuzzing import Loader, fuzz, mutate
from simulation.hostile_files import loaders, real_json, real_trace
from simulation.synthetic_pre import workload
from tests.support.cost import costs_at_most
from tests.support.each import for_each
from tests.support.source import MODULES, ROOT, imports_of

NETWORK = {
    *("socket", "ssl", "urllib", "http", "requests", "ftplib", "smtplib", "telnetlib", "xmlrpc"),
    *("socketserver", "asyncio", "aiohttp", "httpx", "urllib3", "websockets", "torch.hub"),
}
# The ranks' connection to the store of their own training, which can be cut and opens no other, and
# one over a Unix socket to a daemon of this machine.
OWN_CONNECTIONS = {"store_connection.py": {"socket"}, "zeusd.py": {"http", "socket"}}
CODE = {"pickle", "marshal", "shelve", "dill", "joblib", "runpy", "code", "codeop"}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A trace that loads."""
    path = tmp_path / "energy"
    path.mkdir()
    for name, data in real_trace().items():
        (path / name).write_bytes(data)
    assert len(load_trace(path)) == 6
    return path


@pytest.mark.parametrize("loader", list(loaders()), ids=lambda loader: loader.name)
def test_hostile_files_bring_out_no_foreign_error(loader: Loader) -> None:
    outcome = fuzz(loader, 30)
    assert outcome.inputs >= 30
    assert outcome.accepted_generated
    assert outcome.refused or "latest.json" in loader.name  # which is left out if it is no good


def test_the_fuzzer_finds_a_foreign_error() -> None:
    loader = next(iter(loaders()))
    broken = Loader(loader.name, loader.real, loader.changed, loader.generated, lambda _: 1 // 0)
    with pytest.raises(AssertionError, match=r"energyest-fuzz-.*ZeroDivisionError"):
        fuzz(broken, 4)


# ---------------------------------------------------------------------- where a file lies

FILES = ("meta.json", "epochs.jsonl", "power.csv")


def _fifo(path: Path) -> None:
    os.mkfifo(path)


def _device(path: Path) -> None:
    path.symlink_to("/dev/zero")


def _outside(path: Path) -> None:
    target = path.parents[1] / "elsewhere"
    target.write_bytes(real_trace()[path.name])
    path.symlink_to(target)


def _circle(path: Path) -> None:
    path.symlink_to(path)


@pytest.mark.parametrize("make", [_fifo, _device, _outside, _circle, Path.mkdir])
@pytest.mark.parametrize("name", FILES)
@pytest.mark.timeout(120)  # opening a FIFO blocks forever
def test_what_is_not_a_file_of_the_folder(
    folder: Path, name: str, make: Callable[[Path], None]
) -> None:
    (folder / name).unlink()
    make(folder / name)
    with pytest.raises(TraceError, match=name):
        load_trace(folder)


def test_links_within_the_folder_and_to_it(folder: Path, tmp_path: Path) -> None:
    (folder / "power.csv").rename(folder / "readings")
    (folder / "power.csv").symlink_to("readings")
    (tmp_path / "link").symlink_to(folder)
    assert len(load_trace(tmp_path / "link").power)


@pytest.mark.parametrize("name", ["../elsewhere", "/etc/hostname", "a/../../b", "\0", "x" * 5000])
def test_names_that_lead_out(folder: Path, name: str) -> None:
    with pytest.raises(TraceError):
        storage.read_text(folder, name, 100)


def test_a_path_that_no_file_can_have(tmp_path: Path) -> None:
    for path in (tmp_path / ("x" * 5000), tmp_path / "\0"):
        with pytest.raises(TraceError):
            load_trace(path)


@pytest.fixture
def locked(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[Path], None]]:
    """Takes all permissions of a folder away until the test ends, for root too."""
    closed: list[Path] = []

    def lock(path: Path) -> None:
        closed.append(path)
        path.chmod(0)
        if os.access(path, os.R_OK):  # root: what the system would say is said in its place
            for name in ("stat", "open", "scandir", "listdir"):
                refuse = refusing(path, getattr(os, name), name)
                monkeypatch.setattr(os, name, refuse)
                if sys.version_info < (3, 11) and name != "open":  # pathlib has copies of its own
                    monkeypatch.setattr(Path._accessor, name, refuse)

    yield lock
    monkeypatch.undo()
    for path in closed:
        path.chmod(0o700)


def refusing(locked: Path, function: Callable[..., Any], name: str) -> Callable[..., Any]:
    """A function of the system that finds a folder locked: it can be looked at, but not into."""

    def refuse(path: Any = ".", *arguments: Any, **options: Any) -> Any:
        if isinstance(path, str | os.PathLike):
            asked = Path(path)
            if locked in asked.parents or (asked == locked and name != "stat"):
                raise PermissionError(13, "Permission denied", str(path))
        return function(path, *arguments, **options)

    return refuse


@pytest.mark.parametrize("name", [".", "rank1"])
def test_a_folder_without_permission(
    folder: Path, locked: Callable[[Path], None], name: str
) -> None:
    meta = json.loads((folder / "meta.json").read_text())
    (folder / "meta.json").write_text(json.dumps({**meta, "world_size": 2}))
    (folder / "rank1").mkdir()
    for file in FILES:
        (folder / "rank1" / file).write_bytes((folder / file).read_bytes())
    load_trace(folder)
    locked(folder / name)
    with pytest.raises(TraceError, match=r"cannot read|denied"):
        load_trace(folder)


def test_read_text(folder: Path) -> None:
    assert storage.read_text(folder, "missing", 10) is None
    (folder / "text").write_bytes("ä\nb".encode())
    assert storage.read_text(folder, "text", 4) == "ä\nb"
    with pytest.raises(TraceError, match="larger than 3 bytes"):
        storage.read_text(folder, "text", 3)
    (folder / "text").write_bytes(b"\xff")
    with pytest.raises(TraceError, match="is damaged"):
        storage.read_text(folder, "text", 3)


@pytest.mark.timeout(120)
def test_a_file_that_is_not_a_model(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "model.json")
    for path in (tmp_path / "model.json", tmp_path):
        with pytest.raises(EstimateError, match="not a regular file"):
            PreModel.load(path)
    with pytest.raises(FileNotFoundError):
        PreModel.load(tmp_path / "missing.json")


# ---------------------------------------------------------------------- how much there is of it


@pytest.mark.parametrize(
    ("name", "bound"),
    [
        ("meta.json", "MOST_META_BYTES"),
        ("epochs.jsonl", "MOST_EPOCHS_BYTES"),
        ("power.csv", "MOST_POWER_BYTES"),
    ],
)
def test_bounds_on_bytes(
    folder: Path, monkeypatch: pytest.MonkeyPatch, name: str, bound: str
) -> None:
    size = (folder / name).stat().st_size
    monkeypatch.setattr(storage, bound, size)
    load_trace(folder)
    monkeypatch.setattr(storage, bound, size - 1)
    with pytest.raises(TraceError, match=f"{name}.* larger than"):
        load_trace(folder)


def test_a_meta_that_could_not_be_read_back_is_not_written(folder: Path, tmp_path: Path) -> None:
    trace = load_trace(folder)
    large = EnergyTrace(trace.epoch_columns, meta={"notes": "x" * storage.MOST_META_BYTES})
    with pytest.raises(TraceError, match="could not be read back"):
        large.save(tmp_path / "saved")
    assert not (tmp_path / "saved").exists()


def _quickly_refused(folder: Path, match: str) -> None:
    with costs_at_most(10), pytest.raises(TraceError, match=match):
        load_trace(folder)


def test_rows_that_each_name_other_columns(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(storage, "MOST_VALUES", 2**20)
    for count, fits in ((1000, True), (1100, False)):
        rows = (f'{{"epoch": {row}, "column_{row}": 1}}\n' for row in range(count))
        (folder / "epochs.jsonl").write_text("".join(rows))
        if fits:
            assert len(load_trace(folder).metrics) == count
        else:
            _quickly_refused(folder, "1024 rows of 1025 columns are too many")


def test_a_late_row_of_many_names(folder: Path) -> None:
    rows = "".join(f'{{"epoch": {row}}}\n' for row in range(400))
    names = ", ".join(f'"column_{i}": 1' for i in range(100_000))
    (folder / "epochs.jsonl").write_text(f'{rows}{{"epoch": 400, {names}}}\n')
    _quickly_refused(folder, "line 401, is damaged: .*the row is too large")
    rows = "".join(f'{{"epoch": {row}}}\n' for row in range(600))
    names = ", ".join(f'"column_{i}": 1' for i in range(60_000))
    (folder / "epochs.jsonl").write_text(f'{rows}{{"epoch": 600, {names}}}\n')
    _quickly_refused(folder, "601 rows of 60001 columns are too many")


def test_a_long_line(folder: Path) -> None:
    row = (folder / "epochs.jsonl").read_text().splitlines()[0]
    (folder / "epochs.jsonl").write_text(f"{row}\n{row[:-1]}{' ' * storage.MOST_LINE_BYTES}}}\n")
    _quickly_refused(folder, "line 2, is damaged: .*the row is too large")
    (folder / "epochs.jsonl").write_text(f"{row}\n")
    for name in ("x" * 70_000, '"' + "x" * 70_000 + '"'):
        (folder / "power.csv").write_text(f"{storage.POWER_HEADER}0,{name},1,,,,\n")
        _quickly_refused(folder, "line 2, is too long")
    (folder / "power.csv").write_text("x" * 100_000_000 + "\n")
    _quickly_refused(folder, "line 1, is damaged")


def test_a_file_of_many_bytes_is_not_read(folder: Path) -> None:
    """A file that claims to be large takes no memory."""
    for name in FILES:
        with open(folder / name, "r+b") as file:
            size = os.fstat(file.fileno()).st_size
            file.truncate(2**40)
            _quickly_refused(folder, f"{name}.* larger than")
            file.truncate(size)


@pytest.mark.parametrize("line", ['0,"gpu:0,1,,,,', '0,gpu"0",1,,,,', '0,"a"b,1,,,,', '0,",",1,,,'])
def test_quotes_that_are_not_closed(folder: Path, line: str) -> None:
    (folder / "power.csv").write_text(f"{storage.POWER_HEADER}{line}\n1,gpu:0,1,,,,\n")
    _quickly_refused(folder, "line 2, is damaged")


def test_bounds_on_rows(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(storage, "MOST_EPOCHS", 5)
    _quickly_refused(folder, "6 rows of .* columns are too many")


def test_a_header_of_many_names(folder: Path) -> None:
    names = ",".join(f"column_{i}" for i in range(100_000))
    line = "0,gpu:0" + "," * 100_000 + "\n"
    (folder / "power.csv").write_text(f"time_s,device,{names}\n" + line * 400)
    _quickly_refused(folder, "too many")


def test_a_device_for_every_reading(folder: Path) -> None:
    rows = "".join(f"{i},gpu:{i},1,,,,\n" for i in range(100_000))
    (folder / "power.csv").write_text(storage.POWER_HEADER + rows)
    _quickly_refused(folder, "device names")


@pytest.mark.parametrize("text", ["9" * 400, "9" * 10_000_000, "1e999", "NaN", "-Infinity"])
def test_numbers_that_no_float_holds(folder: Path, text: str) -> None:
    for content in (text, f'{{"a": [{text}]}}'):
        with (
            costs_at_most(5),
            pytest.raises(ValueError, match=r"is not a finite number|limit|too large"),
        ):
            parse_json(content)


def test_depth() -> None:
    def nested(depth: int) -> str:
        return "[" * depth + "]" * depth

    assert parse_json(nested(DEEPEST))
    for depth in (DEEPEST + 1, 900, 10**6):
        with pytest.raises(ValueError, match="nested"):
            parse_json(nested(depth))


def test_halves_of_characters_are_replaced() -> None:
    assert parse_json(r'{"\ud800a": ["\uD83D\ude00", "\\ud800"]}') == {"?a": ["😀", r"\ud800"]}


def test_long_traces_load(tmp_path: Path) -> None:
    """A tenth of a month of 8 GPUs, and of 100,000 intervals of 40 metrics."""
    folder = tmp_path / "energy"
    folder.mkdir()
    (folder / "meta.json").write_text('{"format": 1}')
    row = {f"metric_{i}": 0.123456789 for i in range(40)}
    lines = (storage.encode_epoch({"epoch": i, "energy_J": 5.5, **row}) for i in range(10_000))
    (folder / "epochs.jsonl").write_text("".join(lines))
    readings = (f"{i}.25,gpu:{g},300.5,{i}.5,0.5,8e9,55.0\n" for i in range(8750) for g in range(8))
    (folder / "power.csv").write_text(storage.POWER_HEADER + "".join(readings))
    trace = load_trace(folder)
    assert len(trace) == 10_000
    assert len(trace.metrics) == 40
    assert len(trace.power_columns["time_s"]) == 70_000


def test_sums_that_overflow() -> None:
    gpus = [{"device": f"gpu:{i}", "kind": "gpu", "power_limit_W": 1e308} for i in range(2)]
    changes = [{"epoch": 10 + i, "flops_ratio": 1e300} for i in range(5)]
    meta = {"planned_epochs": 100, "devices": gpus, "planned_changes": changes}
    trace = EnergyTrace.from_epochs([100.0] * 8, [2.0] * 8, gpu_energy_J=[90.0] * 8, meta=meta)
    assert estimate_step(trace, planned=[]).energy_J == pytest.approx(10_000)
    with np.errstate(all="ignore"):
        assert estimate_step(trace).energy_J == math.inf


@pytest.mark.parametrize("value", [None, "1", True, 0, -1, math.nan, math.inf, 5e-324, 10**400])
def test_a_probe_of_no_number(value: Any) -> None:
    gpu = resolve_gpu("H100")
    with pytest.raises(EstimateError, match=r"power_W=.* must be a number above 0"):
        Probe(workload(), gpu, steps=30, step_s=0.01, power_W=value)


# ---------------------------------------------------------------------- no code, no network


@for_each(MODULES)
def test_no_module_imports_network_or_pickled_code(path: Path) -> None:
    names = imports_of(path)
    roots = names | {name.split(".")[0] for name in names}
    assert roots & (NETWORK | CODE) == OWN_CONNECTIONS.get(path.name, set())


def test_the_daemon_is_on_this_machine() -> None:
    (path,) = [path for path in MODULES if path.name == "zeusd.py"]
    text = path.read_text()
    assert re.findall(r"socket\.(?:AF_\w+|create_connection)", text) == ["socket.AF_UNIX"]


AUDITED = """
import sys
NETWORK = ("socket.connect", "socket.bind", "socket.sendto", "socket.getaddrinfo",
           "socket.gethostbyname", "urllib.Request", "http.client.connect", "ftplib.connect")
seen = []
def watch(event, arguments):
    if event in NETWORK:
        seen.append((event, arguments))
sys.addaudithook(watch)

import contextlib, io, logging, pytorch_lightning as pl, torch, warnings
from energyest import EnergyMonitor, describe_workload, estimate_pre, estimate_step, load_trace
from energyest.cli import main

class Net(pl.LightningModule):
    def __init__(self):
        super().__init__()
        self.layer = torch.nn.Linear(4, 1)
    def forward(self, x):
        return self.layer(x)
    def training_step(self, batch, _):
        return self(batch).square().mean()
    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), 0.1)

warnings.simplefilter("ignore")
logging.disable(logging.CRITICAL)
net, folder = Net(), sys.argv[1]
pl.Trainer(
    max_epochs=4, accelerator="cpu", logger=False, enable_checkpointing=False,
    enable_progress_bar=False, enable_model_summary=False,
    callbacks=[EnergyMonitor(folder)],
).fit(net, torch.utils.data.DataLoader(torch.randn(8, 4), 4))
trace = load_trace(folder)
with contextlib.suppress(Exception):
    estimate_step(trace, 10)
estimate_pre(describe_workload(Net(), torch.randn(4, 4), optimizer="sgd"), "H100",
             epochs=1, train_samples=100)
with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
    assert main(["show", folder]) == 0
    main(["project", folder])
    main(["devices"])
print(len(trace), seen)
"""


@pytest.mark.long
def test_nothing_connects(tmp_path: Path) -> None:
    script = [sys.executable, "-c", AUDITED, str(tmp_path / "energy")]
    done = subprocess.run(script, capture_output=True, text=True, check=False, cwd=ROOT)
    assert done.stdout == "4 []\n", done.stderr


HOSTILE = """
import contextlib, json, sys
from pathlib import Path
from energyest import EnergyestError, load_trace
from energyest.estimators import PreModel, TableModel
folder = Path(sys.argv[1])
hostile = json.loads((folder / "inputs.json").read_text())
WATCHED = {"pickle.find_class", "os.system", "subprocess.Popen", "os.exec", "os.posix_spawn",
           "exec", "compile", "import", "marshal.loads", "os.fork", "open"}
seen, watching = set(), False

def watch(event, arguments):
    if watching and event in WATCHED:
        if event == "open" and Path(str(arguments[0])).resolve().is_relative_to(folder):
            return
        seen.add((event, str(arguments[0])[:80]))

sys.addaudithook(watch)

def load(content):
    for name, text in content.items():
        (folder / "energy" / name).write_bytes(text.encode("latin-1"))
    for read in (load_trace, lambda f: PreModel.load(f / "meta.json"),
                 lambda f: TableModel.load(f / "model.json")):
        with contextlib.suppress(EnergyestError):
            read(folder / "energy")

for content in hostile[:6]:
    load(content)  # what the package imports the first time
watching = True
for content in hostile:
    load(content)
watching = False
print(len(hostile), sorted(seen))
"""


@pytest.mark.long
def test_loading_runs_no_code(folder: Path, tmp_path: Path) -> None:
    import random

    dice, real = random.Random(1), real_trace()
    regressors = get_args(table_model.Regressor)
    models = [real_json(kind)["it.json"] for kind in regressors]
    hostile = [real] * len(models)
    payload = f"cos\nsystem\n(S'touch {tmp_path / 'was-here'}'\ntR.".encode()
    for name in FILES:
        hostile += [real | {name: mutate(real[name], dice)} for _ in range(30)]
        hostile += [real | {name: payload}, real | {name: b'{"__reduce__": ["os.system", "x"]}\n'}]
    # The models that come first are whole, and what they import is not counted.
    models += [mutate(dice.choice(models), dice) for _ in hostile[len(models) :]]
    hostile = [one | {"model.json": m} for one, m in zip(hostile, models, strict=True)]
    texts = [{n: data.decode("latin-1") for n, data in one.items()} for one in hostile]
    (tmp_path / "inputs.json").write_text(json.dumps(texts))
    script = [sys.executable, "-c", HOSTILE, str(tmp_path)]
    done = subprocess.run(script, capture_output=True, text=True, check=False, cwd=ROOT)
    assert done.stdout == f"{len(hostile)} []\n", done.stderr
    assert not (tmp_path / "was-here").exists()


@given(
    digits=st.integers(1, 420),
    point=st.sampled_from(["", ".5"]),
    exponent=st.sampled_from(["", "e9", "e99", "E+99", "e100", "e308", "e+309", "e999", "e-999"]),
    around=st.sampled_from(
        ["{}", "[{}]", '{{"a": {}}}', '["7e999", {} ]', '["7e123",{},"\u00e9"]']
    ),
)
def test_no_number_beyond_the_range_is_read(
    digits: int, point: str, exponent: str, around: str
) -> None:
    number = f"{'9' * digits}{point}{exponent}"
    text = around.format(number)
    if math.isfinite(float(number)):
        assert parse_json(text) == json.loads(text)
    else:
        with pytest.raises(ValueError, match="is not a finite number"):
            parse_json(text)
