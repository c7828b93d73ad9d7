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
# Dated history, quotations, output of a command.
EXEMPT = {"docs/log.md", "docs/references.md", "docs/paper.md"}


def texts(file: Path) -> Iterator[tuple[int, str]]:
    """The English in a file, with the line where each piece begins; names and keys are no English."""
    source = file.read_text(encoding="utf-8")
    if file.suffix == ".md":
        yield 1, re.sub(r"^```.*?^```|^ {4}.*?$", _lines, source, flags=re.M | re.S)
    elif file.suffix == ".ipynb":
        cells = json.loads(source)["cells"]
        yield 1, "\n".join("".join(c["source"]) for c in cells if c["cell_type"] == "markdown")
    elif file.suffix == ".py":
        inside: set[int] = set()  # parts of f-strings, which are joined
        for node in ast.walk(ast.parse(source)):
            if isinstance(node, ast.JoinedStr):
                inside |= {id(part) for part in node.values}
                yield node.lineno, "".join(getattr(part, "value", "…") if isinstance(
                    part, ast.Constant) else "…" for part in node.values)  # fmt: skip
            elif isinstance(node, ast.Constant) and isinstance(node.value, str):
                if id(node) not in inside and " " in node.value:
                    yield node.lineno, node.value
        for token in tokenize.generate_tokens(io.StringIO(source).readline):
            if token.type == tokenize.COMMENT:
                yield token.start[0], token.string
    else:  # HTML, JavaScript
        for found in re.finditer(r"""(["'`>])([^"'`<>{}\n]* [^"'`<>{}\n]*)""", source):
            yield source[: found.start()].count("\n") + 1, found[2]


def _lines(found: re.Match[str]) -> str:
    return "\n" * found[0].count("\n")


def main() -> int:
    words = tomllib.loads((ROOT / "docs" / "words.toml").read_text(encoding="utf-8"))
    files = [ROOT / name for name in ("README.md", "CONTRIBUTING.md", "CHANGELOG.md")]
    files += [f for kind in ("md", "ipynb") for f in sorted((ROOT / "docs").rglob(f"*.{kind}"))]
    files += [f for kind in ("py", "html", "js") for f in sorted((ROOT / "src").rglob(f"*.{kind}"))]
    n = 0
    for file in files:
        name = file.relative_to(ROOT).as_posix()
        rules = words["everywhere"] | (words["src"] if name.startswith("src/") else {})
        for line, text in [] if name in EXEMPT else texts(file):
            english = re.sub(r"`[^`\n]*`", _lines, text)
            for pattern, instead in rules.items():
                for found in re.finditer(rf"(?<![\w/.-])({pattern})(?![\w(/=-])", english, re.I):
                    at = line + english[: found.start()].count("\n")
                    sys.stdout.write(f"{name}:{at}: {' '.join(found[0].split())!r}: {instead}\n")
                    n += 1
    sys.stdout.write(f"{n} words to replace (docs/words.toml)\n" if n else "")
    return 1 if n else 0


if __name__ == "__main__":
    sys.exit(main())
