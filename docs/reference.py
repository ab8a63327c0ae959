"""What of the documentation is made from the code when the pages are built (a hook of mkdocs).

Settings, commands, functions, assets and errors as they are; the executed notebook as a page; and
the pages beside the docs (changelog, contributing).
"""

from __future__ import annotations

import inspect
import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
DOCS = ROOT / "docs"
BESIDE = {
    "CHANGELOG.md": "changelog.md",
    "CONTRIBUTING.md": "contributing.md",
    "examples/from_the_notebook.ipynb": "tutorials/notebook.md",
}
LINK = re.compile(r"\[([^\]]+)\]\(([^)#\s]+)(#[^)]*)?\)")
NOTEBOOK = ROOT / "examples" / "from_the_notebook.ipynb"


def pages() -> dict[str, str]:
    """Markdown of each page that is made, by its path below the docs."""
    return {
        "reference/settings.md": "\n".join(_settings()),
        "reference/commands.md": "\n".join(_commands()),
        "reference/python.md": "\n".join(_python()),
        "reference/assets.md": "\n".join(_assets()),
        "reference/errors.md": "\n".join(_errors()),
        "tutorials/notebook.md": "\n".join(_notebook(json.loads(NOTEBOOK.read_text()))),
        **{page: (ROOT / file).read_text() for file, page in BESIDE.items() if file[-3:] == ".md"},
    }


def on_files(files: Any, config: Any) -> Any:
    """Add the pages that are made to those that are written."""
    from mkdocs.structure.files import File

    for path, text in pages().items():
        files.append(File.generated(config, path, content=text))
    return files


def on_page_markdown(markdown: str, page: Any, **_: Any) -> str:
    """Turn links to files beside the docs into links to pages; of code only the name is left."""
    path = page.file.src_uri
    made = {page: name for name, page in BESIDE.items()}
    here = (ROOT / made[path]).parent if path in made else (DOCS / path).parent
    depth = "../" * path.count("/")

    def link(found: re.Match[str]) -> str:
        text, target, heading = found.group(1), found.group(2), found.group(3) or ""
        if "://" in target:
            return found.group()
        file = (here / target).resolve()
        if file.is_relative_to(DOCS):
            return f"[{text}]({depth}{file.relative_to(DOCS).as_posix()}{heading})"
        name = file.relative_to(ROOT).as_posix()
        return f"[{text}]({depth}{BESIDE[name]}{heading})" if name in BESIDE else text

    if path.startswith(("reference/", "tutorials/notebook")):
        return markdown
    prose = re.split(r"(```.*?```)", markdown, flags=re.DOTALL)
    prose[::2] = [LINK.sub(link, part) for part in prose[::2]]
    return "".join(prose)


# --- From the code ----------------------------------------------------------------------------


def _cell(value: object) -> str:
    return " ".join(str(value).split()).replace("|", "\\|")


def _table(head: list[str], rows: list[list[object]]) -> Iterator[str]:
    yield "| " + " | ".join(head) + " |"
    yield "| " + " | ".join("---" for _ in head) + " |"
    for row in rows:
        yield "| " + " | ".join(_cell(value) for value in row) + " |"
    yield ""


def _settings() -> Iterator[str]:
    from trend_dagster.project.settings import sections, setting_lines

    def shown(value: object) -> str:
        return f"`{json.dumps(value, default=lambda v: v.model_dump())}`"

    yield "# Settings\n"
    yield "Every setting of `trend.yaml`, by section; `trend settings PROJECT` shows the same with"
    yield "the values of a project. Bold: the tutorial's value, where it differs.\n"
    lines = setting_lines(DOCS)  # a folder without a trend.yaml: the default profile
    for section, model in sections().items():
        yield f"## {section}\n"
        yield " ".join((model.__doc__ or "").split()) + "\n"
        rows: list[list[object]] = []
        for line in lines:
            if line["name"].startswith(f"{section}."):
                default, tutorial = shown(line["default"]), shown(line["tutorial"])
                value = default if default == tutorial else f"{default} **{tutorial}**"
                rows.append([f"`{line['name'].split('.')[1]}`", value, line["description"]])
        yield from _table(["setting", "default", "meaning"], rows)


def _commands() -> Iterator[str]:
    import typer

    from trend_dagster.cli.app import app

    yield "# Command line\n"
    yield "Exit status: 0 done, 1 an error (one message on stderr), 2 a command that does not exist"
    yield "in that form, 130 stopped. `--debug` shows where in the code an error arose;"
    yield "`trend --version` says the version.\n"
    for name, command in typer.main.get_command(app).commands.items():  # type: ignore[attr-defined]
        arguments = [p for p in command.params if p.param_type_name == "argument"]
        options = [p for p in command.params if p.param_type_name == "option"]
        usage = " ".join(
            str(p.name).upper() if p.required else f"[{str(p.name).upper()}]" for p in arguments
        )
        yield f"## trend {name}\n"
        yield f"`trend {name} {usage}`\n"
        yield f"{command.help}\n"
        rows = [[f"`{str(p.name).upper()}`", p.help or ""] for p in arguments]
        rows += [[f"`{', '.join(p.opts)}`", p.help or ""] for p in options if p.name != "help"]
        yield from _table(["", "meaning"], rows)


def _python() -> Iterator[str]:
    import trend_dagster
    from trend_dagster import study
    from trend_dagster.science import method

    yield "# Python, function by function\n"
    yield "What is public and stable. How it is used: [Python](../python.md).\n"
    members = [
        ("trend_dagster.open", trend_dagster.open),
        ("trend_dagster.method_settings", trend_dagster.method_settings),
        ("Study", study.Study),
    ]
    members += [
        (f"Study.{name}", member)
        for name, member in vars(study.Study).items()
        if callable(member) and not name.startswith("_")
    ]
    members += [
        (f"trend_dagster.science.method.{name}", member)
        for name, member in vars(method).items()
        if inspect.isfunction(member) and member.__module__ == method.__name__ and name[0] != "_"
    ]
    for name, member in members:
        yield f"## {name}\n"
        signature = re.sub(r"trend_dagster\.[\w.]+\.", "", str(inspect.signature(member)))
        yield f"```text\n{name.rpartition('.')[2]}{signature}\n\n{inspect.getdoc(member)}\n```\n"


def _assets() -> Iterator[str]:
    from trend_dagster.orchestration.assets import ASSETS
    from trend_dagster.orchestration.checks import QUESTIONS
    from trend_dagster.storage.schema import SCHEMA

    yield "# Assets\n"
    yield "In an order of computation, with what each stores. How to read them:"
    yield "[Python](../python.md#what-a-project-has-stored).\n"
    for name, asset in ASSETS.items():
        yield f"## {name}\n"
        yield f"{inspect.getdoc(asset.compute)}\n"
        links = ", ".join(f"[{one}](#{one})" for one in asset.upstream)
        settings = [s if isinstance(s, str) else s(_default()) for s in asset.settings]
        facts = {
            "group": asset.group,
            "one output for each": ", ".join(asset.dims),
            "made from": links,
            "settings": ", ".join(
                f"[{s}](settings.md#{s})" for s in settings if isinstance(s, str)
            ),
            "checks": ", ".join(QUESTIONS.get(name, {})),
        }
        yield "\n".join(f"- {what}: {value}" for what, value in facts.items() if value) + "\n"
        rows: list[list[object]] = [
            [f"`{array}`", ", ".join(spec.dims), spec.dtype, spec.unit, spec.description]
            for array, spec in SCHEMA[name].items()
        ]
        yield from _table(["array", "dimensions", "type", "unit", "what it is"], rows)


def _default() -> Any:
    from trend_dagster.project.settings import Settings

    return Settings()


def _errors() -> Iterator[str]:
    from trend_dagster import errors

    yield "# Errors\n"
    yield "Every message names the object, what was expected, what was found, and what to do. All"
    yield "cases with their messages: [bad input](../bad-input.md). In Python each is a class of"
    yield "`trend_dagster.errors`, with the attributes `subject`, `expected`, `found`, `remedy`.\n"
    found = [c for c in vars(errors).values() if inspect.isclass(c) and issubclass(c, Exception)]
    yield from _table(
        ["class", "when"], [[f"`{c.__name__}`", (c.__doc__ or "").split("\n")[0]] for c in found]
    )


# --- The notebook -----------------------------------------------------------------------------


def _notebook(notebook: dict[str, Any]) -> Iterator[str]:
    """Cells with what they put out when the notebook was executed."""
    for cell in notebook["cells"]:
        source = "".join(cell["source"])
        if cell["cell_type"] == "markdown":
            yield source.replace("(../docs/", "(../") + "\n"
            continue
        yield f"```python\n{source}\n```\n"
        for output in cell.get("outputs", []):
            data = output.get("data", {})
            if "image/png" in data:
                yield f"![Output of the cell](data:image/png;base64,{''.join(data['image/png']).strip()})\n"
            elif text := "".join(output.get("text", data.get("text/plain", ""))).rstrip():
                yield f"```text\n{text}\n```\n"
