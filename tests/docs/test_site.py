"""The site is whole, fetches nothing, and says of commands and functions what they are."""

import ast
import os
import re
import shlex
import subprocess
import sys
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote, urlsplit

import pytest
import typer
import yaml

import scalecut
from scalecut.cli.app import app

ROOT = Path(__file__).parents[1]
DOCS = ROOT / "docs"
PAGES = sorted(str(path.relative_to(DOCS)) for path in DOCS.rglob("*.md"))
COMMANDS = typer.main.get_command(app).commands
PLAIN = {**os.environ, "NO_MKDOCS_2_WARNING": "1"}
LOADING = {
    "stylesheet",
    "icon",
    "preload",
    "preconnect",
    "dns-prefetch",
    "manifest",
    "modulepreload",
}


class Page(HTMLParser):
    """What a page loads, where its links lead, and which places in it can be linked to."""

    def __init__(self, text):
        super().__init__()
        self.loaded, self.links, self.places = [], [], set()
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        given = dict(attrs)
        self.places |= {given[name] for name in ("id", "name") if given.get(name)}
        self.loaded += [
            given[name] for name in ("src", "srcset", "data", "poster") if given.get(name)
        ]
        if tag == "link" and LOADING & set(given["rel"].split()):
            self.loaded.append(given["href"])
        if tag == "a" and given.get("href"):
            self.links.append(given["href"])


@pytest.fixture(scope="module")
def site(tmp_path_factory):
    folder = tmp_path_factory.mktemp("site")
    done = subprocess.run(
        [sys.executable, "-m", "mkdocs", "build", "--strict", "--site-dir", str(folder)],
        cwd=ROOT, env=PLAIN, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert "WARNING" not in done.stderr
    return folder


@pytest.fixture(scope="module")
def built(site):
    return {path: Page(path.read_text()) for path in site.rglob("*.html")}


def commands(page):
    """Every line of the page's code that calls scalecut, continued lines joined."""
    fences = re.findall(r"^```(?:sh|console)?\n(.*?)^```$", (DOCS / page).read_text(), re.M | re.S)
    lines = "\n".join(fences).replace("\\\n", " ").splitlines()
    return [line for line in lines if line.startswith("scalecut ")]


def nav_pages(entry):
    """The files of the navigation, from the top."""
    if isinstance(entry, str):
        return [entry]
    parts = entry.values() if isinstance(entry, dict) else entry
    return [page for part in parts for page in nav_pages(part)]


def test_every_page_is_in_the_navigation_once():
    settings = yaml.safe_load((ROOT / "mkdocs.yml").read_text())
    assert sorted(nav_pages(settings["nav"])) == PAGES


def test_every_page_is_built(site, built):
    expected = {site / Path(page).with_suffix(".html") for page in PAGES}
    assert expected <= set(built)


def test_no_page_loads_anything_from_elsewhere(built):
    for path, page in built.items():
        assert page.loaded, path
        assert not [link for link in page.loaded if urlsplit(link).scheme or link[:2] == "//"], path


def test_no_stylesheet_loads_anything_from_elsewhere(site):
    sheets = list(site.rglob("*.css"))
    assert sheets
    for sheet in sheets:
        asked = re.findall(r"(?:url\(|@import)\s*['\"]?([^'\")]+)", sheet.read_text())
        away = [link for link in asked if re.match(r"(https?:)?//", link)]
        assert not away, f"{sheet}: {away}"


def test_every_link_inside_the_site_leads_to_a_place_that_is_there(site, built):
    for path, page in built.items():
        if path.name == "404.html":  # its links are from the root of a server
            continue
        for link in [*page.links, *page.loaded]:
            parts = urlsplit(link)
            if parts.scheme or parts.netloc:
                continue
            target = (path.parent / unquote(parts.path)).resolve() if parts.path else path
            target = target / "index.html" if target.is_dir() else target
            assert target.is_file(), f"{path.relative_to(site)}: {link}"
            if parts.fragment and target in built:
                assert unquote(parts.fragment) in built[target].places, f"{path}: {link}"


@pytest.mark.parametrize("page", PAGES)
def test_links_between_files_hold_without_the_site_too(page):
    text = re.sub(r"^```.*?^```$", "", (DOCS / page).read_text(), flags=re.M | re.S)
    for link in re.findall(r"\]\(([^)\s]+)\)", text):
        if not urlsplit(link).scheme:
            assert ((DOCS / page).parent / urlsplit(link).path).exists(), link


@pytest.mark.parametrize("page", PAGES)
def test_commands_in_examples_have_these_names_and_options(page):
    for line in commands(page):
        name, *arguments = shlex.split(line)[1:]
        assert name in COMMANDS, line
        COMMANDS[name].make_context(name, arguments)  # raises at what it does not know


def test_the_pages_show_the_main_commands():
    shown = {shlex.split(line)[1] for page in PAGES for line in commands(page)}
    assert {"demo", "layers", "probe", "compare", "cut", "features", "report", "transfer"} <= shown


@pytest.mark.parametrize("page", PAGES)
def test_options_in_the_text_are_options_of_some_command(page):
    known = {text for each in COMMANDS.values() for option in each.params for text in option.opts}
    known.add("--help")
    text = (DOCS / page).read_text()
    said = {option for code in re.findall(r"`([^`\n]+)`", text)
            for option in re.findall(r"(?<!\S)--[a-z][a-z-]*", code)}  # fmt: skip
    assert said <= known, said - known


def test_the_reference_has_every_public_name_once():
    found = re.findall(r"^::: scalecut\.\w+\.(\w+)$", (DOCS / "api.md").read_text(), re.M)
    assert sorted(found) == sorted(scalecut.__all__)


def test_the_reference_shows_signatures_and_texts(site):
    text = re.sub(r"<[^>]+>", "", (site / "api.html").read_text())
    for name in scalecut.__all__:
        described = getattr(scalecut, name).__doc__.strip().splitlines()[0]
        plain = re.sub(r"[`\s]+", "", described)[:40]
        assert plain in re.sub(r"[`\s]+", "", text.replace("&#39;", "'").replace("&quot;", '"')), (
            name
        )


def test_the_page_of_sources_is_that_of_the_bibliography():
    entries = (DOCS / "references.bib").read_text().split("\n@")
    table = (DOCS / "references.md").read_text()
    rows = re.findall(r"^\| `(\w+)` \| (.*) \| .* \|$", table, re.M)
    for entry, (key, row) in zip(entries, rows, strict=True):
        assert re.search(r"\{(\w+),", entry)[1] == key
        said = re.findall(r"\b(title|year|doi|volume|pages)\s*= \{(.*?)\}(?:,|\s*$)", entry, re.M)
        assert len(said) >= 2, key
        for name, value in said:
            assert re.sub(r"[{}]", "", value).replace("--", "–") in row, f"{key}: {name}"
        assert ("doi" in dict(said)) == ("doi.org" in row), key


@pytest.mark.parametrize("page", PAGES)
def test_keys_of_sources_in_the_pages_are_known(page):
    keys = set(re.findall(r"^@\w+\{(\w+),", (DOCS / "references.bib").read_text(), re.M))
    assert set(re.findall(r"`([a-z]+(?:19|20)\d\d)`", (DOCS / page).read_text())) <= keys


@pytest.mark.parametrize("page", PAGES)
def test_examples_in_python_can_be_read(page):
    for text in re.findall(r"^```python.*?\n(.*?)^```$", (DOCS / page).read_text(), re.M | re.S):
        ast.parse(text)
