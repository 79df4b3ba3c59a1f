"""Hold the promises of wmtp/reporting on run directories that look like real ones."""

import ast
import csv
import json
import math
import random
import re
import shutil
import subprocess
from html.parser import HTMLParser
from importlib import resources
from pathlib import Path
from xml.etree import ElementTree

import pytest
from jinja2 import Environment, nodes

import wmtp.comparison
import wmtp.reporting
from wmtp.errors import ConfigError
from wmtp.reporting.evaluation import write_evaluation_report
from wmtp.reporting.heat_map import shade_of, visible
from wmtp.reporting.reading import paired_gain, read_run
from wmtp.reporting.report import VERDICTS, frequent_failures, write_report
from wmtp.reporting.texts import KOREAN, Texts

CONFIG = """\
algo: {_target_: wmtp.algos.rho1.Rho1, score: excess, weighting: {lam: 0.3, temperature: 0.7, control: none}}
data: {noise: 0.5, module: {source: {_target_: wmtp.data.synthetic.Synthetic}}}
model: {path: "asset:tiny-base", heads: 4}
trainer: {max_steps: 300}
storage: {hf_token: hf_do_not_show_me}
seed: 42
"""


def make_run(run_dir, problems=120):
    """Write what a run of the main job leaves in its directory."""
    from transformers import AutoTokenizer

    from wmtp.callbacks.token_weights import text_pieces
    from wmtp.data.prompts import Synthetic0Shot
    from wmtp.data.synthetic import Synthetic
    from wmtp.data.tokenization import tokenize_problem

    rng = random.Random(42)
    run_dir.mkdir(parents=True, exist_ok=True)
    (run_dir / "config.yaml").write_text(CONFIG)
    with (run_dir / "metrics.csv").open("w", newline="") as file:
        heads = [f"{split}/ce_head{k}" for split in ("train", "val") for k in range(4)]
        weights = ["mean", "min", "max", "p25", "p75", "p95", "ess", "corrupted_mean", "clean_mean", "auc"]
        columns = ["step", "epoch", "train/loss", *heads, *(f"weight/{key}" for key in weights)]
        writer = csv.DictWriter(file, [*columns, "speed/target_tokens_per_second"])
        writer.writeheader()
        for step in range(9, 300, 10):
            fall = math.exp(-step / 80)
            ce = {f"train/ce_head{k}": 0.45 + 0.5 * k + (1 + k) * fall + rng.gauss(0, 0.05) for k in range(4)}
            weight = {
                "mean": 1.0, "min": 0.74, "max": 1.6, "p25": 0.86 - 0.02 * fall, "p75": 1.1, "p95": 1.4, "ess": 0.94,
                "corrupted_mean": 0.84 + 0.1 * fall + rng.gauss(0, 0.02), "clean_mean": 1.05 - 0.03 * fall,
                "auc": 0.78 - 0.2 * fall,
            }  # fmt: skip
            writer.writerow(
                {"step": step, "epoch": 0, "train/loss": sum(ce.values()) / 4, **ce,
                 **{f"weight/{key}": value for key, value in weight.items()},
                 "speed/target_tokens_per_second": rng.gauss(9000, 300)}
            )  # fmt: skip
            if step % 100 == 99:
                writer.writerow({"step": step} | {f"val/ce_head{k}": 0.2 + 0.45 * k + (1 + k) * fall for k in range(4)})
    normal = [rng.gauss(1.05, 0.15) for _ in range(20000)]
    low = [rng.gauss(0.84, 0.08) for _ in range(4000)]
    histogram = {"upper": 4.0}
    for name, values in (("clean", normal), ("corrupted", low)):
        counts = [0] * 200
        for value in values:
            counts[int(min(max(value, 0.72), 1.6) * 50)] += 1
        histogram[name] = counts
    (run_dir / "weight_histogram.json").write_text(json.dumps(histogram))

    tokenizer = AutoTokenizer.from_pretrained(str(resources.files("wmtp") / "assets" / "tokenizer"))
    source = Synthetic(train_size=12, test_size=problems, noise=0.5)
    samples = []
    for problem in source.problems("train")[:6]:
        sample = tokenize_problem(problem, Synthetic0Shot(), tokenizer)
        row = {"problem_id": sample.task_id, "prompt_length": sample.prompt_length, "noise": list(sample.noise)}
        row["pieces"] = text_pieces(tokenizer, sample.input_ids)
        for stage in ("start", "end"):
            score = [rng.gauss(-0.8 if noisy else 0.2, 0.6 if stage == "end" else 1.2) for noisy in sample.noise]
            hidden = [i < sample.prompt_length for i in range(len(score))]
            row[stage] = {
                "score": [None if h else round(s, 4) for s, h in zip(score, hidden, strict=True)],
                "weight": [
                    None if h else round(min(max(1 + 0.3 * s, 0.715), 1.6), 4)
                    for s, h in zip(score, hidden, strict=True)
                ],
            }
        samples.append(row)
    (run_dir / "token_weights.json").write_text(json.dumps({"samples": samples}))
    ranking = {"least": 20, "heaviest": [{"text": " sorted", "weight": 1.52, "count": 340}], "lightest": []}
    (run_dir / "token_ranking.json").write_text(json.dumps(ranking))
    errors = {"choice_by": "the model before training", "choice_points": [3, 5]}
    for stage, error in (("start", 0.4), ("end", 0.25)):
        kinds = {"choice": error, "literal": error / 2, "corrupted": 0.9}
        errors[stage] = {kind: {"tokens": 1234, "ce": 2 * share, "error": share} for kind, share in kinds.items()}
    (run_dir / "token_errors.json").write_text(json.dumps(errors))

    for stage, share in (("before", 0.3), ("after", 0.6)):
        folder = run_dir / "eval" / stage
        folder.mkdir(parents=True)
        results, completions = [], []
        for problem in source.problems("test"):
            passed = rng.random() < share
            reason = rng.choice(
                [("wrong", "failed in test 3 of 6"), ("wrong", "failed in test 1 of 6"),
                 ("wrong", "failed in test 1 of 3"),
                 ("error", "NameError: name 'xs' is not defined"), ("timeout", "more than 4.0 s of CPU time"),
                 ("error", "SyntaxError: invalid syntax (line 3)")]
            )  # fmt: skip
            status, message = ("passed", "") if passed else reason
            code = problem.solutions[0] if passed else problem.solutions[0].replace("return", "return not")
            results.append({"task_id": problem.task_id, "sample": 0, "status": status, "message": message})
            completions.append({"task_id": problem.task_id, "sample": 0, "completion": code})
        passed = sum(row["status"] == "passed" for row in results) / problems
        error = 1.96 * math.sqrt(passed * (1 - passed) / problems)
        metrics = {"pass@1": passed, "pass@1_low": passed - error, "pass@1_high": passed + error, "problems": problems}
        (folder / "metrics.json").write_text(json.dumps({f"synthetic/{k}": v for k, v in metrics.items()}))
        (folder / "results.jsonl").write_text("".join(json.dumps(row) + "\n" for row in results))
        (folder / "samples.jsonl").write_text("".join(json.dumps(row) + "\n" for row in completions))
    return run_dir


@pytest.fixture(scope="module")
def run_dir(tmp_path_factory):
    run_dir = make_run(tmp_path_factory.mktemp("runs") / "rho1-synthetic-tiny")
    write_report(run_dir)
    return run_dir


class Page(HTMLParser):
    """Collect elements, addresses and the text of a page, and check that every element is closed."""

    VOID = {"meta", "input", "br", "link", "img", "path", "rect", "use", "g"}

    def __init__(self, html):
        super().__init__()
        self.tags, self.attributes, self.text, self.open = [], [], [], []
        self.feed(html)

    def handle_starttag(self, tag, attrs):
        self.tags.append(tag)
        self.attributes += attrs
        if tag not in self.VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag, attrs):
        self.tags.append(tag)
        self.attributes += attrs

    def handle_endtag(self, tag):
        if tag not in self.VOID:
            assert self.open.pop() == tag

    def handle_data(self, data):
        self.text.append(data)


def test_the_page_is_well_formed_stands_alone_and_runs_no_script(run_dir):
    html = (run_dir / "report.html").read_text()
    page = Page(html)
    assert page.open == []
    assert not {"script", "link", "img", "iframe", "object"} & set(page.tags)
    assert page.tags.count("svg") == 6
    for name, value in page.attributes:
        assert not name.startswith("on")
        if name in ("href", "src", "xlink:href"):
            assert value.startswith("#")
    assert not re.search(r"url\((?!#)", html) and "@import" not in html
    assert "default-src 'none'" in html


def test_the_page_says_what_happened(run_dir):
    text = " ".join(Page((run_dir / "report.html").read_text()).text)
    before, after = (
        json.loads((run_dir / "eval" / stage / "metrics.json").read_text())["synthetic/pass@1"]
        for stage in ("before", "after")
    )
    assert f"{100 * before:.1f} → {100 * after:.1f} %" in text
    for part in (
        "Rho1",
        "Corrupted-token weight",
        "망가진 토큰",
        "solved now",
        "timeout",
        "·sorted",
        "Not in this report",
    ):
        assert (part in text) == (part != "Not in this report"), part


def test_no_secret_of_the_config_is_shown(run_dir):
    for name in ("report.html", "report.md"):
        assert "hf_do_not_show_me" not in (run_dir / name).read_text()


def test_the_plots_are_svg_files_of_their_own_and_markdown_shows_them(run_dir):
    names = {"loss", "ce_per_head", "ce_per_head_training", "weight_histogram", "weights_over_time", "pass_at_1"}
    markdown = (run_dir / "report.md").read_text()
    for name in names:
        ElementTree.parse(run_dir / "report" / f"{name}.svg")
        assert f"](report/{name}.svg)" in markdown
    assert {path.stem for path in (run_dir / "report").iterdir()} == names


def test_a_report_is_the_same_when_it_is_written_again(run_dir):
    first = (run_dir / "report.html").read_bytes()
    assert write_report(run_dir).with_suffix(".html").read_bytes() == first


HOSTILE = (
    "</pre></div><script>alert(1)</script><img src=x onerror=alert(2)>\n"
    "{{ 7*7 }} {% raw %} \u202edlrow \x1b[2J \x00 \ud800 ```\n```` | &amp; \" ' 한국어\n"
)


def test_hostile_text_anywhere_shows_as_text(tmp_path):
    run_dir = make_run(tmp_path / "run", problems=20)
    for stage in ("before", "after"):
        row = {"task_id": HOSTILE, "sample": 0}
        with (run_dir / "eval" / stage / "results.jsonl").open("a") as file:
            file.write(json.dumps({**row, "status": "wrong" + HOSTILE, "message": HOSTILE}) + "\n")
        with (run_dir / "eval" / stage / "samples.jsonl").open("a") as file:
            file.write(json.dumps({**row, "completion": HOSTILE}) + "\n")
        for name in ("results.jsonl", "samples.jsonl"):  # the only problem left, so that it is shown
            path = run_dir / "eval" / stage / name
            path.write_text(path.read_text().splitlines()[-1] + "\n")
    weights = json.loads((run_dir / "token_weights.json").read_text())
    weights["samples"][0]["pieces"][-1] = weights["samples"][0]["problem_id"] = HOSTILE
    (run_dir / "token_weights.json").write_text(json.dumps(weights))
    ranking = {"least": 1, "heaviest": [], "lightest": [{"text": HOSTILE, "weight": 0.2, "count": 9}]}
    (run_dir / "token_ranking.json").write_text(json.dumps(ranking))
    write_report(run_dir)
    html, markdown = (run_dir / "report.html").read_text(), (run_dir / "report.md").read_text()
    page = Page(html)
    assert page.open == []
    assert not {"script", "img"} & set(page.tags) and not any(name.startswith("on") for name, _ in page.attributes)
    shown = "".join(page.text)
    assert "<script>alert(1)</script>" in shown and "{{ 7*7 }}" in shown and "한국어" in shown
    for text in (html, markdown):
        assert not {"\u202e", "\x1b", "\x00"} & set(text)
    outside_fences = re.sub(r"^(`{3,})python\n.*?^\1$", "", markdown, flags=re.S | re.M)
    assert "\n`````python\n" in markdown  # longer than any fence inside
    assert "<script>" not in outside_fences.replace("\\<script", "")


@pytest.mark.parametrize(
    "missing",
    ["config.yaml", "metrics.csv", "weight_histogram.json", "token_weights.json", "eval/before/metrics.json",
     "eval/after/metrics.json", "eval/after/results.jsonl", "eval/after/samples.jsonl"],
)  # fmt: skip
def test_any_file_may_be_missing(run_dir, tmp_path, missing):
    copy = tmp_path / "run"
    shutil.copytree(run_dir, copy)
    (copy / missing).unlink()
    page = Page(write_report(copy).with_suffix(".html").read_text())
    assert page.open == []
    if "jsonl" not in missing:
        assert "Not in this report" in " ".join(page.text)


def test_an_empty_directory_gives_a_report_that_says_so(tmp_path):
    text = " ".join(Page(write_report(tmp_path).with_suffix(".html").read_text()).text)
    for part in ("No evaluation was run", "No training was logged", "Every token weighed the same"):
        assert part in text
        assert part in (tmp_path / "report.md").read_text()


def test_a_half_written_line_is_left_out_and_counted(run_dir, tmp_path):
    folder = tmp_path / "eval" / "after"
    folder.mkdir(parents=True)
    (folder / "metrics.json").write_text('{"mbpp/pass@1": 0.5')
    (folder / "results.jsonl").write_text('{"task_id": "a", "sample": 0, "status": "passed"}\n{"task_id": "b", "sam')
    run = read_run(tmp_path)
    assert run.evaluations["after"].verdicts == {"passed": 1}
    assert any("1 unreadable line" in line for line in run.missing)
    assert any(line.startswith("metrics.json: cannot be read") for line in run.missing)
    write_report(tmp_path)


def test_failures_of_one_kind_are_counted_together(run_dir):
    failures = frequent_failures(read_run(run_dir))
    assert [count for *_, count, _ in failures] == sorted((count for *_, count, _ in failures), reverse=True)
    patterns = [pattern for _, pattern, *_ in failures]
    # Which test fails first says how near the programs are; the number of tests and of lines says nothing.
    assert {"failed in test 1", "failed in test 3", "SyntaxError: invalid syntax (line …)"} <= {*patterns}
    assert len(patterns) == len(set(patterns))


def test_the_gain_is_paired_over_the_problems_that_both_have(run_dir):
    difference, low, high, problems = paired_gain(read_run(run_dir))
    assert low < difference < high and problems == 120


# --- languages ---------------------------------------------------------------------------------------------------


def translated(kind: str) -> list[Path]:
    """List the files of a kind that speak the reader's language."""
    return [file for room in (wmtp.reporting, wmtp.comparison) for file in Path(room.__file__).parent.glob(f"*.{kind}")]


def texts_in_use() -> set[str]:
    """Read every text that the code and the templates ask a translation of, where it is written out."""
    asked = set()
    for path in translated("py"):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Constant) and isinstance(node.value, str):
                asked.add(node.value)
    for path in translated("j2"):
        tree = Environment(trim_blocks=True).parse(path.read_text())
        asked |= {node.value for node in tree.find_all(nodes.Const) if isinstance(node.value, str)}
    return asked


def asked_by_name() -> set[str]:
    """Read the texts that stand right inside a call of the translator."""
    asked = set()
    for path in translated("py"):
        for node in ast.walk(ast.parse(path.read_text())):
            if (
                isinstance(node, ast.Call)
                and getattr(node.func, "id", "") == "t"
                and isinstance(node.args[0], ast.Constant)
            ):
                asked.add(node.args[0].value)
            if (
                isinstance(node, ast.Call)
                and ast.unparse(node.func) == "Tile.of"
                and isinstance(node.args[1], ast.Constant)
            ):
                asked.add(node.args[1].value)
    for path in translated("j2"):
        for call in Environment(trim_blocks=True).parse(path.read_text()).find_all(nodes.Call):
            if getattr(call.node, "name", "") in ("t", "h2", "h3", "beside") and isinstance(call.args[0], nodes.Const):
                asked.add(call.args[0].value)
    return asked


def test_every_text_has_its_korean_and_no_korean_is_left_over():
    assert asked_by_name() - KOREAN.keys() == set()
    used = texts_in_use() | {"not judged"}
    assert KOREAN.keys() - used - set(VERDICTS) == set()
    for english, korean in KOREAN.items():
        assert set(re.findall(r"{\w+", english)) == set(re.findall(r"{\w+", korean)), english


def test_a_page_in_korean_has_no_english_sentence_left(run_dir, tmp_path):
    copy = tmp_path / "run"
    shutil.copytree(run_dir, copy)
    (copy / "config.yaml").write_text(CONFIG + "lang: ko\n")
    (copy / "failure.json").write_text(json.dumps(FAILURE))
    (copy / "left_out.json").write_text(json.dumps(LEFT_OUT))
    (copy / "critic.json").write_text(json.dumps(CRITIC))
    (copy / "eval" / "before" / "results.jsonl").open("a").write("{torn\n")
    page = Page(write_report(copy).with_suffix(".html").read_text())
    assert page.open == [] and ("lang", "ko") in page.attributes and ("lang", "en") not in page.attributes
    text = " ".join(page.text)
    for english in KOREAN:
        if len(english.split()) > 3 and "{" not in english:
            assert english not in text, english
    for part in (
        "시험을 통과한 프로그램",
        "망가진 토큰의 가중치",
        "학습 후",
        "이제 푼다",
        "시간 초과",
        "가장 잦은 실패",
        "실패",
    ):
        assert part in text, part
        assert part in (copy / "report.md").read_text() or part == "학습 후"


def test_an_unknown_language_is_refused_and_a_report_of_one_is_english(tmp_path):
    with pytest.raises(ConfigError, match="lang = 'fr' must be one of en, ko"):
        Texts("fr")
    (tmp_path / "config.yaml").write_text("lang: [ko]\n")
    assert "No evaluation was run." in write_report(tmp_path).read_text()


FAILURE = {
    "cause": "NonFiniteLossError: the loss is nan", "step": 3, "rank": 0, "world_size": 1, "time": "now", "stack": "…",
    "what_went_wrong": "The loss became nan.", "next_action": "Lower the rate.", "recipe": None, "environment": {},
}  # fmt: skip
LEFT_OUT = {
    "leakage": "drop",
    "leaks": [{"task_id": "a/1", "benchmark": "b", "benchmark_task_id": "b/1", "overlap": 0.5, "kind": "text"}],
    "too_long_or_unsolved": {"train": ["a/2"]},
}
CRITIC = {
    "best": {"auc": 0.55, "in_span": 0.3, "step": 10}, "near_chance": True, "programs": {"heldout": 32},
    "curve": [{"step": 10, "auc": 0.55, "in_span": 0.3}],
}  # fmt: skip


# --- what a failed, an unfinished and a damaged run say ----------------------------------------------------------


def test_a_failed_run_says_so_first_and_shows_no_change_that_was_not_measured(run_dir, tmp_path):
    copy = tmp_path / "run"
    shutil.copytree(run_dir, copy)
    (copy / "failure.json").write_text(json.dumps(FAILURE))
    (copy / "metrics.csv").write_text("step,val/ce_head0\n0,0.1171\n")
    page = Page(write_report(copy).with_suffix(".html").read_text())
    text = " ".join(page.text)
    assert text.index("FAILED at step 3") < text.index("0.117") and "0.117 →" not in text
    assert "**FAILED at step 3**" in (copy / "report.md").read_text()


def test_a_headline_says_how_many_of_the_problems_were_scored(tmp_path):
    numbers = {"pass@1": 1.0, "pass@1_low": 0.566, "pass@1_high": 1.0, "problems": 164, "samples": 5}
    numbers["missing"] = [f"HumanEval/{i}" for i in range(159)]
    (tmp_path / "eval" / "after").mkdir(parents=True)
    metrics = {f"humaneval/{name}": value for name, value in numbers.items()}
    (tmp_path / "eval" / "after" / "metrics.json").write_text(json.dumps(metrics))
    write_report(tmp_path)
    write_evaluation_report(tmp_path / "eval" / "after", [], Texts())
    for page in (tmp_path / "report.html", tmp_path / "eval" / "after" / "report.html"):
        assert "5 of 164 problems scored" in page.read_text()


@pytest.mark.skipif(shutil.which("chromium") is None, reason="needs Chromium, which draws the page")
@pytest.mark.parametrize("lang", ["en", "ko"])
def test_the_page_fits_a_phone_whatever_the_tokens_are(run_dir, tmp_path, lang):
    copy = tmp_path / "run"
    shutil.copytree(run_dir, copy)
    (copy / "config.yaml").write_text(CONFIG + f"lang: {lang}\n")
    rows = [{"text": "averyveryverylongidentifier" * 3, "weight": 1.5, "count": 12345}]
    (copy / "token_ranking.json").write_text(json.dumps({"least": 20, "heaviest": rows * 9, "lightest": rows * 9}))
    write_report(copy)
    (tmp_path / "phone.html").write_text(
        '<iframe src="run/report.html" style="width: 390px; height: 800px; border: 0" onload="document.title = '
        'this.contentDocument.documentElement.scrollWidth"></iframe>'
    )
    flags = ["--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run",
             "--disable-background-networking", "--disable-component-update", "--disable-sync", "--hide-scrollbars",
             "--allow-file-access-from-files", f"--user-data-dir={tmp_path / 'profile'}", "--dump-dom"]  # fmt: skip
    shown = subprocess.run(["chromium", *flags, f"file://{tmp_path / 'phone.html'}"], capture_output=True, text=True)
    assert "<title>390</title>" in shown.stdout, shown.stdout[:300]


@pytest.mark.parametrize("content", [bytes(range(256)), b"[1, 2]", b"{", b"{}", b""])
@pytest.mark.parametrize(
    "name",
    ["config.yaml", "metrics.csv", "weight_histogram.json", "token_weights.json", "token_ranking.json",
     "token_errors.json", "left_out.json", "attempts.json", "critic.json", "failure.json", "eval/after/metrics.json",
     "eval/after/results.jsonl"],
)  # fmt: skip
def test_a_damaged_file_costs_its_part_of_the_report_only(tmp_path, name, content):
    file = tmp_path / name
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_bytes(content)
    page = Page(write_report(tmp_path).with_suffix(".html").read_text())
    assert page.open == []
    if content == bytes(range(256)):
        assert f"{file.name}:" in "".join(page.text)


def test_errors_of_each_kind_of_token_stand_before_and_after(run_dir):
    markdown, html = (run_dir / "report.md").read_text(), (run_dir / "report.html").read_text()
    assert "| choices | 1,234 | 40.0 % | 25.0 % | 0.800 | 0.500 |" in markdown
    assert "| literals | 1,234 | 20.0 % | 12.5 % | 0.400 | 0.250 |" in markdown
    shown = " ".join("".join(Page(html).text).split())
    assert "the model before training hesitates most" in shown and "corrupted tokens" in shown


def test_a_run_that_did_not_end_has_its_errors_from_the_start(tmp_path):
    start = {"all": {"tokens": 7, "ce": 1.5, "error": 0.5}}
    (tmp_path / "token_errors.json").write_text(json.dumps({"choice_by": "x", "choice_points": [], "start": start}))
    write_report(tmp_path)
    assert "| all tokens | 7 | 50.0 % | – | 1.500 | – |" in (tmp_path / "report.md").read_text()


def test_shades_are_monotone_and_symmetric_about_weight_one():
    levels = [shade_of(w / 10, 0.5, 3.0) for w in range(5, 31)]
    numbers = [0 if not s else int(s[-1]) * (1 if s.startswith("up") else -1) for s in levels]
    assert numbers == sorted(numbers) and numbers[0] == -8 and numbers[-1] == 8
    assert shade_of(1.0, 1.0, 1.0) == ""


def test_korean_stays_korean():
    assert visible("한국어 값 = 1\t# 주석\n") == "한국어 값 = 1\t# 주석\n"


def test_who_trains_a_large_model_on_a_processor_with_bf16_units_in_float32_is_told(monkeypatch):
    import torch

    from wmtp.reporting import screen

    t = Texts("en")
    large, small = torch.nn.Linear(screen.LARGE, 1, device="meta"), torch.nn.Linear(2, 1)
    monkeypatch.setattr(screen, "multiplies_bf16", lambda: True)
    assert "trainer.precision=bf16-mixed" in screen.advice(large, "cpu", "32-true", t)
    assert screen.advice(small, "cpu", "32-true", t) == ""
    assert screen.advice(large, "cpu", "bf16-mixed", t) == "" == screen.advice(large, "gpu", "32-true", t)
    monkeypatch.setattr(screen, "multiplies_bf16", lambda: False)
    assert screen.advice(large, "cpu", "32-true", t) == ""
