"""Write the card of an exported model from what its run left: what it is, and what it was measured to do.

[연구 맥락] 모델은 실행 폴더를 떠나 돌아다닌다. 무엇으로, 어떤 가중치로, 어떤 명령으로 만들었고 얼마나 나아졌는지가
    모델과 함께 가지 않으면, 받은 사람은 아무것도 되풀이할 수 없다.
[동작] Hub의 형식이다: YAML로 된 머리말(라이선스, 바탕 모델, 데이터, 지표) 다음에 글. 언어는 언제나 영어.
    Hub에서 온 것만 머리말에 넣는다: 모르는 이름이 있는 카드를 Hub는 거절한다.
[디버깅] 비밀은 가리고, 이 기계의 폴더는 마지막 이름만 남긴다 (`without_folders`).
"""

import re
from pathlib import Path
from typing import Any

from huggingface_hub import EvalResult, ModelCardData

from wmtp.models.export import Exported, in_short
from wmtp.reporting import plots
from wmtp.reporting.reading import STAGES, RunResults, flatten, paired_gain, read_run, scored
from wmtp.reporting.report import made_of, render
from wmtp.reporting.texts import Texts
from wmtp.secrets import mask_secrets

# What made the model what it is, among the keys of the config.
TOLD = re.compile(
    r"algo(\..*)?|optimizer(\.(?!_).*)?|model\.(heads|heads_init|adapter\..*|export\..*)|trainer\.(max_steps|precision|"
    r"accumulate_grad_batches)|data\.(noise|max_length|token_budget)|seed"
)
FOLDERS = re.compile(r"(?:file://|(?<![\w:/.]))~?/(?:[^\s/'\",;=]+/)*(?=[^\s/'\",;=]*)")


def model_card(run_dir: Path, command: str, exported: Exported) -> str:
    """Write the README.md of an exported folder.

    Args:
        run_dir: `runs/<name>`. 들어 있는 파일만 읽는다.
        command: 이 실행의 명령.
        exported: 폴더에 무엇을 썼는지.

    Returns:
        머리말과 글.
    """
    run = read_run(run_dir)
    run.texts = Texts()
    model = run.config.get("model") or {}
    used = {str(name): facts or {} for name, facts in (run.config.get("used") or {}).items()}
    body = render(
        "model_card.md.j2",
        {
            "run": run,
            "base": without_folders(str(model.get("path", ""))),
            "exported": exported,
            "copied": in_short(exported.copied),
            "left_out": in_short(exported.left_out),
            "measured": measured(run),
            "training": [(key, _plain(value)) for key, value in told(run.config)],
            "used": [(without_folders(name), _used(facts)) for name, facts in used.items()],
            "made_of": made_of(run),
            "command": without_folders(mask_secrets(command)),
        },
        {},
    )
    return f"---\n{metadata(run, exported).to_yaml()}\n---\n\n{body}"


def metadata(run: RunResults, exported: Exported) -> ModelCardData:
    """Say for the Hub's search what the model is; what did not come from there is left to the text."""
    used = run.config.get("used") or {}
    path = str((run.config.get("model") or {}).get("path", ""))
    base = used.get(path, {})
    from_hub = str(base.get("from", "")).startswith("hf://")
    places = [str((facts or {}).get("from", "")) for facts in used.values()]
    data = [place.removeprefix("hf://datasets/") for place in places if place.startswith("hf://datasets/")]
    results = [
        EvalResult(
            task_type="text-generation",
            dataset_type=name,
            dataset_name=name,
            metric_type="pass@1",
            metric_name=f"pass@1 (95 % interval {low:.3f} to {high:.3f})",
            metric_value=round(value, 4),
        )
        for name, stage, value, low, high in plots.pass_at_1(run)
        if stage == "after"
    ]
    return ModelCardData(
        base_model=base["from"].removeprefix("hf://") if from_hub else None,
        license=base.get("licence") if from_hub else None,
        datasets=data or None,
        library_name="peft" if exported.adapter else "transformers",
        pipeline_tag="text-generation",
        tags=["code", "multi-token-prediction", "wmtp", *(["conversational"] if _in_conversation(run) else [])],
        model_name=run.name if results else None,
        eval_results=results or None,
    )


def measured(run: RunResults) -> list[tuple[str, str, str, str]]:
    """List (what, before, after, note): pass@1 with intervals, and the validation loss of every head."""
    numbers: dict[str, dict[str, str]] = {}
    for name, stage, value, low, high in plots.pass_at_1(run):
        numbers.setdefault(name, {})[stage] = f"{value:.3f} [{low:.3f}, {high:.3f}]"
    gain = paired_gain(run) if len(numbers) == 1 else None
    note = f"{gain[0]:+.3f} [{gain[1]:+.3f}, {gain[2]:+.3f}] on {gain[3]} problems" if gain else ""
    found = []
    for name, stages in numbers.items():
        on = [scored(run.evaluations[stage].metrics, name, run.texts) for stage in stages][-1]
        notes = "; ".join(filter(None, [note, on]))
        before, after = (stages.get(stage, "") for stage in STAGES)
        found.append((f"pass@1 on {name}", before, after, notes))
    for key in sorted(key for key in run.series if re.fullmatch(r"val/ce_head\d+", key)):
        if len(ends := run.ends(key)) == 2:
            before, after = (f"{value:.4f}" for value in ends)
            found.append((f"validation CE of head {key.removeprefix('val/ce_head')}", before, after, "nats per token"))
    return found


def told(config: dict[str, Any]) -> list[tuple[str, Any]]:
    """List the keys that made the model what it is, with their values."""
    flat = {key.removesuffix("._target_"): value for key, value in flatten(config).items()}
    return [(key, value) for key, value in flat.items() if TOLD.fullmatch(key) and value is not None]


def without_folders(text: str) -> str:
    """Leave of every absolute path its last name: the others say where somebody keeps their files.

    Example:
        >>> without_folders("python -m wmtp.train data.path=/mnt/a/mbpp model.path=s3://bucket/key runs=~/runs x/y=1/2")
        'python -m wmtp.train data.path=mbpp model.path=s3://bucket/key runs=runs x/y=1/2'
    """
    return FOLDERS.sub("", text)


def _in_conversation(run: RunResults) -> bool:
    return (run.config.get("prompt") or {}).get("chat") is True


def _plain(value: Any) -> str:
    return without_folders(str(value).rpartition(".")[2] if str(value).startswith("wmtp.") else str(value))


def _used(facts: dict[str, Any]) -> tuple[str, str]:
    """Say under which licence something is, and where it came from."""
    place = without_folders(str(facts.get("from") or "generated or shipped"))
    version = facts.get("commit") or facts.get("version")
    return str(facts.get("licence") or "unknown"), f"{place} ({version})" if version else place
