"""Let a server and this process write the same samples, and compare tokens a second.

[연구 맥락] 문제마다 표본 200개를 누구에게 쓰게 할 것인가. 사람들이 쓰는 서버는 vLLM이다. 같은 기계, 같은 폴더,
    같은 프롬프트, 같은 길이로 견준다. GPU에서도 같은 명령이다.
[동작] 문제마다 표본 n개를 온도 0.8, top-p 0.95로 쓴다. 정지 문자열은 없다. 서버는 미리 켜 둔다. 모델 폴더에는 새 헤드가
    없어야 한다 (`model.export.heads=drop`). 벽시계로 잰다: 서버는 다른 프로세스다. 처음 한 번은 세지 않는다.

    V/bin/python -m vllm.entrypoints.openai.api_server --model FOLDER --served-model-name it --max-model-len 1024
    python scripts/bench/server.py FOLDER --mbpp MBPP --url http://127.0.0.1:8000/v1 --served it
"""

import argparse
import time
from pathlib import Path

from wmtp.data.prompts import BigcodeMbpp0Shot
from wmtp.data.sources import Mbpp
from wmtp.evaluation.generators import Generator, InProcess
from wmtp.evaluation.server import Server
from wmtp.models.loading import load_model
from wmtp.models.sampling import Request, Sampling
from wmtp.models.tokenizer import load_tokenizer


def measure(name: str, generator: Generator, requests: list[Request], sampling: Sampling) -> float:
    """Print and return the tokens that a generator writes in a second."""
    list(generator.complete(requests[:1], sampling))
    start = time.perf_counter()
    tokens = sum(written.tokens for _, written in generator.complete(requests, sampling))
    seconds = time.perf_counter() - start
    print(f"{name:12} {len(requests)} samples, {tokens} tokens, {seconds:.1f} s: {tokens / seconds:.1f} tokens/s")
    return tokens / seconds


def main() -> None:
    """Print one line for each, then the ratio."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("model", type=Path, help="a model folder without extra heads")
    parser.add_argument("--mbpp", type=Path, required=True, help="the folder that holds mbpp.jsonl")
    parser.add_argument("--url", required=True, help="of a server that serves the folder")
    parser.add_argument("--served", required=True, help="what the server calls the model")
    parser.add_argument("--problems", type=int, default=1)
    parser.add_argument("--n", type=int, default=200)
    parser.add_argument("--tokens", type=int, default=64)
    parser.add_argument("--batch", type=int, default=64, help="rows together, here and at the server")
    parser.add_argument("--weights", default="float32", help="of the model here; give the server the same --dtype")
    asked = parser.parse_args()
    prompt = BigcodeMbpp0Shot()
    problems = list(Mbpp(asked.mbpp).problems("test"))[: asked.problems]
    requests = [
        Request(problem.task_id, prompt.render(problem), sample) for problem in problems for sample in range(asked.n)
    ]
    sampling = Sampling(
        temperature=0.8, top_p=0.95, max_new_tokens=asked.tokens, batch_size=asked.batch, decoding="ordinary"
    )
    there = measure("the server", Server(asked.url, asked.served, at_once=asked.batch), requests, sampling)
    model = load_model(asked.model, weights=asked.weights).eval()
    here = measure("this process", InProcess(model, load_tokenizer(asked.model)), requests, sampling)
    print(f"the server is {there / here:.2f} x as fast as this process")


if __name__ == "__main__":
    main()
