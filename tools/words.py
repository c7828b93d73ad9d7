"""Check docs, README and the text in src against docs/words.toml, by file and line."""

import ast
import io
import json
import re
import sys
import tokenize
import tomllib
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).parents[1]
EXEMPT = {"docs/log.md", "docs/references.md", "docs/paper.md"}  # history, titles, generated


def texts(file: Path) -> Iterator[tuple[int, str]]:
    """The English in a file, with the line where each piece begins; names are skipped."""
    source = file.read_text(encoding="utf-8")
    if file.suffix == ".md":
        yield 1, re.sub(r"^```.*?^```", blank_lines, source, flags=re.M | re.S)
    elif file.suffix == ".ipynb":
        cells = json.loads(source)["cells"]
        yield 1, "\n".join("".join(c["source"]) for c in cells if c["cell_type"] == "markdown")
    elif file.suffix == ".py":
        yield from texts_of_python(source)
    else:  # HTML, JavaScript
        for found in re.finditer(r"""["'`>]([^"'`<>{}\n]* [^"'`<>{}\n]*)""", source):
            yield source[: found.start()].count("\n") + 1, found[1]


def texts_of_python(source: str) -> Iterator[tuple[int, str]]:
    """Strings (an f-string as one, "…" for its values) and comments."""
    parts: set[int] = set()
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.JoinedStr):
            parts |= {id(part) for part in node.values}
            yield node.lineno, "".join(str(getattr(part, "value", "…")) if isinstance(
                part, ast.Constant) else "…" for part in node.values)  # fmt: skip
        elif isinstance(node, ast.Constant) and id(node) not in parts and " " in str(node.value):
            yield node.lineno, str(node.value)
    for token in tokenize.generate_tokens(io.StringIO(source).readline):
        if token.type == tokenize.COMMENT:
            yield token.start[0], token.string


def blank_lines(found: re.Match[str]) -> str:
    return "\n" * found[0].count("\n")


def main() -> int:
    words = tomllib.loads((ROOT / "docs" / "words.toml").read_text(encoding="utf-8"))
    files = [ROOT / name for name in ("README.md", "CONTRIBUTING.md", "CHANGELOG.md")]
    for kind in ("docs/*.md", "docs/*.ipynb", "src/*.py", "src/*.html", "src/*.js"):
        folder, _, name = kind.partition("/")
        files += sorted((ROOT / folder).rglob(name))
    n = 0
    for file in files:
        name = file.relative_to(ROOT).as_posix()
        rules = words["everywhere"] | (words["src"] if name.startswith("src/") else {})
        for line, text in [] if name in EXEMPT else texts(file):
            english = re.sub(r"`[^`\n]*`", "", text)
            for pattern, instead in rules.items():
                for found in re.finditer(rf"(?<![\w/.-])({pattern})(?![\w(/=-])", english, re.I):
                    at = line + english[: found.start()].count("\n")
                    sys.stdout.write(f"{name}:{at}: {' '.join(found[0].split())!r}: {instead}\n")
                    n += 1
    sys.stdout.write(f"{n} words to replace (docs/words.toml)\n" if n else "")
    return 1 if n else 0


if __name__ == "__main__":
    sys.exit(main())
