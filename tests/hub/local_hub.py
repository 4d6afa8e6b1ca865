"""A Hub in a thread: enough of its API to push models and datasets and to load them again. No accounts, no git."""

import base64
import hashlib
import json
import threading
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import parse_qs, unquote, urlsplit

Files = dict[str, bytes]


class LocalHub(ThreadingHTTPServer):
    """`repositories` holds, for `models/NAME` and `datasets/NAME`, the files as they are now; every commit, its files.

    Attributes:
        collections: by slug, as the Hub describes them; an account is called `me`.
        blobs: large files by SHA-256, as Git LFS sends them before the commit that names them.
    """

    def __init__(self):
        super().__init__(("127.0.0.1", 0), Handler)
        self.repositories: dict[str, Files] = {}
        self.private: set[str] = set()
        self.collections: dict[str, dict] = {}
        self.blobs: dict[str, bytes] = {}
        self.url = f"http://127.0.0.1:{self.server_port}"

    def commit_id(self, repository: str) -> str:
        files = self.repositories[repository]
        return hashlib.sha1(repr(sorted((p, oid(b)) for p, b in files.items())).encode()).hexdigest()


@contextmanager
def running():
    hub = LocalHub()
    threading.Thread(target=hub.serve_forever, daemon=True).start()
    try:
        yield hub
    finally:
        hub.shutdown()
        hub.server_close()


def oid(content: bytes) -> str:
    return hashlib.sha1(b"blob %d\0" % len(content) + content).hexdigest()


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: LocalHub

    def do_POST(self):
        body, parts = self._body(), self._parts()
        if parts[-3:] == ["lfs", "objects", "batch"]:
            return self._upload_where(json.loads(body)["objects"])
        if parts == ["api", "validate-yaml"]:
            return self._json({"errors": [], "warnings": []})
        if parts == ["api", "repos", "create"]:
            return self._create(json.loads(body))
        if parts[1] == "collections":
            return self._collect(parts, json.loads(body))
        kind, owner, name, action = parts[1:5]
        repository = f"{kind}/{owner}/{name}"
        if repository not in self.server.repositories:
            return self._missing("RepoNotFound")
        files = self.server.repositories[repository]
        if action == "preupload":
            asked = [file["path"] for file in json.loads(body)["files"]]
            modes = {
                path: "lfs" if path.endswith((".parquet", ".safetensors", ".bin")) else "regular" for path in asked
            }
            return self._json(
                {"files": [{"path": p, "uploadMode": mode, "shouldIgnore": False} for p, mode in modes.items()]}
            )
        if action == "commit":
            return self._commit(repository, body)
        if action == "paths-info":
            wanted = parse_qs(body.decode()).get("paths", [])
            return self._json([entry for entry in _entries(files, "", True) if entry["path"] in wanted])
        raise AssertionError(f"unknown request: POST {self.path}")

    def do_GET(self):
        parts = self._parts()
        if "resolve" in parts:
            return self._resolve(parts)
        assert parts[0] == "api", f"unknown request: GET {self.path}"
        if parts[1] == "whoami-v2":
            return self._json({"type": "user", "name": "me", "orgs": [{"name": "our-lab"}]})
        if parts[1] == "collections":
            return self._json(self.server.collections["/".join(parts[2:])])
        kind, owner, name, *rest = parts[1:]
        repository = f"{kind}/{owner}/{name}"
        if repository not in self.server.repositories:
            return self._missing("RepoNotFound")
        files = self.server.repositories[repository]
        if not rest or rest[0] == "revision":
            info = {"id": f"{owner}/{name}", "sha": self.server.commit_id(repository), "tags": []}
            info |= {"siblings": [{"rfilename": path} for path in sorted(files)]}
            return self._json({**info, "private": repository in self.server.private})
        if rest[0] == "tree":
            below, deep = "/".join(rest[2:]), "recursive=true" in self.path.lower()
            entries = _entries(files, below, deep)
            return self._json(entries) if entries or not below else self._missing("EntryNotFound")
        if rest[0] == "refs":
            main = {"name": "main", "ref": "refs/heads/main", "targetCommit": self.server.commit_id(repository)}
            return self._json({"branches": [main], "converts": [], "tags": []})
        return self._missing("EntryNotFound")

    do_HEAD = do_GET

    def do_PATCH(self):
        """A new note for an item of a collection."""
        _, _, owner, name, items, item_id = self._parts()
        (item,) = [one for one in self.server.collections[f"{owner}/{name}"][items] if one["_id"] == item_id]
        item["note"] = {"text": json.loads(self._body())["note"]}
        self._json({})

    def do_PUT(self):
        body = self._body()
        self.server.blobs[hashlib.sha256(body).hexdigest()] = body
        self._send(b"", 200, "text/plain", {})

    def _body(self) -> bytes:
        if self.headers.get("transfer-encoding") != "chunked":
            return self.rfile.read(int(self.headers.get("content-length") or 0))
        found = b""
        while size := int(self.rfile.readline(), 16):
            found += self.rfile.read(size)
            self.rfile.readline()
        self.rfile.readline()
        return found

    def _upload_where(self, objects: list[dict]) -> None:
        there = [{**one, "actions": {"upload": {"href": f"{self.server.url}/blobs/{one['oid']}"}}} for one in objects]
        self._json({"transfer": "basic", "objects": there})

    def _create(self, asked: dict) -> None:
        name = f"{asked.get('organization') or 'me'}/{asked['name']}"
        repository = f"{asked.get('type', 'model')}s/{name}"
        kind = "" if repository.startswith("models/") else repository.split("/")[0] + "/"
        if repository in self.server.repositories:
            return self._json({"url": f"{self.server.url}/{kind}{name}"}, 409)
        self.server.repositories[repository] = {}
        if asked.get("visibility") == "private" or asked.get("private"):
            self.server.private.add(repository)
        self._json({"url": f"{self.server.url}/{kind}{name}", "id": name, "name": name})

    def _collect(self, parts: list[str], asked: dict) -> None:
        """Make a collection, or add an item to one."""
        there = self.server.collections
        if len(parts) > 2:
            found, item = there["/".join(parts[2:4])], asked["item"]
            assert f"{item['type']}s/{item['id']}" in self.server.repositories, "an item is what is there"
            new = {"_id": f"{len(found['items']):024x}", "position": len(found["items"])} | item
            found["items"].append(new | {"note": {"text": asked["note"]}})
            return self._json(found)
        assert len(asked["title"]) < 60 and len(asked.get("description", "")) <= 150, "the Hub refuses longer ones"
        slug = f"{asked['namespace']}/{asked['title'].lower()}-0123456789abcdef01234567"
        if slug in there:
            return self._json({"slug": slug}, 409)
        made = {
            "slug": slug,
            "owner": {"name": asked["namespace"]},
            "items": [],
            "lastUpdated": "2026-01-01T00:00:00Z",
        }
        there[slug] = made | asked | {"position": 0, "theme": "blue", "upvotes": 0}
        self._json(there[slug])

    def _commit(self, repository: str, body: bytes) -> None:
        files = self.server.repositories[repository]
        for line in filter(None, body.splitlines()):
            item = json.loads(line)
            key, value = item["key"], item["value"]
            if key == "file":
                files[value["path"]] = base64.b64decode(value["content"])
            elif key == "lfsFile":
                files[value["path"]] = self.server.blobs[value["oid"]]
            elif key == "deletedFile":
                files.pop(value["path"])
            else:
                assert key == "header", f"unknown operation: {key}"
        kind = "" if repository.startswith("models/") else "datasets/"
        commit, name = self.server.commit_id(repository), repository.split("/", 1)[1]
        self._json({"commitUrl": f"{self.server.url}/{kind}{name}/commit/{commit}", "commitOid": commit})

    def _resolve(self, parts: list[str]) -> None:
        at = parts.index("resolve")
        repository = "/".join(parts[:at] if at == 3 else ["models", *parts[:at]])
        if repository not in self.server.repositories:
            return self._missing("RepoNotFound")
        content = self.server.repositories[repository].get("/".join(parts[at + 2 :]))
        if content is None:
            return self._missing("EntryNotFound", commit=self.server.commit_id(repository))
        whole, status = len(content), 200
        sent = {"etag": f'"{oid(content)}"', "x-repo-commit": self.server.commit_id(repository)}
        if asked := self.headers.get("range"):
            first, last = asked.removeprefix("bytes=").split("-")
            content = content[int(first) : int(last) + 1 if last else None]
            status = 206
            sent["content-range"] = f"bytes {first}-{int(first) + len(content) - 1}/{whole}"
        self._send(content, status, "application/octet-stream", sent | {"accept-ranges": "bytes"})

    def _parts(self) -> list[str]:
        return [part for part in unquote(urlsplit(self.path).path).split("/") if part]

    def _missing(self, code: str, commit: str | None = None) -> None:
        sent = {"x-error-code": code, "x-error-message": code} | ({"x-repo-commit": commit} if commit else {})
        self._send(json.dumps({"error": code}).encode(), 404, "application/json", sent)

    def _json(self, value, status: int = 200) -> None:
        self._send(json.dumps(value).encode(), status, "application/json", {})

    def _send(self, content: bytes, status: int, kind: str, headers: dict[str, str]) -> None:
        self.send_response(status)
        for name, value in {"content-type": kind, "content-length": str(len(content)), **headers}.items():
            self.send_header(name, value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(content)

    def log_message(self, *args):
        pass


def _entries(files: Files, below: str, deep: bool) -> list[dict]:
    """What a folder holds, as the Hub lists it."""
    prefix = f"{below}/" if below else ""
    found: dict[str, dict] = {}
    for path, content in sorted(files.items()):
        if not path.startswith(prefix):
            continue
        steps = path.removeprefix(prefix).split("/")
        for depth in range(1, len(steps) if deep else min(2, len(steps))):
            folder = prefix + "/".join(steps[:depth])
            found[folder] = {"type": "directory", "path": folder, "oid": oid(folder.encode()), "size": 0}
        if deep or len(steps) == 1:
            found[path] = {"type": "file", "path": path, "oid": oid(content), "size": len(content)}
    return list(found.values())
