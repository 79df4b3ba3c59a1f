"""Complete prompts greedily with llama.cpp; runs in llama-cpp-python's own environment.

    PYTHON llama_complete.py FILE.gguf TOKENS < prompts.json > answer.json

Prompts and completions are lists of token ids.
"""

import json
import sys
from itertools import islice


def main(file: str, tokens: str) -> None:
    from llama_cpp import Llama

    model = Llama(file, n_ctx=256, n_threads=1, seed=42, verbose=False)
    completions = []
    for prompt in json.load(sys.stdin):
        model.reset()
        completions.append(list(islice(model.generate(prompt, temp=0.0, repeat_penalty=1.0), int(tokens))))
    json.dump({"completions": completions}, sys.stdout)


if __name__ == "__main__":
    main(*sys.argv[1:])
