"""YAML that anybody may have written, into plain values: nothing in it is run, and it cannot grow."""

from typing import Any

import yaml

from grasp_lora.errors import GraspError

__all__ = ["parse_yaml"]

MAX_CHARACTERS = 1 << 20
"""Of a text. Settings, tasks and cards have a thousandth of it, and PyYAML takes ten seconds for a MiB."""
MAX_EXPANDED = 4 << 20
"""Characters once every alias (`*name`) is what it stands for: nine lines of nine aliases are a billion."""
MAX_DEPTH = 60

# What constructors of PyYAML end in, beside its own errors, where a value does not fit its tag.
_FAULTS = (yaml.YAMLError, ValueError, LookupError, AttributeError, TypeError, OverflowError)


def parse_yaml(text: str, where: str) -> Any:
    """The values in a text; None where it has none.

    Args:
        where: What the message calls it.

    Raises:
        GraspError: It is not valid YAML, has a tag that is not of plain values, the same key twice, or is too
            large, too deep, or within itself.
    """
    if len(text) > MAX_CHARACTERS:
        raise GraspError(f"{where} has more than {MAX_CHARACTERS >> 20} MiB of YAML: is it the right file?")
    try:
        loader = _Loader(text)
        try:
            node = loader.get_single_node()
            if node is None:
                return None
            _measure(node, {})
            return loader.construct_document(node)
        finally:
            loader.dispose()
    except _FAULTS as error:
        why = str(error) if isinstance(error, yaml.YAMLError) else f"a value does not fit its tag ({error})"
        raise GraspError(f"{where} is not valid YAML: {why}") from None


class _TooDeep(yaml.YAMLError):
    def __str__(self) -> str:
        return f"it is nested more than {MAX_DEPTH} levels deep"


class _Loader(yaml.SafeLoader):
    """PyYAML takes the last of two equal keys without a word; here it is an error. So is what is nested
    deeper than anybody would write, before PyYAML, for which every level makes all others slower, has read it
    all.
    """

    depth = 0

    def fetch_flow_collection_start(self, TokenClass: Any) -> None:
        if self.flow_level >= MAX_DEPTH:
            raise _TooDeep
        super().fetch_flow_collection_start(TokenClass)

    def compose_node(self, parent: Any, index: Any) -> Any:
        if self.depth > MAX_DEPTH:
            raise _TooDeep
        self.depth += 1
        node = super().compose_node(parent, index)
        self.depth -= 1
        return node

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        seen = set()
        for key_node, _ in node.value:
            if key_node.tag == "tag:yaml.org,2002:merge":  # `<<`, which the base class knows
                continue
            key = self.construct_object(key_node, deep=True)
            try:
                twice = key in seen
            except TypeError:  # a list or a mapping: the base class says so
                break
            if twice:
                raise yaml.YAMLError(f"the key '{key}' stands twice before line {node.end_mark.line + 1}")
            seen.add(key)
        return super().construct_mapping(node, deep)


def _measure(node: yaml.Node, known: dict[int, tuple[int, int] | None]) -> tuple[int, int]:
    """Characters and depth of a node with its aliases written out."""
    if id(node) in known:
        found = known[id(node)]
        if found is None:
            raise yaml.YAMLError(f"what begins at line {node.start_mark.line + 1} is within itself")
        return found
    if isinstance(node, yaml.ScalarNode):
        return len(node.value) + 1, 0
    known[id(node)] = None
    inner = (
        node.value if isinstance(node, yaml.SequenceNode) else [one for pair in node.value for one in pair]
    )
    sizes = [_measure(one, known) for one in inner]
    size, depth = 1 + sum(size for size, _ in sizes), 1 + max((depth for _, depth in sizes), default=0)
    if size > MAX_EXPANDED:
        raise yaml.YAMLError("its aliases stand for more than anybody would write")
    if depth > MAX_DEPTH:
        raise _TooDeep
    known[id(node)] = size, depth
    return size, depth
