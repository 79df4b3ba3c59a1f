"""Say what reports and the screen say in the reader's language: English, or Korean with lang=ko.

[동작] 영어 문장이 키다. 코드와 템플릿에는 영어가 그대로 있고, 한국어는 이 표 하나에만 있다.
    표에 없는 글(데이터, 오류 문장, 설정의 키)은 그대로 나간다. 빠진 문장과 쓰이지 않는 문장은
    `tests/unit/test_reporting.py`가 찾는다.
"""

from dataclasses import dataclass
from typing import Any

from wmtp import ranges


@dataclass(frozen=True)
class Texts:
    """Translate a text, with its values in their places.

    Args:
        lang: "en" 또는 "ko" (설정의 `lang`).

    Raises:
        ConfigError: 모르는 언어일 때.

    Example:
        >>> Texts()("{count} samples", count=3), Texts("ko")("{count} samples", count=3)
        ('3 samples', '표본 3개')
        >>> Texts("ko")("SyntaxError: invalid syntax")
        'SyntaxError: invalid syntax'
    """

    lang: str = "en"

    def __post_init__(self) -> None:
        ranges.check(ranges.PROGRAM, lang=self.lang)

    def __call__(self, english: str, **values: Any) -> str:
        text = KOREAN.get(english, english) if self.lang == "ko" else english
        return text.format(**values) if values else text

    def hint(self, english: str, **values: Any) -> str:
        """Give the Korean beside an English heading; a Korean page needs none."""
        return Texts("ko")(english, **values) if self.lang == "en" else ""


KOREAN = {
    # verdicts and stages
    "passed": "통과",
    "wrong": "오답",
    "error": "오류",
    "timeout": "시간 초과",
    "memory": "메모리 초과",
    "output": "출력 초과",
    "crashed": "비정상 종료",
    "harness_error": "채점 고장",
    "not judged": "채점하지 않음",
    "missing": "표본 없음",
    "before": "학습 전",
    "after": "학습 후",
    # facts of a run
    "algo": "알고리즘",
    "score": "점수",
    "control": "대조군",
    "data": "데이터",
    "noise": "잡음",
    "model": "모델",
    "heads": "헤드",
    "steps": "스텝",
    "seed": "씨앗",
    "code": "코드",
    "changed": "수정 있음",
    # facts of an evaluation
    "prompt": "프롬프트",
    "chat_template": "대화 형식",
    "system": "시스템 글",
    "split": "분할",
    "shots": "예시",
    "n": "표본 수(n)",
    "temperature": "온도",
    "extract": "꺼내기",
    "isolation": "격리",
    "answers in a Markdown fence": "코드 블록에 든 답",
    "answers after </think>": "</think> 뒤에 나온 답",
    # headline numbers
    "pass@1 on {name}": "{name}: 한 번에 푼 문제 (pass@1)",
    "pass@{k}": "{k}번 안에 푼 문제 (pass@{k})",
    "pass@{k} of the base inputs": "base 입력만 볼 때 {k}번 안에 푼 문제 (pass@{k})",
    "95 % interval {low:.1f} to {high:.1f}": "95 % 구간 {low:.1f} ~ {high:.1f}",
    "95 % interval {stage}: {low:.1f} to {high:.1f}": "95 % 구간, {stage}: {low:.1f} ~ {high:.1f}",
    "{gain:+.1f} points (95 %: {low:+.1f} to {high:+.1f}) on {problems} problems": (
        "문제 {problems}개에서 {gain:+.1f} %p (95 %: {low:+.1f} ~ {high:+.1f})"
    ),
    "{scored} of {problems} problems scored": "문제 {problems}개 중 {scored}개만 채점",
    "Validation CE, head 0": "검증 교차엔트로피, 헤드 0",
    "nat per token; lower is better": "토큰당 nat, 작을수록 좋다",
    "nat per token, at the start; there is no later one": "토큰당 nat, 학습 전에 잰 것뿐이다",
    "Corrupted-token weight": "망가진 토큰의 가중치",
    "{corrupted:.2f} vs {clean:.2f}": "{corrupted:.2f} 대 {clean:.2f}",
    "mean of corrupted against clean ones; AUC {auc:.2f} (0.5 is chance, 1 is perfect)": (
        "망가진 토큰과 멀쩡한 토큰의 평균. AUC {auc:.2f} (0.5는 우연, 1은 완벽)"
    ),
    "Critic's AUC": "critic이 맞고 틀림을 아는 정도 (AUC)",
    "Critic's AUC (near chance!)": "critic이 맞고 틀림을 아는 정도 (AUC, 우연 수준!)",
    "Critic's AUC (not measured!)": "critic이 맞고 틀림을 아는 정도 (재지 못함!)",
    "P(V of a right program > V of a wrong one), {heldout} held-out programs; 0.5 is chance": (
        "맞은 프로그램의 V가 틀린 것보다 클 확률, 배우지 않은 프로그램 {heldout}개. 0.5는 우연"
    ),
    "; largest drop inside the wrong span {share:.0%}": ". 가장 크게 떨어진 곳이 틀린 구간 안인 비율 {share:.0%}",
    "no right and wrong held-out programs to measure it on, so its weights may mean anything": (
        "잴 수 있는, 배우지 않은 맞은 프로그램과 틀린 프로그램이 없다. 이 가중치에는 뜻이 없을 수 있다"
    ),
    "unknown": "모름",
    "Training speed": "학습 속도",
    "target tokens a second (median)": "초당 목표 토큰 (중앙값)",
    "Problems": "문제",
    "{count} samples": "표본 {count}개",
    "{count} problems judged in the program's process": "{count}문제는 프로그램의 프로세스 안에서 시험",
    "{count} problems whose checker or tests failed on a sample, counted as not passed": "{count}문제는 어떤 표본에서 "
    "checker나 시험이 고장 나 틀린 것으로 셈",
    "{count} prompts too long for the model, counted": "{count}문제는 모델이 다 읽을 수 없어 틀린 것으로 셈",
    # what went wrong
    "FAILED": "실패",
    "FAILED at step {step}": "{step}스텝에서 실패",
    "This run did not come to its end; its numbers are those of an unfinished model.": (
        "이 실행은 끝까지 가지 못했다. 아래의 숫자는 다 배우지 못한 모델의 것이다."
    ),
    "What went wrong": "무엇이 잘못되었나",
    "when": "언제",
    "step {step}, rank {rank} of {world_size}, {time}": "{step}스텝, 랭크 {rank} (모두 {world_size}개), {time}",
    "what went wrong": "잘못된 것",
    "what was done": "한 일",
    "back to step {step}, {action}": "{step}스텝으로 돌아가서, {action}",
    "back to the beginning, {action}": "처음으로 돌아가서, {action}",
    "the run ended here": "실행이 여기서 끝났다",
    "next action": "다음에 할 일",
    "the batch": "그때의 배치",
    "to repeat it": "다시 겪어 보려면",
    "environment": "환경",
    "stack": "호출 스택",
    # programs
    "Programs that pass their tests": "시험을 통과한 프로그램",
    "Every generated program was run against the tests of its problem, before and after training.": (
        "생성한 프로그램을 모두 그 문제의 시험으로 돌려 보았다. 학습 전과 후에 한 번씩."
    ),
    "No evaluation was run.": "평가를 하지 않았다.",
    "pass@1, before and after": "pass@1, 학습 전과 후",
    "share of problems solved by one sample, with 95 % interval": "표본 하나로 푼 문제의 비율과 95 % 구간",
    "verdict": "판정",
    "Most frequent failures": "가장 잦은 실패",
    "message (names and numbers left out)": "까닭 (이름과 숫자는 뺐다)",
    "count": "개수",
    "for example": "보기",
    "Generated programs": "생성된 프로그램",
    "First sample of each problem, as it was judged. Problems that are solved now come first, then what got worse and "
    "what still fails.": "문제마다 첫 표본을 채점한 그대로. 이제 푸는 문제, 나빠진 문제, 아직 못 푸는 문제의 순서다.",
    "solved now": "이제 푼다",
    "got worse": "나빠졌다",
    "still failing": "아직 못 푼다",
    "solved": "푼다",
    "(no completion was kept)": "(남아 있는 글이 없다)",
    "(empty)": "(빈 글)",
    "… {left:,} more characters in samples.jsonl": "… 나머지 {left:,}자는 samples.jsonl에",
    # training
    "Training": "학습",
    "Head 0 predicts the next token, head k the token k further on. Validation text is clean and unweighted.": (
        "헤드 0은 바로 다음 토큰을, 헤드 k는 그보다 k칸 뒤의 토큰을 예측한다. 검증 데이터는 깨끗하고 가중치가 없다."
    ),
    "No training was logged.": "학습 기록이 없다.",
    "Loss": "손실",
    "what training lowers: weighted, mean of all heads": "학습이 줄이는 값: 가중치를 준, 모든 헤드의 평균",
    "Validation cross entropy of each head": "헤드별 검증 교차엔트로피",
    "Training cross entropy of each head": "헤드별 학습 교차엔트로피",
    "unweighted; the scale is logarithmic": "가중치 없음, 로그 눈금",
    "unweighted, noisy text included; the scale is logarithmic": "가중치 없음, 망가진 글 포함, 로그 눈금",
    # advice
    "What the numbers say, and what to try next": "숫자가 말하는 것, 다음에 해 볼 것",
    "Training made the programs worse ({gain:+.1f} points, 95 %: {low:+.1f} to {high:+.1f}): learn slower.": (
        "학습이 프로그램을 나쁘게 했다 ({gain:+.1f}점, 95 %: {low:+.1f}에서 {high:+.1f}). 천천히 배운다."
    ),
    "pass@1 moved by {gain:+.1f} points, and {problems} problems cannot tell that from chance "
    "(95 %: {low:+.1f} to {high:+.1f}): judge all problems.": (
        "pass@1이 {gain:+.1f}점 움직였지만 문제 {problems}개로는 우연과 가릴 수 없다 (95 %: {low:+.1f}에서 "
        "{high:+.1f}). 모든 문제로 잰다."
    ),
    "pass@1 moved by {gain:+.1f} points, and {problems} problems cannot tell that from chance "
    "(95 %: {low:+.1f} to {high:+.1f}): train other seeds, which are compared at the end.": (
        "pass@1이 {gain:+.1f}점 움직였지만 문제 {problems}개로는 우연과 가릴 수 없다 (95 %: {low:+.1f}에서 "
        "{high:+.1f}). 다른 씨앗으로도 배운다. 끝에 비교가 나온다."
    ),
    "Validation CE of head 0 never fell below its start ({first:.3f}, {last:.3f} at the end): learn slower.": (
        "head 0의 검증 CE가 시작보다 내려간 적이 없다 ({first:.3f}, 끝에는 {last:.3f}). 천천히 배운다."
    ),
    "Validation CE of head 0 rises again since step {step} ({lowest:.3f}, {last:.3f} at the end): stop there.": (
        "head 0의 검증 CE가 스텝 {step}부터 다시 오른다 ({lowest:.3f}, 끝에는 {last:.3f}). 거기서 멈춘다."
    ),
    "{share:.0%} of the weights lie at their bounds (algo.weighting.epsilon, algo.weighting.w_max), so the bounds "
    "decide and not the scores: use a higher temperature.": (
        "가중치의 {share:.0%}가 한계(algo.weighting.epsilon, algo.weighting.w_max)에 붙어 있다. 점수가 아니라 한계가 "
        "정하고 있으니 온도를 올린다."
    ),
    "The critic knows next to nothing of right and wrong, so its weights say little: judge more problems.": (
        "critic이 맞고 틀림을 거의 모르므로 그 가중치에는 뜻이 없다. 더 많은 문제로 가르친다."
    ),
    "The critic knows next to nothing of right and wrong, so its weights say little: use a reference instead.": (
        "critic이 맞고 틀림을 거의 모르므로 그 가중치에는 뜻이 없다. 참조모델을 쓴다."
    ),
    "The reference is worse than the model on most tokens (median excess {median:+.3f} nats), so its weights hold the "
    "model back: see what it does without, or give it a better model.reference.": (
        "참조모델이 대부분의 토큰에서 모델보다 못하므로 (차이의 중앙값 {median:+.3f} nat) 그 가중치는 모델을 붙잡아 "
        "둔다. 없이 해 보거나 더 나은 model.reference를 준다."
    ),
    "It learns the corrupted tokens too (errors on them {before:.1%}, then {after:.1%}): weigh the tokens by a "
    "reference.": (
        "망가진 토큰도 배우고 있다 (그 오류 {before:.1%}, 그다음 {after:.1%}). 참조모델로 토큰에 무게를 준다."
    ),
    # kinds of tokens
    "Which tokens it gets right": "어떤 토큰을 맞히는가",
    "An error is a token that is not head 0's first guess. Choices are the fifth of the tokens at which {judge} "
    "hesitates most; the last two kinds, where they are known, are of the training text.": (
        "오류는 헤드 0의 첫 번째 추측이 아닌 토큰이다. 갈림길은 엔트로피가 가장 큰 20 %의 토큰이다 (모델: {judge}). "
        "망가진 토큰과 멀쩡한 토큰은 어디가 망가졌는지 아는 데이터에만 있고, 학습한 글의 것이다."
    ),
    "the model before training": "학습 전의 모델",
    "kind": "종류",
    "tokens": "토큰",
    "errors before": "학습 전 오류",
    "errors after": "학습 후 오류",
    "CE before": "학습 전 CE",
    "CE after": "학습 후 CE",
    "all tokens": "모든 토큰",
    "choices": "갈림길",
    "identifiers": "이름",
    "keywords": "예약어",
    "operators": "연산자와 괄호",
    "literals": "숫자와 글자열",
    "line ends and indents": "줄바꿈과 들여쓰기",
    "other tokens": "그 밖",
    # weights
    "What the weights did": "가중치가 한 일",
    "A weight of 1 is what every token has in the baseline; the mean is kept at 1, so one token's gain is another's "
    "loss.": "가중치 1은 baseline의 모든 토큰과 같다. 평균은 늘 1이므로 한 토큰이 무거워지면 다른 토큰이 가벼워진다.",
    "Every token weighed the same: this run has no token weights.": (
        "모든 토큰의 무게가 같았다: 이 실행에는 토큰가중치가 없다."
    ),
    "All weights of the run": "실행 전체의 가중치",
    "Weights while training": "학습하는 동안의 가중치",
    "The critic is near chance": "critic이 우연 수준이다",
    "on held-out programs its AUC is not above 0.6, so these weights say little about the tokens. Give it more "
    "problems (algo.pretraining.problems) or a better model to read (algo.value.path), or use algo=rho1.": (
        "배우지 않은 프로그램에서 AUC가 0.6을 넘지 못했다. 이 가중치는 토큰에 대해 말해 주는 것이 거의 없다. "
        "문제를 늘리거나(algo.pretraining.problems), 더 나은 모델을 읽게 하거나(algo.value.path), algo=rho1을 쓴다."
    ),
    "What the critic knows": "critic이 아는 것",
    "stage 1, held-out programs; dashed: chance of the AUCs": "1단계, 배우지 않은 프로그램. 점선은 AUC의 우연 수준",
    "Where the scores point": "점수가 가리키는 곳",
    "the lowest token score of wrong programs, while training": "학습하는 동안 틀린 프로그램에서 점수가 가장 낮은 토큰",
    "Tokens by their mean weight": "평균 가중치가 가장 큰 토큰과 가장 작은 토큰",
    "· is a space, ↵ a line end; tokens seen fewer than {least} times are left out.": (
        "·은 빈칸, ↵는 줄 끝. {least}번보다 적게 나온 토큰은 뺐다."
    ),
    "heaviest": "무거운 토큰",
    "lightest": "가벼운 토큰",
    "mean weight": "평균 가중치",
    "Token by token": "토큰별 가중치",
    "corrupted on purpose": "일부러 망가뜨린 곳",
    "point at a token to see its weight and score": "토큰을 가리키면 가중치와 점수가 보인다",
    "start of training": "학습을 시작할 때",
    "end of training": "학습이 끝났을 때",
    "The same with the token heat map:": "토큰별 가중치까지 있는 것:",
    "weight {value:.2f}": "가중치 {value:.2f}",
    "score {value:+.2f}": "점수 {value:+.2f}",
    # data
    "Data and licences": "데이터와 라이선스",
    "what": "무엇",
    "licence": "라이선스",
    "from": "온 곳",
    "generated or shipped": "만들었거나 함께 배포한 것",
    "{count} training problems are asked by a benchmark in use": "학습 문제 {count}개가 쓰고 있는 벤치마크에도 나온다",
    "training problem": "학습 문제",
    "benchmark problem": "벤치마크 문제",
    "what they share": "겹치는 만큼",
    "{share} of {kind}": "{kind}의 {share}",
    "{count} {split} problems are left out, too long or without a solution": (
        "{split} 문제 {count}개는 너무 길거나 정답이 없어 뺐다"
    ),
    "All of them: left_out.json": "전체 목록: left_out.json",
    # how it was made
    "How it was made": "실행 설정",
    "the resolved configuration ({count} values)": "풀어 쓴 설정 전체 (값 {count}개)",
    "made of": "재료",
    "hash": "해시",
    "training problems": "학습 문제",
    "problems of {name}": "{name}의 문제",
    "weights at the start": "시작 가중치",
    "Not in this report": "보고서에 없는 것",
    "{name}: no {what}": "{name}: {what} 없음",
    "{name}: cannot be read ({why})": "{name}: 읽을 수 없음 ({why})",
    "{name}: {count} unreadable line(s), left out": "{name}: 읽을 수 없는 {count}줄은 뺐다",
    "the resolved configuration": "풀어 쓴 설정",
    "curves (no training was logged)": "곡선 (학습 기록이 없다)",
    "token weights (this algorithm has none, or their callback is off)": (
        "토큰가중치 (이 알고리즘에 없거나, 콜백을 껐다)"
    ),
    "an evaluation": "평가",
    "eval/before: no evaluation before training (it is off, or did not finish)": (
        "eval/before: 학습 전 평가 없음 (껐거나, 끝나지 않았다)"
    ),
    "eval/after: no evaluation after training (it is off, or did not finish)": (
        "eval/after: 학습 후 평가 없음 (껐거나, 끝나지 않았다)"
    ),
    "This page was made from the files beside it; it loads nothing and runs no script.": (
        "이 쪽은 옆에 있는 파일들로 만들었다. 아무것도 내려받지 않고 스크립트도 없다."
    ),
    # the page of one evaluation
    "Verdicts": "판정",
    "samples": "표본",
    "timing": "시간",
    "generating": "생성",
    "{seconds:,.1f} s": "{seconds:,.1f}초",
    "{seconds:.3f} s": "{seconds:.3f}초",
    "{tokens:,} tokens, {rate:,.0f} a second": "토큰 {tokens:,}개, 초당 {rate:,.0f}개",
    "drafts accepted": "초안 수락률",
    "head {k}: {rate:.2f}": "헤드 {k}: {rate:.2f}",
    "judging": "채점",
    "median {seconds:.3f} s a program": "프로그램마다 중앙값 {seconds:.3f}초",
    "slowest programs": "가장 느린 프로그램",
    "Generated programs and what was expected": "생성된 프로그램과 기대한 출력",
    "sample {number}": "표본 {number}",
    "the problem": "문제",
    "written": "쓴 것",
    "expected, for example": "기대한 것의 보기",
    "input": "입력",
    "expected output": "기대한 출력",
    "Every problem": "모든 문제",
    "{count} problems": "문제 {count}개",
    "problem": "문제",
    "other verdicts": "다른 판정",
    # plots
    "step": "스텝",
    "loss [nat per token]": "손실 [토큰당 nat]",
    "cross entropy [nat per token]": "교차엔트로피 [토큰당 nat]",
    "head {k}": "헤드 {k}",
    "clean tokens": "멀쩡한 토큰",
    "corrupted tokens": "망가진 토큰",
    "target tokens": "목표 토큰",
    "weight (1 = as in the baseline)": "가중치 (1 = baseline과 같음)",
    "share of the tokens [%]": "토큰의 비율 [%]",
    "weight": "가중치",
    "middle half": "가운데 절반",
    "95th percentile": "95 백분위",
    "mean of clean": "멀쩡한 토큰의 평균",
    "mean of corrupted": "망가진 토큰의 평균",
    "right or wrong: AUC": "맞고 틀림: AUC",
    "first wrong token: AUC": "처음 틀린 토큰: AUC",
    "lowest change in the wrong span": "가장 낮은 변화가 틀린 구간 안",
    "held-out programs": "배우지 않은 프로그램",
    "in the wrong span": "틀린 구간 안",
    "on its first token": "그 첫 토큰",
    "anywhere (chance)": "아무 데나 (우연)",
    "lowest score falls": "가장 낮은 점수가 있는 곳",
    "pass@1 [% of problems], with 95 % interval": "pass@1 [문제의 %], 95 % 구간",
    # the screen
    "{algo} on {data}, {steps} steps, from {model}; loading torch and Lightning …": (
        "{model}에서 {data}로 {algo} {steps}스텝; torch와 Lightning을 부르는 중 …"
    ),
    "{algo}: {parameters:.1f}M parameters{share}, {heads} heads": (
        "{algo}: 매개변수 {parameters:.1f}M개{share}, 헤드 {heads}개"
    ),
    " ({trained:.1f}M trained)": " (배우는 것 {trained:.1f}M개)",
    "loss: {method}": "손실: {method}",
    "this processor has bf16 units: trainer.precision=bf16-mixed is faster here, 1.2 to 1.8 times": (
        "이 프로세서에는 bf16 곱셈기가 있다: trainer.precision=bf16-mixed이면 1.2배에서 1.8배 빠르다"
    ),
    "{data} ({licence}): {samples} training samples, {targets} target tokens{dropped}": (
        "{data} ({licence}): 학습 표본 {samples}개, 목표 토큰 {targets}개{dropped}"
    ),
    ", {count} left out (too long, or without a solution)": ", 너무 길거나 정답이 없어 뺀 것 {count}개",
    "{count} training problems are in a benchmark in use: see left_out.json": (
        "학습 문제 {count}개가 쓰고 있는 벤치마크에도 있다: left_out.json 참고"
    ),
    "run directory": "실행 폴더",
    "pass@1 {stage} training: {name}, {problems} problems ({isolation})": (
        "{stage} pass@1: {name}, 문제 {problems}개 ({isolation})"
    ),
    "model: {count} tensors that were not trained are copied as they were: {names}": (
        "model: 학습하지 않은 텐서 {count}개는 원본 그대로 복사했다: {names}"
    ),
    "model: {count} heads are left out: {names}": "model: 헤드 {count}개는 넣지 않았다: {names}",
    "val CE of head 0": "검증 CE (헤드 0)",
    "report": "보고서",
    "results": "결과",
    "MLflow": "MLflow",
    "compare": "견주기",
    "{count} problems without a sample, not counted": "{count}문제는 표본이 없어 세지 않음",
    "difference": "차이",
    "{problems} problems in both": "양쪽에 다 있는 문제 {problems}개",
    "sign test": "부호 검정",
    "{better} better, {worse} worse": "나아짐 {better}, 나빠짐 {worse}",
    "in one only": "한쪽에만 있음",
    "better": "나아짐",
    "worse": "나빠짐",
    "otherwise": "판정만 다름",
    "judged": "채점",
    "{distinct} programs; {copies} samples are copies of them": "프로그램 {distinct}개; 표본 {copies}개는 그것의 사본",
    "{name}: the last of those who judge in {out} sums up": "{name}: {out}에서 마지막에 끝나는 프로세스가 결과를 모음",
    "{name}: no row has tests, so no program is run; another benchmark may be chosen, as in benchmark=mbpp": (
        "{name}: 시험이 있는 줄이 없어 프로그램을 돌리지 않음. benchmark=mbpp처럼 다른 것을 고를 수 있음"
    ),
    "{fenced} of {samples} answers hold a Markdown fence: extract=auto": (
        "답 {samples}개 중 {fenced}개에 Markdown 코드 블록이 있음: extract=auto"
    ),
    "{count} problems whose own reference fails, not counted": "{count}문제는 참조 정답부터 틀려 세지 않음",
    "(heads 1, 2, …)": "(헤드 1, 2, …)",
    # comparisons of runs
    "{runs} runs, {arms} arms": "실행 {runs}개, 조건 {arms}개",
    "arm": "조건",
    "seeds": "씨앗",
    "measure": "잰 것",
    "problems": "문제",
    "effect": "효과 크기",
    "level": "구간의 수준",
    "goal": "목표",
    "points": "점",
    "95 % interval": "95 % 구간",
    "What differs": "무엇이 다른가",
    "compared with": "견준 조건",
    "Not equal": "같지 않음",
    "NOT EQUAL between the runs:": "실행끼리 같지 않은 것:",
    "Are the goals met?": "목표를 이루었는가",
    "above the goal by": "목표보다 얼마나 위",
    "No arm weighs tokens, so there is nothing to judge.": "토큰에 무게를 주는 조건이 없어 판단할 것이 없다.",
    "Differences": "차이들",
    "The same in numbers": "같은 것을 수로",
    "In points; for other seeds and problems where arms have two seeds or more. Holm corrects for many arms.": (
        "단위는 점(%p). 씨앗이 둘 이상이면 다른 씨앗과 문제에 대한 구간이다. Holm은 조건의 수만큼 고친 p."
    ),
    "No two arms share an evaluation after training.": "학습 뒤의 평가를 함께 가진 두 조건이 없다.",
    "permutation of the seeds: p": "씨앗을 바꾼 순열검정의 p",
    "two-level bootstrap": "두 단계 bootstrap",
    "at best {p}": "가장 작아도 {p}",
    "(not paired)": "(짝 없음)",
    "one seed: of these models only, not of the methods": "씨앗 하나: 이 모델들의 말일 뿐, 방법의 말이 아니다",
    "What each arm reached": "조건마다 이른 곳",
    "Means over the seeds, with 95 % intervals for other seeds (and other problems).": (
        "씨앗들의 평균과, 다른 씨앗(과 다른 문제)에 대한 95 % 구간."
    ),
    "Validation CE of head 0: mean, lowest and highest of the seeds": (
        "헤드 0의 검증 CE: 씨앗들의 평균, 가장 낮은 것, 가장 높은 것"
    ),
    "What the sweep went through": "탐색이 지난 곳",
    "Token weights and scores at the end": "끝에서의 토큰가중치와 점수",
    "All other differences": "다른 모든 차이",
    "{count} differences": "차이 {count}개",
    "Runs": "실행들",
    "{count} runs": "실행 {count}개",
    "difference of pass@1 [points]; dashed: the goal": "pass@1의 차이 [점]. 점선: 목표",
    "mean pass@1": "평균 pass@1",
    "against {arm}": "{arm}와 견줌",
    "{count} more arms are not drawn": "나머지 조건 {count}개는 그리지 않았다",
    "met": "이룸",
    "not met": "이루지 못함",
    "cannot be told": "알 수 없음",
    "pass@1 at least {points:.0f} points above the baseline": "pass@1이 baseline보다 {points:.0f}점 이상 높다",
    "errors on important tokens down by {percent:.0f} % or more": "중요한 토큰의 오류가 {percent:.0f} % 이상 줄었다",
    "several heads and weights together gain more than each alone, summed": (
        "여러 헤드와 가중을 함께 한 이득이, 따로 한 이득의 합보다 크다"
    ),
    "there is no baseline among the runs": "실행 가운데 baseline이 없다",
    "no baseline is set as this arm is, the algorithm aside": "나머지 설정이 이 조건과 같은 baseline이 없다",
    "no run has measured it": "잰 실행이 없다",
    "the interval holds both": "구간이 양쪽에 걸친다",
    "one seed says nothing of another; train more seeds of each": (
        "씨앗 하나는 다른 씨앗을 말하지 못한다. 조건마다 씨앗을 더 돌린다"
    ),
    "it needs both algorithms with model.heads=1 as well": "두 알고리즘의 model.heads=1인 실행도 있어야 한다",
    "training problems differ between runs of one seed: {kinds}": "씨앗이 같은데 학습 문제가 다르다: {kinds}",
    "weights at the start differ between runs of one seed: {kinds}": "씨앗이 같은데 출발한 가중치가 다르다: {kinds}",
    "test problems differ: {kinds}": "평가 문제가 다르다: {kinds}",
    "code versions differ: {kinds}": "코드의 판이 다르다: {kinds}",
    "last steps differ: {kinds}": "마지막 스텝이 다르다: {kinds}",
    "code had changes that no commit holds: {kinds}": "커밋하지 않은 수정이 있던 코드: {kinds}",
    "{key} differs too: {kinds}": "{key}도 다르다: {kinds}",
    "seeds differ, only shared ones are paired: {kinds}": "씨앗이 달라서, 함께 가진 것만 짝짓는다: {kinds}",
    "{arm}: {count} runs of seed {seed} are averaged: {names}": (
        "{arm}: 씨앗 {seed}의 실행 {count}개를 평균했다: {names}"
    ),
    "runs that failed: {kinds}": "실패한 실행: {kinds}",
    "runs that recovered, with other settings than asked for: {kinds}": "회복하느라 설정이 바뀐 실행: {kinds}",
    "{measure}: {shared} of {every} problems are in every run, others are left out": (
        "{measure}: 문제 {every}개 가운데 모든 실행에 있는 {shared}개만 견준다"
    ),
    "{measure}: not measured in {names}": "{measure}: 재지 않은 실행 {names}",
}
