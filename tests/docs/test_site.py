"""The site is complete, fetches nothing, and describes the commands and functions that exist."""

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
from tools.words import texts

import scalecut
from scalecut.cli.app import app
from scalecut.data.measures import MEASURES
from scalecut.data.read import READERS

ROOT = Path(__file__).parents[2]
DOCS = ROOT / "docs"
PAGES = sorted(str(path.relative_to(DOCS)) for path in DOCS.rglob("*.md"))
README = "../README.md"
RUN = {"tutorial.md", "cutting.md"}  # by test_docs.py, all that they have their reader type
KINDS = ["Start", "Tutorial", "How-to guides", "Reference", "Explanation"]
COMMANDS = typer.main.get_command(app).commands
WIDE = {"benchmarks.md", "log.md", "reliability.md"}  # of which measurements are only added
GONE = {"choices.md": {"--stream"}}  # removed, and why
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


def typed(page):
    """The page's examples for a shell that call scalecut: what follows the fence, and the lines."""
    examples = re.findall(r"^```([^\n]*)\n(.*?)^```$", (DOCS / page).read_text(), re.M | re.S)
    for opening, text in examples:
        lines = text.replace("\\\n", " ").splitlines()
        calls = [line for line in lines if re.match(r"(\$ )?scalecut ", line)]
        if calls and opening.partition(" ")[0] in ("", "sh", "console"):
            yield opening, calls


def commands(page):
    """Every line of the page's code that calls scalecut, continued lines joined."""
    return [line.removeprefix("$ ") for _, calls in typed(page) for line in calls]


def nav_pages(entry):
    """The files of the navigation, from the top."""
    if isinstance(entry, str):
        return [entry]
    parts = entry.values() if isinstance(entry, dict) else entry
    return [page for part in parts for page in nav_pages(part)]


def test_every_page_is_in_the_navigation_once():
    nav = yaml.safe_load((ROOT / "mkdocs.yml").read_text())["nav"]
    assert sorted(nav_pages(nav)) == PAGES
    assert [kind for section in nav for kind in section] == KINDS


@pytest.mark.long
def test_every_page_is_built(site, built):
    expected = {site / Path(page).with_suffix(".html") for page in PAGES}
    assert expected <= set(built)


@pytest.mark.long
def test_no_page_loads_anything_from_elsewhere(built):
    for path, page in built.items():
        assert page.loaded, path
        assert not [link for link in page.loaded if urlsplit(link).scheme or link[:2] == "//"], path


@pytest.mark.long
def test_no_stylesheet_loads_anything_from_elsewhere(site):
    sheets = list(site.rglob("*.css"))
    assert sheets
    for sheet in sheets:
        asked = re.findall(r"(?:url\(|@import)\s*['\"]?([^'\")]+)", sheet.read_text())
        away = [link for link in asked if re.match(r"(https?:)?//", link)]
        assert not away, f"{sheet}: {away}"


@pytest.mark.long
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


def test_links_between_files_hold_without_the_site_too():
    for page in (*PAGES, README):
        text = re.sub(r"^```.*?^```$", "", (DOCS / page).read_text(), flags=re.M | re.S)
        for link in re.findall(r"\]\(([^)\s]+)\)", text):
            if not urlsplit(link).scheme:
                assert ((DOCS / page).parent / urlsplit(link).path).exists(), f"{page}: {link}"


def test_commands_in_examples_have_these_names_and_options():
    shown = set()
    for page in (*PAGES, README):
        for line in commands(page):
            name, *arguments = shlex.split(line)[1:]
            assert name in COMMANDS, f"{page}: {line}"
            COMMANDS[name].make_context(name, arguments)  # raises at what it does not know
            shown.add(name)
    assert {"demo", "layers", "probe", "compare", "cut", "features", "report", "transfer"} <= shown


def test_examples_that_no_test_runs_say_how_long_they_take():
    for page in set(PAGES) - RUN:
        for opening, calls in typed(page):
            assert re.search(r'title=".*\b(second|minute|hour)s?\b', opening), f"{page}: {calls[0]}"


def test_the_readme_is_short():
    assert len((ROOT / "README.md").read_text().splitlines()) <= 90


def test_lines_of_prose_are_at_most_120_columns():
    for page in {*PAGES, README} - WIDE:
        text = re.sub(r"^(```.*?^```|\s*\|.*?)$", "", (DOCS / page).read_text(), flags=re.M | re.S)
        assert [line for line in text.splitlines() if len(line) > 120] == [], page


def test_options_in_the_text_are_options_of_some_command():
    options = [option for each in COMMANDS.values() for option in each.params]
    known = {text for each in options for text in (*each.opts, *each.secondary_opts)}
    for page in (*PAGES, README):
        said = {
            option
            for code in re.findall(r"`([^`\n]+)`", (DOCS / page).read_text())
            for option in re.findall(r"(?<!\S)--[a-z][a-z-]*", code)
        }
        assert said - known <= {"--help", *GONE.get(page, ())}, page


def test_every_command_reader_and_measure_is_documented():
    listed, table = (DOCS / "commands.md").read_text(), (DOCS / "how-to/table.md").read_text()
    assert [name for name in COMMANDS if f"`scalecut {name}" not in listed] == []
    assert [name for name in READERS if f"| `{name}:" not in table] == []
    assert [name for name in MEASURES if f"`{name}`" not in table] == []


def test_every_module_has_its_place_in_the_design():
    design = (DOCS / "design.md").read_text()
    rows = dict(re.findall(r"^\| \d \| `(\w+)` \| .*? \| (.*) \|$", design, re.M))
    for package in sorted((ROOT / "src" / "scalecut").glob("*/__init__.py")):
        stems = {path.stem for path in package.parent.glob("*.py")} - {"__init__"}
        named = set(re.findall(r"`(\w+)/?`", rows[package.parent.name]))
        if package.parent.name != "cli":  # its modules follow the packages
            assert stems == named - {"templates"}, package.parent.name


def test_the_reference_has_every_public_name_once():
    found = re.findall(r"^::: scalecut\.([\w.]+)\.(\w+)$", (DOCS / "api.md").read_text(), re.M)
    assert sorted(name for _, name in found) == sorted(scalecut.__all__)
    for module, name in found:
        assert getattr(scalecut, name).__module__ == f"scalecut.{module}", name


@pytest.mark.long
def test_the_reference_shows_signatures_and_texts(site):
    text = re.sub(r"<[^>]+>", "", (site / "api.html").read_text())
    text = text.replace("&#39;", "'").replace("&quot;", '"').replace("&lt;", "<")
    for name in scalecut.__all__:
        described = getattr(scalecut, name).__doc__.strip().splitlines()[0]
        plain = re.sub(r"[`\s]+", "", described)[:40]
        assert plain in re.sub(r"[`\s]+", "", text), name


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
    for page in PAGES:
        named = set(re.findall(r"`([a-z]+(?:19|20)\d\d)`", (DOCS / page).read_text()))
        assert named <= {key for key, _ in rows}, page


def test_examples_in_python_can_be_parsed():
    for page in PAGES:
        text = (DOCS / page).read_text()
        for example in re.findall(r"^```python.*?\n(.*?)^```$", text, re.M | re.S):
            ast.parse(example)


def test_the_gallery_has_every_figure_once_and_another_page_has_it_too():
    shown = re.findall(r"\(images/(.*?)\)", (DOCS / "gallery.md").read_text())
    assert sorted(shown) == sorted(path.name for path in (DOCS / "images").iterdir())
    texts = "".join((DOCS / page).read_text() for page in PAGES if page != "gallery.md")
    assert [name for name in shown if f"images/{name}" not in texts] == []


def test_the_contents_of_the_choices_are_their_headings():
    text = (DOCS / "choices.md").read_text()
    headings = re.findall(r"^## (.*)$", text, re.M)
    places = [re.sub(r"[^\w -]", "", heading.lower()).replace(" ", "-") for heading in headings]
    contents = re.findall(r"^- \[(.*)\]\(#(.*)\)$", text.partition("\n## ")[0], re.M)
    assert contents == [*zip(headings, places, strict=True)]


@pytest.mark.long
def test_the_page_on_commands_has_the_help_of_each(site):
    text = (site / "commands.html").read_text()
    for name, command in COMMANDS.items():
        assert f'id="scalecut-{name}"' in text
        options = [option for each in command.params for option in each.opts]
        assert [option for option in options if option not in text] == []


@pytest.mark.long
def test_every_figure_leads_to_its_file_or_from_the_gallery_to_a_page(site):
    for page in site.rglob("*.html"):
        for link, figure in re.findall(
            r'<p>(?:<a href="(.*?)">)?<img .*?src="(.*?)"', page.read_text()
        ):
            assert link == figure or (page.name == "gallery.html" and ".html" in link), page


def test_avoided_words_are_found_and_code_is_skipped(tmp_path):
    file = tmp_path / "some.py"
    file.write_text('"""Twins are made up."""\nx = {"twin": f"a twin of {1}"}  # beside\n')
    found = list(texts(file))
    assert found == [(1, "Twins are made up."), (2, "a twin of …"), (2, "# beside")]
