"""Speak the Hub's protocol on loopback, and break what any server says on the way.

[동작] HubServer: 목록은 /api, 파일은 /resolve, 큰 파일(LFS)은 다른 포트(CDN)로 넘긴다. 진짜 Hub처럼.
    FaultyProxy: S3(moto)나 HubServer 앞에 서서, 시킨 대로 응답을 끊고, 늦추고, 줄이고, 뒤집는다.
"""

import hashlib
import http.client
import json
import random
import socket
import struct
import threading
import time
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import urlsplit

COMMIT = "0123456789abcdef0123456789abcdef01234567"
LFS_FROM = 1000  # bytes; the Hub decides by file type and size


class CountingServer(ThreadingHTTPServer):
    """Know how many requests are not answered yet: from the moment they are taken in, in the order of their coming."""

    daemon_threads = True
    lock = threading.Lock()
    active = 0

    def process_request(self, request, client_address):
        with self.lock:
            self.active += 1
        super().process_request(request, client_address)

    def process_request_thread(self, request, client_address):
        try:
            super().process_request_thread(request, client_address)
        finally:
            with self.lock:
                self.active -= 1


class Server:
    """Run a handler on a free port of loopback while a `with` lasts."""

    handler: type[BaseHTTPRequestHandler]

    def __enter__(self):
        self.http = CountingServer(("127.0.0.1", 0), type("Handler", (self.handler,), {"owner": self}))
        self.url = f"http://127.0.0.1:{self.http.server_port}"
        self.thread = threading.Thread(target=self.http.serve_forever, args=(0.02,), daemon=True)
        self.thread.start()
        return self

    def __exit__(self, *_):
        self.http.shutdown()
        self.http.server_close()


class QuietHandler(BaseHTTPRequestHandler):
    def log_message(self, *_):
        pass

    def answer(self, status: int, body: bytes = b"", **headers: str) -> None:
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name.replace("_", "-"), value)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    def answer_range(self, body: bytes, **headers: str) -> None:
        wanted = self.headers.get("Range")
        if not wanted:
            return self.answer(200, body, **headers)
        start, end = (int(number) for number in wanted.removeprefix("bytes=").split("-"))
        headers["Content_Range"] = f"bytes {start}-{min(end, len(body) - 1)}/{len(body)}"
        return self.answer(206, body[start : end + 1], **headers)


class CdnHandler(QuietHandler):
    def do_GET(self):
        if self.headers.get("Authorization"):  # signed addresses must not get the token as well
            self.owner.leaked_tokens += 1
        self.answer_range(self.owner.blobs[urlsplit(self.path).path.strip("/")])


class Cdn(Server):
    handler = CdnHandler

    def __init__(self):
        self.blobs: dict[str, bytes] = {}
        self.leaked_tokens = 0


class HubHandler(QuietHandler):
    def do_GET(self):
        self.owner.requests.append(self.path)
        path = urlsplit(self.path).path.strip("/")
        if path.startswith("api/"):
            kind, _, repo = path.removeprefix("api/").partition("/")
            return self.describe(f"{'datasets/' if kind == 'datasets' else ''}{repo}")
        repo, _, rest = path.partition("/resolve/")
        commit, _, name = rest.partition("/")
        found = self.owner.repos.get(repo)
        if found is None or commit != COMMIT or name not in found["files"]:
            return self.answer(404, X_Error_Code="EntryNotFound")
        if found["gated"] and self.headers.get("Authorization") != "Bearer hf_accepted":
            return self.answer(403, X_Error_Code="GatedRepo")
        body = found["files"][name]
        if len(body) < LFS_FROM:
            return self.answer_range(body, X_Repo_Commit=COMMIT)
        digest = hashlib.sha256(body).hexdigest()
        self.owner.cdn.blobs[digest] = body
        return self.answer(302, Location=f"{self.owner.cdn.url}/{digest}?X-Amz-Signature=secret")

    do_HEAD = do_GET

    def describe(self, repo: str) -> None:
        found = self.owner.repos.get(repo)
        if found is None:
            return self.answer(404, X_Error_Code="RepoNotFound")
        siblings = []
        for name, body in found["files"].items():
            blob = hashlib.sha1(b"blob %d\0" % len(body) + body).hexdigest()
            lfs = {"sha256": hashlib.sha256(body).hexdigest(), "size": len(body), "pointerSize": 134}
            big = {"lfs": lfs} if len(body) >= LFS_FROM else {}
            siblings.append({"rfilename": name, "size": len(body), "blobId": blob, **big})
        name = repo.removeprefix("datasets/")
        described = {"id": name, "sha": COMMIT, "gated": found["gated"], "private": False, "tags": [], "downloads": 0}
        described |= {"siblings": siblings, "cardData": {"license": found["licence"]}, "likes": 0}
        return self.answer(200, json.dumps(described).encode(), Content_Type="application/json")


class HubServer(Server):
    """Serve repositories given as {"datasets/org/name" or "org/name": {"files", "licence", "gated"}}."""

    handler = HubHandler

    def __init__(self):
        self.repos: dict[str, dict] = {}
        self.requests: list[str] = []
        self.cdn = Cdn()

    def add(self, repo: str, files: dict[str, bytes], licence: str | list[str] | None = "mit", gated: bool = False):
        self.repos[repo] = {"files": files, "licence": licence, "gated": "manual" if gated else False}

    def __enter__(self):
        self.cdn.__enter__()
        return super().__enter__()

    def __exit__(self, *error):
        super().__exit__(*error)
        self.cdn.__exit__(*error)


class ProxyHandler(QuietHandler):
    def do_GET(self):
        proxy = self.owner
        bodies = self.command == "GET" and "Range" in self.headers  # faults in listings come as 500 or reset
        fault = proxy.next_fault(bodies)
        if fault == "500":
            return self.answer(500, b"<Error><Code>InternalError</Code><Message>We are sorry</Message></Error>")
        target = urlsplit(proxy.upstream)
        connection = http.client.HTTPConnection(target.hostname, target.port, timeout=30)
        length = int(self.headers.get("Content-Length") or 0)
        headers = {name: value for name, value in self.headers.items() if name.lower() != "connection"}
        connection.request(self.command, self.path, self.rfile.read(length), headers | {"Connection": "close"})
        response = connection.getresponse()
        body = response.read()
        connection.close()
        cut = proxy.rng.randrange(len(body)) if body else 0
        if fault == "short":  # a whole answer of too few bytes
            body = body[:cut]
        elif fault == "flip" and body:
            body = body[:cut] + bytes([body[cut] ^ 1]) + body[cut + 1 :]
        self.send_response(response.status)
        for name, value in response.getheaders():
            if name.lower() not in ("content-length", "connection", "transfer-encoding", "date", "server"):
                self.send_header(name, value)
        promised = response.getheader("Content-Length") if self.command == "HEAD" else str(len(body))
        self.send_header("Content-Length", promised or "0")
        self.end_headers()
        if fault in ("reset", "cut"):
            body = body[:cut]
        if self.command != "HEAD":
            self.send_slowly(body) if fault == "slow" else self.wfile.write(body)
        if bodies:
            proxy.sent += len(body)
        if fault == "reset":
            self.wfile.flush()
            self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            self.connection.close()
        return None

    do_HEAD = do_POST = do_PUT = do_GET

    def send_slowly(self, body: bytes) -> None:
        step = len(body) // 4 + 1
        for start in range(0, len(body), step):
            self.wfile.write(body[start : start + step])
            self.wfile.flush()
            time.sleep(0.01)


class FaultyProxy(Server):
    """Forward to `upstream`, and break an answer with the given probability in one of the given ways.

    Attributes:
        faults: 응답을 망가뜨리는 방법들. 비어 있으면 그대로 전한다.
        probability: 응답 하나가 망가질 확률.
        before: 본문 요청마다 먼저 부른다 (그 사이에 파일이 바뀌는 일을 흉내 낸다).
        sent: 지금까지 보낸 본문의 바이트 수.
    """

    handler = ProxyHandler

    def __init__(self, upstream: str):
        self.upstream = upstream
        self.lock = threading.Lock()
        self.clear()

    def clear(self, seed: int = 42) -> None:
        self.rng = random.Random(seed)
        self.faults: tuple[str, ...] = ()
        self.probability = 0.5
        self.before: Callable[[], None] = lambda: None
        self.sent = 0

    def settle(self) -> None:
        """Wait until all that was asked for is sent: the last request of a killed process outlives it."""
        connection = http.client.HTTPConnection("127.0.0.1", self.http.server_port, timeout=30)
        connection.request("HEAD", "/")  # whatever came before has been taken in when this is answered
        connection.getresponse().read()
        connection.close()
        while self.http.active:
            time.sleep(0.001)

    def next_fault(self, bodies: bool) -> str | None:
        with self.lock:
            if bodies:
                self.before()
            possible = [fault for fault in self.faults if bodies or fault == "500"]
            return self.rng.choice(possible) if possible and self.rng.random() < self.probability else None
