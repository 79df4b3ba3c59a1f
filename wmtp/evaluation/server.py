"""Let a server write the samples: vLLM, SGLang, llama.cpp, Ollama or a hosted one, in OpenAI's protocol.

[연구 맥락] 문제마다 표본 200개는 서버가 훨씬 빨리 쓴다. 채점, 파일, 이어 하기는 모델이 여기 있을 때와 같다.
[동작] 표본 하나에 요청 하나, 한꺼번에 `at_once`개. 씨앗은 (seed, 문제, 표본 번호)에서 나온다. 끊긴 연결, 429, 5xx, 잘린
    답은 조금씩 더 오래 기다렸다가 다시 묻는다 (`Retry-After`를 따른다). 답은 온전할 때만 한 번 받는다.
    정지 문자열은 보내기도 하고 여기서 자르기도 한다: 서버마다 다르다. 키는 환경 변수에만 있다.
[디버깅] 서버가 모르는 항목은 `+generator.body.<항목>=null`로 뺀다. 몇 번 만에 받았는지는 서버의 기록을 본다.
"""

import json
import os
import queue
import re
import sys
import threading
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from typing import Any
from urllib.request import getproxies, proxy_bypass

import urllib3

from wmtp.cache.fingerprint import digest_of
from wmtp.checks import check_number, check_whole_number
from wmtp.errors import ConfigError, ServerError
from wmtp.evaluation.generators import Written
from wmtp.models.draw import noise_seed
from wmtp.models.sampling import Request, Sampling, stop_at
from wmtp.secrets import MASK, mask_secrets

FOR_NOW = (408, 409, 425, 429, 500, 502, 503, 504, 529)  # worth another try
UNFINISHED = (None, "abort", "error")  # no reason to finish
LONGEST_WAIT = 60.0  # seconds between two tries
_TOO_LONG = re.compile(r"context.{0,20}(length|size|window)|(exceed|longer).{0,40}context|max_model_len", re.I | re.S)


class Server:
    """Complete prompts through an OpenAI-compatible server.

    Args:
        url: 서버의 주소. 경로가 없으면 /v1을 붙인다.
        model: 서버가 모델을 부르는 이름.
        at_once: 한꺼번에 묻는 수.
        timeout: 답 하나를 기다리는 초. 서버에서 차례를 기다리는 시간도 든다.
        retries: 답 하나를 몇 번까지 다시 묻는지.
        backoff: 두 번째로 다시 물을 때까지의 초. 그 뒤로 두 배씩, 1분까지.
        key_from: 키가 든 환경 변수의 이름. None이면 키 없이.
        body: 요청마다 더할 항목. 값이 None이면 우리가 보내는 그 항목을 뺀다.

    Attributes:
        chat: 대화로 물을지 (`wmtp.evaluation.asking`이 정한다). 그러면 프롬프트는 메시지의 JSON이다.
    """

    chat = False

    def __init__(
        self,
        url: str,
        model: str,
        at_once: int = 64,
        timeout: float = 1800,
        retries: int = 20,
        backoff: float = 0.5,
        key_from: str | None = None,
        body: Mapping[str, Any] | None = None,
    ) -> None:
        check_whole_number("generator.at_once", at_once, advice="Try 64.")
        check_whole_number("generator.retries", retries, least=0, advice="Try 20.")
        check_number("generator.timeout", timeout, "> 0", "Try 1800.")
        check_number("generator.backoff", backoff, ">= 0", "Try 0.5.")
        self.url, self.model, self.at_once, self.body = _address(url), str(model), at_once, dict(body or {})
        self._key = _key(key_from)
        waits: dict[str, Any] = dict(backoff_factor=backoff, backoff_jitter=backoff, backoff_max=LONGEST_WAIT)
        self._retries, self._again = retries, urllib3.Retry(retries, allowed_methods=None, **waits)
        self._pool = _pool(self.url, maxsize=at_once, timeout=urllib3.Timeout(connect=10, read=timeout))
        self._abandoned = False
        self._under_way: tuple[threading.Event, queue.Queue[Any]] = threading.Event(), queue.Queue()
        self._said = 0.0

    @property
    def identity(self) -> str:
        """Name what answers, wherever it runs: a job that is started again gets another host."""
        return f"server:{self.model}" + (f" {digest_of(self.body)[:16]}" if self.body else "")

    def check(self) -> None:
        """Ask for one token, so that a wrong address, key or model is known before anything slow.

        Raises:
            ConfigError: 주소, 키, 모델, 항목 중 하나가 잘못됐을 때.
            ServerError: 지금은 답하지 않을 때.
        """
        hello = json.dumps([{"role": "user", "content": "x"}]) if self.chat else "x"
        few = self._again.new(total=min(3, self._retries))
        shortest = Sampling(temperature=0.0, max_new_tokens=1)
        self._ask(Request("the first question", hello), shortest, few, threading.Event(), first=True)

    def complete(self, requests: Sequence[Request], sampling: Sampling) -> Iterator[tuple[int, Written]]:
        """Ask for all of them, many at once; yield (index, answer) as they come.

        Raises:
            ConfigError: 서버가 거절할 때.
            ServerError: 다시 물어도 답하지 않을 때.
        """
        self._under_way = over, done = threading.Event(), queue.Queue()
        places, lock = iter(range(len(requests))), threading.Lock()

        def work() -> None:
            while not over.is_set():
                with lock:
                    place = next(places, None)
                if place is None:
                    return
                try:
                    written = self._ask(requests[place], sampling, self._again, over)
                except BaseException as error:
                    done.put(error)
                    return
                done.put((place, written))

        # Daemons: nobody waits for an answer that nobody wants, not even the end of the program.
        for _ in range(0 if self._abandoned else min(self.at_once, len(requests))):
            threading.Thread(target=work, daemon=True, name="asking").start()
        try:
            for _ in requests:
                found = None if self._abandoned else done.get()
                if isinstance(found, BaseException):
                    raise found
                if found is None:
                    return
                yield found
        finally:
            over.set()

    def abandon(self) -> None:
        """Wait for no answer any more."""
        self._abandoned = True
        over, done = self._under_way
        over.set()
        done.put(None)

    def too_long(self, prompts: Iterable[str]) -> dict[str, str]:
        """Find none: only the server can count its tokens, and it says so when it is asked."""
        return {}

    def _ask(
        self, request: Request, sampling: Sampling, again: urllib3.Retry, over: threading.Event, first: bool = False
    ) -> Written | None:
        """Ask until there is a whole answer; None where nobody waits for it any more."""
        body = json.dumps(self._question(request, sampling)).encode()
        while True:
            response = None
            try:
                response = self._pool.request("POST", self._endpoint, body=body, headers=self._headers, retries=False)
                if response.status == 200:
                    return self._written(response, request)
                if response.status not in FOR_NOW:
                    raise self._refused(response, request)
                failure = f"{response.status}: {self._words(response)}"
            except (urllib3.exceptions.NewConnectionError, urllib3.exceptions.NameResolutionError) as error:
                failure = self._masked(str(error).partition(": ")[2] or str(error))
                if first:
                    raise ConfigError(
                        f"generator.url = {self.url}: nothing answers there ({failure}); start the server, or correct "
                        "the address, as in generator.url=http://127.0.0.1:8000/v1."
                    ) from None
            except (urllib3.exceptions.HTTPError, ValueError) as error:
                failure = self._masked(f"{type(error).__name__}: {error}")
            try:
                again = again.increment("POST", self._endpoint, error=urllib3.exceptions.ProtocolError(failure))
            except urllib3.exceptions.MaxRetryError:
                raise ServerError(
                    f"generator.url = {self.url} does not answer ({failure}), asked {len(again.history) + 1} times; "
                    "see to the server, and give the same command again: what is written is kept."
                ) from None
            if over.is_set():
                return None
            self._say(failure)
            wait = again.get_retry_after(response) if response is not None else None
            if over.wait(min(again.get_backoff_time() if wait is None else wait, LONGEST_WAIT)):
                return None

    @property
    def _endpoint(self) -> str:
        return f"{self.url}/chat/completions" if self.chat else f"{self.url}/completions"

    @property
    def _headers(self) -> dict[str, str]:
        key = {"Authorization": f"Bearer {self._key}"} if self._key else {}
        return {"Content-Type": "application/json", "User-Agent": "wmtp", **key}

    def _question(self, request: Request, sampling: Sampling) -> dict[str, Any]:
        """Write the body of one request."""
        asked = {"messages": json.loads(request.prompt)} if self.chat else {"prompt": request.prompt}
        how = {
            "model": self.model,
            "temperature": sampling.temperature,
            "top_p": sampling.top_p,
            "max_tokens": sampling.max_new_tokens,
            "seed": noise_seed(sampling.seed, request.key, request.sample) & 0x7FFFFFFF,  # some servers have 32 bits
            "stop": list(request.stop) or None,
        }
        return {name: value for name, value in (asked | how | self.body).items() if value is not None}

    def _written(self, response: urllib3.BaseHTTPResponse, request: Request) -> Written:
        """Read one answer.

        Raises:
            ValueError: 답이 아니거나 도중에 끊겼을 때.
        """
        content = response.json()
        try:
            (choice,) = content["choices"]
            text = (choice["message"]["content"] or "") if self.chat else choice["text"]
            if choice["finish_reason"] in UNFINISHED or not isinstance(text, str):
                raise ValueError("an answer that was broken off")
            tokens = (content.get("usage") or {}).get("completion_tokens") or 0
        except (KeyError, TypeError, AttributeError):
            raise ValueError(f"no answer: {self._words(response)}") from None
        cut = stop_at(text, request.stop)
        return Written(text if cut < 0 else text[:cut], tokens)

    def _refused(self, response: urllib3.BaseHTTPResponse, request: Request) -> ConfigError:
        """Say why the server will not answer, and what to do about it."""
        status, words = response.status, self._words(response)
        at = f"generator.url = {self.url}"
        if status in (401, 403):
            way = "set generator.key_from to the environment variable that holds the key"
            return ConfigError(f"{at} refuses the key ({status}: {words}); {way}, and look at what it holds.")
        if status in (404, 405):
            served = self._served()
            if served and self.model not in served:
                has = ", ".join(served[:8])
                return ConfigError(f"generator.model = {self.model} is not at {self.url}; it has {has}.")
            other = "false" if self.chat else "true"
            where = f"has no {self._endpoint.removeprefix(self.url)}" if served else "is no address of the protocol"
            way = f"try prompt.chat={other}" if served else "it ends in /v1 for most servers"
            return ConfigError(f"{at} {where} ({status}: {words}); {way}.")
        if _TOO_LONG.search(words):
            return ConfigError(
                f"{request.key}: its prompt and sampling.max_new_tokens do not fit into the context of {self.model} "
                f"({words}); lower sampling.max_new_tokens, or start the server with a longer context."
            )
        if self.chat and "chat template" in words.lower():
            return ConfigError(f"{at}: {self.model} has no chat template there ({words}); set prompt.chat=false.")
        if 300 <= status < 400:
            leads = self._masked(response.headers.get("Location", "?"))
            return ConfigError(f"{at} leads to {leads}; give that address.")
        return ConfigError(
            f"{at} refuses the question ({status}: {words}); a field that it does not take, as seed, is left out with "
            "+generator.body.FIELD=null."
        )

    def _served(self) -> list[str]:
        """List the models of the server, none if it does not say."""
        with suppress(urllib3.exceptions.HTTPError, ValueError, KeyError, TypeError):
            # Again where the server has just closed the connection that is kept.
            response = self._pool.request("GET", f"{self.url}/models", headers=self._headers, retries=3, redirect=False)
            return [str(model["id"]) for model in response.json()["data"]]
        return []

    def _words(self, response: urllib3.BaseHTTPResponse) -> str:
        """Quote the beginning of what a server says."""
        said: Any = response.data.decode(errors="replace")
        with suppress(ValueError):
            content = json.loads(said)
            if isinstance(content, dict):
                error = content.get("error") or content
                said = error.get("message") or error.get("detail") or error if isinstance(error, dict) else error
        return self._masked(str(said))

    def _masked(self, text: str) -> str:
        """Cut a text down to one line without secrets; a server repeats the key that it refuses."""
        text = text.replace(self._key, MASK) if self._key else text
        text = " ".join(mask_secrets(text).split()) or "it says nothing"
        return text if len(text) <= 200 else f"{text[:200]}…"

    def _say(self, failure: str) -> None:
        """Say now and then that the server does not answer: the bar only stands still."""
        if time.monotonic() - self._said > LONGEST_WAIT and self._retries:
            self._said = time.monotonic()
            print(f"generator.url = {self.url}: {failure}; asking again", file=sys.stderr)


def _address(url: Any) -> str:
    """Return the address below which the protocol is.

    Example:
        >>> _address("http://host:8000"), _address("https://host/api/v2/chat/completions/")
        ('http://host:8000/v1', 'https://host/api/v2')
    """
    with suppress(urllib3.exceptions.LocationValueError):
        parts = urllib3.util.parse_url(str(url))
        if parts.scheme in ("http", "https") and parts.host and not (parts.auth or parts.query or parts.fragment):
            path = re.sub(r"(/chat)?/completions$", "", (parts.path or "").rstrip("/")) or "/v1"
            return f"{parts.scheme}://{parts.netloc}{path}"
    raise ConfigError(
        f"generator.url = {mask_secrets(str(url))} must be an address, as in generator.url=http://127.0.0.1:8000/v1."
    )


def _key(variable: str | None) -> str | None:
    """Read the key from the environment."""
    if variable is None:
        return None
    key = os.environ.get(str(variable), "").strip()
    if not (key and key.isascii() and key.isprintable()):
        raise ConfigError(
            f"generator.key_from = {mask_secrets(str(variable))} must name an environment variable that holds the "
            "server's key, in one line; set it, as in OPENAI_API_KEY."
        )
    return key


def _pool(url: str, **settings: Any) -> urllib3.PoolManager:
    """Open connections, through the proxy that the environment names."""
    parts = urllib3.util.parse_url(url)
    proxy = getproxies().get(parts.scheme or "")
    here = parts.host in ("localhost", "127.0.0.1", "[::1]")
    if proxy and not here and not proxy_bypass(parts.netloc or ""):
        return urllib3.ProxyManager(proxy, **settings)
    return urllib3.PoolManager(**settings)
