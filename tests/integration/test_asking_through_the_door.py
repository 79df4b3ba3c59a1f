"""Ask models and servers through the front door: plainly, and in a conversation."""

import json
import shutil
from pathlib import Path

import pytest

from tests.model_server import ModelServer
from wmtp.data.synthetic import Synthetic
from wmtp.errors import ConfigError
from wmtp.eval import evaluate_checkpoint

ROOT = Path(__file__).parents[2]
TINY = ROOT / "wmtp/assets/tiny-base"
FEW = ["benchmark=synthetic", "benchmark.limit=3", "sampling=greedy", "sampling.max_new_tokens=48", "progress=false"]
TEMPLATE = "{% for m in messages %}{{ m.content }}\n{% endfor %}{{ '' if add_generation_prompt else '<|endoftext|>' }}"


def fenced(question, seed):
    """Answer in prose; the first question asks nothing."""
    for problem in Synthetic(0, 0, 3, seed=42).problems("test"):
        if problem.text in question:
            return f"Sure!\n```python\n{problem.solutions[0]}\n```\nEasy."
    return "What?"


def test_a_server_writes_the_samples_of_a_benchmark(config, tmp_path, capsys):
    with ModelServer(answer=fenced) as served:
        asked = [*FEW, "generator=server", f"generator.url={served.url}", "generator.model=m"]
        plain = evaluate_checkpoint(config(*asked, f"out={tmp_path / 'plain'}", root="eval"))
        said = capsys.readouterr().out
        assert "prompts: plain (auto: the model's name says no more)" in said
        assert "3 of 3 answers hold a Markdown fence: extract=auto" in said
        assert {path for path, _, _ in served.asked} == {"/v1/completions"}
        del served.asked[:]
        chat = [*asked, "prompt.chat=true", "prompt.system=Be brief.", f"out={tmp_path / 'chat'}"]
        talked = evaluate_checkpoint(config(*chat, root="eval"))
        assert {path for path, _, _ in served.asked} == {"/v1/chat/completions"}
        (body,) = [body for _, body, _ in served.asked if "Please provide a self-contained" in str(body)][:1]
    assert [one["role"] for one in body["messages"]] == ["system", "user"] and "prompt" not in body
    assert (plain["synthetic/pass@1"], talked["synthetic/pass@1"]) == (0.0, 1.0)
    assert (plain["synthetic/extract"], talked["synthetic/extract"]) == ("none", "auto")
    assert talked["synthetic/prompt"] == "synthetic_0shot_chat" and talked["synthetic/system"] == "Be brief."
    assert talked["synthetic/chat_template"] == "the server's" and "synthetic/chat_template" not in plain
    assert talked["synthetic/tokens"] == 3 * 7
    report = (tmp_path / "chat/report.html").read_text()
    assert "Be brief." in report and "<li>answers in a Markdown fence <b>3 / 3</b></li>" in report


@pytest.mark.parametrize(
    ("given", "sentence"),
    [
        (["out=o", "no benchmark"], "benchmark has no value"),
        (["ckpt=runs/x", "out=o"], "ckpt, generator, samples and diff: give exactly one"),
        ([], "out has no value, and results cannot go beside a server; set out=DIR"),
        (["out=o", "generator.model=gpt"], r"generator.model = gpt is not at \S+; it has m\."),
        (["out=o", "generator.at_once=0"], "generator.at_once = 0 must be a whole number, at least 1"),
    ],
)
def test_what_cannot_be_asked_is_said_before_anything_is_judged(config, tmp_path, monkeypatch, given, sentence):
    monkeypatch.chdir(tmp_path)
    few, given = (FEW[2:], given[:-1]) if "no benchmark" in given else (FEW, given)
    refuse = lambda body: (404, "") if body["model"] == "gpt" else None  # noqa: E731
    with ModelServer(refuse=refuse) as served:
        asked = [*few, "generator=server", f"generator.url={served.url}", "generator.model=m", *given]
        with pytest.raises(Exception, match=sentence):
            evaluate_checkpoint(config(*asked, root="eval"))
    assert not list(tmp_path.iterdir())


def test_a_model_with_a_chat_template_is_asked_in_it_and_one_without_as_ever(config, tmp_path, capsys):
    folder = tmp_path / "model"
    shutil.copytree(TINY, folder, ignore=shutil.ignore_patterns("README.md"))
    few = [f"ckpt={folder}", "device=cpu", *FEW]
    before = evaluate_checkpoint(config(*few, f"out={tmp_path / 'before'}", root="eval"))
    assert "prompts:" not in capsys.readouterr().out
    (folder / "chat_template.jinja").write_text(TEMPLATE)
    talked = evaluate_checkpoint(config(*few, f"out={tmp_path / 'chat'}", root="eval"))
    assert "prompts: as a conversation" in capsys.readouterr().out
    digest = talked["synthetic/chat_template"]
    assert len(digest) == 16 and talked["synthetic/prompt"] == "synthetic_0shot_chat"
    assert talked["synthetic/extract"] == "auto" and talked["synthetic/stop"] is None
    assert json.loads((tmp_path / "chat/eval.json").read_text())["benchmark.chat_template"] == digest
    plain = evaluate_checkpoint(config(*few, "prompt.chat=false", f"out={tmp_path / 'plain'}", root="eval"))
    same = ("samples.jsonl", "results.jsonl", "metrics.json", "eval.json")
    assert all((tmp_path / "before" / name).read_bytes() == (tmp_path / "plain" / name).read_bytes() for name in same)
    assert before == plain | {name: before[name] for name in before if "seconds" in name}

    # What wmtp trained, it trained on plain prompts; its card travels with it.
    shutil.copy(TINY / "README.md", folder)
    (folder / "README.md").write_text("---\ntags:\n- wmtp\n---\n")
    taught = evaluate_checkpoint(config(*few, f"out={tmp_path / 'before'}", root="eval"))
    assert taught["synthetic/prompt"] == "synthetic_0shot"


def test_a_missing_template_is_said_before_the_weights_are_read(config, tmp_path):
    folder = tmp_path / "model"
    shutil.copytree(TINY, folder)
    (folder / "model.safetensors").write_bytes(b"no weights")
    chat = [f"ckpt={folder}", *FEW, "prompt.chat=true"]
    with pytest.raises(ConfigError, match=rf"the tokenizer of ckpt = {folder} has no chat template; set"):
        evaluate_checkpoint(config(*chat, root="eval"))
    with pytest.raises(ConfigError, match="samples have been asked for already"):
        evaluate_checkpoint(config("samples=x", *FEW, "prompt.chat=true", root="eval"))
