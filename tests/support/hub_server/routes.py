"""The routes that huggingface_hub calls, as functions from a request to an answer."""

import base64
import hashlib
import json
import re
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import unquote

import yaml

from .store import DATE, Blob, Commit, HubError, Repo, Store, User, namespace_of, upload_mode

# In the tests, files that are larger than this are uploaded in parts.
PART_BYTES = 2**21


@dataclass
class Request:
    """What a client asks.

    Attributes:
        store: the Hub.
        base: address of the server.
        user: who asks; `None` without a token.
        query: parameters behind the `?`.
        headers: headers, with names in small letters.
        body: the body.
        captured: parts of the path that the route's pattern names.
        prefix: of the names of repositories that are no models: `datasets/`.
    """

    store: Store
    base: str
    user: User | None
    query: dict[str, str]
    headers: dict[str, str]
    body: bytes
    captured: dict[str, str] = field(default_factory=dict)
    prefix: str = ""

    @property
    def json(self) -> Any:
        return json.loads(self.body)

    def __getitem__(self, name: str) -> str:
        value = unquote(self.captured[name])
        return self.prefix + value if name == "repo" else value

    def needs_user(self) -> User:
        if self.user is None:
            raise HubError(401, "Invalid username or password.")
        return self.user


@dataclass
class Response:
    """An answer; a `dict` or `list` becomes JSON."""

    body: Any = b""
    status: int = 200
    headers: dict[str, str] = field(default_factory=dict)


Route = Callable[[Request], Any]
ROUTES: list[tuple[str, re.Pattern[str], Route]] = []


def route(method: str, pattern: str) -> Callable[[Route], Route]:
    """Registers a function for a method and a path. `{name}` is one part of the path, `{repo}` two, `{path}` any."""
    kinds = {"repo": "[^/]+/[^/]+", "slug": "[^/]+/[^/]+", "path": ".+"}
    regex = re.sub(r"\{(\w+)\}", lambda name: f"(?P<{name[1]}>{kinds.get(name[1], '[^/]+')})", pattern)

    def register(function: Route) -> Route:
        ROUTES.append((method, re.compile(regex), function))
        return function

    return register


@route("GET", "/api/whoami-v2")
def whoami(request: Request) -> Any:
    user = request.needs_user()
    token = {"displayName": "test", "role": user.role}
    if user.role == "fineGrained":
        scoped = [{"entity": {"name": name}, "permissions": ["repo.write"]} for name in user.scopes]
        token["fineGrained"] = {"scoped": scoped}  # type: ignore[assignment]
    orgs = [{"name": name, "roleInOrg": "write"} for name in user.orgs]
    return {"type": "user", "name": user.name, "orgs": orgs, "auth": {"type": "access_token", "accessToken": token}}


@route("POST", "/api/repos/create")
def create_repo(request: Request) -> Any:
    user, asked = request.needs_user(), request.json
    name = f"{asked.get('organization') or user.name}/{asked['name']}"
    if not user.may_write(name.split("/")[0]):
        raise HubError(403, f"You don't have the rights to create a model under the namespace {name.split('/')[0]}")
    kind = asked.get("type") or "model"
    name = f"datasets/{name}" if kind == "dataset" else name
    url = f"{request.base}/{name}"
    if name in request.store.repos:
        raise HubError(409, f"You already created this {kind} repo", url=url)
    # huggingface_hub before 2 says `private`, later ones `visibility`.
    private = asked.get("visibility") == "private" or bool(asked.get("private"))
    request.store.create(name, private)
    return {"url": url, "name": name, "id": name.removeprefix("datasets/")}


@route("DELETE", "/api/repos/delete")
def delete_repo(request: Request) -> Any:
    user, asked = request.needs_user(), request.json
    name = f"{asked.get('organization') or user.name}/{asked['name']}"
    name = f"datasets/{name}" if asked.get("type") == "dataset" else name
    request.store.writable(name, user)
    del request.store.repos[name]
    return {}


@route("POST", "/api/validate-yaml")
def validate_yaml(request: Request) -> Any:
    head = re.match(r"---\n(.*?)\n---", request.json["content"], re.DOTALL)
    try:
        metadata = yaml.safe_load(head[1]) if head else None
    except yaml.YAMLError as error:
        return Response({"errors": [{"message": str(error)}], "warnings": []}, 400)
    warnings = [] if metadata else [{"message": "empty or missing yaml metadata in repo card"}]
    return {"errors": [], "warnings": warnings}


@route("POST", "/api/models/{repo}/preupload/{revision}")
def preupload(request: Request) -> Any:
    commit = request.store.writable(request["repo"], request.user).at(request["revision"])
    files = []
    for asked in request.json["files"]:
        blob = commit.files.get(asked["path"])
        mode = upload_mode(asked["path"], asked["size"], base64.b64decode(asked["sample"]))
        entry = {"path": asked["path"], "uploadMode": mode, "shouldIgnore": False}
        files.append(entry | ({} if blob is None else {"oid": blob.sha256 or blob.oid}))
    return {"files": files, "commitOid": commit.oid}


@route("POST", "/{repo}.git/info/lfs/objects/batch")
def lfs_batch(request: Request) -> Any:
    request.store.writable(request["repo"], request.user)
    return {"transfer": "basic", "objects": [_instructions(request, asked) for asked in request.json["objects"]]}


def _instructions(request: Request, asked: dict[str, Any]) -> dict[str, Any]:
    oid, size = asked["oid"], asked["size"]
    answer: dict[str, Any] = {"oid": oid, "size": size}
    if oid in request.store.large:
        return answer
    place = f"{request.base}/storage/{oid}"
    verify = {"href": f"{request.base}/{request['repo']}.git/info/lfs/objects/verify"}
    if size <= PART_BYTES:
        return answer | {"actions": {"upload": {"href": place}, "verify": verify}}
    number = -(-size // PART_BYTES)
    header = {"chunk_size": str(PART_BYTES)} | {f"{part}": f"{place}/parts/{part}" for part in range(1, number + 1)}
    return answer | {"actions": {"upload": {"href": f"{place}/complete", "header": header}, "verify": verify}}


@route("PUT", "/storage/{oid}")
def put_whole(request: Request) -> Any:
    return _keep(request.store, request["oid"], request.body)


@route("PUT", "/storage/{oid}/parts/{part}")
def put_part(request: Request) -> Any:
    request.store.large[f"{request['oid']}/{request['part']}"] = request.body
    return Response(headers={"ETag": f'"{hashlib.md5(request.body).hexdigest()}"'})


@route("POST", "/storage/{oid}/complete")
def complete(request: Request) -> Any:
    store, oid = request.store, request["oid"]
    names = [f"{oid}/{part['partNumber']}" for part in request.json["parts"]]
    content = b"".join(store.large[name] for name in names)
    for name in names:
        del store.large[name]
    return _keep(store, oid, content)


def _keep(store: Store, oid: str, content: bytes) -> Any:
    if hashlib.sha256(content).hexdigest() != oid:
        raise HubError(400, "The content does not have the SHA-256 that was announced")
    store.large[oid] = content
    return {}


@route("POST", "/{repo}.git/info/lfs/objects/verify")
def verify(request: Request) -> Any:
    content = request.store.large.get(request.json["oid"])
    if content is None or len(content) != request.json["size"]:
        raise HubError(404, "The object was not uploaded")
    return {}


@route("POST", "/api/models/{repo}/commit/{revision}")
def commit(request: Request) -> Any:
    repo, branch = request.store.writable(request["repo"], request.user), request["revision"]
    if branch not in repo.branches:
        raise HubError(404, f"Invalid rev id: {branch}", "RevisionNotFound")
    head, *operations = [json.loads(line) for line in request.body.splitlines() if line]
    before = repo.at(branch)
    if head["value"].get("parentCommit", before.oid) != before.oid:
        raise HubError(412, "A commit has happened since. Please refresh and try again.")
    files = dict(before.files)
    for operation in operations:
        _apply(request.store, files, operation["key"], operation["value"])
    made = repo.commit(branch, head["value"]["summary"], files)
    return {
        "success": True,
        "commitOid": made.oid,
        "commitUrl": f"{request.base}/{repo.name}/commit/{made.oid}",
        "hookOutput": "",
    }


def _apply(store: Store, files: dict[str, Blob], key: str, value: dict[str, Any]) -> None:
    path = value["path"]
    if key == "file":
        files[path] = Blob.of(base64.b64decode(value["content"]))
    elif key == "lfsFile":
        if value["oid"] not in store.large:
            raise HubError(400, f"The large file of {path} was not uploaded")
        files[path] = Blob.of(store.large[value["oid"]], value["oid"])
    elif key == "deletedFile":
        if files.pop(path, None) is None:
            raise HubError(404, "A file with this name doesn't exist", "EntryNotFound")
    else:
        raise HubError(400, f"{key} is no operation of this Hub")


@route("POST", "/api/models/{repo}/branch/{branch}")
def create_branch(request: Request) -> Any:
    repo = request.store.writable(request["repo"], request.user)
    if request["branch"] in repo.branches:
        raise HubError(409, "Reference already exists")
    asked = request.json if request.body else {}
    repo.branches[request["branch"]] = repo.at(asked.get("startingPoint", "main")).oid
    return {}


@route("POST", "/api/models/{repo}/tag/{revision}")
def create_tag(request: Request) -> Any:
    repo = request.store.writable(request["repo"], request.user)
    if request.json["tag"] in repo.tags:
        raise HubError(409, "Tag reference exists already")
    repo.tags[request.json["tag"]] = repo.at(request["revision"]).oid
    return {}


@route("GET", "/api/models/{repo}/refs")
def refs(request: Request) -> Any:
    repo = request.store.visible(request["repo"], request.user)
    heads, tags = (
        [{"name": name, "ref": f"refs/{kind}/{name}", "targetCommit": oid} for name, oid in found.items()]
        for kind, found in (("heads", repo.branches), ("tags", repo.tags))
    )
    return {"branches": heads, "tags": tags, "converts": []}


@route("GET", "/api/models/{repo}/commits/{revision}")
def commits(request: Request) -> Any:
    history = request.store.visible(request["repo"], request.user).history(request["revision"])
    return [{"id": item.oid, "title": item.title, "message": "", "authors": [], "date": DATE} for item in history]


@route("GET", "/api/models/{repo}/tree/{revision}")
@route("GET", "/api/models/{repo}/tree/{revision}/{path}")
def tree(request: Request) -> Any:
    commit = request.store.visible(request["repo"], request.user).at(request["revision"])
    prefix = request["path"].rstrip("/") + "/" if "path" in request.captured else ""
    below = {path: blob for path, blob in commit.files.items() if path.startswith(prefix)}
    if prefix and not below:
        raise HubError(404, f"{prefix} does not exist", "EntryNotFound")
    folders = {prefix + path.removeprefix(prefix).split("/")[0] for path in below if "/" in path.removeprefix(prefix)}
    if request.query.get("recursive", "").lower() not in ("true", "1"):
        below = {path: blob for path, blob in below.items() if "/" not in path.removeprefix(prefix)}
    listed = [{"type": "directory", "path": path, "oid": hashlib.sha1(path.encode()).hexdigest()} for path in folders]
    return listed + [_entry(path, blob) for path, blob in below.items()]


def _entry(path: str, blob: Blob) -> dict[str, Any]:
    entry: dict[str, Any] = {"type": "file", "path": path, "oid": blob.oid, "size": len(blob.content)}
    if blob.sha256 is not None:
        entry["lfs"] = {"oid": blob.sha256, "size": len(blob.content), "pointerSize": 130}
    return entry


@route("POST", "/api/models/{repo}/paths-info/{revision}")
def paths_info(request: Request) -> Any:
    commit = request.store.visible(request["repo"], request.user).at(request["revision"])
    return [_entry(path, commit.files[path]) for path in request.json["paths"] if path in commit.files]


@route("GET", "/api/models")
def list_models(request: Request) -> Any:
    """The models that match one filter: a tag, or `base_model:RELATION:NAME`, which the Hub takes from the card."""
    store, filtered = request.store, request.query.get("filter")
    models = [name for name in sorted(store.repos) if not name.startswith("datasets/")]
    seen = (store.repos[name] for name in models if store.shows(name, request.user))
    shown = [_describe(repo, repo.at("main")) for repo in seen]
    return [model for model in shown if filtered is None or filtered in (*model["tags"], *_relations(model))]


def _relations(model: dict[str, Any]) -> list[str]:
    card = model["cardData"] or {}
    bases = card.get("base_model") or []
    names = bases if isinstance(bases, list) else [bases]
    return [f"base_model:{card.get('base_model_relation')}:{name}" for name in names]


@route("GET", "/api/models/{repo}")
@route("GET", "/api/models/{repo}/revision/{revision}")
def info(request: Request) -> Any:
    repo = request.store.visible(request["repo"], request.user)
    commit = repo.at(request["revision"] if "revision" in request.captured else "main")
    return _describe(repo, commit)


def _describe(repo: Repo, commit: Commit) -> dict[str, Any]:
    card = commit.files.get("README.md")
    head = re.match(rb"---\n(.*?)\n---", card.content, re.DOTALL) if card else None
    metadata = yaml.safe_load(head[1]) if head else {}
    return {
        "_id": hashlib.sha1(repo.name.encode()).hexdigest()[:24],
        "id": repo.name.removeprefix("datasets/"),
        "modelId": repo.name.removeprefix("datasets/"),
        "author": namespace_of(repo.name),
        "sha": commit.oid,
        "private": repo.private,
        "gated": False,
        "disabled": False,
        "downloads": 0,
        "likes": 0,
        "lastModified": DATE,
        "createdAt": DATE,
        "tags": list(metadata.get("tags") or []),
        "pipeline_tag": metadata.get("pipeline_tag"),
        "library_name": metadata.get("library_name"),
        "cardData": metadata,
        "siblings": [{"rfilename": path} for path in sorted(commit.files)],
    }


@route("HEAD", "/{repo}/resolve/{revision}/{path}")
@route("GET", "/{repo}/resolve/{revision}/{path}")
def resolve(request: Request) -> Any:
    commit = request.store.visible(request["repo"], request.user).at(request["revision"])
    blob = commit.files.get(request["path"])
    named = {"X-Repo-Commit": commit.oid}
    if blob is None:
        raise HubError(404, "Entry not found", "EntryNotFound")
    if blob.sha256 is None:
        return _content(request, blob.content, named | {"ETag": f'"{blob.oid}"'})
    named |= {"X-Linked-Etag": f'"{blob.sha256}"', "X-Linked-Size": str(len(blob.content))}
    # Large files come from another host, to which the client does not send the token.
    other_host = request.base.replace("127.0.0.1", "localhost")
    return Response(status=302, headers=named | {"Location": f"{other_host}/cdn/{blob.sha256}"})


@route("HEAD", "/cdn/{oid}")
@route("GET", "/cdn/{oid}")
def cdn(request: Request) -> Any:
    return _content(request, request.store.large[request["oid"]], {"ETag": f'"{request["oid"]}"'})


def _content(request: Request, content: bytes, headers: dict[str, str]) -> Response:
    headers = headers | {"Accept-Ranges": "bytes"}
    asked = re.fullmatch(r"bytes=(\d+)-(\d*)", request.headers.get("range", ""))
    if asked is None:
        return Response(content, headers=headers)
    start, end = int(asked[1]), min(int(asked[2] or len(content)), len(content) - 1)
    if start >= len(content):
        return Response(status=416, headers=headers | {"Content-Range": f"bytes */{len(content)}"})
    part = content[start : end + 1]
    return Response(part, 206, headers | {"Content-Range": f"bytes {start}-{end}/{len(content)}"})


@route("POST", "/api/collections")
def create_collection(request: Request) -> Any:
    user, asked = request.needs_user(), request.json
    if not user.may_write(asked["namespace"]):
        raise HubError(403, f"You don't have the rights to create a collection in {asked['namespace']}")
    name = re.sub(r"[^a-z0-9]+", "-", asked["title"].lower()).strip("-")
    identity = hashlib.sha1(f"{asked['namespace']}/{name}".encode()).hexdigest()[:24]
    slug = f"{asked['namespace']}/{name}-{identity}"
    if slug in request.store.collections:
        raise HubError(409, "This collection exists already", slug=slug)
    if len(asked["title"]) > 59 or len(asked.get("description") or "") > 150:
        raise HubError(400, "The title or the description is too long")
    request.store.collections[slug] = collection = {
        "slug": slug,
        "title": asked["title"],
        "description": asked.get("description"),
        "owner": {"name": asked["namespace"]},
        "items": [],
        "lastUpdated": DATE,
        "position": 0,
        "private": asked.get("private", False),
        "theme": "green",
        "upvotes": 0,
    }
    return collection


@route("GET", "/api/collections/{slug}")
def get_collection(request: Request) -> Any:
    return _collection(request)


@route("POST", "/api/collections/{slug}/items")
def add_item(request: Request) -> Any:
    user, collection, asked = request.needs_user(), _collection(request), request.json
    if not user.may_write(collection["owner"]["name"]):
        raise HubError(403, "You don't have the rights to change this collection")
    item = asked["item"]
    request.store.visible(item["id"], user)
    if any(known["id"] == item["id"] for known in collection["items"]):
        raise HubError(409, "This item is in the collection already")
    identity = hashlib.sha1(item["id"].encode()).hexdigest()[:24]
    note = {"text": asked["note"]} if "note" in asked else None
    collection["items"].append({"_id": identity, "position": len(collection["items"]), "note": note, **item})
    return collection


def _collection(request: Request) -> dict[str, Any]:
    if request["slug"] not in request.store.collections:
        raise HubError(404, "Collection not found")
    return request.store.collections[request["slug"]]


def answer(method: str, path: str, request: Request) -> Response:
    """Find the route of a request, and let it answer. Datasets have the routes of models, under names of their own."""
    path, number = re.subn(r"^/api/datasets/", "/api/models/", path)
    if not number:
        path, number = re.subn(r"^/datasets/", "/", path)
    request.prefix = "datasets/" if number else ""
    for known, pattern, function in ROUTES:
        if known == method and (match := pattern.fullmatch(path)) is not None:
            request.captured = match.groupdict()
            try:
                result = function(request)
            except HubError as error:
                headers = {"X-Error-Message": error.message} | ({"X-Error-Code": error.code} if error.code else {})
                return Response({"error": error.message, **error.body}, error.status, headers)
            return result if isinstance(result, Response) else Response(result)
    return Response({"error": f"this Hub has no route {method} {path}"}, 404)


__all__ = ["Request", "Response", "answer"]
