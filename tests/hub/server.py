"""A Hub on this machine: the HTTP calls that huggingface_hub makes to send and fetch a model.

It keeps files in memory, hashes them as the real one does, and can be told to misbehave.
"""

from __future__ import annotations

import base64
import hashlib
import json
import re
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

TOKEN = "hf_of_this_test"
Files = dict[str, bytes]


class Hub:
    """``repositories``: name -> files. ``calls``: what was asked for, in order.

    ``garble``: a file that is delivered with other bytes than are listed; ``full``: it takes none.
    """

    def __init__(self) -> None:
        self.repositories: dict[str, Files] = {}
        self.objects: Files = {}
        self.private: dict[str, bool] = {}
        self.commits = 0
        self.calls: list[str] = []
        self.garble, self.full = "", False
        self.address = ""

    @property
    def commit(self) -> str:
        return f"{self.commits:040x}"

    def fetched(self) -> set[str]:
        """The files whose content was asked for."""
        asked = [re.search(r"GET .*/resolve/[^/]+/(.+)", call) for call in self.calls]
        return {found[1] for found in asked if found}


def is_large(name: str) -> bool:
    return name.endswith((".safetensors", ".bin", ".png"))


def entry(name: str, content: bytes) -> dict[str, Any]:
    """A file as the Hub lists it."""
    blob = hashlib.sha1(b"blob %d\0" % len(content) + content).hexdigest()
    listed: dict[str, Any] = {"rfilename": name, "size": len(content), "blobId": blob}
    if is_large(name):
        sha = hashlib.sha256(content).hexdigest()
        listed["lfs"] = {"sha256": sha, "size": len(content), "pointerSize": 134}
    return listed


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    hub: Hub

    def log_message(self, *_: Any) -> None:
        pass

    def answer(self, status: int, content: Any = b"", **headers: str) -> None:
        body = content if isinstance(content, bytes) else json.dumps(content).encode()
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name.replace("_", "-"), value)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    def unknown(self) -> None:
        self.answer(404, {"error": "not found"}, X_Error_Code="RepoNotFound")

    @property
    def may_write(self) -> bool:
        return self.headers.get("authorization") == f"Bearer {TOKEN}"

    def body(self) -> bytes:
        return self.rfile.read(int(self.headers.get("Content-Length") or 0))

    def noted(self) -> str:
        path = self.path.partition("?")[0]
        self.hub.calls.append(f"{self.command} {path}")
        return path

    def do_HEAD(self) -> None:
        self.do_GET()

    def do_GET(self) -> None:
        path = self.noted()
        if found := re.fullmatch(r"/api/models/([^/]+/[^/]+)(?:/revision/([^/]+))?", path):
            self.info(found[1], found[2])
        elif found := re.fullmatch(r"/api/models/([^/]+/[^/]+)/tree/[^/]+", path):
            self.tree(found[1])
        elif found := re.fullmatch(r"/([^/]+/[^/]+)/resolve/[^/]+/(.+)", path):
            self.file(found[1], found[2])
        else:
            self.unknown()

    def info(self, name: str, revision: str | None) -> None:
        if name not in self.hub.repositories:
            return self.unknown()
        if revision not in (None, "main", self.hub.commit):
            return self.answer(404, {"error": "no"}, X_Error_Code="RevisionNotFound")
        files = self.hub.repositories[name]
        siblings = [entry(file, content) for file, content in files.items()]
        self.answer(200, {"id": name, "sha": self.hub.commit, "siblings": siblings})

    def tree(self, name: str) -> None:
        if name not in self.hub.repositories:
            return self.unknown()
        listed = []
        for file, content in self.hub.repositories[name].items():
            one = entry(file, content)
            listed.append({"type": "file", "path": file, "size": one["size"], "oid": one["blobId"]})
            if large := one.get("lfs"):
                listed[-1]["lfs"] = {"oid": large["sha256"], "size": large["size"]}
                listed[-1]["lfs"]["pointerSize"] = large["pointerSize"]
        self.answer(200, listed)

    def file(self, name: str, file: str) -> None:
        files = self.hub.repositories.get(name)
        if files is None:
            return self.unknown()
        if file not in files:
            return self.answer(404, b"", X_Error_Code="EntryNotFound")
        content = files[file]
        headers = {"X_Repo_Commit": self.hub.commit, "ETag": f'"{entry(file, content)["blobId"]}"'}
        if is_large(file):
            sha = hashlib.sha256(content).hexdigest()
            headers |= {"X_Linked_ETag": f'"{sha}"', "X_Linked_Size": str(len(content))}
        if file == self.hub.garble:
            content = content[:-1] + bytes([content[-1] ^ 1])
        self.answer(200, content, **headers)

    def do_PUT(self) -> None:
        path = self.noted()
        content = self.body()
        assert hashlib.sha256(content).hexdigest() == path.rpartition("/")[2]
        self.hub.objects[path.rpartition("/")[2]] = content
        self.answer(200, ETag='"done"')

    def do_POST(self) -> None:
        path, body = self.noted(), self.body()
        if path == "/api/validate-yaml":
            return self.answer(200, {"errors": [], "warnings": []})
        if not self.may_write:
            return self.answer(401, {"error": "Invalid username or password."})
        if path == "/api/repos/create":
            asked = json.loads(body)
            name = f"{asked['organization']}/{asked['name']}"
            self.hub.private[name] = asked.get("visibility") == "private" or bool(
                asked.get("private")
            )
            self.hub.repositories[name] = {".gitattributes": b"*.safetensors filter=lfs\n"}
            return self.answer(200, {"url": f"{self.hub.address}/{name}"})
        if re.fullmatch(r"/api/models/[^/]+/[^/]+/preupload/main", path):
            files = [
                {
                    "path": one["path"],
                    "uploadMode": "lfs" if is_large(one["path"]) else "regular",
                    "shouldIgnore": False,
                }
                for one in json.loads(body)["files"]
            ]
            return self.answer(200, {"files": files})
        if path.endswith(".git/info/lfs/objects/batch"):
            objects = [
                {**one, "actions": {"upload": {"href": f"{self.hub.address}/put/{one['oid']}"}}}
                for one in json.loads(body)["objects"]
            ]
            return self.answer(200, {"transfer": "basic", "objects": objects})
        if found := re.fullmatch(r"/api/models/([^/]+/[^/]+)/commit/main", path):
            return self.take(found[1], body)
        return self.unknown()

    def take(self, name: str, body: bytes) -> None:
        """A commit: all of its lines, or none."""
        if self.hub.full:
            return self.answer(413, {"error": "storage limit reached"})
        files = dict(self.hub.repositories[name])
        for line in body.splitlines():
            record = json.loads(line)
            value = record["value"]
            if record["key"] == "file":
                files[value["path"]] = base64.b64decode(value["content"])
            elif record["key"] == "lfsFile":
                files[value["path"]] = self.hub.objects[value["oid"]]
            elif record["key"] == "deletedFile":
                del files[value["path"]]
        self.hub.repositories[name] = files
        self.hub.commits += 1
        address = f"{self.hub.address}/{name}/commit/{self.hub.commit}"
        self.answer(200, {"success": True, "commitUrl": address, "commitOid": self.hub.commit})


@contextmanager
def serving() -> Iterator[Hub]:
    """A Hub at ``hub.address``, for as long as the block runs."""
    hub = Hub()
    server = ThreadingHTTPServer(("127.0.0.1", 0), type("Bound", (Handler,), {"hub": hub}))
    server.daemon_threads = True
    hub.address = f"http://127.0.0.1:{server.server_address[1]}"
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
    thread.start()
    try:
        yield hub
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
