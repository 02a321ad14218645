"""A model hub on this machine, as much of one as downloading and uploading need."""

import base64
import hashlib
import json
from collections.abc import Collection, Iterator, Mapping
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

    def __init__(self, repositories: Mapping[str, Mapping[str, Path]], uploads: Path | None) -> None:
        self.repositories = {name: dict(branches) for name, branches in repositories.items()}
        self.uploads = uploads
        self.private: set[str] = set()
        self.gated: set[str] = set()
        self.address = ""

    def find(self, name: str, revision: str) -> tuple[str, Path] | None:
        for branch, folder in self.repositories[name].items():
            if revision in (branch, commit := _sha1(f"{name} {branch}".encode())):
                return commit, folder
        return None

    def answer(self, path: str) -> _Answer:
        parts = unquote(urlsplit(path).path).strip("/").split("/")
        api = parts[:2] == ["api", "models"]
        name = "/".join(parts[2:4] if api else parts[:2])
        if name in self.gated:
            return _Answer(403, headers={"X-Error-Code": "GatedRepo"})
        if name not in self.repositories:
            return _Answer(401, headers={"X-Error-Code": "RepoNotFound"})
        if (found := self.find(name, "/".join(parts[5:]) or "main" if api else parts[3])) is None:
            return _Answer(404, headers={"X-Error-Code": "RevisionNotFound"})
        return (
            self.listing(name, *found, "".join(parts[4:5])) if api else self.file(*found, "/".join(parts[4:]))
        )

    def listing(self, name: str, commit: str, folder: Path, kind: str) -> _Answer:
        sizes = {p.relative_to(folder).as_posix(): p.stat().st_size for p in folder.rglob("*") if p.is_file()}
        if kind == "tree":
            tree = [{"type": "file", "path": path, "size": size, "oid": "0"} for path, size in sizes.items()]
            return _Answer(200, json.dumps(tree).encode())
        siblings = [{"rfilename": path} for path in sizes]
        private = name in self.private
        about = {"id": name, "sha": commit, "siblings": siblings, "private": private, "tags": []}
        return _Answer(200, json.dumps(about).encode())

    def take(self, path: str, body: bytes, token: str | None) -> _Answer:
        """What is posted: a new repository, the question how to send files, a commit."""
        if path == "/api/validate-yaml":
            return _Answer(200, b'{"errors": [], "warnings": []}')
        if not token or self.uploads is None:
            return _Answer(
                401, b'{"error": "Invalid credentials"}', {"X-Error-Message": "Invalid credentials"}
            )
        if path == "/api/repos/create":
            wanted = json.loads(body)
            name = f"{wanted['organization']}/{wanted['name']}"
            (self.uploads / name).mkdir(parents=True)
            self.repositories[name] = {"main": self.uploads / name}
            if wanted.get("visibility") == "private" or wanted.get("private"):  # an older client's
                self.private.add(name)
            return _Answer(200, json.dumps({"url": f"{self.address}/{name}"}).encode())
        parts = unquote(urlsplit(path).path).strip("/").split("/")
        name = "/".join(parts[2:4])
        if name not in self.repositories:
            return _Answer(404, headers={"X-Error-Code": "RepoNotFound"})
        if parts[4] == "preupload":
            files = [{"path": one["path"]} for one in json.loads(body)["files"]]
            how = {"uploadMode": "regular", "shouldIgnore": False}
            return _Answer(200, json.dumps({"files": [one | how for one in files]}).encode())
        for one in map(json.loads, body.splitlines()):
            if one["key"] == "file":
                content = base64.b64decode(one["value"]["content"])
                (self.repositories[name]["main"] / one["value"]["path"]).write_bytes(content)
        made = {"commitUrl": f"{self.address}/{name}/commit/1", "commitOid": "1"}
        return _Answer(200, json.dumps(made).encode())

    def file(self, commit: str, folder: Path, path: str) -> _Answer:
        if not (folder / path).is_file():
            return _Answer(404, headers={"X-Error-Code": "EntryNotFound"})
        body = (folder / path).read_bytes()
        return _Answer(200, body, {"X-Repo-Commit": commit, "ETag": f'"{_sha1(body)}"'})


@contextmanager
def hub(
    repositories: Mapping[str, Mapping[str, Path]], uploads: Path | None = None, gated: Collection[str] = ()
) -> Iterator[str]:
    """Serves folders; yields the address for HF_ENDPOINT.

    Args:
        repositories: OWNER/NAME -> revision -> the folder that has its files.
        uploads: Where repositories are made that somebody with a token uploads: OWNER/NAME below it. Its file
            `.private` lists those that not all may see.
        gated: Repositories whose terms nobody has accepted.
    """
    served = _Hub(repositories, uploads)
    served.gated = set(gated)

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

        def do_POST(self) -> None:
            body = self._body()
            status, answer, headers = served.take(self.path, body, self.headers.get("Authorization"))
            if uploads is not None:
                (uploads / ".private").write_text("\n".join(sorted(served.private)))
            self.send_response(status)
            for key, value in {**headers, "Content-Length": str(len(answer))}.items():
                self.send_header(key, value)
            self.end_headers()
            self.wfile.write(answer)

        def _body(self) -> bytes:
            if "chunked" not in self.headers.get("Transfer-Encoding", ""):
                return self.rfile.read(int(self.headers.get("Content-Length", 0)))
            found = b""
            while size := int(self.rfile.readline(), 16):
                found += self.rfile.read(size)
                self.rfile.readline()
            return found

        def log_message(self, *_: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    Thread(target=server.serve_forever, daemon=True).start()
    try:
        served.address = f"http://127.0.0.1:{server.server_address[1]}"
        yield served.address
    finally:
        server.shutdown()
