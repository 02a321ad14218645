"""Many examples are kept in a file, and read one by one as they are asked for."""

import itertools
import json
import os
import tempfile
import weakref
from array import array
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from typing import IO

from grasp_lora.errors import GraspError
from grasp_lora.paths import cache_dir
from grasp_lora.tasks.example import Example
from grasp_lora.tasks.lazy import Lazy

__all__ = ["Pile", "keep"]

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
    pile = Pile()
    for example in examples:
        pile.add(_to_bytes(example))
    pile.flush()
    return Lazy(len(pile), lambda place: _from_bytes(pile[place]))


class Pile:
    """Pieces of bytes in a file without a name, which is gone when nothing uses it any more.

    Raises:
        GraspError: There is no room for the file; from any call.
    """

    def __init__(self) -> None:
        with _room_there():
            self._file = tempfile.TemporaryFile(dir=cache_dir(), buffering=1 << 20)  # noqa: SIM115  (below)
        self._ends = array("Q", [0])
        self._written = 0  # pieces that are surely in the file, not in its buffer
        weakref.finalize(self, _close, self._file)

    def __len__(self) -> int:
        return len(self._ends) - 1

    def add(self, piece: bytes) -> int:
        """Put a piece at the end; its place."""
        with _room_there():
            self._file.write(piece)
        self._ends.append(self._ends[-1] + len(piece))
        return len(self) - 1

    def flush(self) -> None:
        """Write what is still in a buffer; reading does so, too."""
        with _room_there():
            self._file.flush()
        self._written = len(self)

    def __getitem__(self, place: int) -> bytes:
        if place >= self._written:
            self.flush()
        start, end = self._ends[place], self._ends[place + 1]
        return os.pread(self._file.fileno(), end - start, start)


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
