"""Fills pages with what the code says of itself: settings, presets, commands; and turns docstrings into markup.

A page has a comment `<!-- NAME -->` where the text of the function NAME below belongs. Nothing of it is written by hand.
"""

import ast
import inspect
import json
import re
import textwrap
from collections.abc import Callable, Iterator, Mapping
from dataclasses import MISSING, Field, fields
from importlib import import_module
from pathlib import Path
from types import MappingProxyType
from typing import Annotated, Any, Literal, get_args, get_origin, get_type_hints

from seer_rl import envs
from seer_rl.agents.base import AgentConfig
from seer_rl.bounds import Within
from seer_rl.commands.main import COMMANDS
from seer_rl.envs import atari, dmc
from seer_rl.envs.base import EnvConfig
from seer_rl.training.config import AGENTS, AnalysisConfig, EvalConfig, ReplayConfig, SeerConfig, TrainConfig, TransferConfig

DOCS = Path(__file__).parent.parent
FLAG = re.compile(r"(?<![`\w])(--[a-z][\w.-]*\w)")


# ---- words -------------------------------------------------------------------------------------------------------


def marked(text: str) -> str:
    """Return a docstring's text as Markdown: options, links to pages and what stands in backticks; the rest is plain."""
    parts = re.split(r"(`[^`]+`)", " ".join(text.split()))
    return "".join(part if part.startswith("`") else plain(part) for part in parts)


def plain(text: str) -> str:
    """Escape what Markdown would take for markup; options become code, and names of pages links."""
    text = re.sub(r"([_*<>\[\]])", r"\\\1", text)
    text = re.sub(r"docs/([\w/]+)\.md", r"[what was measured](../\1.md)", text)
    text = FLAG.sub(lambda found: f"`{found[1].replace(chr(92), '')}`", text)
    return re.sub(r"runs/[A-Z_\\]+", lambda found: f"`{found[0].replace(chr(92), '')}`", text)


def documented(kind: type[Any]) -> dict[str, str]:
    """Return the text below each field of a dataclass, those of its bases included."""
    found: dict[str, str] = {}
    for one in reversed(kind.__mro__[:-1]):
        (tree,) = ast.parse(textwrap.dedent(inspect.getsource(one))).body
        assert isinstance(tree, ast.ClassDef)
        for field, text in zip(tree.body, tree.body[1:], strict=False):
            if isinstance(field, ast.AnnAssign) and isinstance(field.target, ast.Name) and isinstance(text, ast.Expr):
                assert isinstance(text.value, ast.Constant)
                found[field.target.id] = str(text.value.value)
    return found


def default(field: Field[Any]) -> Any:
    """Return the default of a field."""
    if field.default is MISSING and callable(field.default_factory):
        return field.default_factory()
    return field.default


def negative(flag: str) -> str:
    """Return the flag that switches off: --env.no-fast-render of --env.fast-render."""
    return re.sub(r"([a-z-]+)$", r"no-\1", flag) if "." in flag else f"--no-{flag[2:]}"


def value(x: Any) -> str:
    """Write a default."""
    if isinstance(x, bool):
        return "yes" if x else "no"
    if isinstance(x, int) and abs(x) >= 10_000:
        return f"{x:,}"
    if isinstance(x, tuple):
        return " ".join(map(str, x)) or "none"
    return "empty" if x == "" else str(x)


def facts(default: Any, hint: Any) -> str:
    """Say what the default is, and what else is allowed."""
    said = [one.words() for one in getattr(hint, "__metadata__", ()) if isinstance(one, Within)]
    inner = get_args(hint)[0] if get_origin(hint) is Annotated else hint
    words = [f"`{word}`" for one in (inner, *get_args(inner)) if get_origin(one) is Literal for word in get_args(one)]
    if words:  # an integer may have words beside it
        said.append(" or ".join(filter(None, (", ".join(words[:-1]), words[-1]))))
    return f"Default `{value(default)}`." + (f" Allowed: {', '.join(said)}." if said else "")


def described(
    kind: type[Any],
    prefix: str = "",
    only: Callable[[Field[Any]], bool] = lambda field: True,
    defaults: Mapping[str, Any] = MappingProxyType({}),
) -> Iterator[str]:
    """Write a definition for each setting of a dataclass. defaults: those that the dataclass does not say."""
    texts, hints = documented(kind), get_type_hints(kind, include_extras=True)
    for field in filter(only, fields(kind)):
        if field.name not in texts:
            continue
        names = [f"--{prefix}{field.name.replace('_', '-')}"]
        for one in getattr(hints[field.name], "__metadata__", ()):
            names += getattr(one, "aliases", None) or ()
            if getattr(one, "name", None) == "transfer":
                names = ["--transfer"]
        if field.name == "env" and kind is TrainConfig:
            term, said = "`ENV`", "It must be given."
        else:
            term = " ".join(f"`{name}`" for name in names)
            if isinstance(default(field), bool):
                term += "".join(f" `{negative(name)}`" for name in names)
            said = facts(defaults.get(field.name, default(field)), hints[field.name])
        yield f"{term}\n: {marked(texts[field.name])}\n  {said}\n"


# ---- pages ------------------------------------------------------------------------------------------------------------


def run_settings() -> str:
    """Describe the settings of the run itself."""
    return "\n".join(described(TrainConfig, defaults={"compile": True}))  # the command line's


def section_settings() -> str:
    """Describe the sections that do not depend on environment and agent."""
    parts = []
    for title, name, kind in (
        ("The freeze", "seer", SeerConfig),
        ("Transfer", "transfer", TransferConfig),
        ("Replay", "replay", ReplayConfig),
        ("Evaluation", "eval", EvalConfig),
        ("Looking inside", "analysis", AnalysisConfig),
    ):
        parts += [f"## {title}: `--{name}.*`", marked(kind.__doc__ or ""), "\n".join(described(kind, f"{name}."))]
    return "\n\n".join(parts)


def env_settings() -> str:
    """Describe the settings of each family of environments."""
    parts = ["### Every environment", "\n".join(described(EnvConfig, "env."))]
    shared = {field.name for field in fields(EnvConfig)}
    for family in envs.FAMILIES:
        own = list(described(family.Config, "env.", lambda field: field.name not in shared))
        parts += [f"### `{family.name}/`", "\n".join(own) if own else "No settings of its own."]
    return "\n\n".join(parts)


def agent_settings() -> str:
    """Describe what every agent has, and what each has of its own or of the agent that it is made from."""
    ordered = sorted(AGENTS.items(), key=lambda item: len(item[1].Config.__mro__))
    kinds: dict[str, Any] = {name: agent.Config for name, agent in ordered}
    rows = [["default of", *(f"`{name}`" for name in kinds)], ["---"] * (len(kinds) + 1)]
    for field in fields(AgentConfig):
        defaults = [value(default(kind.__dataclass_fields__[field.name])) for kind in kinds.values()]
        rows.append([f"`--agent.{field.name.replace('_', '-')}`", *defaults])
    parts = [
        "### Every agent",
        "\n".join(described(AgentConfig, "agent.")),
        "\n".join(f"| {' | '.join(row)} |" for row in rows),
    ]
    for name, kind in kinds.items():
        base = next((other for other, above in kinds.items() if above is kind.__mro__[1]), None)
        inherited = {field.name for field in fields(kind.__mro__[1])} - (set() if base else {"encoder"})
        own = "\n".join(described(kind, "agent.", lambda field, known=inherited: field.name not in known))
        parts += [f"### `{name}`", f"Everything of `{base}`{', and:' if own else '.'}" if base else "", own]
    return "\n\n".join(filter(None, parts))


def presets() -> str:
    """Tabulate what the presets set, from the functions that set it."""
    parts = []
    for family, task, agent in ((atari.FAMILY, "alien", "rainbow"), (dmc.FAMILY, "walker-walk", "curl")):
        rows = [f"### `{family.name}/`, here for `{family.name}/{task}`", "| preset | sets |\n|---|---|"]
        for name, settings in family.presets.items():
            flags = [f"`--{key.replace('_', '-')} {x}`" for key, x in settings(task, agent).items()]
            rows.append(f"| `{name}` | {' '.join(flags)} |")
        parts.append(rows[0] + "\n\n" + "\n".join(rows[1:]))
    games = [f"| {game} | {a:,} | {b:,} |" for game, (a, b) in atari.FREEZE_STEPS.items()]
    games.append(f"| any other | {atari.OTHERS[0]:,} | {atari.OTHERS[1]:,} |")
    tasks = []
    for name, one in (*dmc.TASKS.items(), ("any other", dmc.OTHER_TASK)):
        memory = one.frames * dmc.FRAME_BYTES / 1e6
        tasks.append(f"| {name} | {one.steps:,} | {one.freeze_step:,} | {one.freeze_step_limited:,} | {memory:g} MB |")
    parts += [
        "### `T_f` of the Atari presets",
        f"`paper-memory` has {atari.MEMORY:,} bytes of replay.",
        "| game | `paper` | `paper-memory` |\n|---|---:|---:|\n" + "\n".join(games),
        "### `T_f` of the DeepMind Control presets",
        "| task | steps | `paper` | `paper-memory` | its replay |\n|---|---:|---:|---:|---:|\n" + "\n".join(tasks),
    ]
    return "\n\n".join(parts)


def commands() -> str:
    """Describe every command by its function's docstring."""
    parts = []
    for name, (words, _) in COMMANDS.items():
        parts.append(f"## `seer {name}`")
        parts.append(f"    seer {name} {words}")
        module, function = name.split()[0], name.split()[-1]
        if name == "train":
            parts.append("Train an agent. Its settings have a page of their own: [settings](settings.md).")
            continue
        called = getattr(import_module(f"seer_rl.commands.{module}"), function)
        about, _, arguments = (inspect.getdoc(called) or "").partition("\n\nArgs:\n")
        parts += [re.sub(r"^  (?=\S)", "    ", part, flags=re.MULTILINE).rstrip() if part.startswith("  ") else marked(part)
                  for part in about.split("\n\n")]  # fmt: skip
        hints, parameters = get_type_hints(called, include_extras=True), inspect.signature(called).parameters
        texts = dict(re.findall(r"^    (\w+): (.*(?:\n     .*)*)", arguments, re.MULTILINE))
        rows = []
        for parameter in parameters.values():
            extra = [one for one in getattr(hints[parameter.name], "__metadata__", ()) if type(one).__name__ == "_ArgConfig"]
            flag = f"--{parameter.name.replace('_', '-')}"
            aliases = [alias for one in extra for alias in (one.aliases or ())]
            said = ""
            if parameter.kind is parameter.POSITIONAL_ONLY:
                term = f"`{next((one.metavar for one in extra if one.metavar), parameter.name.upper())}`"
            else:
                term = " ".join(f"`{one}`" for one in (flag, *aliases))
                if isinstance(parameter.default, bool):
                    term += f" `--no-{flag[2:]}`"
                missing = parameter.default is parameter.empty
                said = "It must be given." if missing else facts(parameter.default, hints[parameter.name])
            rows.append(f"{term}\n: {marked(texts[parameter.name])}\n  {said}\n")
        parts.append("\n".join(rows))
    return "\n\n".join(parts)


def notebook(name: str) -> str:
    """Write a notebook as a page."""
    cells = json.loads((DOCS / "notebooks" / f"{name}.ipynb").read_text("utf-8"))["cells"]
    texts = [(cell["cell_type"], "".join(cell["source"])) for cell in cells]
    parts = [text if kind == "markdown" else f"```{{code-block}} python\n{text}\n```" for kind, text in texts]
    return "\n\n".join(parts)


WRITTEN = (run_settings, section_settings, env_settings, agent_settings, presets, commands, notebook)
PAGES: dict[str, Callable[..., str]] = {page.__name__: page for page in WRITTEN}


def fill(app: Any, docname: str, source: list[str]) -> None:
    """Put generated text where a page asks for it."""
    source[0] = re.sub(
        r"^<!-- (.*) -->$", lambda found: PAGES[found[1].split()[0]](*found[1].split()[1:]), source[0], flags=re.MULTILINE
    )


def outdated(app: Any, env: Any, added: Any, changed: Any, removed: Any) -> list[str]:
    """Read pages with generated text again each time."""
    return [name for name in env.found_docs if name.startswith(("reference/", "notebooks/"))]


# ---- docstrings -----------------------------------------------------------------------------------------------------


def docstring(app: Any, what: str, name: str, obj: Any, options: Any, lines: list[str]) -> None:
    """Turn "argument: text" into a list, and indented text into code: the docstrings here are plain text."""
    called = obj.__init__ if inspect.isclass(obj) else obj
    try:
        known = set(inspect.signature(called).parameters) - {"self", "args", "kwargs"}
    except (TypeError, ValueError):
        known = set()
    paragraphs = re.split(r"\n\s*\n", "\n".join(lines).strip("\n"))
    lines[:] = [line for paragraph in paragraphs for line in markup(paragraph, known)]


def markup(paragraph: str, known: set[str]) -> Iterator[str]:
    """Write a paragraph of a docstring as reStructuredText. known: the names of arguments."""
    if paragraph.startswith("    "):
        yield from (".. code-block:: python", "", *paragraph.splitlines(), "")
        return
    text = re.sub(r"([|*])", r"\\\1", " ".join(paragraph.split()))
    names = "|".join(sorted(known)) or "(?!)"
    for part in re.split(rf"(?:^|(?<=\. ))(?=(?:(?:{names}), )*(?:{names}): |Raises |Warns )", text):
        argument = re.match(rf"((?:(?:{names}), )*(?:{names})): ", part)
        if argument:
            yield f"- **{argument[1]}**: {part[argument.end() :].strip()}"
        elif part.strip():
            yield from ("", part.strip())
    yield ""


def setup(app: Any) -> dict[str, Any]:
    """Join in building."""
    app.connect("source-read", fill)
    app.connect("env-get-outdated", outdated)
    app.connect("autodoc-process-docstring", docstring)
    return {"parallel_read_safe": True}
