"""A report in a real browser: what it shows, what a reader can do with it, and that it asks for nothing."""

import os
import shutil
from collections.abc import Iterator
from pathlib import Path

import pandas as pd
import pytest
from report_material import NASTY, material, sweep_table, table_12
from selenium import webdriver
from selenium.webdriver.common.by import By
from selenium.webdriver.common.keys import Keys
from selenium.webdriver.remote.webelement import WebElement

from sweeper.report import write_report
from sweeper.spec import Question

pytestmark = pytest.mark.browser

FLAGS = (
    "--headless=new",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--no-first-run",
    "--disable-dev-shm-usage",
    "--window-size=1600,1200",
)
LONG = 10_000
CURVES = Question(by=(), per=("arm",), laws=(), curves=("loss ~ flops",), baseline="muon")


@pytest.fixture(scope="module")
def chromium() -> Iterator[webdriver.Chrome]:
    browser, driver = shutil.which("chromium"), shutil.which("chromedriver")
    if not (browser and driver):
        reason = "chromium and chromedriver are not installed (Debian: chromium chromium-driver)"
        if "CI" in os.environ:
            pytest.fail(f"{reason}, and CI must not skip it", pytrace=False)
        pytest.skip(reason)
    options = webdriver.ChromeOptions()
    options.binary_location = browser
    for flag in FLAGS:
        options.add_argument(flag)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL", "performance": "ALL"})
    made = webdriver.Chrome(options=options, service=webdriver.ChromeService(driver))
    yield made
    made.quit()


@pytest.fixture(scope="module")
def report(tmp_path_factory) -> Path:
    """A page with every kind of table, its names as nasty as can be."""
    table = sweep_table()
    table["note"] = NASTY
    table.loc[3, "note"] = "muon"
    made = material(table, drawn=True, title=NASTY)
    return write_report(made, tmp_path_factory.mktemp("report") / "report.html")


@pytest.fixture(scope="module")
def curves(tmp_path_factory) -> Path:
    return write_report(material(table_12(), CURVES, drawn=True), tmp_path_factory.mktemp("curves") / "report.html")


@pytest.fixture(scope="module")
def long_report(tmp_path_factory) -> Path:
    rows = sweep_table(budgets=2)
    more = pd.DataFrame({"run_id": [f"more-{row}" for row in range(LONG)], "lr": 0.01, "tokens": 10**9})
    more["loss"] = [4 + (row * 7919 % LONG) / LONG for row in range(LONG)]
    table = pd.concat([rows, more.assign(state="done")], ignore_index=True)
    return write_report(material(table), tmp_path_factory.mktemp("long") / "report.html")


def visit(
    chromium: webdriver.Chrome, page: Path, *, width: int = 1280, height: int = 900, dark: bool = False
) -> webdriver.Chrome:
    """The page as a reader of that screen and that theme first sees it."""
    size = {"width": width, "height": height, "deviceScaleFactor": 1, "mobile": False}
    chromium.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", size)
    scheme = {"name": "prefers-color-scheme", "value": "dark" if dark else "light"}
    chromium.execute_cdp_cmd("Emulation.setEmulatedMedia", {"media": "", "features": [scheme]})
    chromium.get(page.as_uri())
    chromium.execute_script("localStorage.clear()")
    chromium.refresh()
    chromium.execute_script("document.documentElement.style.scrollBehavior = 'auto'")
    return chromium


def column(chromium: webdriver.Chrome, table: str, name: str) -> list[str]:
    """What a column shows, from the top."""
    return chromium.execute_script(
        """const table = document.getElementById(arguments[0]);
        const place = [...table.tHead.rows[0].cells].findIndex((head) =>
          head.querySelector(".name").textContent === arguments[1]);
        return [...table.tBodies[0].rows].map((row) => row.cells[place].textContent);""",
        table,
        name,
    )


def head(chromium: webdriver.Chrome, table: str, name: str) -> WebElement:
    return chromium.find_element(By.XPATH, f"//table[@id='{table}']//th[button/span[text()='{name}']]")


def background(chromium: webdriver.Chrome) -> str:
    return chromium.execute_script("return getComputedStyle(document.body).backgroundColor")


LIGHT, DARK = "rgb(255, 255, 255)", "rgb(19, 21, 24)"


def test_a_click_sorts_and_another_turns_round_with_what_is_missing_last(chromium, report):
    visit(chromium, report)
    by_loss = head(chromium, "runs-table", "loss")
    by_loss.find_element(By.TAG_NAME, "button").click()
    losses = column(chromium, "runs-table", "loss")
    assert by_loss.get_attribute("aria-sort") == "ascending"
    assert losses[:-1] == sorted(losses[:-1], key=float)
    assert losses[-1] == "–"
    by_loss.find_element(By.TAG_NAME, "button").click()
    assert by_loss.get_attribute("aria-sort") == "descending"
    assert column(chromium, "runs-table", "loss") == [*losses[-2::-1], "–"]


def test_the_keyboard_sorts(chromium, report):
    visit(chromium, report)
    by_rate = head(chromium, "runs-table", "lr")
    by_rate.find_element(By.TAG_NAME, "button").send_keys(Keys.ENTER)
    rates = column(chromium, "runs-table", "lr")
    assert by_rate.get_attribute("aria-sort") == "ascending"
    assert rates == sorted(rates, key=float)
    by_run = head(chromium, "runs-table", "run_id")
    by_run.find_element(By.TAG_NAME, "button").send_keys(Keys.SPACE)
    assert by_rate.get_attribute("aria-sort") == "none"
    assert column(chromium, "runs-table", "run_id")[0] == "run-0-0"


def test_numbers_sort_by_their_value_and_not_by_their_text(chromium, curves):
    visit(chromium, curves)
    head(chromium, "runs-table", "flops").find_element(By.TAG_NAME, "button").click()
    assert column(chromium, "runs-table", "flops")[::2] == ["2.14e19", "1.49e20", "6.59e20", "2.19e21", "5.96e21"]


def test_the_filter_keeps_rows_that_hold_every_word(chromium, report):
    visit(chromium, report)
    field = chromium.find_element(By.CSS_SELECTOR, "[data-filters='runs-table']")
    told = chromium.find_element(By.CSS_SELECTOR, "[data-counts='runs-table']")
    field.send_keys("RUN-1 done")
    assert column(chromium, "runs-table", "run_id") == [f"run-1-{step}" for step in range(5)]
    assert told.text == "5 of 17 rows"
    field.send_keys(" nowhere")
    assert column(chromium, "runs-table", "run_id") == []
    field.clear()
    field.send_keys(Keys.SPACE)
    assert told.text == "17 rows"


def test_a_page_of_ten_thousand_runs_sorts_and_filters_at_once(chromium, long_report):
    visit(chromium, long_report)
    took = chromium.execute_script(
        """const begun = performance.now();
        const table = document.getElementById("runs-table");
        [...table.querySelectorAll("th button")].at(-1).click();
        const field = document.querySelector("[data-filters='runs-table']");
        field.value = "more";
        field.dispatchEvent(new Event("input"));
        table.getBoundingClientRect();
        return performance.now() - begun;"""
    )
    assert took < 1000  # ms
    assert chromium.find_element(By.CSS_SELECTOR, "[data-counts='runs-table']").text == "1–100 of 10,000 of 10,012 rows"
    assert len(column(chromium, "runs-table", "run_id")) == 100


def test_the_pages_of_a_long_table_turn_to_its_ends(chromium, long_report):
    visit(chromium, long_report)
    back, on = chromium.find_elements(By.CSS_SELECTOR, "[data-turns='runs-table']")
    assert not back.is_enabled()
    on.click()
    assert chromium.find_element(By.CSS_SELECTOR, "[data-counts='runs-table']").text == "101–200 of 10,012 rows"
    assert column(chromium, "runs-table", "run_id")[0] == "more-88"
    back.click()
    assert column(chromium, "runs-table", "run_id")[0] == "run-0-0"


def test_the_contents_lead_to_their_sections(chromium, report):
    visit(chromium, report)
    links = chromium.find_elements(By.CSS_SELECTOR, "nav a")
    assert [link.text for link in links][:4] == ["Summary", "Figures", "Optima", "Laws"]
    for link in links:
        link.click()
        anchor = link.get_attribute("hash")
        top = chromium.execute_script(
            "return [document.querySelector(arguments[0]).getBoundingClientRect().top, innerHeight]", anchor
        )
        assert 0 <= top[0] < top[1], anchor


def test_the_page_is_light_or_dark_as_the_system_is_until_someone_chooses(chromium, report):
    assert background(visit(chromium, report, dark=True)) == DARK
    assert background(visit(chromium, report)) == LIGHT
    toggle = chromium.find_element(By.CLASS_NAME, "theme")
    seen = []
    for _ in range(3):
        toggle.click()
        seen.append((toggle.text, background(chromium)))
    assert seen == [("Theme: light", LIGHT), ("Theme: dark", DARK), ("Theme: auto", LIGHT)]


def test_a_chosen_theme_is_still_there_after_a_reload(chromium, report):
    visit(chromium, report, dark=True)
    chromium.find_element(By.CLASS_NAME, "theme").click()
    chromium.refresh()
    assert background(chromium) == LIGHT


def test_the_colours_of_figures_follow_the_theme(chromium, report):
    axis = """const path = document.querySelector('figure [stroke="#000000"]:not(defs *)');
        return getComputedStyle(path).stroke"""
    assert visit(chromium, report).execute_script(axis) == "rgb(0, 0, 0)"
    assert visit(chromium, report, dark=True).execute_script(axis) == "rgb(228, 227, 222)"


def test_print_is_light_and_without_controls(chromium, report):
    visit(chromium, report, dark=True)
    chromium.execute_cdp_cmd("Emulation.setEmulatedMedia", {"media": "print", "features": []})
    assert background(chromium) == LIGHT
    assert not any(e.is_displayed() for e in chromium.find_elements(By.CSS_SELECTOR, "nav, .theme, .controls, .copy"))


def test_the_commands_can_be_copied(chromium, report):
    visit(chromium, report)
    chromium.execute_cdp_cmd(
        "Browser.grantPermissions", {"permissions": ["clipboardReadWrite", "clipboardSanitizedWrite"]}
    )
    button = chromium.find_element(By.CLASS_NAME, "copy")
    assert (button.text, button.is_displayed()) == ("Copy", True)
    button.click()
    said = chromium.execute_async_script(
        """const [button, done] = arguments; const wait = () =>
        button.textContent === "Copy" ? setTimeout(wait, 20) : done(button.textContent); wait();""",
        button,
    )
    assert said in ("Copied", "Selected")


@pytest.mark.parametrize("width", [390, 768, 1280])
@pytest.mark.parametrize("name", ["report", "curves", "long_report"])
def test_no_page_is_wider_than_its_screen(chromium, request, name, width):
    visit(chromium, request.getfixturevalue(name), width=width)
    assert chromium.execute_script("return document.documentElement.scrollWidth") <= width


def test_nothing_is_asked_for_but_the_page_and_nothing_goes_wrong(chromium, report):
    chromium.get("about:blank")
    for kind in ("browser", "performance"):
        chromium.get_log(kind)
    visit(chromium, report)
    chromium.find_element(By.CLASS_NAME, "theme").click()
    asked = [
        entry["message"] for entry in chromium.get_log("performance") if "Network.requestWillBeSent" in entry["message"]
    ]
    assert asked
    assert all(f'"url":"{report.as_uri()}' in message for message in asked)
    assert [entry for entry in chromium.get_log("browser") if entry["level"] in ("SEVERE", "WARNING")] == []


def test_no_name_becomes_markup(chromium, report):
    visit(chromium, report)
    assert chromium.title.endswith("– sweeper report")
    assert len(chromium.find_elements(By.TAG_NAME, "script")) == 1
    assert NASTY in column(chromium, "runs-table", "note")


def test_the_policy_stops_a_script_that_is_not_the_pages_own(chromium, report):
    visit(chromium, report)
    ran = chromium.execute_script(
        """const script = document.createElement("script");
        script.textContent = "document.title = 'taken'";
        document.body.append(script);
        return document.title;"""
    )
    assert ran != "taken"


def test_everything_has_a_name_for_those_who_do_not_see_it(chromium, report):
    visit(chromium, report)
    unnamed = chromium.execute_script(
        """return [...document.querySelectorAll("svg, table, input, button, nav, .scroll")]
          .filter((element) => !(element.ariaLabel || element.textContent.trim()))
          .map((element) => element.outerHTML.slice(0, 80))"""
    )
    assert unnamed == []
    assert all("scope" in head.get_attribute("outerHTML") for head in chromium.find_elements(By.TAG_NAME, "th"))
