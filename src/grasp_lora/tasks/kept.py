"""Many examples are kept in a file, and read one by one as they are asked for."""

import itertools
import json
import os
import tempfile
import weakref
from array import array
from collections.abc import Iterable, Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from typing import IO

from grasp_lora.errors import GraspError
from grasp_lora.paths import cache_dir
from grasp_lora.tasks.example import Example
from grasp_lora.tasks.lazy import Lazy

__all__ = ["keep"]

IN_MEMORY = 8 << 20
"""Characters of prompts and targets that a list of examples may have."""


def keep(examples: Iterable[Example]) -> Sequence[Example]:
    """The examples as a list, or where that would be large as a sequence that reads them from a file.

    The file has no name and is in the user's cache: it is gone when nothing uses it any more, and when the
    process ends, in whatever way. What is read from it is what was put there, even if the file that the
    examples came from changes in the meantime.

    Raises:
        GraspError: There is no room for the file.
    """
    examples = iter(examples)
    few: list[Example] = []
    characters = 0
    for example in examples:
        few.append(example)
        characters += len(example.prompt) + len(example.target)
        if characters > IN_MEMORY:
            return _in_file(itertools.chain(few, examples))
    return few


def _in_file(examples: Iterable[Example]) -> Lazy[Example]:
    with ExitStack() as opened:
        file = tempfile.TemporaryFile(dir=cache_dir(), buffering=1 << 20)  # noqa: SIM115  (closed below)
        opened.callback(_close, file)
        ends = array("Q", [0])
        for example in examples:
            line = _to_bytes(example)
            with _room_there():
                file.write(line)
            ends.append(ends[-1] + len(line))
        with _room_there():
            file.flush()

        def read(place: int) -> Example:
            return _from_bytes(os.pread(file.fileno(), ends[place + 1] - ends[place], ends[place]))

        found = Lazy(len(ends) - 1, read)
        weakref.finalize(found, opened.pop_all().close)
    return found


def _close(file: IO[bytes]) -> None:
    with suppress(OSError):  # of a full disk, which was said
        file.close()


@contextmanager
def _room_there() -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise GraspError(
            f"rows cannot be kept in {cache_dir()} while they are used ({error.strerror}): make room there, "
            "or set GRASP_CACHE to a folder that has some"
        ) from None


def _to_bytes(example: Example) -> bytes:
    e = example
    values = (e.id, e.prompt, e.target, e.references, e.body, e.group)
    return json.dumps(values, ensure_ascii=False).encode("utf-8", "surrogatepass")


def _from_bytes(line: bytes) -> Example:
    id_, prompt, target, references, body, group = json.loads(line.decode("utf-8", "surrogatepass"))
    return Example(id_, prompt, target, tuple(references), None if body is None else tuple(body), group)
