"""The report in a real browser, without a window: `python -m nox -s tests_browser`."""

from __future__ import annotations

import html
import json
import re
import shutil
import subprocess
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from energyest import EnergyTrace
from energyest.report import write_report
from tests.support.pictures import CHANGES, training

BROWSER = next(
    filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome", "chrome"))),
    None,
)
pytestmark = pytest.mark.skipif(BROWSER is None, reason="no browser here: apt-get install chromium")
FLAGS = (
    *("--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run"),
    *("--disable-background-networking", "--disable-component-update", "--disable-sync"),
    *("--enable-logging=stderr", "--hide-scrollbars"),
)
THEMES = {"light": "1", "dark": "0"}
# Runs in a copy of the report, which itself has no script.
PROBE = """
<script>
addEventListener("load", () => {
  const channels = (text) => text.match(/[\\d.]+/g).map(Number);
  const luminance = (rgb) => {
    const linear = (c) => c <= 0.04045 ? c / 12.92 : ((c + 0.055) / 1.055) ** 2.4;
    const [r, g, b] = rgb.map((channel) => linear(channel / 255));
    return 0.2126 * r + 0.7152 * g + 0.0722 * b;
  };
  const background = (node) => {
    for (; node; node = node.parentElement) {
      const found = channels(getComputedStyle(node).backgroundColor);
      if (found.length < 4 || found[3] > 0) return found.slice(0, 3);
    }
    return [255, 255, 255];
  };
  let lowest = 99, texts = 0, hidden = 0;
  const walker = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT);
  for (let node; (node = walker.nextNode());) {
    const parent = node.parentElement;
    if (!node.data.trim() || parent.closest("script, style, defs")) continue;
    texts += 1;
    const box = parent.getBoundingClientRect(), style = getComputedStyle(parent);
    if (!box.width || !box.height || style.visibility == "hidden") hidden += 1;
    const ink = luminance(channels(parent.closest("svg") ? style.fill : style.color).slice(0, 3));
    const page = luminance(background(parent));
    lowest = Math.min(lowest, (Math.max(ink, page) + 0.05) / (Math.min(ink, page) + 0.05));
  }
  const result = {
    lowest, texts, hidden, hacked: window.hacked || 0,
    requests: performance.getEntriesByType("resource").map((entry) => entry.name),
    unnamed: [...document.querySelectorAll("[role=img], [role=region]")]
      .filter((node) => !node.getAttribute("aria-label")).length,
    headings: [...document.querySelectorAll("h1, h2, h3")].map((node) => Number(node.tagName[1])),
    wider: document.documentElement.scrollWidth - innerWidth,
    dark: matchMedia("(prefers-color-scheme: dark)").matches,
  };
  const shown = document.createElement("pre");
  shown.id = "probe";
  shown.textContent = JSON.stringify(result);
  document.body.append(shown);
});
</script>
"""


def browse(page: Path, *flags: str, theme: str = "light", width: int = 1000) -> tuple[str, str]:
    """What the browser writes: the page's content, and its log."""
    profile = page.parent / "profile"
    shutil.rmtree(profile, ignore_errors=True)
    assert BROWSER is not None
    done = subprocess.run(
        [
            *(BROWSER, *FLAGS, f"--user-data-dir={profile}", f"--window-size={width},1200"),
            *(f"--blink-settings=preferredColorScheme={THEMES[theme]}", *flags, page.as_uri()),
        ],
        capture_output=True,
        timeout=120,
        check=True,
    )
    return done.stdout.decode(errors="replace"), done.stderr.decode(errors="replace")


def probed(page: Path, **how: Any) -> tuple[dict[str, Any], str]:
    """What the probe finds in a page, and the lines of the browser's console."""
    copy = page.with_name("probed.html")
    copy.write_text(
        page.read_text(encoding="utf-8").replace("</body>", f"{PROBE}</body>"), encoding="utf-8"
    )
    content, log = browse(copy, "--dump-dom", **how)
    found = re.search(r'<pre id="probe">(.*?)</pre>', content)
    assert found, content[-500:]
    console = "\n".join(line for line in log.splitlines() if "CONSOLE" in line)
    return json.loads(html.unescape(found[1])), console


@pytest.fixture(scope="module")
def report(tmp_path_factory: pytest.TempPathFactory) -> Path:
    device = {"device": "gpu:0", "kind": "gpu", "name": "NVIDIA A40", "source": "measured",
              "method": "NVML's energy counter", "energy_J": 7e6}  # fmt: skip
    trace = training(
        planned_epochs=60, planned_changes=CHANGES, devices=[device], model={"name": "ResNet50"}
    )
    return write_report(trace, tmp_path_factory.mktemp("report"))


@cache
def screenshot(page: Path, theme: str, width: int) -> np.ndarray[Any, Any]:
    file = page.with_name(f"{theme}-{width}.png")
    browse(page, f"--screenshot={file}", theme=theme, width=width)
    with Image.open(file) as picture:
        return np.asarray(picture.convert("L")).astype(float)


@pytest.mark.parametrize("theme", THEMES)
@pytest.mark.parametrize("width", [1000, 500])
def test_it_can_be_read(report: Path, theme: str, width: int) -> None:
    found, console = probed(report, theme=theme, width=width)
    assert found["dark"] == (theme == "dark")
    assert found["requests"] == []
    assert console == ""
    assert found["texts"] > 200
    assert found["hidden"] == 0
    assert found["lowest"] >= 4.5  # WCAG 2.2, level AA
    assert found["unnamed"] == 0
    assert found["headings"] == [1] + [2] * 9
    assert found["wider"] <= 0  # wide tables are scrolled by themselves


@pytest.mark.parametrize("theme", THEMES)
def test_it_follows_the_theme(report: Path, theme: str) -> None:
    pixels = screenshot(report, theme, 1000)
    assert (np.median(pixels) < 64) == (theme == "dark")
    # Text and tables stand out from the page.
    assert np.ptp(pixels[:400]) > 150


def test_it_prints(report: Path) -> None:
    file = report.with_name("report.pdf")
    browse(report, f"--print-to-pdf={file}", theme="dark")
    pdf = file.read_bytes()
    assert pdf.startswith(b"%PDF")
    assert 1 <= len(re.findall(rb"/Type\s*/Page\b", pdf)) <= 6


def test_hostile_names_run_nothing(tmp_path: Path) -> None:
    name = (
        "\"'><img src=x onerror=hacked=1><script>hacked=1</script>]]></style><svg onload=hacked=1>"
    )
    device = {"device": name, "kind": "gpu", "name": name, "source": name, "method": name}
    meta = {"devices": [device], "model": {"name": name}, "notes": [name], "hparams": {name: name}}
    trace = training(4, name=name, **meta, planned_changes=[{"epoch": 2, "reason": name}])
    columns = {**trace.epoch_columns, "acc": np.ones(4)}
    page = write_report(EnergyTrace(columns, trace.power_columns, trace.meta), tmp_path)
    found, console = probed(page)
    assert found["hacked"] == 0
    assert found["requests"] == []
    assert console == ""
