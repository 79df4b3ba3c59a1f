"""A small server of OpenAI's protocol for tests: it answers a question always the same way, and misbehaves when told.

[동작] 무엇을 답할지는 (질문, 씨앗)으로만 정해진다. 어떻게 잘못하는지는 `faults`의 이름으로 고르고, 질문마다 몇 번까지만
    잘못한다. 온전히 보낸 답의 본문은 `answered`에 남는다.
"""

import hashlib
import json
import random
import socket
import struct
import threading
from collections import Counter
from collections.abc import Callable, Sequence
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

FAULTS = (
    "429", "500", "503", "reset", "hang up", "short body", "short chunks", "short text", "broken off", "no choice",
    "slow",
)  # fmt: skip
MOST_FAULTS = 3  # in a row, of one question


def usual_answer(question: str, seed: int | None) -> str:
    return f"    return {hashlib.sha256(f'{question} {seed}'.encode()).hexdigest()[:8]!r}\n"


class ModelServer:
    """Serve from a thread, as a context manager.

    Args:
        answer: 질문(프롬프트, 또는 메시지의 JSON)과 씨앗을 받아 답을 낸다.
        faults: 저지를 잘못.
        seed: 언제 무엇을 저지를지의 씨앗.
        refuse: 본문을 받아, 거절할 것이면 (상태, 본문)을 낸다.
        before: 답하기 전에 부를 것.
    """

    def __init__(
        self,
        answer: Callable[[str, int | None], str] = usual_answer,
        faults: Sequence[str] = (),
        seed: int = 42,
        refuse: Callable[[dict[str, Any]], tuple[int, Any] | None] = lambda body: None,
        before: Callable[[dict[str, Any]], Any] = lambda body: None,
        models: Sequence[str] = ("m",),
    ) -> None:
        self.answer, self.faults, self.refuse, self.before, self.models = answer, faults, refuse, before, models
        self.rng, self.failed, self.lock = random.Random(seed), Counter(), threading.Lock()
        self.asked: list[tuple[str, dict[str, Any], dict[str, str]]] = []  # path, body, headers of every request
        self.answered: list[dict[str, Any]] = []
        self.done_wrong: Counter[str] = Counter()

    def __enter__(self) -> "ModelServer":
        self.http = _Http(("127.0.0.1", 0), _handler_of(self))
        threading.Thread(target=self.http.serve_forever, args=(0.01,), daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        self.http.shutdown()
        self.http.server_close()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.http.server_port}"

    def questions(self) -> list[dict[str, Any]]:
        """Return the bodies that were answered, without the first question."""
        return [body for body in self.answered if body["max_tokens"] > 1]

    def fault_for(self, question: str) -> str | None:
        with self.lock:
            if not self.faults or self.failed[question] >= MOST_FAULTS or self.rng.random() < 0.4:
                return None
            self.failed[question] += 1
            fault = self.rng.choice(self.faults)
            self.done_wrong[fault] += 1
            return fault


class _Http(ThreadingHTTPServer):
    daemon_threads = True
    block_on_close = False
    request_queue_size = 256

    def handle_error(self, *_: object) -> None:
        """Say nothing: who hung up was told to."""


def _handler_of(server: ModelServer) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def log_message(self, *_: object) -> None:
            pass

        def do_GET(self) -> None:
            if self.path == "/v1/models":
                self.reply(200, {"object": "list", "data": [{"id": name} for name in server.models]})
            else:
                self.reply(404, {"detail": "Not Found"})

        def do_POST(self) -> None:
            body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            with server.lock:
                server.asked.append((self.path, body, dict(self.headers)))
            refused = server.refuse(body)
            if self.path not in ("/v1/completions", "/v1/chat/completions"):
                refused = 404, {"detail": "Not Found"}
            if refused:
                return self.reply(*refused)
            server.before(body)
            chat = self.path.endswith("/chat/completions")
            question = json.dumps(body["messages"]) if chat else body["prompt"]
            text = server.answer(question, body.get("seed"))
            fault = server.fault_for(f"{question} {body.get('seed')}")
            if fault and self.misbehave(fault, chat, text):
                return None
            with server.lock:
                server.answered.append(body)
            self.reply(200, content(chat, text), slowly=fault == "slow")

        def misbehave(self, fault: str, chat: bool, text: str) -> bool:
            """Do something wrong; say whether the question is thereby left without an answer."""
            whole = json.dumps(content(chat, text)).encode()
            if fault in ("429", "503"):
                self.reply(int(fault), {"error": {"message": "busy"}}, {"Retry-After": "0"})
            elif fault == "500":
                self.reply(500, "<html>Internal Server Error</html>")
            elif fault == "reset":
                self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
                self.connection.close()
                self.close_connection = True
            elif fault == "hang up":
                self.close_connection = True
            elif fault == "short body":
                self.send(len(whole), whole[: len(whole) // 2])
                self.close_connection = True
            elif fault == "short chunks":
                self.send(None, b"%x\r\n%s\r\n" % (len(whole) // 2, whole[: len(whole) // 2]))
                self.close_connection = True
            elif fault == "short text":  # as long as it says, and only half of the JSON
                self.send(len(whole) // 2, whole[: len(whole) // 2])
            elif fault == "broken off":
                self.reply(200, content(chat, text[: len(text) // 2], reason=None))
            elif fault == "no choice":
                self.reply(200, {"error": {"message": "overloaded"}})
            return fault != "slow"

        def reply(self, status: int, said: Any, headers: dict[str, str] | None = None, slowly: bool = False) -> None:
            data = said.encode() if isinstance(said, str) else json.dumps(said).encode()
            self.send_response(status)
            for name, value in ({"Content-Length": str(len(data))} | (headers or {})).items():
                self.send_header(name, value)
            self.end_headers()
            step = 40 if slowly else len(data)
            for start in range(0, len(data), step):
                self.wfile.write(data[start : start + step])
                self.wfile.flush()
                if slowly:
                    threading.Event().wait(0.002)

        def send(self, length: int | None, data: bytes) -> None:
            self.send_response(200)
            self.send_header(*(("Transfer-Encoding", "chunked") if length is None else ("Content-Length", str(length))))
            self.end_headers()
            self.wfile.write(data)
            self.wfile.flush()

    return Handler


def content(chat: bool, text: str, reason: str | None = "stop") -> dict[str, Any]:
    """Write what a server answers."""
    said = {"message": {"role": "assistant", "content": text}} if chat else {"text": text}
    return {"choices": [{"index": 0, **said, "finish_reason": reason}], "usage": {"completion_tokens": 7}}
