"""Put new heads on a model in several ways, fine-tune, and see what becomes of head 0 and of their drafts.

    python scripts/bench/new_heads.py MODEL MBPP [--steps 120] [--programs 500] [--minutes 6] [--out FOLDER]
    python scripts/bench/new_heads.py wmtp/assets/tiny-base MBPP --first 3    on a CPU, a few minutes
    python scripts/bench/new_heads.py wmtp/assets/tiny-base MBPP --toy        every way, to see that it can be gone

[연구 맥락] 새 헤드의 기울기는 몸통을 망가뜨릴 수 있다. 무엇이 막는지는 표로만 안다:
    시작 × 0단계 × 몸통으로 가는 기울기 × α. 비교 대상은 언제나 같은 데이터와 같은 스텝으로 미세조정한 H = 1이다.
[동작] MODEL은 transformers의 모델 폴더, MBPP는 mbpp.jsonl이 든 폴더. 줄마다 새 모델로 시작해 Lightning으로 학습한다.
    head 0     보지 않은 문제(MBPP test)의 정답에 대한 CE와, H = 1과의 차이의 95% 구간 (문제를 다시 뽑는 부트스트랩)
    heads      검증 분할에 대한 헤드 1, 2, …의 CE
    accepted   보지 않은 프롬프트에서 greedy 초안이 받아들여진 비율, 헤드 1, 2, … (앞의 초안과 함께)
    0단계는 같은 시작을 가진 줄들이 나누어 쓴다. 줄마다 곧바로 출력하고 FOLDER/new_heads.jsonl에 더한다.
    순서는 중요한 것부터: 앞의 줄들, 앞의 세 줄의 pass@1, 0단계만의 표, 나머지 줄들.
[디버깅] 몇 줄만: --only 'H = 1' 'random*' …. 시간(--minutes)이 다하면 남은 줄은 건너뛴다.
"""

import argparse
import copy
import json
import tempfile
import time
from dataclasses import asdict, dataclass, field
from fnmatch import fnmatch
from functools import partial
from pathlib import Path
from typing import Any

import torch
from pytorch_lightning import Callback, Trainer, seed_everything
from torch import Tensor

from wmtp.algos.baseline import Baseline
from wmtp.algos.optimizers import adamw
from wmtp.cli import quiet, quiet_libraries
from wmtp.data.losses import score_samples
from wmtp.data.module import MTPDataModule
from wmtp.data.prompts import BigcodeMbpp0Shot
from wmtp.data.sources import Mbpp
from wmtp.data.tokenization import TokenizedSample, TokenizedSamples
from wmtp.evaluation.benchmarks import Benchmark
from wmtp.evaluation.generators import InProcess
from wmtp.evaluation.harness import evaluate
from wmtp.evaluation.sandbox import Sandbox
from wmtp.heads.fitting import HeadFitting, TrunkCalls, measure, put
from wmtp.maths.curve import Curve
from wmtp.models.encoding import encode_prompt
from wmtp.models.generation import generate
from wmtp.models.loading import ModelSource, read_config
from wmtp.models.mtp import MTPMixin
from wmtp.models.native_layout import shipped_layers
from wmtp.models.sampling import Request, Sampling, acceptance


@dataclass(frozen=True)
class Way:
    """Say how heads are put on and trained; None is wmtp's own default for new heads."""

    name: str
    start: str = "copy"
    stage0: str = "programs"  # one of STAGE0
    trunk: Curve | None = 0.1
    alpha: Curve | None = 0.3  # of heads 1, 2, …, where head 0 has 1; 0: they stay as they are
    heads_lr: float | None = None  # 0: that of the rest
    heads: int = 4
    arrangement: str = "parallel"


# What heads are fitted to first: the solutions, their prompts too, or besides what the model itself answers.
STAGE0 = ("none", "programs", "prompts", "own")
HALFWAY = {0: 0.0, 0.5: 1.0}
DECAY = {0: 0.3, 0.66: 0.3, 0.67: 0.1}
# The most important first: time may run out.
WAYS = [
    Way("H = 1", heads=1, stage0="none", trunk=None, alpha=None),
    Way("default", trunk=None, alpha=None),
    Way("before: copy, no stage 0, trunk 1, alpha 1", stage0="none", trunk=1, alpha=1, heads_lr=0),
    Way("one sequential layer, default", trunk=None, alpha=None, heads=2, arrangement="sequential"),
    Way("one sequential layer, head 0 alone", trunk=0, alpha=0, heads=2, arrangement="sequential"),
    Way("default, trunk 0", trunk=0, alpha=None),
    Way("stage 0, trunk 0.1, alpha 0.3, lr for all", heads_lr=0),
    Way("stage 0, trunk 1, alpha 1", trunk=1, alpha=1, heads_lr=0),
    Way("stage 0, trunk 1, alpha 0.3, heads' rate", trunk=1, heads_lr=5e-4),
    Way("stage 0 with prompts, trunk 0.1, alpha 0.3, heads' rate", stage0="prompts", heads_lr=5e-4),
    Way("stage 0 with own answers, trunk 0.1, alpha 0.3, heads' rate", stage0="own", heads_lr=5e-4),
    Way("identity, stage 0, trunk 0.1, alpha 0.3, heads' rate", start="identity", heads_lr=5e-4),
    Way("random, stage 0, trunk 0.1, alpha 0.3, heads' rate", start="random", heads_lr=5e-4),
    Way("no stage 0, trunk 0.1, alpha 0.3, heads' rate", stage0="none", heads_lr=5e-4),
    Way("no stage 0, trunk 0, alpha 0.3, heads' rate", stage0="none", trunk=0, heads_lr=5e-4),
    Way("stage 0, trunk 0 to 1 halfway, alpha 0.3, heads' rate", trunk=HALFWAY, heads_lr=5e-4),
    Way("stage 0, trunk 1, alpha 0.3 then 0.1, heads' rate", trunk=1, alpha=DECAY, heads_lr=5e-4),
    Way("stage 0, trunk 0.1, alpha 1, heads' rate", alpha=1, heads_lr=5e-4),
    Way("stage 0, trunk 0.3, alpha 0.3, heads' rate", trunk=0.3, heads_lr=5e-4),
    Way("stage 0, trunk 0.1, alpha 0.3, heads' rate 1e-3", heads_lr=1e-3),
    Way("stage 0, trunk 1, alpha 0.3", trunk=1, heads_lr=0),
    Way("no stage 0, trunk 1, alpha 0.3", stage0="none", trunk=1, heads_lr=0),
    Way("no stage 0, trunk 1, alpha 0.1", stage0="none", trunk=1, alpha=0.1, heads_lr=0),
]
# Of a model that ships a layer of its own, or was given one by wmtp: MODEL is runs/<name>/model, say.
OWN_LAYER = dict(start="native", stage0="none", heads=2, arrangement="sequential")
SHIPPED = [
    Way("its own layer, default", trunk=None, alpha=None, **OWN_LAYER),
    Way("its own layer, head 0 alone", trunk=0, alpha=0, **OWN_LAYER),
]
FIRST = 6  # ways that come before the programs and the table of stage 0
PROGRAMS_OF = 3
# Of stage 0 alone: what it reads, the rate, the steps.
ALONE = [
    ("programs", 1e-3, 240),
    ("programs", 1e-3, 120),
    ("programs", 3e-3, 120),
    ("prompts", 1e-3, 240),
    ("own", 1e-3, 240),
    ("own", 1e-3, 480),
    ("own", 3e-3, 480),
    ("programs", 3e-4, 480),
    ("prompts", 3e-3, 240),
]


@dataclass
class Line:
    """Hold what one way came to."""

    way: Way
    head0_before: float = 0.0
    head0_after: float = 0.0
    difference: tuple[float, float, float] | None = None  # to H = 1 after the same steps: mean, low, high
    curve: list[float] = field(default_factory=list)  # head 0 on the validation split along the way
    heads_start: list[float] = field(default_factory=list)
    heads_before: list[float] = field(default_factory=list)  # after stage 0
    heads_after: list[float] = field(default_factory=list)
    accepted_before: list[float] = field(default_factory=list)
    accepted_after: list[float] = field(default_factory=list)
    stage0_steps: int = 0
    seconds: float = 0.0

    def __str__(self) -> str:
        gap = "" if self.difference is None else "{:+.3f} [{:+.3f}, {:+.3f}]".format(*self.difference)
        return " | ".join(
            (
                f"{self.way.name:57}",
                f"{self.head0_before:.3f} > {self.head0_after:.3f}",
                f"{gap:23}",
                f"{_list(self.heads_start)} > {_list(self.heads_before)} > {_list(self.heads_after)}",
                f"{_list(self.accepted_before)} > {_list(self.accepted_after)}",
                f"{self.stage0_steps} + {self.seconds:.0f} s",
                "val " + _list(self.curve),
            )
        )


HEAD = (
    "way | head 0 on test problems, before > after | against H = 1, 95% | heads 1, 2, ... at the start > after stage 0 "
    "> after training | accepted after stage 0 > after training | stage 0's steps + seconds | head 0 on validation"
)


def _list(numbers: list[float]) -> str:
    return ", ".join(f"{number:.2f}" for number in numbers) or "-"


class Watch(Callback):
    """Keep the validation CE of every head along the way."""

    def __init__(self) -> None:
        self.points: list[list[float]] = []

    def on_validation_end(self, trainer: Trainer, pl_module: Baseline) -> None:
        """Note them."""
        found = trainer.callback_metrics
        self.points.append([float(found[f"val/ce_head{k}"]) for k in range(pl_module.model.heads)])


class Bench:
    """Hold what all ways share: the model as it starts, the data, the sizes, and H = 1's result."""

    def __init__(self, arguments: argparse.Namespace) -> None:
        self.asked = arguments
        self.device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
        self.precision = arguments.precision or ("bf16-mixed" if self.device.type == "cuda" else "32-true")
        source = ModelSource(str(arguments.model), heads=1)
        folder = source.find()
        self.ways = SHIPPED if shipped_layers(folder, read_config(folder, "model.path")) else WAYS
        self.tokenizer = source.load_tokenizer()
        self.data = MTPDataModule(
            Mbpp(arguments.mbpp), BigcodeMbpp0Shot(), self.tokenizer, token_budget=arguments.budget, max_length=512
        )
        self.data.setup()
        tokens = self.data.tokenize("test")
        tokens.pop("dropped")
        unseen = TokenizedSamples(tokens)
        self.unseen = TokenizedSamples.pack(unseen[i] for i in range(min(len(unseen), arguments.unseen)))
        self.benchmark = Benchmark("mbpp", self.data.source, self.data.prompt, limit=max(arguments.programs, 1))
        problems = Benchmark("mbpp", self.data.source, self.data.prompt).problems[: arguments.prompts]
        self.requests = [
            Request(problem.task_id, self.benchmark.text(problem), stop=self.data.prompt.stop) for problem in problems
        ]
        self.models: dict[tuple[str, str, int], MTPMixin] = {}
        self.fitted: dict[tuple[str, str, str], dict[str, Any]] = {}
        self.accepted: dict[tuple[str, str, str], list[float]] = {}
        self.begun: dict[tuple[str, str], list[float]] = {}
        self.own: TokenizedSamples | None = None
        validation = self.data.samples["validation"]
        self.validation = TokenizedSamples.pack(validation[i] for i in range(8)) if arguments.toy else validation
        self.trained: list[tuple[Way, MTPMixin]] = []
        self.alone: Tensor | None = None  # of H = 1 after its steps: CE sums of the unseen problems

    def model(self, way: Way) -> MTPMixin:
        """Load a model with heads that begin as the way says; a copy of its own."""
        key = (way.start, way.arrangement, way.heads)
        if key not in self.models:
            init = "saved" if way.heads == 1 else way.start
            source = ModelSource(str(self.asked.model), way.heads, init, heads_arrangement=way.arrangement)
            self.models[key] = source.load().to(self.device)
        return copy.deepcopy(self.models[key])

    def autocast(self) -> torch.autocast:
        """Compute as the trainer will."""
        return torch.autocast(self.device.type, torch.bfloat16, enabled=self.precision == "bf16-mixed")

    def fit(self, model: MTPMixin, reads: str, lr: float, steps: int) -> HeadFitting:
        """Fit the new heads on the frozen trunk."""
        pad, budget = self.tokenizer.pad_token_id, self.asked.stage0_budget
        train, heldout = (
            TrunkCalls(model, samples, budget, pad, prompts, limit=2**34)
            for samples, prompts in ((self.samples(model, reads), reads == "prompts"), (self.validation, False))
        )
        fitting = HeadFitting(model, train, heldout, lr, autocast=self.autocast)
        for _ in fitting.run(steps, max(steps // (3 * self.asked.checks), 1), patience=3):
            pass
        return fitting

    def samples(self, model: MTPMixin, reads: str) -> TokenizedSamples:
        """Return the training samples, and for "own" what the model answers to their prompts as well."""
        train = self.data.samples["train"]
        if reads != "own":
            return train
        if self.own is None:
            start = time.monotonic()
            problems = [problem for problem in self.data.source.problems("train")]
            requests = [
                Request(problem.task_id, self.benchmark.text(problem), sample, self.data.prompt.stop)
                for problem in problems
                for sample in range(self.asked.own)
            ]
            sampling = Sampling(0.8, 0.95, max_new_tokens=self.asked.tokens, batch_size=512, decoding="ordinary")
            done = [one for _, one in generate(model, self.tokenizer, requests, sampling)]
            prompts = {request.key: encode_prompt(self.tokenizer, request.prompt) for request in requests}
            answers = [
                TokenizedSample(
                    one.key,
                    (*prompts[one.key], *one.tokens),
                    len(prompts[one.key]),
                    (False,) * (len(prompts[one.key]) + len(one.tokens)),
                )
                for one in done
            ]
            self.own = TokenizedSamples.pack([*train, *answers])
            print(f"  {len(answers)} own answers: {time.monotonic() - start:.0f} s", flush=True)
        return self.own

    def stage0(self, model: MTPMixin, way: Way) -> dict[str, Any]:
        """Fit the new heads once for all ways that begin alike."""
        key = (way.start, way.arrangement, way.stage0)
        if key not in self.fitted:
            fitting = self.fit(model, way.stage0, self.asked.stage0_lr, self.asked.stage0_steps)
            self.fitted[key] = {"heads": fitting.best, "steps": fitting.steps_taken}
            checks = "; ".join(f"{point['step']}: {_list(point['ce'])}" for point in fitting.curve)
            print(f"  stage 0, {', '.join(key)}: {checks}", flush=True)
        put(self.fitted[key]["heads"], dict(model.extra_heads.named_parameters()))
        return self.fitted[key]

    def stage0_alone(self, reads: str, lr: float, steps: int) -> str:
        """Fit copied heads and say what that alone gives."""
        start = time.monotonic()
        model = self.model(Way("", stage0=reads))
        fitting = self.fit(model, reads, lr, steps if not self.asked.toy else 2)
        seconds = time.monotonic() - start
        best = min(fitting.curve, key=lambda point: sum(point["ce"]))
        return (
            f"stage 0 alone: {reads}, AdamW {lr:g}, {steps} steps | best at {best['step']} of {fitting.steps_taken}: "
            f"{_list(best['ce'])} | accepted {_list(self.accept(model))} | {seconds:.0f} s"
        )

    def unseen_ce(self, model: MTPMixin) -> Tensor:
        """Sum head 0's CE over every unseen problem's program."""
        count = len(self.unseen)
        with self.autocast():
            model.eval()
            nll = score_samples(model, self.unseen, 0, count, 4 * self.asked.budget, self.tokenizer.pad_token_id)
        starts = self.unseen.starts
        return torch.stack([nll[starts[i] : starts[i + 1]].sum().double() for i in range(count)])

    def accept(self, model: MTPMixin) -> list[float]:
        """Let the heads draft greedily on unseen prompts."""
        sampling = Sampling(
            temperature=0.0, top_p=1.0, max_new_tokens=self.asked.tokens, batch_size=64, decoding="speculative"
        )
        return acceptance([done for _, done in generate(model, self.tokenizer, self.requests, sampling)])

    def pass_at_1(self, place: int) -> str:
        """Count the unseen problems that greedy programs of a trained model solve."""
        way, model = self.trained[place]
        sampling = Sampling(temperature=0.0, top_p=1.0, batch_size=256, decoding="ordinary")
        start = time.monotonic()
        with tempfile.TemporaryDirectory() as out, Sandbox() as sandbox:
            found = evaluate(
                self.benchmark,
                Path(out),
                sandbox=sandbox,
                generator=InProcess(model, self.tokenizer),
                sampling=sampling,
                progress=False,
            )
        rate = "{:.3f} [{:.3f}, {:.3f}]".format(*(found[f"mbpp/pass@1{which}"] for which in ("", "_low", "_high")))
        return f"pass@1 of {self.asked.programs} unseen: {way.name} | {rate} | {time.monotonic() - start:.0f} s"

    def measure(self, way: Way) -> Line:
        """Go one way to its end."""
        line, targets = Line(way), sum(self.unseen.targets)
        seed_everything(42, verbose=False)
        model = self.model(way)
        line.head0_before = float(self.unseen_ce(model).sum()) / targets
        if way.heads > 1 and way.stage0 != "none":
            found = self.stage0(model, way)
            line.stage0_steps = found["steps"]
        if way.heads > 1:
            key = (way.start, way.arrangement, way.stage0)
            if key not in self.accepted:
                self.accepted[key] = self.accept(model)
            line.accepted_before = self.accepted[key]
        start = time.monotonic()
        watch = self.train(model, way)
        line.seconds = time.monotonic() - start
        line.curve = [point[0] for point in watch.points]
        line.heads_before, line.heads_after = watch.points[0][1:], watch.points[-1][1:]
        if way.heads > 1:
            line.heads_start = self.start_ce(way)
            line.accepted_after = self.accept(model)
        after = self.unseen_ce(model)
        line.head0_after = float(after.sum()) / targets
        if way.heads == 1:
            self.alone = after
        elif self.alone is not None:
            line.difference = self.against_alone(after)
        if len(self.trained) < PROGRAMS_OF:
            self.trained.append((way, model))
        return line

    def start_ce(self, way: Way) -> list[float]:
        """Measure the heads as they begin, before anything."""
        key = (way.start, way.arrangement)
        if key not in self.begun:
            model = self.model(way).eval()
            pad = self.tokenizer.pad_token_id
            with self.autocast():
                heldout = TrunkCalls(model, self.validation, self.asked.stage0_budget, pad)
                self.begun[key] = measure(model, heldout).tolist()
        return self.begun[key]

    def train(self, model: MTPMixin, way: Way) -> Watch:
        """Fine-tune through Lightning, as wmtp.train does."""
        alphas = None if way.alpha is None else [1.0] + [way.alpha] * (way.heads - 1)
        model.extra_heads.requires_grad_(way.alpha != 0)
        optimizer = partial(adamw, lr=self.asked.lr, heads_lr=self.asked.lr if way.heads_lr == 0 else way.heads_lr)
        algo = Baseline(model, optimizer, warmup=0.05, head_weights=alphas, trunk_gradient=way.trunk)
        watch, steps = Watch(), self.asked.steps
        trainer = Trainer(
            accelerator="gpu" if self.device.type == "cuda" else "cpu",
            devices=1,
            precision=self.precision,
            max_steps=steps,
            max_epochs=-1,
            gradient_clip_val=1.0,
            val_check_interval=max(steps // self.asked.checks, 1),
            limit_val_batches=self.asked.val_batches,
            check_val_every_n_epoch=None,
            num_sanity_val_steps=0,
            enable_progress_bar=False,
            enable_checkpointing=False,
            enable_model_summary=False,
            logger=False,
            use_distributed_sampler=False,
            callbacks=[watch],
        )
        self.data.trainer = trainer
        trainer.validate(algo, self.data, verbose=False)
        algo.train()
        trainer.fit(algo, self.data)
        model.to(self.device)
        return watch

    def against_alone(self, after: Tensor, draws: int = 2000) -> tuple[float, float, float]:
        """Compare with H = 1 over the same problems: the difference of the CE a token, and its 95% interval."""
        targets = torch.tensor(self.unseen.targets, dtype=torch.float64)
        gap = after - self.alone
        generator = torch.Generator().manual_seed(42)
        drawn = torch.randint(len(gap), (draws, len(gap)), generator=generator)
        means = gap[drawn].sum(dim=1) / targets[drawn].sum(dim=1)
        low, high = means.quantile(torch.tensor([0.025, 0.975], dtype=torch.float64)).tolist()
        return float(gap.sum() / targets.sum()), low, high


def main() -> None:
    """Print a line for every way, as it comes."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("model", type=Path, help="a model folder of transformers")
    parser.add_argument("mbpp", type=Path, help="the folder that holds mbpp.jsonl")
    parser.add_argument("--steps", type=int, default=120)
    parser.add_argument("--budget", type=int, default=2048, help="positions in a step")
    parser.add_argument("--precision", help="of Lightning; bf16-mixed on a GPU, 32-true elsewhere")
    parser.add_argument(
        "--checks", type=int, default=4, help="looks at the validation split; in stage 0 three times so many"
    )
    parser.add_argument("--lr", type=float, default=2e-5)
    parser.add_argument("--stage0-steps", type=int, default=240)
    parser.add_argument("--stage0-budget", type=int, default=4096, help="positions in a step of stage 0")
    parser.add_argument("--stage0-lr", type=float, default=1e-3)
    parser.add_argument("--prompts", type=int, default=64, help="unseen prompts to draft on")
    parser.add_argument("--tokens", type=int, default=96, help="tokens to write after each")
    parser.add_argument("--unseen", type=int, default=500, help="unseen problems for the CE of head 0")
    parser.set_defaults(val_batches=None)
    parser.add_argument("--programs", type=int, default=0, help="unseen problems for pass@1; 0: none")
    parser.add_argument("--own", type=int, default=4, help="own answers to each training prompt")
    parser.add_argument("--only", nargs="+", default=["*"], help="ways by their names, * for any part of one")
    parser.add_argument("--first", type=int, help="the first so many ways, and nothing else")
    parser.add_argument("--minutes", type=float, default=60)
    parser.add_argument("--out", type=Path, default=Path("runs/bench/new_heads"))
    parser.add_argument("--toy", action="store_true", help="sizes at which every way can be gone on a CPU")
    asked = parser.parse_args()
    if asked.toy:
        small = dict(steps=2, budget=1024, stage0_steps=2, stage0_budget=2048, prompts=4, tokens=8, own=1)
        vars(asked).update(small, unseen=8, val_batches=1)
    quiet()
    quiet_libraries()
    deadline = time.monotonic() + 60 * asked.minutes
    asked.out.mkdir(parents=True, exist_ok=True)
    bench = Bench(asked)
    name = torch.cuda.get_device_name() if bench.device.type == "cuda" else "CPU"
    samples = {split: len(samples) for split, samples in bench.data.samples.items()}
    print(
        f"{asked.model.name} on {name}, {bench.precision}; MBPP {samples} problems, {len(bench.unseen)} unseen; "
        f"{asked.steps} steps of {asked.budget} positions, AdamW {asked.lr:g}; stage 0: at most {asked.stage0_steps} "
        f"steps of {asked.stage0_budget} positions, AdamW {asked.stage0_lr:g}; drafts of {asked.tokens} tokens on "
        f"{asked.prompts} prompts"
    )
    print(HEAD, flush=True)

    with (asked.out / "new_heads.jsonl").open("w", encoding="utf-8") as kept:
        ways = [way for way in bench.ways if any(fnmatch(way.name, name) for name in asked.only)][: asked.first]
        fits_alone = ALONE if ways == WAYS and not asked.first else []  # all that can be asked of new heads
        agenda = [partial(bench.measure, way) for way in ways[:FIRST]]
        agenda += [partial(bench.pass_at_1, place) for place in range(PROGRAMS_OF) if asked.programs]
        agenda += [partial(bench.stage0_alone, *how) for how in fits_alone]
        agenda += [partial(bench.measure, way) for way in ways[FIRST:]]
        for task in agenda:
            if time.monotonic() > deadline:
                print("no time was left for", *task.args, flush=True)
                continue
            result = task()
            print(result, flush=True)
            kept.write(json.dumps(asdict(result) if isinstance(result, Line) else str(result)) + "\n")
            kept.flush()


if __name__ == "__main__":
    main()
