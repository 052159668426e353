"""Makes what schemathesis sends fit this server where the schema cannot say how, and keeps the run from revoking its own
key and from ending the project that it works in."""

import collections
import os

import schemathesis
from schemathesis import GenerationMode

OWN_KEY = os.environ["OWN_KEY"]
LOGIN = {"username": os.environ["LOGIN_NAME"], "password": os.environ["LOGIN_PASSWORD"]}
NOBODY = "AAAAAAAAAAAA"
KEYS = "/api/v1/auth/api-keys"
USERS = "/api/v1/users"
PROJECTS = "/api/v1/projects"

# What the run has made, so that it can be found again: names of the path by the path that made them.
MADE = {KEYS: collections.deque(maxlen=20), USERS: collections.deque(maxlen=20)}


@schemathesis.hook
def before_call(context, case, kwargs):
    headers = case.headers if case.headers is not None else {}
    # The run has a credential already, and two are refused.
    headers.pop("X-API-Key", None)
    if is_meant_to_fit(case):
        # The quotes of an ETag are lost where its digits are taken for a number.
        if str(headers.get("If-Match", "*")).isdigit():
            headers["If-Match"] = f'"{headers["If-Match"]}"'
        # A limit says for how long to wait, and is refused to whoever does not wait.
        if case.query and "limit" in case.query and is_change(case):
            case.query["wait"] = "fleet"
        if isinstance(case.body, dict):
            fit(case)
        if case.meta.phase.name.value != "stateful":
            find(case)
    names = case.path_parameters or {}
    if names.get("id") == OWN_KEY and case.method.upper() != "GET":
        names["id"] = NOBODY
    if case.operation.path.startswith(PROJECTS) and names.get("name") == "acme" and is_change(case):
        names["name"] = "another"


@schemathesis.hook
def after_call(context, case, response):
    if response.status_code == 201 and case.operation.path == KEYS:
        MADE[KEYS].append({"id": response.json()["id"]})
    if response.status_code == 201 and case.operation.path == USERS:
        MADE[USERS].append({"name": response.json()["name"].replace("/", ":")})


def is_meant_to_fit(case):
    return case.meta is not None and case.meta.generation.mode == GenerationMode.POSITIVE


def is_change(case):
    return case.method.upper() != "GET"


def find(case):
    """Something that is there, rather than a name that was made up."""
    for path, made in MADE.items():
        if case.operation.path.startswith(f"{path}/") and made:
            made.rotate(1)
            case.path_parameters = {**(case.path_parameters or {}), **made[0]}


def fit(case):
    """Names that are configured, one expiry in the future, and a password that somebody has."""
    body, path = case.body, case.operation.path
    if path == "/api/v1/auth/login":
        body.update(LOGIN)
    if "permissions" in body:
        body["permissions"] = ["run_inference"]
    if body.get("plane") is not None:
        body["plane"] = "data"
    if body.get("project") == "*":
        body["project"] = "acme"
    if body.get("expires_in_days") is not None:
        body.pop("expires_in_seconds", None)
    if body.get("expires_at") is not None:
        body["expires_at"] = "2099-01-01T00:00:00Z"
    # What may be left out where the configuration or the caller has a default, as here they have not.
    defaults = {KEYS: ["plane", "project", "workloads"], USERS: ["project"]}
    for field in defaults.get(path, []) if case.method.upper() == "POST" else []:
        if body.get(field) is None:
            body[field] = {"plane": "data", "project": "acme", "workloads": ["*"]}[field]
