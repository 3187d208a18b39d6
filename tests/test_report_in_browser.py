"""The page in a real browser: nothing is fetched, nothing fails, and all of it can be seen."""

import json
import shutil
from pathlib import Path

import pytest
from selenium import webdriver
from selenium.webdriver.common.by import By

CHROMIUM, DRIVER = Path("/usr/bin/chromium"), Path("/usr/bin/chromedriver")
FLAGS = (
    "--headless=new",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
)
pytestmark = [
    pytest.mark.skipif(
        not (CHROMIUM.exists() and DRIVER.exists()),
        reason="NO CHROMIUM: THE REPORT IS NOT SEEN IN A BROWSER; apt-get install chromium "
        "chromium-driver, as .ci/run does",
    ),
    pytest.mark.slow,
]
WIDTHS = {"desktop": 1280, "tablet": 768, "phone": 390, "small phone": 320}


@pytest.fixture(scope="module")
def browser(tmp_path_factory):
    options = webdriver.ChromeOptions()
    options.binary_location = str(CHROMIUM)
    profile = tmp_path_factory.mktemp("profile")
    for flag in (*FLAGS, f"--user-data-dir={profile}"):
        options.add_argument(flag)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL", "performance": "ALL"})
    service = webdriver.ChromeService(executable_path=str(DRIVER))
    driver = webdriver.Chrome(options=options, service=service)
    yield driver
    driver.quit()
    shutil.rmtree(profile, ignore_errors=True)


@pytest.fixture
def page(browser, report):
    """The page, loaded anew, as wide as a desktop; what the browser logged before is gone."""
    browser.execute_cdp_cmd("Emulation.setEmulatedMedia", {"media": "", "features": []})
    browser.execute_cdp_cmd("Emulation.setScriptExecutionDisabled", {"value": False})
    show(browser, "desktop")
    for log in ("browser", "performance"):
        browser.get_log(log)
    browser.get(report.as_uri())
    return browser


def show(browser, width):
    size = {"width": WIDTHS[width], "height": 800, "deviceScaleFactor": 1, "mobile": False}
    browser.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", size)


def requested(browser):
    """The addresses that were asked for since the page was opened."""
    messages = [json.loads(entry["message"])["message"] for entry in browser.get_log("performance")]
    return [
        message["params"]["request"]["url"]
        for message in messages
        if message["method"] == "Network.requestWillBeSent"
    ]


def test_the_page_loads_without_a_request_or_a_message_on_the_console(page, report):
    asked = [url for url in requested(page) if not url.startswith("data:")]
    assert asked == [report.as_uri()]
    assert page.get_log("browser") == []


def test_every_figure_has_its_size_and_its_pixels(page):
    images = page.execute_script(
        "return [...document.images].map(i => [i.alt, i.width, i.height, i.naturalWidth,"
        " i.naturalHeight, +i.getAttribute('width'), +i.getAttribute('height')])"
    )
    assert len(images) > 10
    for alt, width, height, *pixels in images:
        assert alt
        assert min(width, height) > 100
        assert pixels[:2] == pixels[2:]
        assert width / height == pytest.approx(pixels[0] / pixels[1], rel=0.02)


def column(table, number):
    cells = table.find_elements(By.CSS_SELECTOR, f"tbody td:nth-child({number})")
    return [cell.get_attribute("data-key") for cell in cells]


def numbers(keys):
    return [float(key) for key in keys if key]


def test_a_click_sorts_a_table_by_numbers_and_a_second_turns_it_round(page):
    table = page.find_element(By.CSS_SELECTOR, "#bench_hvp_time_jax table")
    headers = table.find_elements(By.TAG_NAME, "th")
    number = 1 + [header.text.split()[0] for header in headers].index("published")
    button = headers[number - 1].find_element(By.TAG_NAME, "button")
    before = column(table, number)
    for direction, backwards in (("ascending", False), ("descending", True)):
        page.execute_script("arguments[0].click()", button)
        assert headers[number - 1].get_attribute("aria-sort") == direction
        after = column(table, number)
        assert numbers(after) == sorted(numbers(before), reverse=backwards)
        assert sorted(after) == sorted(before)
        assert "" not in after[: len(numbers(before))]


def test_rows_are_sorted_as_a_whole_and_words_by_letter(page):
    table = page.find_elements(By.CSS_SELECTOR, "#environment table")[-1]

    def rows():
        found = table.find_elements(By.CSS_SELECTOR, "tbody tr")
        return [row.get_attribute("textContent") for row in found]

    before = rows()
    button = table.find_element(By.CSS_SELECTOR, "thead th button")
    page.execute_script("arguments[0].click()", button)
    assert sorted(rows()) == sorted(before)
    texts = [key.lower().replace("_", " ") for key in column(table, 1)]  # which comes before "-"
    assert texts == sorted(texts)


def test_all_verdicts_of_the_json_are_on_the_page_and_no_other(page, report):
    found = json.loads((report.parent / "claims.json").read_text())
    expected = [(each["source"], each["verdict"]) for each in found]
    shown = page.execute_script(
        "return [...document.querySelectorAll('#verdicts .verdict')].map("
        "v => [v.dataset.source, v.querySelector('.badge').textContent.slice(2)])"
    )
    assert [tuple(each) for each in shown] == expected


def test_a_verdict_opens_to_its_rule(page):
    claim = page.find_element(By.CSS_SELECTOR, ".claim")
    grounds = claim.find_element(By.CLASS_NAME, "grounds")
    assert not grounds.is_displayed()
    claim.find_element(By.TAG_NAME, "summary").click()
    assert grounds.is_displayed()
    assert "Rule: " in grounds.text


@pytest.mark.parametrize("width", WIDTHS)
def test_the_page_is_never_wider_than_the_screen(page, width):
    show(page, width)
    page.execute_script("document.querySelectorAll('details').forEach(d => { d.open = true })")
    assert page.execute_script("return document.scrollingElement.scrollWidth") <= WIDTHS[width]


CONTRASTS = """
const light = (color) => {
  const [r, g, b] = color.match(/[\\d.]+/g).slice(0, 3).map(c => c / 255)
    .map(c => c <= 0.04045 ? c / 12.92 : ((c + 0.055) / 1.055) ** 2.4);
  return 0.2126 * r + 0.7152 * g + 0.0722 * b;
};
const back = (element) => {
  const color = getComputedStyle(element).backgroundColor;
  const isClear = color === "rgba(0, 0, 0, 0)" && element.parentElement;
  return isClear ? back(element.parentElement) : color;
};
return [...document.querySelectorAll("h1, p, td, .badge, .muted, .number, th, a, dt")].map(e => {
  const [a, b] = [light(getComputedStyle(e).color), light(back(e))].sort((x, y) => y - x);
  return [(a + 0.05) / (b + 0.05), e.outerHTML.slice(0, 80)];
}).sort((x, y) => x[0] - y[0])[0];
"""


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_all_text_has_the_contrast_that_wcag_asks_for(page, scheme):
    feature = {"name": "prefers-color-scheme", "value": scheme}
    page.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": [feature]})
    ratio, element = page.execute_script(CONTRASTS)
    assert ratio >= 4.5, element


def test_on_paper_the_grounds_of_all_verdicts_are_there(page):
    page.execute_cdp_cmd("Emulation.setEmulatedMedia", {"media": "print"})
    heights = page.execute_script(
        "return [...document.querySelectorAll('.grounds')].map(g => g.offsetHeight)"
    )
    assert min(heights) > 20


def test_on_paper_no_table_is_cut_off_and_nothing_is_wider_than_the_page(page):
    size = {"width": 794, "height": 1123, "deviceScaleFactor": 1, "mobile": False}
    page.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", size)
    page.execute_cdp_cmd("Emulation.setEmulatedMedia", {"media": "print"})
    cut = page.execute_script(
        "return [...document.querySelectorAll('.scroll')].filter("
        "s => s.offsetHeight < s.querySelector('table').offsetHeight).length"
    )
    assert cut == 0
    assert page.execute_script("return document.scrollingElement.scrollWidth") <= 794


def test_without_javascript_all_is_there_but_the_sorting(page, report):
    page.execute_cdp_cmd("Emulation.setScriptExecutionDisabled", {"value": True})
    page.get(report.as_uri())
    header = page.find_element(By.CSS_SELECTOR, "#bench_hvp_time_jax th")
    assert header.text == "model"
    assert not page.find_elements(By.TAG_NAME, "button")
    summary = page.find_element(By.TAG_NAME, "summary")
    summary.click()
    assert page.find_element(By.CLASS_NAME, "grounds").is_displayed()
