"""Turn a problem into what the model reads, what it should write, and the program to judge.

[연구 맥락] 같은 모델도 프롬프트에 따라 pass@1이 크게 달라진다. 그래서 프롬프트 방식에 출처를 딴 이름을 붙이고,
    이름을 결과(metrics.json)에 함께 저장한다. 숫자는 이름이 같은 것끼리만 비교한다.
[동작] 클래스 하나가 방식 하나다. `render`가 모델 입력, `completion`이 학습 정답, `program`이 채점할 프로그램을 만든다.
    새 방식은 `Prompt`를 이어받은 작은 클래스 하나면 된다.
[디버깅] 생성이 멈추지 않으면 `stop`과 `completion`의 끝을, 맞은 프로그램이 잘리면 `stop`을 본다.
"""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from wmtp.data.problem import Problem
from wmtp.errors import DataFormatError

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase


class Prompt:
    """Define what every prompt mode can do; a mode overrides what differs.

    [연구 맥락] 학습과 평가가 같은 객체를 쓴다. 그래서 학습한 글의 모양과 평가하는 글의 모양이 어긋날 수 없다.

    Attributes:
        name: 결과에 저장되는 이름.
        stop: 생성된 글에서 가장 먼저 나온 정지 문자열부터 뒤를 버린다.
        shot_task_ids: 프롬프트 앞에 보여 줄 예시 문제의 task_id. 출처의 "prompt" 분할에 있다.
        conversation: 대화로 묻는다면 (chat.py) 무엇으로. 결과와 함께 저장된다.
    """

    name: str
    stop: tuple[str, ...] = ()
    shot_task_ids: tuple[str, ...] = ()
    conversation: Mapping[str, str] = {}

    def __repr__(self) -> str:
        return f"{type(self).__name__}({vars(self)})"  # the same in every process: caches are named after it

    def render(self, problem: Problem, shots: Sequence[Problem] = ()) -> str:
        """Write the text that the model continues."""
        raise NotImplementedError

    def completion(self, problem: Problem) -> str:
        """Write the continuation to train on, from the first reference solution.

        [동작] 언제나 solutions[0]으로 시작한다 (noise_spans가 그대로 맞는다). 끝은 줄바꿈 하나이고,
        그 뒤에 토큰화가 EOS를 붙인다.

        Raises:
            DataFormatError: 참조 정답이 없는 문제일 때.
        """
        if not problem.solutions:
            raise DataFormatError(f"{problem.task_id} has no reference solution to show. Leave the problem out.")
        return problem.solutions[0].rstrip() + "\n"

    def end(self, tokenizer: "PreTrainedTokenizerBase") -> int:
        """Return the token that closes what the model writes."""
        return tokenizer.eos_token_id

    @property
    def plain(self) -> "Prompt":
        """Return what is asked, without the conversation around it."""
        return self

    def program(self, problem: Problem, completion: str) -> str:
        """Build the program to judge from a completion.

        [동작] 정지 문자열에서 자르는 일은 생성(generation.py)이 한다. 다른 곳에서 만든 samples 파일은 자르지 않는다:
        이미 다듬은 프로그램을 한 번 더 자르면 맞은 것이 틀릴 수 있다 (MBPP 342의 정답에는 `\\nclass`가 있다).
        """
        return completion


class Synthetic0Shot(Prompt):
    """Show the synthetic task as a docstring.

    [동작] 정지 문자열은 새 docstring의 시작 하나뿐이다. 생성기의 정답은 그런 줄을 만들지 않으므로
    맞은 답이 잘리는 일이 없다.

    Example:
        >>> problem = Problem("synthetic/test/0", "synthetic", "test", "Add one.", ("def f(x):\\n    return x + 1",))
        >>> Synthetic0Shot().render(problem)
        '\"""Add one.\"""\\n'
        >>> Synthetic0Shot().completion(problem)
        'def f(x):\\n    return x + 1\\n'
    """

    name = "synthetic_0shot"
    stop = ('\n"""',)

    def render(self, problem: Problem, shots: Sequence[Problem] = ()) -> str:
        return f'"""{problem.text}"""\n'


class MbppPaper3Shot(Prompt):
    """Ask as the MBPP paper does (Austin et al. 2021, arXiv 2108.07732), with tasks 2, 3 and 4 as examples."""

    name = "mbpp_paper_3shot"
    stop = ("[DONE]",)
    shot_task_ids = ("mbpp/2", "mbpp/3", "mbpp/4")

    def render(self, problem: Problem, shots: Sequence[Problem] = ()) -> str:
        examples = "".join(f"{_ask(shot)}{self.completion(shot)}\n\n" for shot in shots)
        return examples + _ask(problem)

    def completion(self, problem: Problem) -> str:
        return super().completion(problem) + "[DONE]"


class BigcodeMbpp0Shot(Prompt):
    """Show the text and the first assert in a docstring, as InCoder and bigcode-evaluation-harness do."""

    name = "bigcode_mbpp_0shot"
    stop = ("\nclass", "\nassert", '\n"""', "\nprint", "\nif", "\n<|/", "\n```")

    def render(self, problem: Problem, shots: Sequence[Problem] = ()) -> str:
        return f'"""\n{problem.text}\n{problem.tests[0]}\n"""\n'


class HumanEvalRaw(Prompt):
    """Give HumanEval's signature and docstring as they are (Chen et al. 2021); the completion is the body."""

    name = "humaneval_raw"
    stop = ("\nclass", "\ndef", "\n#", "\nif", "\nprint")

    def render(self, problem: Problem, shots: Sequence[Problem] = ()) -> str:
        return problem.text

    def completion(self, problem: Problem) -> str:
        return super().completion(problem).removeprefix(problem.text)

    def program(self, problem: Problem, completion: str) -> str:
        return problem.text + completion


class CodeContestsStatement(Prompt):
    """Show the contest statement in a docstring; the completion is a whole program that reads standard input.

    [동작] `\\n\"""`로는 멈추지 않는다: 맞은 정답 300개 중 5개가 그런 줄(주석 처리한 코드)을 가지고 있어 잘린다.
    """

    name = "codecontests_statement"
    stop = ("\n```",)

    def render(self, problem: Problem, shots: Sequence[Problem] = ()) -> str:
        return f'"""\n{problem.text.strip()}\n"""\n'


class LiveCodeBenchBase0Shot(Prompt):
    """Show the question and its starter code under LiveCodeBench's headings for base models, without its example."""

    name = "livecodebench_base_0shot"
    stop = ("\n### Question", "\n```")

    def render(self, problem: Problem, shots: Sequence[Problem] = ()) -> str:
        starter = f"### Starter Code\n{problem.starter.rstrip()}\n\n" if problem.starter.strip() else ""
        return f"### Question\n{problem.text.strip()}\n\n{starter}### Answer\n\n"


class AppsQuestion(Prompt):
    """Ask as APPS does (Hendrycks et al. 2021): the question, the starter code, and how the answer is given."""

    name = "apps_question"
    stop = ("\nQUESTION:", "\n```")

    def render(self, problem: Problem, shots: Sequence[Problem] = ()) -> str:
        starter = f"{problem.starter.strip()}\n" if problem.starter.strip() else ""
        form = "Call-Based" if problem.calls else "Standard Input"
        return f"\nQUESTION:\n{problem.text.strip()}\n{starter}\nUse {form} format\n\nANSWER:\n"


class OwnWords(Prompt):
    """Ask in the very words of a row of one's own; a description as MBPP is asked, with its first test.

    [동작] 정지 문자열은 없다: 프롬프트가 무엇인지 모르는데 맞은 답을 자르면 안 된다. 필요하면 `sampling.stop`을 준다.

    Example:
        >>> row = Problem("jsonl/1", "jsonl", "train", "2 + 2 =", (" 4",), prompt="2 + 2 =")
        >>> OwnWords().render(row), OwnWords().completion(row)
        ('2 + 2 =', ' 4')
    """

    name = "own_words"

    def render(self, problem: Problem, shots: Sequence[Problem] = ()) -> str:
        if problem.messages:
            raise DataFormatError(
                f"{problem.origin}: messages are written in the tokenizer's chat template; set prompt.chat=true."
            )
        if problem.prompt is not None:
            return problem.prompt
        return "\n".join(['"""', problem.text, *problem.tests[:1], '"""', ""])

    def completion(self, problem: Problem) -> str:
        if problem.prompt is None:
            return super().completion(problem)
        return problem.answer

    def program(self, problem: Problem, completion: str) -> str:
        return problem.prompt + completion if problem.continues else completion


class BySource(Prompt):
    """Ask each problem in the prompt mode of its source, for sources that are mixed."""

    name = "by_source"

    def __init__(self, prompts: Mapping[str, Prompt]) -> None:
        self.prompts = dict(prompts)
        self.shot_task_ids = tuple(task_id for prompt in self.prompts.values() for task_id in prompt.shot_task_ids)

    def render(self, problem: Problem, shots: Sequence[Problem] = ()) -> str:
        prompt = self.prompts[problem.source]
        return prompt.render(problem, [shot for shot in shots if shot.task_id in prompt.shot_task_ids])

    def completion(self, problem: Problem) -> str:
        return self.prompts[problem.source].completion(problem)

    def program(self, problem: Problem, completion: str) -> str:
        return self.prompts[problem.source].program(problem, completion)


def _ask(problem: Problem) -> str:
    tests = "\n".join(problem.tests)
    return (
        f"You are an expert Python programmer, and here is your task: {problem.text} "
        f"Your code should pass these tests:\n\n{tests}\n[BEGIN]\n"
    )
