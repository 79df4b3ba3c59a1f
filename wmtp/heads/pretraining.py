"""Fit new heads on the frozen trunk before training starts (stage 0), once for all runs that begin alike.

[연구 맥락] 새 헤드는 ln V보다 나쁜 CE에서 시작하고, 그 기울기는 몸통을 망가뜨린다 (docs/new_heads.md의 표).
    그래서 학습 전에 헤드만 먼저 맞춘다. head 0과 몸통은 한 비트도 바뀌지 않는다.
[동작] 새 헤드(`model.new_heads`)가 있고 새로 시작하는 실행일 때만 일한다. 저장된 헤드에는 손대지 않는다.
    검증 CE가 내려가지 않으면 멈추고, 가장 좋았던 헤드를 쓴다. 헤드는 내용으로 이름 지어 캐시에 두므로 같은 조건의 다음
    실행은 읽기만 한다. 중간에 죽어도 이어서 한다. 실행 폴더: new_heads.json (곡선).
[디버깅] 한 줄로 나온 CE가 ln V(고르게 찍은 것)보다 크면 경고한다: 데이터나 steps가 모자라거나 lr가 맞지 않는 것이다.
"""

import json
import math
import sys
from pathlib import Path
from typing import Any

from pytorch_lightning import Callback, LightningModule, Trainer
from torch import Tensor

from wmtp import ranges
from wmtp.cache.entries import entry_file, pack, unpack
from wmtp.cache.fingerprint import code_of, digest_of_model
from wmtp.cache.fits import fit_once, read_partial, write_partial
from wmtp.data.tokenization import TokenizedSamples
from wmtp.errors import ConfigError
from wmtp.heads import fitting
from wmtp.heads.fitting import HeadFitting, TrunkCalls, new_heads, put
from wmtp.models import head_start
from wmtp.progress import progress_bar
from wmtp.storage.files import write_atomically


class HeadPretraining(Callback):
    """Fit heads that no checkpoint held, while the rest of the model stands still.

    Args:
        steps: 스텝 수의 상한.
        token_budget: 배치 하나의 자리 수 상한.
        lr: AdamW의 학습률. 0까지 곧게 내린다.
        check_every: 몇 스텝마다 검증 CE를 잴지.
        patience: 이만큼 잇달아 나아지지 않으면 멈춘다.
        prompts: 프롬프트의 토큰도 맞히게 할지.
        seed: 배치의 순서를 정하는 씨앗.

    Raises:
        ConfigError: 값의 종류나 범위가 틀릴 때, 배우는 동안 CE가 NaN이 될 때.
    """

    def __init__(
        self,
        steps: int = 240,
        token_budget: int = 4096,
        lr: float = 1e-3,
        check_every: int = 20,
        patience: int = 3,
        prompts: bool = False,
        seed: int = 42,
    ) -> None:
        counts = dict(steps=steps, token_budget=token_budget, check_every=check_every, patience=patience)
        ranges.check(ranges.HeadPretraining, lr=lr, prompts=prompts, **counts)
        self.steps, self.token_budget, self.check_every, self.patience = steps, token_budget, check_every, patience
        self.lr, self.prompts, self.seed = lr, prompts, seed

    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Fit the new heads, or find them in the cache, and say what came out."""
        model = pl_module.model
        if model.new_heads is None or trainer.ckpt_path or pl_module.run_dir is None:
            return
        train, heldout = trainer.datamodule.samples["train"], trainer.datamodule.samples["validation"]
        heldout = heldout if len(heldout) else train
        file = entry_file("new_heads", self._key(trainer, model, train, heldout)) if trainer.is_global_zero else None
        entry = fit_once(file, trainer.strategy.broadcast, lambda: self._fit(trainer, model, train, heldout, file))
        put(entry, dict(new_heads(model).named_parameters()))
        if trainer.is_global_zero:
            self._tell(trainer, pl_module, unpack(entry["curve"]), len(heldout))

    def _key(self, trainer: Trainer, model: Any, train: TokenizedSamples, heldout: TokenizedSamples) -> dict[str, Any]:
        """Return everything that decides the fitted heads; the number of ranks does not."""
        return {
            "trunk": digest_of_model(Path(model.new_heads.folder)),
            "start": [model.new_heads.start, model.new_heads.seed, model.new_heads.first, model.heads],
            "arrangement": [getattr(model.config, "mtp_arrangement", "parallel"), len(model.extra_heads)],
            "precision": str(trainer.precision),
            "samples": [train.fingerprint, heldout.fingerprint],
            "settings": {name: value for name, value in vars(self).items() if not name.startswith("_")},
            "code": code_of(fitting, head_start, sys.modules[__name__]),
        }

    def _fit(
        self, trainer: Trainer, model: Any, train: TokenizedSamples, heldout: TokenizedSamples, file: Path | None
    ) -> dict[str, Tensor]:
        """Fit from the start or from where a killed process stopped; return the best heads and the curve."""
        pad = trainer.datamodule.tokenizer.pad_token_id
        ranks = dict(rank=trainer.global_rank, world_size=trainer.world_size)
        # A sample may be longer than the budget: it is a batch of its own then.
        budget = max([self.token_budget, *train.lengths, *heldout.lengths])
        fit = HeadFitting(
            model,
            TrunkCalls(model, train, budget, pad, self.prompts, **ranks),
            TrunkCalls(model, heldout, budget, pad, **ranks),
            self.lr,
            self.seed,
            trainer.precision_plugin.forward_context,
        )
        partial = trainer.strategy.broadcast(read_partial(file) if file else None)
        if partial is not None:
            fit.load_state_dict(partial)
        shown = trainer.is_global_zero
        with progress_bar("heads: stage 0", self.steps, fit.steps_taken, shown, "step") as bar:
            for ce in fit.run(self.steps, self.check_every, self.patience):
                bar.update()
                if ce is None:
                    continue
                if not all(map(math.isfinite, ce)):
                    raise ConfigError(
                        f"callbacks.head_pretraining: the CE of the new heads is {ce} after {fit.steps_taken} steps; "
                        f"lower callbacks.head_pretraining.lr = {self.lr}, or give a model whose weights are finite."
                    )
                bar.set_postfix(ce=_list(ce))
                state = fit.state_dict()  # by all ranks
                if file:
                    write_partial(file, state)
        return fit.best | {"curve": pack(fit.curve)}

    def _tell(self, trainer: Trainer, pl_module: LightningModule, curve: list[dict[str, Any]], count: int) -> None:
        """Write new_heads.json, log the numbers, and warn of heads that know less than nothing."""
        start, best = curve[0], min(curve, key=lambda point: sum(point["ce"]))
        found = {"start": pl_module.model.new_heads.start, "best": best, "curve": curve}
        write_atomically(pl_module.run_dir / "new_heads.json", (json.dumps(found, indent=1) + "\n").encode())
        numbers = {f"new_heads/ce_head{k}": ce for k, ce in enumerate(best["ce"], start=1)}
        for logger in trainer.loggers:
            logger.log_metrics(numbers, step=trainer.global_step)
        print(
            f"heads: stage 0 took the validation CE of the new heads from {_list(start['ce'])} to {_list(best['ce'])} "
            f"in {best['step']} steps ({count} samples); the trunk is as it was"
        )
        uniform = math.log(pl_module.model.unembedding_VD.shape[0])
        if max(best["ce"]) > uniform:
            print(
                f"heads: WARNING: guessing evenly would have a CE of {uniform:.2f}, so these heads know nothing yet "
                "and may hurt the trunk. Raise callbacks.head_pretraining.steps, change its lr, or set "
                "algo.trunk_gradient=0.",
                file=sys.stderr,
            )


def _list(numbers: list[float]) -> str:
    return ", ".join(f"{number:.2f}" for number in numbers)
