"""Hold a server to be as good a writer as a model of this process: nothing lost, nothing twice, whatever it does."""

import json
import multiprocessing
import os
import re
import signal
import threading
import time
from collections import Counter
from itertools import chain, islice

import pytest

from tests.model_server import FAULTS, ModelServer, usual_answer
from wmtp.data.prompts import Synthetic0Shot
from wmtp.data.synthetic import Synthetic
from wmtp.errors import ConfigError, HarnessError, ServerError
from wmtp.evaluation.benchmarks import Benchmark
from wmtp.evaluation.harness import evaluate
from wmtp.evaluation.sandbox import Limits, Sandbox
from wmtp.evaluation.server import Server
from wmtp.maths.pass_at_k import pass_at_k
from wmtp.models.draw import noise_seed
from wmtp.models.sampling import Request, Sampling

SAMPLING = Sampling(temperature=0.8, n=6, max_new_tokens=64)


@pytest.fixture(scope="module")
def sandbox():
    with Sandbox(workers=2) as sandbox:
        yield sandbox


def problems(count: int) -> Benchmark:
    return Benchmark("synthetic", Synthetic(0, 0, count, seed=42), Synthetic0Shot(), limits=Limits(cpu_seconds=1))


def server_of(served: ModelServer, **given) -> Server:
    return Server(**({"url": served.url, "model": "m", "backoff": 0.0} | given))


def ask(generator, benchmark, out, sandbox, sampling=SAMPLING, **given):
    how = dict(sandbox=sandbox, sampling=sampling, checkpoint=generator.identity, progress=False)
    return evaluate(benchmark, out, generator=generator, **how, **given)


def test_twenty_rounds_of_everything_that_goes_wrong_lose_nothing_and_double_nothing(tmp_path, sandbox):
    benchmark = problems(4)
    with ModelServer() as served:
        ask(server_of(served), benchmark, tmp_path / "peace", sandbox)
        asked = Counter(json.dumps(body) for body in served.questions())
    peace = (tmp_path / "peace/samples.jsonl").read_bytes()
    assert peace.count(b"\n") == len(asked) == 24 and {*asked.values()} == {1}

    wrong: Counter[str] = Counter()
    for round_ in range(20):
        with ModelServer(faults=FAULTS, seed=round_) as served:
            ask(server_of(served, at_once=1 + round_), benchmark, tmp_path / f"{round_}", sandbox)
            assert (tmp_path / f"{round_}/samples.jsonl").read_bytes() == peace
            assert Counter(json.dumps(body) for body in served.questions()) == asked  # none is asked for twice
            assert len(served.asked) - len(served.answered) == served.done_wrong.total() - served.done_wrong["slow"]
            wrong += served.done_wrong
    assert wrong.keys() == {*FAULTS} and min(wrong.values()) > 20


def test_each_sample_has_a_seed_of_its_own_and_the_fields_of_the_config(tmp_path, sandbox):
    with ModelServer() as served:
        server = server_of(served, body={"top_k": 20, "top_p": None, "stop": ["X"]})
        ask(server, problems(2), tmp_path / "out", sandbox)
        paths, bodies = {path for path, _, _ in served.asked}, served.questions()
    assert paths == {"/v1/completions"}
    wanted = [noise_seed(42, f"synthetic/test/{i // 6}", i % 6) & 0x7FFFFFFF for i in range(12)]
    assert {body["seed"] for body in bodies} == {*wanted} and len({*wanted}) == 12
    fields = {"model", "prompt", "temperature", "max_tokens", "seed", "stop", "top_k"}
    assert all(body.keys() == fields and body["stop"] == ["X"] and body["top_k"] == 20 for body in bodies)
    assert {body["prompt"] for body in bodies} == {problems(2).text(problem) for problem in problems(2).problems}


def test_answers_are_cut_here_because_servers_differ():
    with ModelServer(answer=lambda *_: 'def f(): pass\n"""\nmore') as served:
        request = Request("x", "p", stop=('\n"""',))
        ((_, written),) = server_of(served).complete([request], SAMPLING)
    assert written.text == "def f(): pass" and written.tokens == 7
    assert served.answered[0]["stop"] == ['\n"""']


def test_many_are_asked_at_once(tmp_path):
    four = threading.Barrier(4)
    with ModelServer(before=lambda _: four.wait(timeout=60)) as served:  # nobody is answered until four have asked
        requests = [Request("x", "p", sample=i) for i in range(8)]
        done = dict(server_of(served, at_once=4).complete(requests, SAMPLING))
    assert sorted(done) == [*range(8)] and not four.broken


def test_pass_at_100_of_200_samples_a_problem_comes_through_a_server(tmp_path, sandbox):
    benchmark = problems(2)
    right = {benchmark.text(problem): benchmark.prompt.completion(problem) for problem in benchmark.problems}

    def answer(prompt, seed):
        return right[prompt] if seed % 5 == 0 else "def solve(xs):\n    return 'no'\n"

    with ModelServer(answer=answer) as served:
        sampling = Sampling(temperature=0.8, n=200, max_new_tokens=64)
        metrics = ask(server_of(served), benchmark, tmp_path / "out", sandbox, sampling, ks=(1, 100))
        asked = {(body["prompt"], body["seed"]) for body in served.questions()}  # on a busy machine some twice
    assert len(asked) == 400
    counts = [sum(text == prompt and seed % 5 == 0 for text, seed in asked) for prompt in right]
    for k in (1, 100):
        expected = sum(pass_at_k(200, count, k) for count in counts) / 2
        assert metrics[f"synthetic/pass@{k}"] == pytest.approx(float(expected), rel=1e-6)  # float32 sums


def _evaluate_slowly(url, out):
    with Sandbox(workers=2) as sandbox:
        ask(Server(url, "m", at_once=2, backoff=0.0), problems(4), out, sandbox)


def test_a_kill_loses_what_was_under_way_and_asks_nothing_again_that_was_kept(tmp_path, sandbox):
    fork = multiprocessing.get_context("fork")
    with ModelServer() as served:
        ask(server_of(served), problems(4), tmp_path / "peace", sandbox)
    with ModelServer(before=lambda _: time.sleep(0.1)) as served:
        killed = fork.Process(target=_evaluate_slowly, args=(served.url, tmp_path / "war"))
        killed.start()
        samples = tmp_path / "war/samples.jsonl"
        while not samples.exists() or samples.read_bytes().count(b"\n") < 5:
            assert killed.is_alive()
            time.sleep(0.01)
        os.kill(killed.pid, signal.SIGKILL)
        killed.join()
        kept = [json.loads(line) for line in samples.read_bytes().splitlines(keepends=True) if line.endswith(b"\n")]
        assert 5 <= len(kept) < 24
        time.sleep(0.3)  # what was under way reaches the server
        before = len(served.asked)
        ask(server_of(served), problems(4), tmp_path / "war", sandbox)
        seeds = [body["seed"] for _, body, _ in served.asked[before:]]
    kept_seeds = {noise_seed(42, row["task_id"], row["sample"]) & 0x7FFFFFFF for row in kept}
    assert not kept_seeds & {*seeds} and len(seeds) == len({*seeds}) == 24 - len(kept)
    for name in ("samples.jsonl", "results.jsonl", "metrics.json", "eval.json"):
        assert (tmp_path / "war" / name).read_bytes() == (tmp_path / "peace" / name).read_bytes()


def test_whoever_stops_does_not_wait_for_a_server_that_hangs(tmp_path, sandbox):
    class Breaking:
        isolation, packages, workers = "none", {}, 1

        def judge(self, programs, *args, **kwargs):
            programs = iter(programs)
            first = list(islice(programs, 1))
            if any(program.source.startswith("    return") for program in first):
                raise HarnessError("broken")
            return sandbox.judge(chain(first, programs), *args, **kwargs)

    release, answered_first = threading.Event(), threading.Semaphore(1)

    def hang(_):
        if not answered_first.acquire(blocking=False):
            release.wait(120)

    with ModelServer(before=hang) as served:
        with pytest.raises(HarnessError, match="broken"):
            ask(server_of(served), problems(4), tmp_path / "out", Breaking())
        assert len(served.answered) == 1 and len(served.asked) > 1  # the others are still waited for, by nobody
        release.set()


def test_a_server_that_never_answers_is_given_up_and_what_came_before_is_kept(tmp_path, sandbox):
    left = threading.Semaphore(7)

    def refuse(_):
        return None if left.acquire(blocking=False) else (503, {"error": {"message": "loading"}})

    with ModelServer(refuse=refuse) as served:
        with pytest.raises(ServerError, match=r"does not answer \(503: loading\), asked 3 times; .* is kept\.$"):
            ask(server_of(served, retries=2, at_once=1), problems(4), tmp_path / "out", sandbox)
        assert (tmp_path / "out/samples.jsonl").read_bytes().count(b"\n") == 7
        served.refuse = lambda _: None
        ask(server_of(served), problems(4), tmp_path / "out", sandbox)
        assert len(served.answered) == 24


def openai(status, message, **more):
    return lambda body: (status, {"error": {"message": message, **more}})


@pytest.mark.parametrize(
    ("refuse", "given", "sentence"),
    [
        (
            openai(401, "no"),
            {},
            r"url = \S+ refuses the key \(401: no\); set generator.key_from to the environment var",
        ),
        (
            openai(404, "The model `gpt` does not exist."),
            {"model": "gpt"},
            r"model = gpt is not at \S+/v1; it has m, n\.$",
        ),
        (openai(404, "Not Found"), {}, r"has no /completions \(404: Not Found\); try prompt.chat=true\.$"),
        (None, {"url": "/v7"}, r"v7 is no address of the protocol \(404: Not Found\); it ends in /v1 for most"),
        (
            openai(400, "This model's maximum context length is 512 tokens. However, you requested 600 tokens"),
            {},
            r"^the first question: its prompt and sampling.max_new_tokens do not fit into the context of m \(This",
        ),
        (openai(400, "unknown field seed"), {}, r"refuses the question \(400: unknown field seed\); .*body.FIELD=null"),
        (lambda body: (307, ""), {}, r"leads to \?; give that address"),
        (lambda body: (422, {"detail": [{"msg": "bad"}]}), {}, r"refuses the question \(422: \[{'msg': 'bad'}\]\)"),
    ],
)
def test_what_a_server_refuses_is_one_sentence(refuse, given, sentence):
    with ModelServer(models=("m", "n"), **({"refuse": refuse} if refuse else {})) as served:
        path = given.pop("url", "") if "url" in given else ""
        server = server_of(served, **({"url": served.url + path} | given))
        with pytest.raises(ConfigError, match=sentence) as refused:
            server.check()
        assert len(served.asked) == 1 and "\n" not in str(refused.value)


def test_a_model_without_a_chat_template_is_to_be_asked_plainly():
    words = "As of transformers v4.44, default chat template is no longer allowed, so you must provide a chat template"
    with ModelServer(refuse=openai(400, words)) as served:  # as vLLM says it
        server = server_of(served)
        server.chat = True
        with pytest.raises(ConfigError, match=r"m has no chat template there \(As of .*\); set prompt.chat=false\.$"):
            server.check()


def test_nobody_there_is_said_at_once_and_a_busy_server_is_asked_again():
    with ModelServer() as served:
        url = served.url
    with pytest.raises(ConfigError, match=r"url = \S+/v1: nothing answers there \(.*refused\); start the server"):
        Server(url, "m").check()
    with ModelServer(faults=("429",)) as served:
        server_of(served).check()
    with ModelServer(refuse=openai(500, "always")) as served, pytest.raises(ServerError, match="asked 4 times"):
        server_of(served).check()


def test_the_key_comes_from_the_environment_and_is_written_nowhere(tmp_path, sandbox, monkeypatch, capsys):
    monkeypatch.setenv("A_NAME", "open-sesame")  # neither looks like a secret
    with ModelServer() as served:
        server = server_of(served, key_from="A_NAME")
        ask(server, problems(1), tmp_path / "out", sandbox)
        assert {headers["Authorization"] for _, _, headers in served.asked} == {"Bearer open-sesame"}
        served.refuse = openai(401, "Incorrect key: open-sesame")
        with pytest.raises(ConfigError, match=r"401: Incorrect key: \*\*\*") as refused:
            server.check()
        served.refuse = openai(500, "with open-sesame I am lost")
        with pytest.raises(ServerError) as lost:
            server.check()
    said = "".join(capsys.readouterr())
    written = b"".join(file.read_bytes() for file in (tmp_path / "out").iterdir())
    assert b"sesame" not in written
    assert "sesame" not in f"{said} {refused.value} {lost.value} {server.identity} {vars(server)['body']}"
    with ModelServer() as served:
        server_of(served).check()
        assert "Authorization" not in served.asked[0][2]
    for value in ("", "two\nlines", "ключ"):
        monkeypatch.setenv("A_NAME", value)
        with pytest.raises(
            ConfigError, match=r"generator.key_from = A_NAME must name an environment variable"
        ) as wrong:
            Server("http://x", "m", key_from="A_NAME")
        assert not value or value not in str(wrong.value)


@pytest.mark.parametrize("url", ["localhost:8000", "ftp://x/v1", "http://", "http://x/v1?part=1", "http://[x/v1"])
def test_an_address_that_is_none_is_refused(url):
    with pytest.raises(ConfigError, match=re.escape(f"generator.url = {url} must be an address")):
        Server(url, "m")


def test_two_servers_of_one_model_are_the_same_evaluation_and_other_fields_are_another(tmp_path, sandbox):
    for more in (1, 2):
        with ModelServer() as served:
            ask(server_of(served, at_once=more), problems(1), tmp_path / "out", sandbox)
            assert len(served.asked) == (6 if more == 1 else 0)
    with ModelServer() as served, pytest.raises(ConfigError, match=r"holds another evaluation \(ckpt = server:m, now"):
        ask(server_of(served, body={"top_k": 1}), problems(1), tmp_path / "out", sandbox)


def test_usual_answers_differ_by_seed():
    assert len({usual_answer("p", seed) for seed in range(9)}) == 9
