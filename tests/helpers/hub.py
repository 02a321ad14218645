"""A model hub on this machine, as much of one as downloading needs."""

import hashlib
import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread
from typing import NamedTuple
from urllib.parse import unquote, urlsplit

__all__ = ["hub"]


class _Answer(NamedTuple):
    status: int
    body: bytes = b"{}"
    headers: Mapping[str, str] = {}


def _sha1(text: bytes) -> str:
    return hashlib.sha1(text).hexdigest()


class _Hub:
    """What is answered to a path."""

    def __init__(self, repositories: Mapping[str, Mapping[str, Path]]) -> None:
        self.repositories = repositories

    def find(self, name: str, revision: str) -> tuple[str, Path] | None:
        for branch, folder in self.repositories[name].items():
            if revision in (branch, commit := _sha1(f"{name} {branch}".encode())):
                return commit, folder
        return None

    def answer(self, path: str) -> _Answer:
        parts = unquote(urlsplit(path).path).strip("/").split("/")
        api = parts[:2] == ["api", "models"]
        name = "/".join(parts[2:4] if api else parts[:2])
        if name not in self.repositories:
            return _Answer(401, headers={"X-Error-Code": "RepoNotFound"})
        if (found := self.find(name, "/".join(parts[5:]) if api else parts[3])) is None:
            return _Answer(404, headers={"X-Error-Code": "RevisionNotFound"})
        return self.listing(name, *found, parts[4]) if api else self.file(*found, "/".join(parts[4:]))

    def listing(self, name: str, commit: str, folder: Path, kind: str) -> _Answer:
        sizes = {p.relative_to(folder).as_posix(): p.stat().st_size for p in folder.rglob("*") if p.is_file()}
        if kind == "tree":
            tree = [{"type": "file", "path": path, "size": size, "oid": "0"} for path, size in sizes.items()]
            return _Answer(200, json.dumps(tree).encode())
        siblings = [{"rfilename": path} for path in sizes]
        about = {"id": name, "sha": commit, "siblings": siblings, "private": False, "tags": []}
        return _Answer(200, json.dumps(about).encode())

    def file(self, commit: str, folder: Path, path: str) -> _Answer:
        if not (folder / path).is_file():
            return _Answer(404, headers={"X-Error-Code": "EntryNotFound"})
        body = (folder / path).read_bytes()
        return _Answer(200, body, {"X-Repo-Commit": commit, "ETag": f'"{_sha1(body)}"'})


@contextmanager
def hub(repositories: Mapping[str, Mapping[str, Path]]) -> Iterator[str]:
    """Serves folders; yields the address for HF_ENDPOINT.

    Args:
        repositories: OWNER/NAME -> revision -> the folder that has its files.
    """
    served = _Hub(repositories)

    class Handler(BaseHTTPRequestHandler):
        def do_HEAD(self) -> None:
            status, body, headers = served.answer(self.path)
            self.send_response(status)
            for key, value in {**headers, "Content-Length": str(len(body))}.items():
                self.send_header(key, value)
            self.end_headers()

        def do_GET(self) -> None:
            self.do_HEAD()
            self.wfile.write(served.answer(self.path).body)

        def log_message(self, *_: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield f"http://127.0.0.1:{server.server_address[1]}"
    finally:
        server.shutdown()
