"""Complete prompts greedily with vLLM; runs in vLLM's own environment.

    PYTHON vllm_complete.py FOLDER TOKENS [SPECULATIVE [COMPILATION]] < prompts.json > answer.json

Prompts and completions are lists of token ids. SPECULATIVE is the number of tokens that the model's own multi-token
layer drafts; the answer says how many it drafted and how many were accepted. COMPILATION is vLLM's
`compilation_config`, as JSON. What vLLM says goes to stderr.
"""

import json
import os
import sys

os.environ.setdefault("VLLM_CPU_KVCACHE_SPACE", "1")


def main(folder: str, tokens: str, speculative: str = "0", compilation: str = "{}") -> None:
    from vllm import LLM, SamplingParams

    drafts = {"method": "mtp", "num_speculative_tokens": int(speculative)} if int(speculative) else None
    answers = os.dup(1)
    os.dup2(2, 1)  # its workers print too
    how = dict(dtype="float32", enforce_eager=True, max_model_len=256, seed=42, disable_log_stats=False)
    how |= dict(enable_prefix_caching=False)  # of states it needs Triton, which a CPU has not
    how |= dict(compilation_config=json.loads(compilation))
    model = LLM(folder, speculative_config=drafts, **how)
    prompts = [{"prompt_token_ids": ids} for ids in json.load(sys.stdin)]
    done = model.generate(prompts, SamplingParams(temperature=0, max_tokens=int(tokens)), use_tqdm=False)
    counts = {metric.name: metric.value for metric in model.get_metrics() if hasattr(metric, "value")}
    answer = {
        "completions": [list(one.outputs[0].token_ids) for one in done],
        "drafted": counts.get("vllm:spec_decode_num_draft_tokens", 0),
        "accepted": counts.get("vllm:spec_decode_num_accepted_tokens", 0),
    }
    os.write(answers, json.dumps(answer).encode())


if __name__ == "__main__":
    main(*sys.argv[1:])
