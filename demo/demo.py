"""`make demo`: a real Envoy asks Tollgate about real requests to a small inference server.

Starts the three from the shipped files (envoy/envoy.yaml, envoy/tollgate.yaml), mints one key per plane, runs a few requests
and shows who was let through and why. Stays until Ctrl-C or SIGTERM, then stops what it started and removes what it wrote:
target/demo/ and target/demo.json. Only the standard library is needed.
"""

import argparse
import ctypes
import fcntl
import http.client
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import time

ROOT = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
HOST = "127.0.0.1"
# The ports of the shipped files; a port that is taken is replaced by a free one.
PORTS = {"envoy": 10000, "envoy_admin": 9901, "backend": 8000, "admin": 9181, "ops": 9182, "door": 9183}
PATIENCE = 30
OVERRIDES = ("x-http-method-override", "x-original-url", "x-rewrite-url")


class Stop(Exception):
    """Ctrl-C, SIGTERM or SIGHUP."""


class Failure(Exception):
    """Something that the reader can act on."""


# --- how it looks ------------------------------------------------------------------------------------------------------

COLOUR = sys.stdout.isatty() and "NO_COLOR" not in os.environ


def paint(code, text):
    return f"\x1b[{code}m{text}\x1b[0m" if COLOUR else text


def bold(text):
    return paint("1", text)


def dim(text):
    return paint("2", text)


def say(text=""):
    print(text, flush=True)


def step(text):
    say(f"  {paint('32', '✓')} {text}")


def status_colour(status):
    return "32" if status < 300 else "33" if status in (400, 503) else "31"


# --- processes ---------------------------------------------------------------------------------------------------------


def die_with_parent():
    """Linux: the child is told to stop if this process is killed outright."""
    try:
        ctypes.CDLL(None).prctl(1, signal.SIGTERM)
    except (OSError, AttributeError):
        pass


class Demo:
    def __init__(self, arguments):
        self.binaries = arguments
        self.target = os.path.abspath(arguments.target)
        self.dir = os.path.join(self.target, "demo")
        self.summary = os.path.join(self.target, "demo.json")
        self.children = []
        self.ports = {}
        self.keys = {}
        self.lock = None

    def prepare(self):
        os.makedirs(self.dir, mode=0o700, exist_ok=True)
        self.lock = os.open(self.dir, os.O_RDONLY)
        try:
            fcntl.flock(self.lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            self.dir = None  # somebody else's: leave it alone
            raise Failure("another demo is running in this clone: stop it first") from None
        os.chmod(self.dir, 0o700)
        for entry in os.scandir(self.dir):
            shutil.rmtree(entry.path) if entry.is_dir(follow_symlinks=False) else os.unlink(entry.path)
        remove(self.summary)
        if len(os.path.join(self.dir, "admin.sock")) > 100:
            raise Failure(f"the path {self.dir} is too long for a Unix socket: clone into a shorter one")
        held = []
        for name, preferred in PORTS.items():
            taken = socket.socket()
            taken.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                taken.bind((HOST, preferred))
            except OSError:
                taken = socket.socket()
                taken.bind((HOST, 0))
            held.append(taken)
            self.ports[name] = taken.getsockname()[1]
        for taken in held:
            taken.close()
        moved = [f"{PORTS[name]} → {port}" for name, port in self.ports.items() if port != PORTS[name]]
        if moved:
            say(dim(f"  Some ports are taken; using others: {', '.join(moved)}"))
        self.write("tollgate.yaml", {
            "/var/lib/tollgate": self.dir, "/run/tollgate": self.dir,
            "127.0.0.1:9181": f"{HOST}:{self.ports['admin']}",
            "127.0.0.1:9182": f"{HOST}:{self.ports['ops']}",
            "127.0.0.1:9183": f"{HOST}:{self.ports['door']}",
        })
        self.write("envoy.yaml", {
            "/run/tollgate": self.dir, "address: 0.0.0.0": f"address: {HOST}",
            "port_value: 10000}": f"port_value: {self.ports['envoy']}}}",
            "port_value: 9901}": f"port_value: {self.ports['envoy_admin']}}}",
            "port_value: 8000}": f"port_value: {self.ports['backend']}}}",
            "port_value: 9183}": f"port_value: {self.ports['door']}}}",
        })

    def write(self, name, replacements):
        """Copies a shipped file with its addresses replaced."""
        with open(os.path.join(ROOT, "envoy", name), encoding="utf-8") as shipped:
            text = shipped.read()
        for old, new in replacements.items():
            if old not in text:
                raise Failure(f"envoy/{name} no longer has `{old}`")
            text = text.replace(old, new)
        with open(os.path.join(self.dir, name), "w", encoding="utf-8") as ours:
            ours.write(text)

    def start(self, name, command, **environment):
        log = open(os.path.join(self.dir, f"{name}.log"), "wb")  # noqa: SIM115
        # A session of its own: Ctrl-C reaches this script alone, which then stops everything in order.
        child = subprocess.Popen(
            command, cwd=self.dir, stdin=subprocess.DEVNULL, stdout=log, stderr=log, start_new_session=True,
            preexec_fn=die_with_parent, env={**clean_environment(), **environment})
        log.close()
        self.children.append((name, child))

    def wait_until(self, what, ready):
        end = time.monotonic() + PATIENCE
        while not ready():
            self.look_after_children()
            if time.monotonic() > end:
                raise Failure(f"{what} was not ready within {PATIENCE} s\n{self.log_of(what)}")
            time.sleep(0.03)

    def look_after_children(self):
        for name, child in self.children:
            if child.poll() is not None:
                raise Failure(f"{name} ended by itself (exit code {child.returncode})\n{self.log_of(name)}")

    def log_of(self, name):
        try:
            with open(os.path.join(self.dir, f"{name}.log"), encoding="utf-8", errors="replace") as log:
                return "".join(log.readlines()[-15:])
        except OSError:
            return ""

    def start_all(self):
        backend = f"{HOST}:{self.ports['backend']}"
        self.start("backend", [self.binaries.backend], BACKEND_ADDRESS=backend)
        self.wait_until("backend", lambda: self.answers("backend", "/healthz"))
        step(f"an inference server       {dim('http://' + backend)}")
        self.start("tollgate", [self.binaries.tollgate, "serve", "--config", "tollgate.yaml"])
        self.wait_until("tollgate", lambda: self.answers("ops", "/ready"))
        step(f"Tollgate                  {dim('ext_authz on a Unix socket, admin on http://%s:%d' % (HOST, self.ports['admin']))}")
        self.start("envoy", [self.binaries.envoy, "-c", "envoy.yaml", "--concurrency", "1", "--disable-hot-restart",
                             "--log-level", "warning"])
        self.wait_until("envoy", lambda: self.answers("envoy_admin", "/ready"))
        step(f"Envoy, as it is shipped   {dim('http://%s:%d' % (HOST, self.ports['envoy']))}")

    def answers(self, name, path):
        try:
            return request(self.ports[name], "GET", path)[0] == 200
        except (OSError, http.client.HTTPException):
            return False

    # --- keys and resources ----------------------------------------------------------------------------------------------

    def cli(self, *arguments):
        command = [self.binaries.tollgate, *arguments, "--socket", os.path.join(self.dir, "admin.sock")]
        done = subprocess.run(command, capture_output=True, text=True, timeout=PATIENCE, env=clean_environment())
        if done.returncode != 0:
            raise Failure(f"tollgate {' '.join(arguments)}: {done.stderr.strip()}")
        return done.stdout.strip()

    def provision(self):
        self.keys["admin"] = self.cli("keys", "bootstrap", "-q")
        for workload, place, slug in (("w-1", "acme", "chat"), ("w-2", "acme", "embed"), ("w-9", "beta", "llama")):
            self.cli("resources", "put", f"workload:{workload}", "--project", place, "--slug", slug)
        self.keys["data"] = self.cli(
            "keys", "create", "-q", "--name", "demo: chat front end", "--plane", "data", "--project", "acme",
            "--workloads", "*", "--permissions", "run_inference,read_models")
        self.keys["control"] = self.cli(
            "keys", "create", "-q", "--name", "demo: provisioning", "--plane", "control", "--project", "acme",
            "--workloads", "*", "--permissions", "read_workloads,create_workloads,update_workloads,delete_workloads")
        step("a key per plane, and three workloads in the registry (w-1 and w-2 in acme, w-9 in beta)")

    def publish(self):
        """For scripts: everything is ready."""
        url = f"http://{HOST}:%d"
        values = {"envoy_url": url % self.ports["envoy"], "admin_url": url % self.ports["admin"],
                  "data_key": self.keys["data"], "control_key": self.keys["control"], "admin_key": self.keys["admin"]}
        draft = os.path.join(self.dir, "demo.json")
        with open(os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w", encoding="utf-8") as file:
            json.dump(values, file, indent=2)
            file.write("\n")
        os.replace(draft, self.summary)

    # --- the tour --------------------------------------------------------------------------------------------------------

    def tour(self):
        chat = ("POST", "/v1/chat/completions")
        question = {"model": "aignehub/gpt-3.5-turbo", "messages": [{"role": "user", "content": "Hello?"}]}
        data, control, admin = (self.keys[plane] for plane in ("data", "control", "admin"))
        rows = [
            self.row("a public route", *("GET", "/healthz")),
            self.row("chat, no key", *chat, body=question),
            self.row("chat, data key", *chat, key=data, body=question),
            self.row("the same as a stream", *chat, key=data, body={**question, "stream": True}),
            self.row("with X-API-Key", *chat, body=question, headers={"X-API-Key": data}),
            self.row("claiming another project", *chat, key=data, body=question,
                     headers={"X-Tollgate-Project": "beta", "X-HTTP-Method-Override": "DELETE"}),
            self.row("an endpoint of beta", "POST", "/endpoint/beta/llama/run", key=data, body={}),
            self.row("chat, control key", *chat, key=control, body=question),
            self.row("create a workload", "POST", "/api/projects/acme/workloads", key=control, body={"id": "w-3"}),
            self.row("… with the data key", "POST", "/api/projects/acme/workloads", key=data, body={"id": "w-4"}),
            self.row("update workload w-1", "PATCH", "/api/workloads/w-1", key=control, body={"gpus": 2}),
            self.row("w-9 belongs to beta", "PATCH", "/api/workloads/w-9", key=control, body={"gpus": 2}),
            self.row("an unknown route", "GET", "/admin", key=data),
        ]
        wanted = {"name": "demo: to be revoked", "permissions": ["run_inference"], "expires_in_days": 1}
        status, _, text = request(self.ports["envoy"], "POST", "/api/v1/auth/api-keys", key=admin, body=wanted)
        made = parsed(text)
        why = "minted by an administrator, through Envoy" if status < 300 else reason_of(made)
        rows.append(("mint a key", "POST /api/v1/auth/api-keys", status, why, dim("(Tollgate's own API)")))
        if status < 300:
            rows.append(self.row("the new key", *chat, key=made["key"], body=question))
            path = f"/api/v1/auth/api-keys/{made['id']}"
            status, _, text = request(self.ports["envoy"], "DELETE", path, key=admin)
            why = "revoked" if status < 300 else reason_of(parsed(text))
            rows.append(("revoke it", "DELETE /api/v1/auth/api-keys/…", status, why, dim("(Tollgate's own API)")))
            rows.append(self.row("the very next request", *chat, key=made["key"], body=question))
        return rows

    def row(self, title, method, path, key=None, body=None, headers=None):
        status, kind, text = request(self.ports["envoy"], method, path, key, body, headers)
        if kind.startswith("text/event-stream"):
            events = [line[6:] for line in text.splitlines() if line.startswith("data: ")]
            seen, why = parsed(events[0]).get("seen"), f"allowed, {len(events)} events"
        else:
            answer = parsed(text)
            seen, why = answer.get("seen"), "allowed" if status < 300 else reason_of(answer)
        return (title, f"{method} {path}", status, why, what_was_seen(seen))

    def stop(self):
        for name, child in reversed(self.children):
            if child.poll() is None:
                child.terminate()
            try:
                child.wait(timeout=20)
            except subprocess.TimeoutExpired:
                child.kill()
                child.wait()
        if self.lock is not None and self.dir:
            remove(self.summary)
            shutil.rmtree(self.dir, ignore_errors=True)


def clean_environment():
    """Nothing of the reader's own Tollgate may lead these commands elsewhere."""
    return {name: value for name, value in os.environ.items() if not name.startswith("TOLLGATE_")}


def remove(path):
    try:
        os.unlink(path)
    except FileNotFoundError:
        pass


def request(port, method, path, key=None, body=None, headers=None):
    """Status, content type and text of one answer."""
    sent = dict(headers or {})
    if key:
        sent["Authorization"] = f"Bearer {key}"
    if body is not None:
        sent["Content-Type"] = "application/json"
    connection = http.client.HTTPConnection(HOST, port, timeout=PATIENCE)
    try:
        connection.request(method, path, None if body is None else json.dumps(body), sent)
        answer = connection.getresponse()
        return answer.status, answer.headers.get("Content-Type", ""), answer.read().decode("utf-8", "replace")
    finally:
        connection.close()


def parsed(text):
    try:
        value = json.loads(text)
    except ValueError:
        return {}
    return value if isinstance(value, dict) else {}


def reason_of(answer):
    error = answer.get("error") or {}
    return error.get("message", "refused") if isinstance(error, dict) else str(error)


def what_was_seen(seen):
    if not seen:
        return dim("nothing")
    headers = seen.get("headers", {})
    names = ("subject", "project", "workload")
    identity = [f"{name}={headers['x-tollgate-' + name]}" for name in names if "x-tollgate-" + name in headers]
    leaked = [name for name in ("authorization", "x-api-key", *OVERRIDES) if name in headers]
    text = " ".join(identity) or "nobody's identity"
    return text + (paint("31", "  LEAKED " + " ".join(leaked)) if leaked else "")


def table(rows):
    width = [max(len(row[column]) for row in rows) for column in (0, 1)]
    reasons = [cut(row[3], 48) for row in rows]
    reason_width = max(map(len, reasons))
    head = f"  {'':{width[0]}}  {'request':{width[1]}}  stat  {'why':{reason_width}}  what the back end saw"
    say(bold(head))
    for (title, what, status, _, seen), why in zip(rows, reasons):
        shown = paint(status_colour(status), f"{status}")
        say(f"  {title:{width[0]}}  {dim(f'{what:{width[1]}}')}  {shown}   {why:{reason_width}}  {seen}")


def cut(text, width):
    """The first sentence, without what it says in brackets."""
    text = text.split(" (")[0].split(": ")[0].rstrip(".")
    return text if len(text) <= width else text[: width - 1] + "…"


def commands(demo):
    url = f"http://{HOST}:{demo.ports['envoy']}"
    data, control, admin = (demo.keys[plane] for plane in ("data", "control", "admin"))
    question = """'{"model": "m", "messages": [{"role": "user", "content": "Hello?"}]}'"""
    stream = question.replace('"model": "m"', '"model": "m", "stream": true')
    lines = [
        ("Chat, with the data key", f"curl -s {url}/v1/chat/completions -H 'Authorization: Bearer {data}' -d {question}"),
        ("The same as a stream", f"curl -sN {url}/v1/chat/completions -H 'Authorization: Bearer {data}' -d {stream}"),
        ("No key: 401, and how to mend it", f"curl -si {url}/v1/chat/completions -d {question}"),
        ("The control key provisions …",
         f"""curl -s {url}/api/projects/acme/workloads -H 'Authorization: Bearer {control}' -d '{{"id": "w-5"}}'"""),
        ("… and cannot call inference: 403",
         f"curl -si {url}/v1/chat/completions -H 'Authorization: Bearer {control}' -d {question}"),
        ("An administrator mints a key, through Envoy",
         f"""curl -s {url}/api/v1/auth/api-keys -H 'Authorization: Bearer {admin}' """
         """-d '{"name": "mine", "permissions": ["run_inference"], "expires_in_days": 30}'"""),
        ("Every key, on the command line",
         f"{demo.binaries.tollgate} keys list --socket {os.path.join(demo.dir, 'admin.sock')}"),
    ]
    for title, line in lines:
        say(f"  {dim('# ' + title)}\n  {line}")


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--tollgate", required=True, help="the tollgate binary")
    parser.add_argument("--backend", required=True, help="the inference_backend example")
    parser.add_argument("--envoy", required=True, help="the envoy binary")
    parser.add_argument("--target", required=True, help="the folder that demo/ and demo.json go into")
    arguments = parser.parse_args()
    for name in ("tollgate", "backend", "envoy"):
        path = getattr(arguments, name)
        setattr(arguments, name, shutil.which(path) and os.path.abspath(shutil.which(path)) or os.path.abspath(path))
    demo = Demo(arguments)

    def on_signal(*_):
        raise Stop

    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, on_signal)
    code = 0
    try:
        say(bold("\nTollgate: Envoy asks, Tollgate answers, the inference server trusts\n"))
        say(dim("  client ──▶ Envoy ──▶ inference server\n              ⇅ who is asking, and may they?\n            Tollgate\n"))
        demo.prepare()
        demo.start_all()
        demo.provision()
        say()
        table(demo.tour())
        say(bold("\nTry it yourself\n"))
        commands(demo)
        demo.publish()
        logs = os.path.relpath(demo.dir)
        say(f"\n{bold('Ready.')} For scripts: {os.path.relpath(demo.summary)}. Logs: {logs}/*.log. {bold('Ctrl-C ends it.')}")
        while True:
            time.sleep(0.5)
            demo.look_after_children()
    except Stop:
        pass
    except Failure as problem:
        print(f"\ndemo: {problem}", file=sys.stderr, flush=True)
        code = 1
    finally:
        # A second Ctrl-C must not leave anything behind.
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
            signal.signal(number, signal.SIG_IGN)
        demo.stop()
    if code == 0:
        say("\nStopped; nothing is left behind.")
    return code


if __name__ == "__main__":
    sys.exit(main())
