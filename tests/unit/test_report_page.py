from __future__ import annotations

import ast
import html
import re
import subprocess
import sys
from pathlib import Path
from xml.etree import ElementTree

import numpy as np
import pytest

from device.bench.result import read_result
from device.report.__main__ import read_all
from device.report.page import draw_pictures, render
from device.report.subjects import Report, make_report
from device.report.time_series import TimeSeries
from tests.unit.pages import check_page
from tests.unit.stores import ESTIMATED, interruption, meter, power, run, second, write_store
from tests.unit.test_imports import Imports

pytest.importorskip("matplotlib", reason="the report's drawings need matplotlib, which is an extra")
pytest.importorskip("jinja2", reason="the report's page needs jinja2, which is an extra")

PROJECT = Path(__file__).parents[2]
BENCHES = PROJECT / "tests/fixtures/bench"


@pytest.fixture(scope="module")
def stored(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two runs: measured, throttled, with gaps and interruptions; and estimated."""
    seconds = [
        second(
            number, throttled="under_voltage" if number > 30 else "", frequency_hz=1.5e9, **(power(4.0) if number != 10 else {})
        )
        for number in range(1, 41)
        if not 20 <= number < 24
    ]
    estimated = [second(number, **power(3.0, **ESTIMATED)) for number in range(1, 21)]
    return write_store(
        tmp_path_factory.mktemp("page") / "t.sqlite",
        (
            run("measured", profile="rpi4", board="Pi <4> & co"),
            [*seconds, interruption(5.0, 3.0), meter(0, 4.0, source="ina219 (hwmon)", scope="board", failed=3, error="<lost>")],
        ),
        (run("estimated", profile="rpi3"), estimated),
    )


@pytest.fixture(scope="module")
def page(stored: Path) -> str:
    return render(*read_all_of(stored))


def read_all_of(path: Path) -> tuple[Report, dict[str, TimeSeries]]:
    from device.report.__main__ import Selection

    return read_all([Selection(path, "")], [], with_series=True)


class TestPage:
    def test_refers_to_nothing_outside_and_to_everything_inside(self, page: str) -> None:
        assert check_page(page).references

    def test_every_drawing_is_well_formed_and_takes_its_colours_from_the_page(self, page: str) -> None:
        drawings = re.findall(r"<svg.*?</svg>", page, re.DOTALL)
        assert len(drawings) == 1 + 3 + 3 + 2 * 2
        for drawing in drawings:
            ElementTree.fromstring(drawing)
            assert "var(--" in drawing

    def test_hatches_estimates_and_nothing_else(self, page: str) -> None:
        blocks = re.findall(r'<div class="panel (measured|estimate)">(.*?)</div>\s*</div>', page, re.DOTALL)
        assert [kind for kind, _ in blocks] == ["measured", "estimate"]
        for kind, block in blocks:
            assert ("<pattern" in block) == (kind == "estimate")
            assert ("ESTIMATED" in block) == (kind == "estimate")
            assert ("≈" in block) == (kind == "estimate")
            assert ("estimate" in re.sub(r"<[^>]*>", "", block)) == (kind == "estimate")

    def test_a_throttled_run_says_so_beside_every_figure(self, page: str) -> None:
        section = page[page.index("<h2>rpi4 on") :]
        section = section[: section.index("</section>")]
        tiles = re.findall(r'<div class="tile[^"]*">.*?</div>', section, re.DOTALL)
        assert len(tiles) == 6
        assert all("throttled run" in tile for tile in tiles)
        wide = section[section.index('class="wide"') : section.index('class="narrow"')]
        headings = re.findall(r"<text[^>]*>([^<]*)</text>", wide)
        assert sum("throttled run" in text for text in headings) == 5
        meters = re.findall(r"<tr><th>ina219.*?</tr>", section, re.DOTALL)
        assert len(meters) == 1
        assert "throttled run" in meters[0]
        rows = [row for row in re.findall(r"<tr>.*?</tr>", page, re.DOTALL) if row.startswith("<tr><th>rpi4")]
        assert len(rows) == 2
        for row in rows:
            assert row.count("<data") == row.count('<em class="mark">throttled</em>') > 0

    def test_escapes_what_it_shows(self, page: str) -> None:
        assert "Pi &lt;4&gt; &amp; co" in page
        assert "&lt;lost&gt;" in page
        assert "<4>" not in page
        assert "<lost>" not in page

    def test_equal_figures_give_equal_bytes(self, stored: Path, page: str) -> None:
        assert render(*read_all_of(stored)) == page

    def test_tells_of_gaps_and_of_missing_power(self, page: str) -> None:
        assert "<b>1 gap</b> of 4 s in the record" in page
        assert "ina219 (hwmon) gave nothing for 1 s" in page
        assert "crossed: nothing was recorded (4 s)" in page
        assert "red: a source gave no good frames" in page

    def test_says_of_the_limit_on_heat_that_its_length_is_that_of_intervals(self, tmp_path: Path) -> None:
        hour = second(3600, duration_s=3600.0, heat_limit_fps=5.0)
        path = write_store(tmp_path / "t.sqlite", (run(), [hour]))
        assert "by the profile's limit on heat, during intervals of 1 h in all." in html.unescape(render(*read_all_of(path)))

    def test_benchmarks_have_a_page_too(self) -> None:
        paths = [BENCHES / name for name in ("simulated-measured.json", "simulated-estimate.json", "host.json")]
        text = render(make_report([], [(path, read_result(path)) for path in paths]), {})
        check_page(text)
        assert "Benchmarks side by side" in text
        assert "net of idle" in text
        assert "Without any power figure" in text


class TestPictures:
    def test_measured_and_estimated_are_files_of_their_own(self, stored: Path) -> None:
        found = dict(draw_pictures(*read_all_of(stored)))
        assert set(found) == {
            "runs-fps.png",
            *(
                f"runs-{kind}-board-{name}.png"
                for kind in ("measured", "estimated")
                for name in ("power", "energy", "efficiency")
            ),
            "run-rpi4-measured.png",
            "run-rpi3-estimated.png",
        }
        assert all(content.startswith(b"\x89PNG\r\n\x1a\n") for content in found.values())

    def test_nothing_is_drawn_across_a_gap(self, stored: Path) -> None:
        from device.report.drawing import LIGHT, WIDE_IN
        from device.report.time_series import draw_time_series

        report, series = read_all_of(stored)
        figure = draw_time_series(report.runs[0], series["measured"], LIGHT, WIDE_IN)
        rate, power_axes = figure.axes[0], figure.axes[2]
        for axes, missing in ((rate, (19.0, 23.0)), (power_axes, (9.0, 10.0))):
            times = [np.asarray(line.get_xdata(), np.float64) for line in axes.lines]
            spans = [(float(one.min()), float(one.max())) for one in times]
            assert all(end <= missing[0] + 1e-6 or start >= missing[1] - 1e-6 for start, end in spans)
            assert len(spans) >= 2


def test_matplotlib_and_jinja2_are_imported_only_to_draw() -> None:
    code = "import sys, device.report.__main__; print({'matplotlib', 'jinja2', 'markupsafe'} & set(sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "set()\n"


@pytest.mark.parametrize(("package", "owner"), [("matplotlib", "drawing.py"), ("jinja2", "document.py")])
def test_one_module_of_the_board_and_the_host_draws_and_one_writes_pages(package: str, owner: str) -> None:
    importers = set()
    for room in ("device", "converter"):
        for path in (PROJECT / room).rglob("*.py"):
            imports = Imports(in_functions=True)
            imports.visit(ast.parse(path.read_text()))
            if package in imports.packages:
                importers.add(path.relative_to(PROJECT).as_posix())
    assert importers == {f"device/report/{owner}"}
