"""Hooks of mkdocs: the help of every command as it is printed, and figures that open whole."""

import re

import typer

from scalecut.cli.app import app

PAGE = "commands.md"
WIDTH = 84  # letters of the widest line that docs/site.css leaves room for


def on_page_markdown(markdown: str, *, page, **_) -> str:
    """The text of a page; that of the commands with their help below."""
    if page.file.src_uri != PAGE:
        return markdown
    parts = [markdown.rstrip()]
    for name, command in typer.main.get_command(app).commands.items():
        context = command.context_class(command, info_name=f"scalecut {name}", terminal_width=WIDTH)
        parts.append(f"### scalecut {name}\n\n```text\n{command.get_help(context).rstrip()}\n```")
    return "\n\n".join(parts) + "\n"


def on_page_content(html: str, **_) -> str:
    """The HTML of a page; a figure leads to its file, which a browser shows in full size."""
    return re.sub(r'<p>(<img [^>]*src="([^"]+)"[^>]*>)', r'<p><a href="\2">\1</a>', html)
