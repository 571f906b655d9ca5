"""The report in a browser: what a reader can do with it, with and without a pointer, on any screen and on paper."""

import re
import time

import pytest

from taskloom.report.html import Report
from taskloom.report.token_weights import TokenWeights, token_weights_html
from tests.report.folders import (
    EMOJI,
    HOSTILE,
    write_affinity,
    write_generations,
    write_hostile,
    write_run,
    write_stream,
    write_sweep,
)
from tests.report.test_html_page import everything

PHONE = {"viewport": {"width": 360, "height": 740}}


@pytest.fixture(scope="module")
def report(tmp_path_factory):
    folder = tmp_path_factory.mktemp("report")
    path = folder / "report.html"
    return Report.of(everything(folder / "runs")).write(path)


@pytest.fixture(scope="module")
def hostile(tmp_path_factory):
    folder = tmp_path_factory.mktemp("hostile")
    made = Report.of(write_hostile(folder / "runs", answers=3000), title=HOSTILE)
    return made.write(folder / "report.html")


def column(page, table, place):
    return page.eval_on_selector_all(
        f"{table} tbody tr", f"rows => rows.filter(r => !r.hidden).map(r => r.cells[{place}].innerText.split('\\n')[0])"
    )


def test_sorting_by_pointer_and_keyboard(open_page, report):
    page = open_page(report)
    head = page.locator("#scores-table thead th", has_text="plain")
    place = head.evaluate("head => head.cellIndex")
    assert head.get_attribute("aria-sort") is None
    head.locator("button").click()
    assert head.get_attribute("aria-sort") == "descending"
    values = [text.split()[0] for text in column(page, "#scores-table", place)]
    known = [value for value in values if value != "–"]
    assert known == sorted(known, reverse=True)
    assert values[len(known) :] == ["–"] * (len(values) - len(known))  # what is not known stays below
    head.locator("button").focus()
    page.keyboard.press("Enter")
    assert head.get_attribute("aria-sort") == "ascending"
    assert [text.split()[0] for text in column(page, "#scores-table", place)] == sorted(known) + values[len(known) :]
    names = page.locator("#scores-table thead th").first
    names.locator("button").click()
    assert names.get_attribute("aria-sort") == "ascending"
    assert column(page, "#scores-table", 0) == sorted(column(page, "#scores-table", 0))
    assert page.locator("#scores-table [aria-sort]").count() == 1
    assert page.locator("#scores-table tfoot").inner_text().startswith("mean of tasks")


def test_generations_are_searched_filtered_and_paged(open_page, report):
    page = open_page(report)
    count, body = page.locator("#answers-count"), page.locator("#answers tbody tr")
    assert count.inner_text() == "46 answered inputs."
    assert body.count() == 20
    next_page = page.locator("#answers-pager button", has_text="Next")
    next_page.click()
    next_page.click()
    assert body.count() == 6
    assert next_page.is_disabled()
    assert page.locator("#answers-page").inner_text() == "Page 3 of 3"
    page.get_by_label("Search").fill("QUESTION 3")
    assert count.inner_text() == "11 of 46 answered inputs."
    assert page.locator("#answers mark").first.inner_text() == "question 3"
    page.locator("select[name=right]").select_option("wrong")
    assert count.inner_text() == "5 of 46 answered inputs."  # 3, 30, 33, 36, 39
    page.get_by_label("Search").fill("")
    page.locator("select[name=split]").select_option(label="squad")
    assert count.inner_text() == "15 of 46 answered inputs."
    page.locator("select[name=right]").select_option("right")
    assert count.inner_text() == "30 of 46 answered inputs."
    page.get_by_label("Search").fill("no such thing")
    assert body.count() == 0


def test_answers_of_several_runs(open_page, tmp_path):
    runs = [write_run(tmp_path / name, x=name) for name in "ab"]
    write_generations(runs[0], 9)
    write_generations(runs[1], 9, answer="Rome")
    page = open_page(Report.of(runs).write(tmp_path / "report.html"))
    page.locator("select[name=right]").select_option("differ")
    assert page.locator("#answers-count").inner_text() == "6 of 9 answered inputs."
    page.locator("select[name=right]").select_option("right")
    assert page.locator("#answers-count").inner_text() == "0 of 9 answered inputs."
    page.locator("select[name=run]").select_option(label="a")
    assert page.locator("#answers-count").inner_text() == "6 of 9 answered inputs."


def test_charts_are_read_by_pointer_and_keyboard(open_page, report):
    page = open_page(report)
    chart = page.locator('[data-chart="whole-dev/mean"]')
    assert chart.get_attribute("role") == "slider"
    chart.scroll_into_view_if_needed()
    page.wait_for_timeout(100)  # scrolling hides the tip
    box = chart.locator("svg").bounding_box()
    page.mouse.move(box["x"] + box["width"] - 15, box["y"] + 60)
    tip = page.locator("#tip")
    assert "step 20" in tip.inner_text()
    assert "other: 0.767" in tip.inner_text()
    chart.focus()
    page.keyboard.press("Home")
    assert "step 10" in chart.get_attribute("aria-valuetext")
    assert "plain: 0.342" in chart.get_attribute("aria-valuetext")
    page.keyboard.press("ArrowRight")
    assert "step 20" in chart.get_attribute("aria-valuetext")
    assert "step 20" in tip.inner_text()
    page.keyboard.press("Escape")
    assert tip.is_hidden()


def test_one_task_is_selected(open_page, report):
    page = open_page(report)
    visible = page.locator("#curves-panels .panel:visible")
    everything_shown = visible.count()
    page.locator("#curves-task").select_option(label="mrpc")
    assert visible.count() == 1 < everything_shown
    assert visible.locator("h4").inner_text() == "mrpc"
    page.locator("#curves-task").select_option(index=0)
    assert visible.count() == everything_shown


def test_heatmap_tells_its_cells_on_hover_and_on_focus(open_page, report):
    page = open_page(report)
    heatmap = page.locator("[data-map]").first
    heatmap.scroll_into_view_if_needed()
    heatmap.focus()
    page.keyboard.press("ArrowDown")
    page.keyboard.press("End")
    text = page.locator("#live").text_content().replace("\u2068", "").replace("\u2069", "")
    # Order of the groups: rte, cola, mrpc. See `write_affinity`.
    assert re.fullmatch(
        r"cola trained with mrpc; estimate .\d\.\d{3} \(stderr 0\.250\); gain .\d\.\d{3} \(stderr 0\.250\)", text
    )
    assert page.locator(".cursor").is_visible()
    box = heatmap.locator("svg").bounding_box()
    data = page.evaluate("JSON.parse(document.getElementById('data').textContent).maps['affinity-0']")
    x = box["x"] + data["left"] + 2.5 * data["cell"]
    page.mouse.move(x, box["y"] + data["top"] + 0.5 * data["cell"])
    assert "rte\u2069 trained with \u2068mrpc" in page.locator("#tip").inner_text()
    page.mouse.move(5, 5)
    assert page.locator(".cursor").is_hidden()


def test_a_sweeps_row_shows_its_line(open_page, tmp_path):
    page = open_page(Report.of([write_sweep(tmp_path / "sweep")]).write(tmp_path / "report.html"))
    row = page.locator("table[data-lines] tbody tr").nth(1)
    row.focus()
    line = row.get_attribute("data-line")
    assert "shown" in page.locator(f'svg [data-line="{line}"]').get_attribute("class")
    page.locator("table[data-lines] tbody tr").nth(2).hover()
    assert page.locator("svg .shown").count() == 1


def test_tokens_tell_their_weights(open_page, tmp_path):
    page = open_page(Report.of([write_stream(tmp_path / "online")]).write(tmp_path / "report.html"))
    page.locator(".document").focus()
    page.keyboard.press("ArrowRight")
    page.keyboard.press("ArrowRight")
    assert "two\u2069: weight -0.5" in page.locator("#live").text_content()
    page.locator(".document b").nth(2).hover()
    assert page.locator("#tip").inner_text() == "weight 0.5"
    grounds = page.locator(".document b").evaluate_all("all => all.map(b => getComputedStyle(b).backgroundColor)")
    assert len(set(grounds)) == 3


def test_the_filter_of_tasks(open_page, hostile):
    page = open_page(hostile)
    page.locator('[data-filter="scores-table"]').fill("task-19")
    assert column(page, "#scores-table", 0) == ["task-19", *(f"task-{number}" for number in range(190, 196))]
    assert "7 of 200" in page.locator("#scores .count").inner_text()


def test_colours_follow_the_system_and_the_button(open_page, report):
    page = open_page(report, color_scheme="dark")
    ground = "getComputedStyle(document.body).backgroundColor"
    dark = page.evaluate(ground)
    button = page.locator("#theme")
    assert button.get_attribute("aria-label") == "Colours: as the system"
    button.focus()
    page.keyboard.press("Enter")
    light = page.evaluate(ground)
    assert sum(map(int, re.findall(r"\d+", light))) > 600 > 200 > sum(map(int, re.findall(r"\d+", dark)))
    page.keyboard.press("Enter")
    assert button.get_attribute("aria-label") == "Colours: dark"
    assert page.evaluate(ground) == dark
    page.reload()
    assert button.get_attribute("aria-label") == "Colours: dark"


#: Every text's colour on the ground behind it; transparent grounds show what is below.
CONTRASTS = """() => {
  const canvas = document.createElement("canvas").getContext("2d", { willReadFrequently: true });
  const rgb = (layers) => {
    canvas.clearRect(0, 0, 1, 1);
    for (const layer of layers) { canvas.fillStyle = layer; canvas.fillRect(0, 0, 1, 1); }
    return [...canvas.getImageData(0, 0, 1, 1).data].slice(0, 3);
  };
  const light = (parts) => {
    const [r, g, b] = parts.map((part) => part / 255).map((p) => (p <= 0.04045 ? p / 12.92 : ((p + 0.055) / 1.055) ** 2.4));
    return 0.2126 * r + 0.7152 * g + 0.0722 * b;
  };
  const bad = [];
  for (const element of document.querySelectorAll("body *")) {
    const own = [...element.childNodes].some((node) => node.nodeType === 3 && node.textContent.trim());
    if (!own || !element.checkVisibility() || element.closest("script, [hidden], .hidden, .skip")) continue;
    const grounds = [];
    for (let at = element; at; at = at.parentElement) grounds.unshift(getComputedStyle(at).backgroundColor);
    const css = getComputedStyle(element);
    const svg = element.closest("svg");
    const ground = rgb(grounds), ink = rgb([...grounds, svg ? css.fill : css.color]);
    const [a, b] = [light(ground), light(ink)].sort((x, y) => y - x);
    const ratio = (a + 0.05) / (b + 0.05);
    if (ratio < 4.5 && !element.disabled) bad.push(`${ratio.toFixed(2)} ${element.tagName} ${element.className} ${element.textContent.slice(0, 40)}`);
  }
  return bad;
}"""  # noqa: E501


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_text_has_contrast(open_page, report, scheme):
    page = open_page(report, color_scheme=scheme)
    page.evaluate("document.querySelectorAll('details').forEach((each) => { each.open = true; })")
    assert page.evaluate(CONTRASTS) == []


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_shades_and_lines_have_contrast(open_page, tmp_path, scheme):
    run = write_run(tmp_path / "run")
    write_affinity(run, list("abcdefgh"), [list("abcd"), list("efgh")])
    page = open_page(Report.of([run]).write(tmp_path / "report.html"), color_scheme=scheme)
    colours = page.evaluate("""() => {
      const canvas = document.createElement("canvas").getContext("2d", { willReadFrequently: true });
      const rgb = (colour) => { canvas.fillStyle = colour; canvas.fillRect(0, 0, 1, 1); return [...canvas.getImageData(0, 0, 1, 1).data].slice(0, 3); };
      const probe = (name) => { const e = document.createElementNS("http://www.w3.org/2000/svg", "path"); e.setAttribute("class", name); document.querySelector("svg.heatmap").append(e); return getComputedStyle(e); };
      const shades = ["p0", ...[1,2,3,4,5,6,7,8].flatMap((n) => [`p${n}`, `n${n}`])].map((name) => rgb(probe(name).fill));
      const lines = [0,1,2,3,4,5,6].map((n) => rgb(probe(`line c${n}`).stroke));
      return { shades, lines, ink: rgb(getComputedStyle(document.querySelector(".heatmap .sure")).fill),
               card: rgb(getComputedStyle(document.querySelector("main > section")).backgroundColor) };
    }""")  # noqa: E501
    assert min(_ratio(colours["ink"], shade) for shade in colours["shades"]) >= 4.5
    assert min(_ratio(line, colours["card"]) for line in colours["lines"]) >= 3


def _ratio(first, second):
    def light(colour):
        parts = [part / 255 for part in colour]
        red, green, blue = (part / 12.92 if part <= 0.04045 else ((part + 0.055) / 1.055) ** 2.4 for part in parts)
        return 0.2126 * red + 0.7152 * green + 0.0722 * blue

    high, low = sorted((light(first), light(second)), reverse=True)
    return (high + 0.05) / (low + 0.05)


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_axe_finds_nothing(open_page, report, tmp_path, scheme):
    axe = pytest.importorskip("axe_playwright_python.sync_playwright").Axe()
    weights = tmp_path / "weights.html"
    weights.write_text(token_weights_html([TokenWeights("a", ["one ", "two"], [-1.0, 2.0])], "Weights"))
    for path in (report, weights):
        page = open_page(path, color_scheme=scheme)
        page.evaluate("document.querySelectorAll('details').forEach((each) => { each.open = true; })")
        found = axe.run(page).response
        assert [(each["id"], each["nodes"][0]["html"]) for each in found["violations"]] == []
        assert len(found["passes"]) > 15


def test_controls_have_names_and_the_keyboard_reaches_them_visibly(open_page, report):
    page = open_page(report)
    unnamed = page.evaluate("""() => [...document.querySelectorAll("button, input, select, [role], [tabindex='0']")]
      .filter((each) => !(each.getAttribute("aria-label") || each.labels?.length || each.textContent.trim()
                          || each.getAttribute("aria-labelledby") || each.role === "status"))
      .map((each) => each.outerHTML.slice(0, 100))""")
    assert unnamed == []
    page.keyboard.press("Tab")
    assert page.evaluate("document.activeElement.className") == "skip"
    seen = set()
    for _ in range(40):
        page.keyboard.press("Tab")
        seen.add(page.evaluate("document.activeElement.tagName + document.activeElement.className"))
        assert page.evaluate("getComputedStyle(document.activeElement).outlineStyle") == "solid"
    assert {"BUTTONneeds-script", "A", "BUTTONsort", "DIVscroll"} <= seen


def test_a_phone_shows_it_without_scrolling_sideways(open_page, report, hostile):
    for path in (report, hostile):
        page = open_page(path, **PHONE)
        if path == report:
            page.evaluate("document.querySelectorAll('details').forEach((each) => { each.open = true; })")
        assert page.evaluate("document.documentElement.scrollWidth") == 360
        boxes = page.locator(".scroll").evaluate_all("all => all.map((each) => each.clientWidth)")
        assert max(boxes) <= 360


def test_without_scripts_everything_is_there(open_page, report):
    page = open_page(report, java_script_enabled=False)
    assert page.locator("#theme").is_hidden()
    assert page.locator("#answers-form").is_hidden()
    assert page.locator("#answers tbody tr").count() == 20
    assert "the first 20 of which are shown" in page.locator("#answers-count").inner_text()
    assert page.locator("#curves svg").first.is_visible()
    assert page.locator(".heatmap").first.is_visible()
    assert page.locator(".cursor").first.is_hidden()


def test_on_paper_everything_is_open_and_nothing_is_cut(open_page, report, tmp_path):
    page = open_page(report, color_scheme="dark")
    page.pdf(path=tmp_path / "report.pdf", format="A4")
    assert (tmp_path / "report.pdf").read_bytes().startswith(b"%PDF")
    assert page.locator("details:not([open])").count() > 0  # closed again
    page.emulate_media(media="print")
    page.evaluate("dispatchEvent(new Event('beforeprint'))")
    assert page.locator("details:not([open])").count() == 0
    assert page.locator("nav").is_hidden()
    assert page.evaluate("getComputedStyle(document.body).backgroundColor") == "rgb(255, 255, 255)"
    assert page.locator(".scroll").evaluate_all("all => all.every((e) => getComputedStyle(e).overflow === 'visible')")


def test_hostile_data_is_text_and_the_page_stays_quick(open_page, hostile):
    assert hostile.stat().st_size < 10_000_000
    started = time.perf_counter()
    page = open_page(hostile)
    page.evaluate("new Promise((done) => requestAnimationFrame(() => requestAnimationFrame(done)))")
    assert time.perf_counter() - started < 3
    assert page.title().endswith("taskloom report")
    assert "owned" in page.title()  # as the words that it is
    assert page.locator("main img").count() == 0
    assert page.locator("#answers tbody tr").count() == 20
    assert page.evaluate("document.querySelectorAll('*').length") < 40_000
    assert HOSTILE[:40] in page.locator("h1").inner_text()
    heatmap = page.locator("[data-map]").first
    heatmap.scroll_into_view_if_needed()
    heatmap.focus()
    started = time.perf_counter()
    for _ in range(20):
        page.keyboard.press("ArrowRight")
    assert time.perf_counter() - started < 2
    assert EMOJI not in page.locator("#live").text_content()  # the 22nd task
    assert "task-17" in page.locator("#live").text_content()
    # A shortened name leads to the whole.
    page.locator("#scores-table a.whole").last.click()
    page.wait_for_function("document.querySelector('#names details[open]') !== null")
    assert page.locator("#names details[open] bdi").inner_text().startswith("long-xxx")
