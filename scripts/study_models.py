"""Train the models that the study starts from: a base for every seed, and the references that rho1 is given.

    python -m scripts.study_models                              all of them, in runs/models; what is there is left alone
    python -m scripts.study_models base-42 reference-small      these
    python -m scripts.study_models runs=DIR trainer=gpu trainer.precision=32-true      as wmtp.train takes it

[연구 맥락] 씨앗이 데이터의 순서만 바꾸면 "다른 모델에서 시작해도 그런가"에 답하지 못한다. 그래서 씨앗마다 다른 임의의
    가중치에서 시작해 배포되는 tiny-base와 같은 방법으로 배운 바탕 모델을 둔다. 참조모델은 무엇을 보았는지만 다르다:
    배포되는 tiny-reference는 학습 문제의 깨끗한 정답을 보았다. reference-small은 학습 문제와 프로그램이 하나도 겹치지
    않는 깨끗한 문제 2000개만(Rho-1이 하는 대로), reference-noisy는 학습할 때와 똑같은, 절반이 망가진 문제만 보았다.
[동작] 끝난 것만 제자리로 옮긴다. 언제 멈추었든 다시 부르면 없는 것만 만든다.
"""

import shutil
import sys
import tempfile
from pathlib import Path

from hydra import initialize_config_dir

from scripts.make_tiny_models import pretrain
from wmtp.cli import config_dir, quiet

SEEDS = (42, 43, 44, 45, 46, 47, 48)  # five for the study, two for choosing between ideas (experiment=study_ideas)
# As tiny-base and tiny-reference are made (scripts/make_tiny_models.py); the small set is seen eight times.
RECIPES = {
    **{f"base-{seed}": (seed, 4, ["data.noise=0.5", "trainer.max_steps=400"]) for seed in SEEDS},
    "reference-noisy": (42, 1, ["data.noise=0.5", "trainer.max_steps=1500"]),
    "reference-small": (
        42, 1, ["data.noise=0", "data.train_skip=20000", "data.train_size=2000", "trainer.max_steps=800"],
    ),
}  # fmt: skip


def main() -> None:
    """Make what is asked for and is not there yet."""
    quiet()
    overrides = [word for word in sys.argv[1:] if "=" in word and not word.startswith("runs=")]
    runs = next((word.removeprefix("runs=") for word in sys.argv[1:] if word.startswith("runs=")), "runs")
    asked = [word for word in sys.argv[1:] if "=" not in word] or list(RECIPES)
    if unknown := [name for name in asked if name not in RECIPES]:
        sys.exit(f"{unknown[0]} is none of the study's models; choose from {', '.join(RECIPES)}.")
    place = Path(runs) / "models"
    place.mkdir(parents=True, exist_ok=True)
    with initialize_config_dir(str(config_dir()), version_base="1.3"):
        for name in asked:
            if (place / name).exists():
                print(f"{name}: there already, in {place}")
                continue
            seed, heads, recipe = RECIPES[name]
            with tempfile.TemporaryDirectory(dir=place, prefix=".making-") as work:
                metrics = pretrain(name, [*recipe, *overrides], heads, Path(work), seed)
                shutil.move(Path(work) / "runs" / name / "model", place / name)
            print(f"{name}: validation CE of head 0 {metrics['after/val/ce_head0']:.4f}, in {place / name}")


if __name__ == "__main__":
    main()
