"""A Hugging Face hub of one thread on this machine: the part of its HTTP API that uploads and downloads of models use.

Repositories, tokens and failures are plain attributes. Large files go through git-lfs' batch API, as on the real hub with
xet switched off.
"""

import base64
import hashlib
import json
import re
import threading
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, ClassVar

import yaml

COMMIT = "0123456789abcdef0123456789abcdef01234567"
LFS_SUFFIX = ".safetensors"


@dataclass
class Repository:
    private: bool
    files: dict[str, bytes] = field(default_factory=dict)
    commits: list[dict[str, Any]] = field(default_factory=list)


class FakeHub:
    """`tokens`: token to the account that it may write to. `fail`: regular expression of "METHOD path" to a status."""

    def __init__(self) -> None:
        self.repositories: dict[str, Repository] = {}
        self.tokens = {"hf_me": "me"}
        self.fail: dict[str, int] = {}
        self.objects: dict[str, bytes] = {}
        self.requests: list[str] = []
        self.truncate = False  # downloads end half way

    def __enter__(self) -> "FakeHub":
        handler = type("Handler", (_Handler,), {"hub": self})
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
        self.url = f"http://127.0.0.1:{self._server.server_address[1]}"
        threading.Thread(target=self._server.serve_forever, args=(0.01,), daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        self._server.shutdown()
        self._server.server_close()


class _Handler(BaseHTTPRequestHandler):
    hub: ClassVar[FakeHub]
    protocol_version = "HTTP/1.1"

    def log_message(self, *_: object) -> None:
        pass

    def do_GET(self) -> None:
        self._answer()

    do_HEAD = do_POST = do_PUT = do_GET

    def _answer(self) -> None:
        self.body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        request = f"{self.command} {self.path}"
        self.hub.requests.append(request)
        for pattern, status in self.hub.fail.items():
            if re.search(pattern, request):
                return self._json({"error": "made to fail"}, status)
        routes = [
            (r"POST /api/repos/create$", self._create),
            (r"POST /api/validate-yaml$", self._validate),
            (r"GET /api/models/(\w+/[\w-]+)(?:/revision/(\w+))?$", self._info),
            (r"POST /api/models/(\w+/[\w-]+)/preupload/main$", self._preupload),
            (r"POST /(\w+/[\w-]+)\.git/info/lfs/objects/batch$", self._batch),
            (r"PUT /objects/(\w+)$", self._store),
            (r"POST /api/models/(\w+/[\w-]+)/commit/main$", self._commit),
            (r"(?:GET|HEAD) /(\w+/[\w-]+)/resolve/([^/]+)/(.+)$", self._resolve),
        ]
        for pattern, action in routes:
            if match := re.match(pattern, request):
                return action(*match.groups())
        return self._json({"error": f"the fake hub has no {request}"}, 501)

    def _account(self) -> str | None:
        token = self.headers.get("Authorization", "").removeprefix("Bearer ")
        return self.hub.tokens.get(token)

    def _json(self, value: Any, status: int = 200, **headers: str) -> None:
        self._send(json.dumps(value).encode(), status, **{"Content-Type": "application/json", **headers})

    def _send(self, body: bytes, status: int = 200, **headers: str) -> None:
        self.send_response(status)
        for name, value in ({"Content-Length": str(len(body))} | headers).items():
            self.send_header(name, value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    def _missing(self) -> None:
        self._json({"error": "Repository not found"}, 404, **{"X-Error-Code": "RepoNotFound"})

    def _visible(self, name: str) -> Repository | None:
        repository = self.hub.repositories.get(name)
        hidden = repository and repository.private and self._account() != name.partition("/")[0]
        return None if hidden else repository

    def _may_write(self, name: str) -> bool:
        if self._account() is None:
            self._json({"error": "Invalid username or password."}, 401)
        elif self._account() != name.partition("/")[0]:
            self._json({"error": "You don't have the rights"}, 403)
        else:
            return True
        return False

    def _create(self) -> None:
        wanted = json.loads(self.body)
        name = f"{wanted['organization']}/{wanted['name']}"
        if not self._may_write(name):
            return
        if name in self.hub.repositories:
            self._json({"error": "You already created this model repo", "url": f"{self.hub.url}/{name}"}, 409)
            return
        private = wanted.get("private") or wanted.get("visibility") == "private"
        self.hub.repositories[name] = Repository(bool(private))
        self._json({"url": f"{self.hub.url}/{name}"})

    def _validate(self) -> None:
        content = json.loads(self.body)["content"]
        front = re.match(r"---\n(.*?)\n---\n", content, re.DOTALL)
        try:
            assert front is not None
            values = yaml.safe_load(front.group(1))
            assert isinstance(values, dict) and values.get("license") != ""
        except (yaml.YAMLError, AssertionError) as error:
            return self._json({"errors": [{"message": str(error)}], "warnings": []}, 400)
        return self._json({"errors": [], "warnings": []})

    def _info(self, name: str, revision: str | None) -> None:
        repository = self._visible(name)
        if repository is None:
            return self._missing()
        if revision not in (None, "main", COMMIT):
            return self._json({"error": "Invalid rev id"}, 404, **{"X-Error-Code": "RevisionNotFound"})
        siblings = [{"rfilename": path} for path in repository.files]
        return self._json(
            {"_id": "1", "id": name, "private": repository.private, "sha": COMMIT, "siblings": siblings}
        )

    def _preupload(self, name: str) -> None:
        if not self._may_write(name):
            return
        files = [
            {
                "path": file["path"],
                "uploadMode": "lfs" if file["path"].endswith(LFS_SUFFIX) else "regular",
                "shouldIgnore": False,
            }
            for file in json.loads(self.body)["files"]
        ]
        self._json({"files": files})

    def _batch(self, name: str) -> None:
        if not self._may_write(name):
            return
        objects = []
        for item in json.loads(self.body)["objects"]:
            action = {"upload": {"href": f"{self.hub.url}/objects/{item['oid']}"}}
            objects.append(item | ({} if item["oid"] in self.hub.objects else {"actions": action}))
        self._json({"transfer": "basic", "objects": objects})

    def _store(self, oid: str) -> None:
        if hashlib.sha256(self.body).hexdigest() != oid:
            return self._json({"error": "wrong digest"}, 400)
        self.hub.objects[oid] = self.body
        return self._send(b"")

    def _commit(self, name: str) -> None:
        if not self._may_write(name):
            return
        lines = [json.loads(line) for line in self.body.splitlines()]
        repository = self.hub.repositories[name]
        for line in lines:
            value = line["value"]
            if line["key"] == "file":
                assert value["encoding"] == "base64"
                repository.files[value["path"]] = base64.b64decode(value["content"])
            elif line["key"] == "lfsFile":
                repository.files[value["path"]] = self.hub.objects[value["oid"]]
        repository.commits += [line["value"] for line in lines if line["key"] == "header"]
        url = f"{self.hub.url}/{name}/commit/{COMMIT}"
        self._json({"commitUrl": url, "commitOid": COMMIT, "pullRequestUrl": None})

    def _resolve(self, name: str, revision: str, path: str) -> None:
        repository = self._visible(name)
        if repository is None:
            return self._missing()
        if revision not in ("main", COMMIT):
            return self._json({"error": "Invalid rev id"}, 404, **{"X-Error-Code": "RevisionNotFound"})
        if path not in repository.files:
            return self._json({"error": "Entry not found"}, 404, **{"X-Error-Code": "EntryNotFound"})
        content = repository.files[path]
        digest = hashlib.sha256(content).hexdigest()
        headers = {"X-Repo-Commit": COMMIT, "ETag": f'"{digest}"', "X-Linked-Size": str(len(content))}
        if self.hub.truncate and self.command == "GET":
            self.close_connection = True
            return self._send(content[: len(content) // 2], **headers)
        return self._send(content, **headers)


def front_matter(card: bytes) -> dict:
    match = re.match(rb"---\n(.*?)\n---\n", card, re.DOTALL)
    assert match
    return yaml.safe_load(match.group(1))
