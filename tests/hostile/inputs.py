"""Inputs for readers: valid files with changes in them, and files that hold anything."""

import json
import math
import struct
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import yaml
from hypothesis import strategies as st
from hypothesis.strategies import DrawFn

__all__ = ["Files", "Input", "Link", "inputs"]


@dataclass(frozen=True)
class Link:
    """A symbolic link in a file's or folder's place."""

    to: str


Content = bytes | Link | None
"""Of a file; None: it is not there."""
Files = Mapping[str, bytes]


@dataclass(frozen=True)
class Input:
    """Changes to one of a kind's valid sets of files."""

    base: int
    changes: Mapping[str, Content]
    mutated: bool
    """Whether it is a valid one with mistakes in it, and not a file that holds anything."""


OUTSIDE = ["../../outside/kept.txt", "../outside", "/", "..", "../../../../../../../../etc/passwd", "~/x"]
TEXTS = [
    "", " ", "\0", "\n", "\r\n", "\ud800", "\u202etxt", "\x1b[31m", "\ufeff", "\u2028", "x" * 5_000,
    "x" * 100_000,
    "é" * 300, "{", "}", "{}", "{0}", "{text.__class__}", "{text!r:>10}", "{text[0]}", "%s", "${HOME}",
    "{{7*7}}",
    "null", "NaN", "1e-4", "no", "*", "a/b", "a\\b", "C:\\x", "-", "--help", ".partial", "checkpoint-1",
    "x.partial",
    "(a+)+$", "(", "[", "os.system", "transformers", "torch.hub", "DoRA", "hf_" + "a" * 30, *OUTSIDE,
]  # fmt: skip
NUMBERS = [
    0, 1, -1, 2, 3, 7, 16, 256, 2**16, 2**31, 2**63, 2**64, 10**30, 10**400, -(10**400), 0.0, -0.0, 0.1,
    0.5, 1.0,
    1e-300, 1e-320, 1e308, -1e308, math.nan, math.inf, -math.inf,
]  # fmt: skip
OTHERS = [None, True, False, [], {}, [[]], [None], {"": ""}, [1, "a"], {"a": {"b": []}}]
# Text that no tree of values has: written in the place of one.
RAW = [
    "[" * 3_000, "{\"a\":" * 3_000, "9" * 5_000, "-", "1e999", "0x10", "{", "]", "nan", "Infinity", "'",
    '"', "\t",
    "&a [*a]", "&a {a: *a}", "*nothing", "!!python/object/apply:os.system ['touch hostile']",
    "!!python/name:os.system", "!!timestamp x", "!!int ''", "!!float x", "!!binary '?'", "!!bool x",
    "!!set {a}",
    "!!omap [1]", "!!pairs [1]", "!unknown x", "{? [1] : 2}", "{? {a: 1} : 2}", "{<<: [1]}", "{a: 1, a: 2}",
    "2001-99-99",
    "1:60:60", "{=: 1}", "%YAML 9.9", "--- a\n--- b", "a: b: c", "|\n a", "? ", "@", "`",
]  # fmt: skip
# Nine levels of nine: a billion values in a few lines.
BOMB = "a0: &a0 [x,x,x,x,x,x,x,x,x]\n" + "".join(
    f"a{n}: &a{n} [{','.join([f'*a{n - 1}'] * 9)}]\n" for n in range(1, 10)
)
PLACE = "\ue000here\ue000"


class _Dice:
    """What is drawn, in few words."""

    def __init__(self, draw: DrawFn) -> None:
        self.draw = draw

    def number(self, low: int, high: int) -> int:
        return self.draw(st.integers(low, high))

    def one(self, of: Sequence[Any]) -> Any:
        return of[self.number(0, len(of) - 1)]

    def value(self) -> Any:
        kind = self.number(0, 5)
        if kind == 0:
            return self.draw(_ANYTHING)
        return self.one([TEXTS, NUMBERS, OTHERS][kind % 3])


_ANYTHING = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=20),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=8), inner, max_size=4),
    max_leaves=8,
)


@st.composite
def inputs(draw: DrawFn, valid: Sequence[Files], arbitrary: int = 3) -> Input:
    """Changes to one of these sets of files.

    Args:
        arbitrary: Of ten inputs so many have a file that holds anything; the others are valid ones mutated.
    """
    dice = _Dice(draw)
    base = dice.number(0, len(valid) - 1)
    files = valid[base]
    names = sorted(files)
    if dice.number(0, 9) < arbitrary:
        return Input(base, {dice.one(names): _arbitrary(dice)}, mutated=False)
    changes: dict[str, Content] = {}
    for _ in range(1 + dice.number(0, 2)):
        name = dice.one(names)
        content = changes.get(name, files[name])
        if isinstance(content, bytes):
            changes[name] = _mutated(dice, name, content, files, again=name in changes)
    return Input(base, changes, mutated=True)


def _arbitrary(dice: _Dice) -> Content:
    kind = dice.number(0, 5)
    if kind == 0:
        return dice.draw(st.binary(max_size=200))
    if kind == 1:
        return dice.draw(st.text(max_size=200)).encode("utf-8", "surrogatepass")
    if kind == 2:
        return json.dumps(dice.draw(_ANYTHING)).encode()
    if kind == 3:
        return b"\n".join(json.dumps(dice.value()).encode() for _ in range(dice.number(1, 3))) + b"\n"
    if kind == 4:
        return yaml.safe_dump(dice.draw(_ANYTHING), allow_unicode=True).encode("utf-8", "replace")
    return dice.one(
        [b"", BOMB.encode(), *(raw.encode() for raw in RAW), *(bytes([n]) * 50 for n in (0, 10, 255))]
    )


def _mutated(dice: _Dice, name: str, content: bytes, files: Files, *, again: bool) -> Content:
    kind = dice.number(0, 19)
    if kind == 0:
        return dice.one([None, b"", Link(dice.one(OUTSIDE)), Link(name.rpartition("/")[2]), Link(".")])
    if kind == 1:
        return dice.one(list(files.values()))  # another file's
    change = _STRUCTURED.get(name.rpartition(".")[2])
    if (
        kind <= 5 or again or not content.strip() or change is None
    ):  # changed once, it may be no JSON any more
        return _bytes(dice, content)
    return change(dice, content)


def _bytes(dice: _Dice, content: bytes) -> bytes:
    """Flipped, cut off, doubled, or with something in it."""
    if not content:
        return dice.draw(st.binary(max_size=20))
    at, kind = dice.number(0, len(content) - 1), dice.number(0, 5)
    until = min(len(content), at + dice.number(1, 40))
    if kind == 0:
        return content[:at] + bytes([content[at] ^ 1 << dice.number(0, 7)]) + content[at + 1 :]
    if kind == 1:
        return content[:at]
    if kind == 2:
        return content[:until] + content[at:]
    if kind == 3:
        return content[:at] + content[until:]
    if kind == 4:
        text = dice.one([*TEXTS, *RAW])
        return content[:at] + text.encode("utf-8", "surrogatepass") + content[at:]
    return content[:at] + dice.draw(st.binary(max_size=8)) + content[until:]


def _tree(dice: _Dice, tree: Any, depth: int = 0) -> Any:
    """The tree with one place changed: a value, a key, or how often it is there."""
    inner = isinstance(tree, dict | list) and tree
    if not inner or (depth and dice.number(0, 4) == 0):
        return PLACE if dice.number(0, 5) == 0 else dice.value()
    kind = dice.number(0, 6)
    if isinstance(tree, list):
        at = dice.number(0, len(tree) - 1)
        if kind == 0:
            return tree[:at] + tree[at + 1 :]
        if kind == 1:
            return tree[:at] + [tree[at]] * dice.one([2, 3, 50]) + tree[at:]
        return [*tree[:at], _tree(dice, tree[at], depth + 1), *tree[at + 1 :]]
    key = dice.one(list(tree))
    if kind == 0:
        return {k: v for k, v in tree.items() if k != key}
    if kind == 1:
        other = str(dice.one([*TEXTS, *tree]))
        return {other if k == key else k: v for k, v in tree.items()}
    if kind == 2:
        return {**tree, str(dice.one(TEXTS)): dice.value()}
    return {**tree, key: _tree(dice, tree[key], depth + 1)}


def _trees(dice: _Dice, tree: Any) -> Any:
    for _ in range(1 + dice.number(0, 2)):
        tree = _tree(dice, tree)
    return tree


def _put(dice: _Dice, text: str) -> bytes:
    """The text, with something raw in the place that was left for it."""
    marks = (json.dumps(PLACE), json.dumps(PLACE, ensure_ascii=False), PLACE)
    for mark in marks:
        if mark in text:
            text = text.replace(mark, dice.one(RAW), 1)
    return text.encode("utf-8", "surrogatepass")


def _json(dice: _Dice, content: bytes) -> bytes:
    tree = _trees(dice, json.loads(content))
    return _put(dice, json.dumps(tree, ensure_ascii=bool(dice.number(0, 1))))


def _json_lines(dice: _Dice, content: bytes) -> bytes:
    lines = content.splitlines()
    at, kind = dice.number(0, len(lines) - 1), dice.number(0, 5)
    if kind == 0:
        lines.insert(at, lines[dice.number(0, len(lines) - 1)])
    elif kind == 1:
        del lines[at]
    else:
        lines[at] = _json(dice, lines[at])
    return b"\n".join(lines) + b"\n"


def _yaml(dice: _Dice, content: bytes) -> bytes:
    tree = _trees(dice, yaml.safe_load(content))
    if dice.number(0, 15) == 0:
        return BOMB.encode() + content + b"\nlast: *a9\n"
    if dice.number(0, 1):
        return _put(dice, json.dumps(tree))
    return _put(dice, yaml.safe_dump(tree, allow_unicode=True))


def _safetensors(dice: _Dice, content: bytes) -> bytes:
    """A header that lies, or values that are no numbers."""
    (size,) = struct.unpack("<Q", content[:8])
    header, values = content[8 : 8 + size], content[8 + size :]
    kind = dice.number(0, 4)
    if kind == 0:
        wrong = dice.one([0, 1, size - 1, size + 1, 2**31, 2**63, 2**64 - 1, 10**8])
        return struct.pack("<Q", wrong) + header + values
    if kind == 1:
        at = dice.number(0, max(0, len(values) // 4 - 1)) * 4
        number = struct.pack("<f", dice.one([math.nan, math.inf, -math.inf, 3e38, 1e-45, 0.0]))
        return content[: 8 + size] + values[:at] + number + values[at + 4 :]
    if kind == 2:
        return content[: 8 + size] + bytes(len(values))
    changed = _tensor_header(dice, json.loads(header)) if kind == 3 else _json(dice, header)
    return struct.pack("<Q", len(changed)) + changed + values


DTYPES = [
    "F32",
    "F64",
    "F16",
    "BF16",
    "I8",
    "U8",
    "I64",
    "BOOL",
    "F8_E4M3",
    "F8_E5M2",
    "F8_E8M0",
    "F4",
    "C64",
    "X",
]


def _tensor_header(dice: _Dice, header: dict[str, Any]) -> bytes:
    """Tensors under other names, of other shapes and types, over other bytes."""
    names = [name for name in header if name != "__metadata__"]
    name, kind = dice.one(names), dice.number(0, 3)
    about = header[name]
    if kind == 0:
        header[
            dice.one([*TEXTS, f"{name}.weight", name.replace("lora_A", "lora_B"), name.replace("model.", "")])
        ] = header.pop(name)
    elif kind == 1:
        about["dtype"] = dice.one(DTYPES)
    elif kind == 2:
        rows, *others = about["shape"] or [1]
        about["shape"] = dice.one(
            [[], [0], [rows], [*others, rows], [rows, *others, 1], [2**40], [2**63], [rows * 2, *others]]
        )
    else:
        start, stop = about["data_offsets"]
        about["data_offsets"] = dice.one(
            [[stop, start], [0, stop], [start, stop + 4], [start, 2**63], [start, start]]
        )
    return json.dumps(header).encode("utf-8", "surrogatepass")


_STRUCTURED: Mapping[str, Callable[[_Dice, bytes], bytes]] = {
    "json": _json, "jsonl": _json_lines, "yaml": _yaml, "safetensors": _safetensors,
}  # fmt: skip
