"""Reward programs with how likely the model finds them: a fallback."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import replace
from typing import Any

from typing_extensions import override

from wmtp.critic.rewards.base import RewardedProgram, Rewards, Row, by_problem
from wmtp.data.losses import score_samples
from wmtp.data.module import MTPDataModule
from wmtp.data.problem import Problem
from wmtp.data.tokenization import TokenizedSamples, tokenize_problem
from wmtp.errors import ConfigError
from wmtp.models.weights_digest import weights_digest


class NegCE(Rewards):
    """Reward a program with minus the model's mean CE over its tokens: what is left where nothing else can be had.

    [동작] 모델이 잘 예측하는 프로그램일 뿐, 맞은 프로그램이라는 뜻은 아니다. 그래서 쓸 때마다 한 줄로 알린다.
    """

    name = "neg_ce"

    def judge(
        self, data: MTPDataModule, split: str, limit: int | None = None, model: Any = None
    ) -> list[RewardedProgram]:
        """Return the programs with their rewards, after saying what these are worth."""
        if not data.trainer or data.trainer.is_global_zero:
            print(
                "rewards: neg_ce is a fallback: it rewards what the model finds likely and says nothing about "
                "correctness. Where there are tests, algo/rewards=tests does."
            )
        return super().judge(data, split, limit, model)

    @override
    def key(self, data: MTPDataModule, split: str, model: Any) -> dict[str, Any]:
        # Where ranks share the shards out, a sharded model would wait for those that score another one.
        if any(hasattr(tensor, "full_tensor") for tensor in model.state_dict().values()):
            raise ConfigError(
                "algo/rewards = neg_ce cannot score with a sharded model; take algo/rewards=tests or trainer=ddp."
            )
        precision = str(data.trainer.precision) if data.trainer else "32-true"
        more = {"tokens": data.key(split), "model": weights_digest(model), "precision": precision}
        return super().key(data, split, model) | more

    @contextmanager
    @override
    def judging(self, data: MTPDataModule, model: Any) -> Iterator[Callable[[Sequence[Problem]], list[list[Row]]]]:
        autocast = data.trainer.precision_plugin.forward_context if data.trainer else nullcontext
        shots, was_training = data.shots(), model.training
        pad = data.tokenizer.pad_token_id

        def rows_of(problems: Sequence[Problem]) -> list[list[Row]]:
            programs = self.unproven(problems, data.source)
            asked = (replace(problems[i], solutions=(program,), noise_spans=()) for i, program, _ in programs)
            samples = [tokenize_problem(problem, data.prompt, data.tokenizer, shots) for problem in asked]
            fitting = [n for n, sample in enumerate(samples) if len(sample.input_ids) <= data.length]
            packed = TokenizedSamples.pack(samples[n] for n in fitting)
            with autocast():
                nll = score_samples(model, packed, 0, len(packed), data.token_budget, pad)
            rewards: list[float | None] = [None] * len(programs)
            for k, n in enumerate(fitting):
                rewards[n] = -float(nll[packed.starts[k] : packed.starts[k + 1]].sum()) / packed.targets[k]
            return by_problem(len(problems), programs, rewards)

        model.eval()
        try:
            yield rows_of
        finally:
            model.train(was_training)
