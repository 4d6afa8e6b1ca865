"""The page in a real headless Chromium: it renders, filters, is used by keyboard, and asks nothing of anyone."""

import json
import re
import shutil
import time

import pytest

from trl_weaks.labelling.sources.from_completions import labels_from_completions
from trl_weaks.viewer.from_labels import page_of_labels

pytestmark = pytest.mark.browser
webdriver = pytest.importorskip("selenium.webdriver", reason="make test-browser installs it")
By = pytest.importorskip("selenium.webdriver.common.by").By
Keys = pytest.importorskip("selenium.webdriver.common.keys").Keys
Select = pytest.importorskip("selenium.webdriver.support.ui").Select

EVIL = "</script><script>document.title = 'broken'</script><b>bold</b>"
FLAGS = (
    "headless no-sandbox disable-gpu disable-quic no-first-run disable-background-networking "
    "disable-component-update disable-sync disable-dev-shm-usage window-size=1200,900"
)


def page(count: int, folder, systems=("naive", "bayesian")):
    examples = [{"example_id": f"e{i}", "prompt": f"prompt number {i} {EVIL if i == 1 else ''}"} for i in range(count)]
    answers = [
        {
            "example_id": f"e{i}",
            "supervisor": s,
            "completion": f" song {i % 5 if s == 'ann' else i % 3}",
            "confidence": 0.6,
        }
        for i in range(count)
        for s in ("ann", "bob")
    ]
    made = page_of_labels(
        labels_from_completions(examples, answers), {f"e{i}": f" song {i % 5}" for i in range(count)}
    )
    made.systems = list(systems)
    for i, shown in enumerate(made.examples):
        shown.said = {s: {"text": f" said {i}", "score": float((i + k) % 4 > 0)} for k, s in enumerate(systems)}
    made.forest = [{"label": "naive", "pgr": 0.3, "low": 0.1, "high": 0.5, "reason": None}]
    made.forest.append({"label": "single", "pgr": None, "low": None, "high": None, "reason": "refused"})
    for i, shown in enumerate(made.examples):
        shown.vacuity = (i * 7 % count) / count
    points = [[0.1, 0.2], [0.3, 0.3], [0.5, None], [0.7, 0.6], [0.9, 0.8]]
    made.reliability = [{"name": "naive", "points": points}]
    made.curves = [
        {"name": "naive", "points": [[0, 2.0], [10, 1.0], [20, 0.5]]},
        {"name": "cdpo", "points": [[5, 1.0]]},
    ]
    return made.write(folder / f"{count}.html")


@pytest.fixture(scope="module")
def browser():
    binary = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
    driver = shutil.which("chromedriver")
    if not (binary and driver):
        pytest.skip("no Chromium with chromedriver (Debian: apt-get install chromium chromium-driver)")
    options = webdriver.ChromeOptions()
    options.binary_location = binary
    for flag in FLAGS.split():
        options.add_argument(f"--{flag}")
    options.set_capability("goog:loggingPrefs", {"browser": "ALL", "performance": "ALL"})
    running = webdriver.Chrome(options=options, service=webdriver.ChromeService(driver))
    yield running
    running.quit()


@pytest.fixture
def opened(browser, tmp_path):
    browser.get(page(60, tmp_path).as_uri())
    return browser


def chosen(browser) -> str:
    return browser.find_element(By.CSS_SELECTOR, "#detail h2").text


def shown(browser) -> int:
    return int(browser.find_element(By.ID, "count").text.split()[0])


def requests(browser) -> list[str]:
    events = [json.loads(entry["message"])["message"] for entry in browser.get_log("performance")]
    return [e["params"]["request"]["url"] for e in events if e["method"] == "Network.requestWillBeSent"]


def test_it_renders_without_errors_and_without_requests(opened):
    assert chosen(opened) == "e0" and shown(opened) == 60
    assert [url for url in requests(opened) if not url.startswith("file:")] == []
    assert [entry for entry in opened.get_log("browser") if entry["level"] in ("SEVERE", "WARNING")] == []
    assert opened.find_element(By.CSS_SELECTOR, "#report svg").is_displayed()
    assert "nan" not in opened.find_element(By.TAG_NAME, "body").text.lower().split()


def test_markup_in_the_data_is_text(opened):
    opened.find_element(By.CSS_SELECTOR, "#row-1").click()
    assert chosen(opened) == "e1" and opened.title == "Weak labels"
    assert EVIL in opened.find_element(By.CSS_SELECTOR, "#detail pre").text
    assert not opened.find_elements(By.CSS_SELECTOR, "#detail b")


def test_filters_search_and_orders(opened):
    Select(opened.find_element(By.ID, "filter")).select_by_value("right")
    assert shown(opened) == 0  # ann is right everywhere
    Select(opened.find_element(By.ID, "filter")).select_by_value("wrong")
    assert shown(opened) == sum(i % 4 == 0 for i in range(60))
    Select(opened.find_element(By.ID, "system")).select_by_value("bayesian")
    assert shown(opened) == sum((i + 1) % 4 == 0 for i in range(60)) and chosen(opened) == "e3"
    Select(opened.find_element(By.ID, "filter")).select_by_value("differ")
    assert shown(opened) == sum(i % 5 != i % 3 for i in range(60))
    Select(opened.find_element(By.ID, "filter")).select_by_value("all")
    opened.find_element(By.ID, "search").send_keys("number 17 ")
    assert shown(opened) == 1 and chosen(opened) == "e17"
    opened.find_element(By.ID, "search").send_keys("nothing like it")
    assert shown(opened) == 0 and "No example is left" in opened.find_element(By.ID, "detail").text


def test_orders_bring_the_wanted_examples_first(opened):
    order = Select(opened.find_element(By.ID, "order"))
    order.select_by_value("vacuity")
    first = max(range(60), key=lambda i: i * 7 % 60)
    assert chosen(opened) == f"e{first}" and "vacuity 0.98" in opened.find_element(By.CSS_SELECTOR, "#detail p").text
    order.select_by_value("loss")
    assert chosen(opened) == "e0"  # the first that the student has wrong and a supervisor right
    order.select_by_value("disagreement")
    assert chosen(opened) == "e3" and "disagreement 0.50" in opened.find_element(By.CSS_SELECTOR, "#detail p").text


def test_reliability_has_a_diagonal_and_no_line_across_an_empty_bin(opened):
    (drawn,) = opened.find_elements(By.CSS_SELECTOR, '#report svg[aria-label^="accuracy by confidence"]')
    pieces = [line.get_attribute("points").split() for line in drawn.find_elements(By.TAG_NAME, "polyline")]
    assert [len(piece) for piece in pieces] == [2, 2] and len(drawn.find_elements(By.TAG_NAME, "circle")) == 4
    assert len(drawn.find_elements(By.CSS_SELECTOR, "line[stroke-dasharray]")) == 1
    assert "naive ends at 0.90, 0.80" in drawn.get_attribute("aria-label")


def test_a_learning_curve_of_one_point_is_seen_and_updates_are_numbered(opened):
    (drawn,) = opened.find_elements(By.CSS_SELECTOR, '#report svg[aria-label^="loss by update"]')
    assert len(drawn.find_elements(By.TAG_NAME, "circle")) == 1
    assert {"0", "20"} <= {text.text for text in drawn.find_elements(By.TAG_NAME, "text")}


def test_a_column_of_the_report_has_as_many_digits_everywhere(opened):
    opened.execute_script("data.forest[0].pgr = 1; data.forest[0].low = -0.0001; report()")
    text = opened.find_element(By.ID, "report").text
    assert "naive 1.000 0.000 0.500" in text and "60 0" in text  # counts stay counts


def test_series_without_a_point_are_not_drawn(browser, tmp_path):
    """Trainings shorter than `logging_steps` log no loss; a supervisor may have no word in any bin."""
    path = page(3, tmp_path)
    data = path.read_text(encoding="utf-8")
    for name, none in (
        ("curves", [{"name": "a", "points": []}]),
        ("reliability", [{"name": "a", "points": [[0.1, None]]}]),
    ):
        data = re.sub(f'"{name}":' + r"\[.*?\}\]", f'"{name}":' + json.dumps(none), data, count=1)
    path.write_text(data, encoding="utf-8")
    browser.get_log("browser")
    browser.get(path.as_uri())
    assert shown(browser) == 3 and len(browser.find_elements(By.CSS_SELECTOR, "#report svg")) == 1  # the forest
    assert browser.get_log("browser") == []


def test_the_keyboard_moves_through_the_list(opened):
    box = opened.find_element(By.ID, "list")
    box.send_keys(Keys.ARROW_DOWN, Keys.ARROW_DOWN)
    assert chosen(opened) == "e2"
    box.send_keys(Keys.END)
    assert chosen(opened) == "e59"
    active = box.get_attribute("aria-activedescendant")
    assert opened.find_element(By.ID, active).get_attribute("aria-selected") == "true"
    box.send_keys(Keys.HOME)
    assert chosen(opened) == "e0"


def test_every_control_has_a_name_and_both_schemes_have_contrast(opened):
    for control in opened.find_elements(By.CSS_SELECTOR, "nav input, nav select, #list"):
        assert control.accessible_name
    for scheme in ("light", "dark"):
        feature = [{"name": "prefers-color-scheme", "value": scheme}]
        opened.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": feature})
        text, back = (
            opened.execute_script(f"return getComputedStyle(document.body).{p}") for p in ("color", "backgroundColor")
        )
        assert contrast(text, back) > 7


def test_labels_without_students_have_no_control_for_them(browser, tmp_path):
    browser.get(page(3, tmp_path, systems=()).as_uri())
    assert not browser.find_element(By.ID, "system").is_displayed()
    assert browser.find_element(By.ID, "order").is_displayed()


def test_a_narrow_window_scrolls_down_alone_and_a_short_list_is_short(browser, tmp_path):
    browser.get(page(3, tmp_path).as_uri())
    narrow = {"width": 390, "height": 844, "deviceScaleFactor": 1, "mobile": True}
    browser.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", narrow)
    try:
        assert browser.execute_script("return document.documentElement.scrollWidth") == 390
        assert browser.find_element(By.ID, "list").size["height"] < 4 * 44 + 32  # three rows and their heading
    finally:
        browser.execute_cdp_cmd("Emulation.clearDeviceMetricsOverride", {})


def contrast(first: str, second: str) -> float:
    """WCAG 2: ratio of relative luminances."""

    def luminance(colour: str) -> float:
        parts = [int(c) / 255 for c in colour[colour.index("(") + 1 : -1].split(",")[:3]]
        linear = [c / 12.92 if c <= 0.03928 else ((c + 0.055) / 1.055) ** 2.4 for c in parts]
        return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]

    low, high = sorted((luminance(first), luminance(second)))
    return (high + 0.05) / (low + 0.05)


@pytest.mark.parametrize("count", [2_000, 10_000])
def test_many_examples_stay_a_short_list_in_the_page(browser, tmp_path, count):
    path = page(count, tmp_path)
    start = time.perf_counter()
    browser.get(path.as_uri())
    loaded = time.perf_counter() - start
    assert shown(browser) == count
    assert len(browser.find_elements(By.CSS_SELECTOR, ".row")) < 60
    browser.find_element(By.ID, "list").send_keys(Keys.END)
    assert chosen(browser) == f"e{count - 1}"
    print(f"{count} examples: {path.stat().st_size / 1e6:.1f} MB, loaded in {loaded:.2f} s")
