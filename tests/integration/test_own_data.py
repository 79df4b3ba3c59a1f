"""Train and evaluate on rows of one's own through the front door: plainly, with tests, and in conversations."""

import json
import shutil
from pathlib import Path

import pytest
import yaml
from transformers import AutoTokenizer

from wmtp.data.synthetic import Synthetic
from wmtp.errors import ConfigError
from wmtp.eval import evaluate_checkpoint
from wmtp.train import train

TINY = Path(__file__).parents[2] / "wmtp/assets/tiny-base"
QUICK = ["data=jsonl", "trainer.max_steps=2", "data.max_length=400", "data.token_budget=800"]
TEMPLATE = (
    "{% for m in messages %}<{{ m.role }}>{{ m.content }}<|fim_pad|>\n{% endfor %}"
    "{% if add_generation_prompt %}<assistant>{% endif %}"
)


def write(path: Path, rows: list[dict]) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


@pytest.fixture
def tested(tmp_path) -> Path:
    """Write MBPP-like rows, under names of their own."""
    problems = Synthetic(train_size=30, validation_size=0).problems("train")
    rows = [{"task": p.text, "program": p.solutions[0], "checks": list(p.tests)} for p in problems]
    return write(tmp_path / "tested.jsonl", rows)


@pytest.fixture
def talkative(tmp_path) -> Path:
    """Copy the shipped model, with a chat template whose closing token is not the model's end of text."""
    folder = tmp_path / "talkative"
    shutil.copytree(TINY, folder, ignore=shutil.ignore_patterns("README.md"))
    tokenizer = AutoTokenizer.from_pretrained(folder)
    spare = next(token for token in sorted(tokenizer.get_vocab(), key=len) if len(token) > 5)
    tokenizer.add_special_tokens({"additional_special_tokens": [spare]})  # no new number
    assert len(tokenizer) == AutoTokenizer.from_pretrained(TINY).vocab_size
    tokenizer.chat_template = TEMPLATE.replace("<|fim_pad|>", spare)
    tokenizer.save_pretrained(folder)
    return folder


def test_questions_and_answers_train_without_a_parser_and_no_program_is_run(config, tmp_path, capsys):
    rows = [{"question": f"# {i} + 1\n", "answer": f"print({i + 1})\n"} for i in range(40)]
    file = write(tmp_path / "qa.jsonl", rows)
    fields = ["data.fields.prompt=question", "data.fields.completion=answer", "data.licence=MIT"]
    found = train(config(*QUICK, f"data.path={file}", *fields, "name=run"))
    said = capsys.readouterr().out
    assert "jsonl (MIT): " in said and "no program is run" in said
    assert found["after/val/ce_head0"] > 0 and not [key for key in found if "pass@1" in key]
    settled = yaml.safe_load((tmp_path / "runs/run/config.yaml").read_text())
    assert settled["used"]["jsonl"] == {"licence": "MIT", "from": str(file)}
    assert settled["prompt"]["chat"] is False and settled["made_of"]["data"]
    assert "MIT" in (tmp_path / "runs/run/report.md").read_text()


def test_rows_with_tests_are_judged_feed_the_critic_and_are_found_again_by_eval(config, tmp_path, tested):
    fields = ["data.fields.text=task", "data.fields.code=program", "data.fields.tests=checks"]
    asked = [*QUICK, f"data.path={tested}", *fields, "data.validation_share=0.2", "algo=critic"]
    few = ["algo.pretraining.steps=2", "algo.pretraining.problems=12", "algo.localisation.problems=4"]
    found = train(config(*asked, *few, "name=run", "eval.before=false"))
    run = tmp_path / "runs/run"
    judged = json.loads((run / "eval/after/jsonl/metrics.json").read_text())
    held = judged["jsonl/problems"]
    assert 1 <= held <= 4 and judged["jsonl/prompt"] == "own_words" and "after/jsonl/pass@1" in found
    assert json.loads((run / "critic.json").read_text())
    again = evaluate_checkpoint(config(f"ckpt={run}", "sampling=greedy", "progress=false", root="eval"))
    assert again["jsonl/problems"] == held and again["jsonl/split"] == "validation"
    every = ["benchmark=jsonl", f"benchmark.path={tested}", "benchmark.split=all", f"out={tmp_path / 'all'}"]
    names = [one.replace("data.", "benchmark.") for one in fields]
    more = evaluate_checkpoint(config(f"ckpt={run}", *every, *names, "progress=false", root="eval"))
    assert more["jsonl/problems"] == 30


def test_conversations_are_taught_asked_and_exported_alike(config, tmp_path, talkative, tested, capsys):
    rows = [
        [
            {"role": "user", "content": row["task"]},
            {"role": "assistant", "content": f"```python\n{row['program']}\n```"},
        ]
        for row in map(json.loads, tested.read_text().splitlines())
    ]
    file = write(tmp_path / "talks.jsonl", [{"messages": talk} for talk in rows])
    asked = [*QUICK, f"data.path={file}", f"model.path={talkative}", "prompt.system=Be brief.", "algo=baseline"]
    with pytest.raises(ConfigError, match=r"prompt\.chat = false, but the rows of data=jsonl are messages"):
        train(config(*asked, "prompt.chat=false"))
    train(config(*asked, "name=run", "benchmark=synthetic", "eval.limit=2", "eval.before=false"))
    assert "prompts: as a conversation" in capsys.readouterr().out
    run = tmp_path / "runs/run"
    judged = json.loads((run / "eval/after/synthetic/metrics.json").read_text())
    assert judged["synthetic/prompt"] == "synthetic_0shot_chat" and judged["synthetic/extract"] == "auto"
    assert judged["synthetic/system"] == "Be brief."
    assert yaml.safe_load((run / "config.yaml").read_text())["prompt"]["chat"] is True

    # Asked later, it is asked as it was taught, whether as a checkpoint or as a folder.
    few = [
        "benchmark=synthetic",
        "benchmark.limit=2",
        "sampling=greedy",
        "sampling.max_new_tokens=16",
        "progress=false",
    ]
    later = evaluate_checkpoint(config(f"ckpt={run}", *few, root="eval"))
    assert "(auto: wmtp trained it in conversations)" in capsys.readouterr().out
    same = ("prompt", "chat_template", "system", "instruction")
    assert [later.get(f"synthetic/{key}") for key in same] == [judged.get(f"synthetic/{key}") for key in same]
    folder = evaluate_checkpoint(config(f"ckpt={run / 'model'}", *few, root="eval"))
    assert folder["synthetic/prompt"] == "synthetic_0shot_chat"
    # Whoever else generates with the folder stops where the answers that it learned end.
    tokenizer = AutoTokenizer.from_pretrained(run / "model")
    closing = json.loads((run / "model/generation_config.json").read_text())["eos_token_id"]
    assert tokenizer.eos_token_id in closing and len(closing) == 2
    assert "- conversational\n" in (run / "model/README.md").read_text()


@pytest.mark.long
def test_problems_are_taught_in_a_conversation_where_that_is_asked_for(config, tmp_path, talkative):
    small = ["trainer.max_steps=1", "eval.before=false", "eval.limit=2", f"model.path={talkative}", "algo=baseline"]
    train(config(*small, "prompt.chat=true", "data.max_length=512", "data.token_budget=1024", "name=chat"))
    judged = json.loads((tmp_path / "runs/chat/eval/after/synthetic/metrics.json").read_text())
    assert judged["synthetic/prompt"] == "synthetic_0shot_chat"
    # However many answers held a program in a fence, none included, the report says so.
    report = (tmp_path / "runs/chat/eval/after/synthetic/report.html").read_text()
    assert f"<li>answers in a Markdown fence <b>{judged['synthetic/fenced']} / 2</b></li>" in report
    with pytest.raises(ConfigError, match=r"the tokenizer of model\.path = asset:tiny-base has no chat template"):
        train(config("prompt.chat=true", "name=none"))
    assert not (tmp_path / "runs/none").exists()
