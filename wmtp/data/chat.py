"""Put a problem into a conversation, in the words and marks that a chat model was trained on.

[연구 맥락] 대화로 가르친 모델은 맨글을 이어 쓰라고 하면 제 실력을 내지 못하고, 맨글만 배운 모델은 대화의 표시를 모른다.
[동작] `Chat`은 프롬프트 방식을 감싼 방식이다: 그 글을 지시(instruction) 속에 넣고, 시스템 글과 함께 메시지로 만든다.
    가르칠 때는 답까지 쓴다. 메시지를 글로 쓰는 것은 둘 중 하나다: 토크나이저의 대화 형식(`TokenizerTemplate`), 또는
    메시지 그대로(`Messages`): 서버가 제 형식으로 쓴다. 정지 문자열은 없다. 답은 형식이 정한 토큰에서 끝나고,
    프로그램은 답에서 꺼낸다.
[디버깅] `print(benchmark.text(problem))`이 모델이 읽는 글이다.
"""

import hashlib
import json
import re
from collections.abc import Mapping, Sequence
from datetime import datetime
from functools import cached_property
from typing import TYPE_CHECKING, Any, Protocol

from jinja2 import TemplateError

from wmtp.data.problem import Problem
from wmtp.data.prompts import Prompt
from wmtp.errors import ConfigError, DataFormatError

if TYPE_CHECKING:  # a server writes without transformers, which take seconds to load
    from transformers import PreTrainedTokenizerBase

# Some templates write the date. The same evaluation asks the same on every day.
THE_DAY = datetime(2026, 1, 1)
_TODAY = re.compile(r"""strftime_now\(\s*(['"])(.*?)\1\s*\)""")


def messages(said: str, system: str | None) -> list[dict[str, str]]:
    """Write what a user says as messages, after the system message where there is one."""
    first = [{"role": "system", "content": system}] if system else []
    return [*first, {"role": "user", "content": said}]


class Template(Protocol):
    """Write messages as one text.

    Attributes:
        digest: 형식의 해시. 결과와 함께 저장된다.
    """

    digest: str

    def write(self, messages: Sequence[Mapping[str, str]]) -> str:
        """Write what the model reads, up to where its answer begins."""

    def answer(self, messages: Sequence[Mapping[str, str]], said: str) -> str:
        """Write what the model is to answer, up to the token that closes it."""


class Messages:
    """Leave messages as they are, for a server to write in its model's own template."""

    digest = "the server's"

    def write(self, messages: Sequence[Mapping[str, str]]) -> str:
        """Write them as JSON."""
        return json.dumps(messages, ensure_ascii=False)

    def answer(self, messages: Sequence[Mapping[str, str]], said: str) -> str:
        """Leave it as it is: a server is taught nothing."""
        return said


class TokenizerTemplate:
    """Write messages as a tokenizer's chat template does.

    Args:
        variables: 형식이 따로 읽는 값 (enable_thinking).
        owner: 오류 문장에 쓸, 토크나이저의 주인.

    Raises:
        ConfigError: 대화 형식이 없을 때.
    """

    def __init__(self, tokenizer: "PreTrainedTokenizerBase", variables: Mapping[str, Any], owner: str) -> None:
        self.tokenizer, self.variables, self.owner = tokenizer, dict(variables), owner
        if not has_template(tokenizer):
            raise ConfigError(
                f"prompt.chat = true, but the tokenizer of {owner} has no chat template; set prompt.chat=false, or put "
                "its chat_template.jinja beside its tokenizer.json."
            )
        text = tokenizer.get_chat_template()  # of a tokenizer that has several, the default one
        self.digest = hashlib.sha256(text.encode()).hexdigest()[:16]
        self.text = _TODAY.sub(lambda call: json.dumps(THE_DAY.strftime(call[2])), text)

    def __repr__(self) -> str:
        return f"TokenizerTemplate({self.digest}, {self.variables})"  # caches are named after it

    def write(self, messages: Sequence[Mapping[str, str]]) -> str:
        """Write them, and the mark that opens an answer.

        Raises:
            ConfigError: 형식이 이 메시지를 거절할 때 (시스템 글을 모르는 것).
        """
        return self._checked(messages, add_generation_prompt=True)

    def answer(self, messages: Sequence[Mapping[str, str]], said: str) -> str:
        """Write what the template puts between the mark that opens an answer and the token that closes it.

        [동작] 형식이 답의 앞에 두는 것(빈칸, 비어 있는 생각)까지가 모델이 쓸 것이다. 형식이 답을 고쳐 쓰면 준 그대로.

        Raises:
            ConfigError: 형식이 이 메시지를 거절할 때.
        """
        opened, said = self.write(messages), said.strip()
        whole = self._checked([*messages, {"role": "assistant", "content": said}])
        before, found, _ = whole.removeprefix(opened).rpartition(said) if whole.startswith(opened) else ("", "", "")
        return before + found or said

    def _checked(self, messages: Sequence[Mapping[str, str]], **how: Any) -> str:
        try:
            return self._apply(messages, **how)
        except TemplateError as error:
            raise ConfigError(
                f"prompt.chat = true: the chat template of {self.owner} refuses the messages ({error}); leave out "
                "prompt.system where it takes none, or set prompt.chat=false."
            ) from None

    @cached_property
    def end(self) -> int | None:
        """Find the token that closes an answer, None where the template has none."""
        mark = "wmtp: answer"
        try:
            text = self._apply([{"role": "user", "content": "x"}, {"role": "assistant", "content": mark}])
        except TemplateError:
            return None
        _, found, after = text.rpartition(mark)
        first = self.tokenizer(after.strip(), add_special_tokens=False).input_ids[:1] if found else []
        return next((token for token in first if token in self.tokenizer.added_tokens_decoder), None)

    def _apply(self, messages: Sequence[Mapping[str, str]], **how: Any) -> str:
        return self.tokenizer.apply_chat_template(
            messages, chat_template=self.text, tokenize=False, **how, **self.variables
        )


def has_template(tokenizer: "PreTrainedTokenizerBase") -> bool:
    """Say whether a tokenizer has a chat template that is used unless another is named."""
    template = tokenizer.chat_template
    return "default" in template if isinstance(template, dict) else bool(template)


class Chat(Prompt):
    """Ask in a conversation what another prompt mode asks in plain text, and teach it answers of that form.

    [동작] 문제는 지시(instruction) 속에 묻고, 프로그램은 답의 꼴(reply) 속에 가르친다. 데이터가 글자까지 정한 것(대화,
        프롬프트와 답)은 감싸지 않는다.

    Args:
        asked: 감싸는 방식. 답에서 프로그램을 만드는 것도 이것이 한다.
        instruction: 하는 말. `{prompt}`가 그 방식의 글이 된다.
        system: 시스템 글. None이면 없다. 대화가 제 것을 가지고 있으면 그것을 쓴다.
        reply: 가르칠 답. `{program}`이 참조 정답이 된다.
    """

    def __init__(
        self, asked: Prompt, template: Template, instruction: str, system: str | None = None, reply: str = "{program}"
    ) -> None:
        self.asked, self.template, self.instruction, self.system = asked, template, instruction, system
        self.reply = reply
        self.name, self.shot_task_ids = f"{asked.name}_chat", asked.shot_task_ids
        told = hashlib.sha256(instruction.encode()).hexdigest()[:16]
        self.conversation = {"chat_template": template.digest, "instruction": told}
        self.conversation |= {"system": system} if system else {}

    def said(self, problem: Problem, shots: Sequence[Problem] = ()) -> list[dict[str, str]]:
        """Write the messages before the answer."""
        if problem.messages:
            own = [{"role": role, "content": text} for role, text in problem.messages]
            return own if own[0]["role"] == "system" else [*messages("", self.system)[:-1], *own]
        if problem.prompt is not None:
            return messages(problem.prompt, self.system)
        said = self.instruction.replace("{prompt}", self.asked.render(problem, shots).strip())
        return messages(said.strip(), self.system)

    def render(self, problem: Problem, shots: Sequence[Problem] = ()) -> str:
        try:
            return self.template.write(self.said(problem, shots))
        except ConfigError as error:
            raise DataFormatError(f"{problem.origin}: {error}") if problem.messages else error from None

    def completion(self, problem: Problem) -> str:
        if problem.messages:
            answer = problem.solutions[0]
        elif problem.prompt is not None:
            answer = self.asked.completion(problem)
        else:
            answer = self.reply.replace("{program}", problem.solutions[0].rstrip())
        return self.template.answer(self.said(problem), answer)

    def end(self, tokenizer: "PreTrainedTokenizerBase") -> int:
        end = getattr(self.template, "end", None)
        return super().end(tokenizer) if end is None else end

    @property
    def plain(self) -> Prompt:
        return self.asked

    def program(self, problem: Problem, completion: str) -> str:
        return self.asked.program(problem, completion)
