"""What each key of a config means, may be, and is by default, from the schema of the settings."""

import difflib
import json
import textwrap
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from functools import cache
from typing import Any

from grasp_lora.config.tree import Config
from grasp_lora.errors import GraspError

__all__ = ["Key", "as_page", "explain", "known_keys", "near_keys"]

_KINDS = {"integer": "integer", "number": "number", "boolean": "true or false", "null": "null"}
_BOUNDS = {
    "minimum": "at least {}",
    "exclusiveMinimum": "over {}",
    "maximum": "at most {}",
    "exclusiveMaximum": "under {}",
}
_FAR = 2**32  # a bound that nobody asks for, as that of seeds
_INHERITED = ("Training", "Control")  # what a part of these does not say, the config's own one says


@dataclass(frozen=True, slots=True)
class Key:
    """A key of a config.

    Attributes:
        name: With the keys above it, such as `control.every`.
        meaning: A sentence or two.
        kind: What its value may be, in words.
        default: As YAML has it; None: it must be given. "" where its own keys have defaults.
        part: What the schema calls the group of keys that it has; None: it has none.
        named: Whether the group is that of each name that a user gives, as a variant.
    """

    name: str
    meaning: str
    kind: str
    default: str | None
    part: str | None = None
    named: bool = False


def explain(name: str = "") -> str:
    """A key, or a part and its keys, for a terminal.

    Args:
        name: Such as `control.every` or `control`; "" is every key.

    Raises:
        GraspError: There is no such key; the message has near ones.
    """
    key = _find(name) if name else None
    below = list(_below(key, deeply=key is None))
    return "\n".join(map(_lines, below if key is None else [key, *below]))


def as_page() -> str:
    """Every key, as a page of Markdown."""
    keys = known_keys()
    lines = [
        "# Keys of a config",
        "",
        "<!-- Made from the settings in the code: python -m tests.config.test_explain -->",
        "",
        "`grasp config --explain KEY` shows the same in a terminal, and `grasp config titles.yaml` what a",
        "file comes to with all defaults. Any key can be set on the command line, as `control.every=5`.",
        "`variants.NAME` has the keys of `control`, and each `training` those of the top-level one.",
        "",
        *_table(key for key in keys if "." not in key.name),
    ]
    for part in keys:
        if below := [key for key in keys if key.name.rpartition(".")[0] == part.name]:
            lines += ["", f"## {part.name}", "", part.meaning, "", *_table(below)]
    return "\n".join(lines) + "\n"


def known_keys() -> list[Key]:
    """Every key, each part before its keys; a part that several keys have is listed with one of them."""
    return list(_below(None, deeply=True))


def _below(key: Key | None, deeply: bool) -> Iterator[Key]:
    """The keys of a key's part, or of the whole config; `deeply` with those of the parts in it."""
    if key is not None and key.part is None:
        return
    above = "" if key is None else f"{key.name}.NAME" if key.named else key.name
    part = "Config" if key is None else str(key.part)
    for one in _keys_of(above, part):
        if part in _INHERITED and above != (home := _home(part)):
            one = replace(one, default=f"that of {home}.{one.name.rpartition('.')[2]}")
        yield one
        if deeply and one.part is not None and _home(one.part) == one.name:
            yield from _below(one, deeply)


def _keys_of(name: str, part: str) -> Iterator[Key]:
    """The keys of a part; with none of its name before them where the part is the config."""
    schema = _schema()[part]
    given = _default_of(name)
    for word, node in schema["properties"].items():
        below, named = _part(node)
        default: str | None = None
        if below is not None and not named and node.get("default", ...) is not None:
            default = None if word in schema.get("required", ()) else ""
        elif word in given or "default" in node:
            default = _yaml(given.get(word, node.get("default")))
        dotted = f"{name}.{word}" if name else word
        meaning = " ".join(node.get("description", "").split())
        yield Key(dotted, meaning, _kind(node), default, below, named)
    if part == "Config":
        text = "Another config, relative to this one, which this one changes."
        yield Key("extends", text, "path", "null")
        text = "Keys, and the values that each goes through: one file for many runs."
        yield Key("axes", text, "mapping of keys to lists of values", "null")


def _find(name: str) -> Key:
    found: Key | None = None
    for word in name.split("."):
        if found is not None and found.named:  # any name stands for the part
            found = replace(found, name=f"{found.name}.{word}", named=False, default="")
            continue
        if found is not None and found.part is None and "mapping" in found.kind:
            return found  # what a user names below it
        keys = {key.name.rpartition(".")[2]: key for key in _below(found, deeply=False)}
        if word not in keys:
            raise GraspError(_unknown(name, keys))
        found = keys[word]
    assert found is not None  # a name has at least one word
    return found


def near_keys(name: str) -> list[str]:
    """Keys that one which there is not may have meant: alike ones, and those of its last word elsewhere."""
    every = [key.name for key in known_keys()]
    last = difflib.get_close_matches(name.rpartition(".")[2], {one.rpartition(".")[2] for one in every}, n=1)
    near = difflib.get_close_matches(name, every, n=3, cutoff=0.75)
    near = [one for one in near if not name.startswith(f"{one}.")]
    return list(dict.fromkeys([*near, *(one for one in every if one.rpartition(".")[2] in last)]))[:5]


def _unknown(name: str, keys: Iterable[str]) -> str:
    near = near_keys(name)
    return f"no key is called {name!r}; {'near it' if near else 'there'} are {', '.join(near or keys)}"


@cache
def _schema() -> dict[str, Any]:
    """Each part's schema by its name."""
    schema = Config.model_json_schema()
    return {"Config": schema, **schema["$defs"]}


def _default_of(name: str) -> Mapping[str, Any]:
    """What the config has in the place of a part that is not given; it counts before the part's own."""
    node: Any = _schema()["Config"]["properties"].get(name, {})
    default = node.get("default")
    return default if isinstance(default, dict) else {}


@cache
def _home(part: str) -> str:
    """The key that a part's keys are listed with: the first on the highest level."""
    level = [("", "Config")]
    while level:
        below = []
        for name, one in level:
            for word, node in _schema()[one]["properties"].items():
                found, named = _part(node)
                if found is not None and not named:
                    dotted = f"{name}.{word}" if name else word
                    if found == part:
                        return dotted
                    below.append((dotted, found))
        level = below
    raise KeyError(part)


def _part(node: Mapping[str, Any]) -> tuple[str | None, bool]:
    """The part that a value is, or may be; and whether it is that of each name."""
    if "$ref" in node:
        return node["$ref"].rpartition("/")[2], False
    if isinstance(values := node.get("additionalProperties"), dict) and "$ref" in values:
        return _part(values)[0], True
    for one in (*node.get("anyOf", ()), *node.get("oneOf", ())):
        if "$ref" in one:
            return _part(one)
    return None, False


def _kind(node: Mapping[str, Any]) -> str:
    if "$ref" in node:
        return "keys"
    if several := (*node.get("anyOf", ()), *node.get("oneOf", ())):
        return ", or ".join(map(_kind, several))
    if "enum" in node:
        return " | ".join(map(str, node["enum"]))
    if "const" in node:
        return str(node["const"])
    if node["type"] == "array":
        return f"list of {_kind(node['items'])}"
    if node["type"] == "object":
        return f"mapping of names to {_kind(node['additionalProperties'])}"
    kind = _KINDS.get(node["type"]) or ("path" if node.get("format") == "path" else "text")
    known = {bound: node[bound] for bound in _BOUNDS if node.get(bound, _FAR) < _FAR}
    bounds = [_BOUNDS[bound].format(f"{value:g}") for bound, value in known.items()]
    return ", ".join([kind, " and ".join(bounds)] if bounds else [kind])


def _yaml(value: Any) -> str:
    return value if isinstance(value, str) and value else json.dumps(value)


def _lines(key: Key) -> str:
    default = "must be given" if key.default is None else f"default {key.default}" if key.default else ""
    head = f"{key.name}: {'; '.join(filter(None, [key.kind, default]))}"
    return f"{head}\n{textwrap.indent(textwrap.fill(key.meaning, 92), '    ')}"


def _table(keys: Iterable[Key]) -> list[str]:
    rows = []
    for key in keys:
        default = "must be given" if key.default is None else f"`{key.default}`" if key.default else ""
        cells = [f"`{key.name}`", key.meaning, key.kind, default]
        rows.append(f"| {' | '.join(cell.replace('|', chr(92) + '|') for cell in cells)} |")
    return ["| key | meaning | value | default |", "|---|---|---|---|", *rows]
