"""Decide how problems are put to what is taught or evaluated: in plain text, or in a conversation.

[연구 맥락] 잘못 고르면 숫자가 크게 달라지고, 아무도 모른다. 그래서 규칙은 하나이고, 무엇으로 정했는지 한 줄로 말한다.
[동작] `prompt.chat=auto`가 대화로 정하는 것은 모델이 스스로 그렇게 말할 때다:
    여기의 모델   대화 형식이 있고, 그 형식이 답을 닫는 토큰이 모델의 끝 토큰(generation_config, 토크나이저의 EOS)이다.
                  바탕 모델도 형식을 품고 나오지만 (Qwen2.5), 그 토큰에서 끝나기를 배우지 않았다.
                  wmtp가 학습한 모델은 배운 대로 묻는다.
    학습          데이터의 줄이 대화다 (data=jsonl의 messages). 평가도 그 실행 안에서는 같은 대화로 묻는다.
    서버의 모델   이름에 instruct, chat, it가 있다. 서버는 그 밖에 아무것도 말해 주지 않는다.
[디버깅] 다르게 정하려면 prompt.chat=true 또는 false.
"""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

from wmtp.checks import check_choice
from wmtp.data.chat import Chat, Messages, Template, TokenizerTemplate, has_template, messages
from wmtp.data.problem import Source
from wmtp.data.prompts import Prompt
from wmtp.errors import ConfigError
from wmtp.evaluation.benchmarks import Benchmark


@dataclass(frozen=True)
class Asking:
    """Say how problems are put (conf/prompt).

    Args:
        chat: 대화로 물을지. "auto"면 위의 규칙.
        instruction: 대화에서 하는 말. `{prompt}`가 프롬프트 방식의 글이 된다.
        reply: 대화에서 가르칠 답. `{program}`이 참조 정답이 된다. 평가는 쓰지 않는다.
        system: 시스템 글.
        variables: 대화 형식이 따로 읽는 값.
    """

    instruction: str
    reply: str = "{program}"
    chat: bool | Literal["auto"] = "auto"
    system: str | None = None
    variables: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        check_choice("prompt.chat", self.chat, ("auto", True, False), "Try auto.")
        if "{prompt}" not in self.instruction:
            raise ConfigError(
                f"prompt.instruction = {self.instruction!r} must say where the problem goes: write {{prompt}} there."
            )
        if "{program}" not in self.reply:
            raise ConfigError(
                f"prompt.reply = {self.reply!r} must say where the program goes: write {{program}} there."
            )

    def check(self, tokenizer: Any, owner: str) -> None:
        """Refuse what cannot be, before the model is loaded.

        Raises:
            ConfigError: 대화 형식이 없거나, 이 메시지를 거절할 때.
        """
        if self.chat is True:
            TokenizerTemplate(tokenizer, self.variables, owner).write(messages("x", self.system))

    def teaches(self, source: Source) -> bool:
        """Say whether training on a source is in a conversation.

        Raises:
            ConfigError: 대화로 된 데이터를 맨글로 배우라고 할 때.
        """
        if self.chat is False and source.conversations:
            raise ConfigError(
                f"prompt.chat = false, but the rows of data={source.name} are messages, which are written in the "
                "tokenizer's chat template; leave prompt.chat out."
            )
        return source.conversations if self.chat == "auto" else self.chat

    def taught(self, prompt: Prompt, tokenizer: Any, owner: str) -> Chat:
        """Wrap the prompt mode that is trained in.

        Raises:
            ConfigError: 대화 형식이 없거나, 이 메시지를 거절할 때.
        """
        template = TokenizerTemplate(tokenizer, self.variables, owner)
        template.write(messages("x", self.system))
        return self._chat(prompt, template)

    def of_model(
        self, suite: Sequence[Benchmark], model: Any, tokenizer: Any, owner: str, taught: bool | None = None
    ) -> list[Benchmark]:
        """Put the problems to a model of this process, and let a conversation end where its template says.

        Args:
            owner: 사용자가 모델을 부르는 말 (ckpt = …).
            taught: wmtp가 대화로 학습한 모델인지. 다른 곳에서 온 모델이면 None.
        """
        if not (has_template(tokenizer) or self.chat is True):
            return list(suite)
        from wmtp.models.generation import end_tokens

        template = TokenizerTemplate(tokenizer, self.variables, owner)
        ends = end_tokens(model, tokenizer)
        chat, why = self.chat, f"prompt.chat={str(self.chat).lower()}"
        if chat == "auto":
            chat = template.end in ends if taught is None else taught
            closing = "no token" if template.end is None else tokenizer.convert_ids_to_tokens(template.end)
            why = f"auto: the model {'ends' if template.end in ends else 'does not end'} its answers with {closing}"
            if taught is not None:
                why = f"auto: wmtp trained it {'in conversations' if taught else 'on plain prompts'}"
        if not chat:
            return self._plain(suite, why)
        if template.end is not None:
            model.generation_config.eos_token_id = sorted(ends | {template.end})
        return self._in_chat(suite, template, why)

    def of_server(self, suite: Sequence[Benchmark], server: Any) -> list[Benchmark]:
        """Put the problems to a server, and choose the endpoint."""
        chat, why = self.chat, f"prompt.chat={str(self.chat).lower()}"
        if chat == "auto":
            named = re.search(r"(?<![^\W_])(instruct|chat|it)(?![^\W_])", server.model, re.I)
            chat = bool(named)
            why = f"auto: the model's name says {named[0]}" if named else "auto: the model's name says no more"
        server.chat = chat
        return self._in_chat(suite, Messages(), why) if chat else self._plain(suite, why)

    def _in_chat(self, suite: Sequence[Benchmark], template: Template, why: str) -> list[Benchmark]:
        print(f"prompts: as a conversation, in the template {template.digest} ({why})")
        return [one.asked_as(self._chat(one.prompt, template)) for one in suite]

    def _chat(self, prompt: Prompt, template: Template) -> Chat:
        return Chat(prompt, template, self.instruction, self.system, self.reply)

    def _plain(self, suite: Sequence[Benchmark], why: str) -> list[Benchmark]:
        print(f"prompts: plain ({why})")
        return list(suite)
