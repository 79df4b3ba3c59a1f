"""Hold the prompts to the texts that were published, and the stop sequences to what they may cut."""

import pytest

from wmtp.data.problem import Problem
from wmtp.data.prompts import (
    BigcodeMbpp0Shot,
    CodeContestsStatement,
    HumanEvalRaw,
    MbppPaper3Shot,
    Synthetic0Shot,
)
from wmtp.errors import DataFormatError

PROBLEM = Problem(
    task_id="mbpp/700",
    source="mbpp",
    split="train",
    text="Write a function to add.",
    solutions=("def add(a, b):\n    return a + b \n",),
    tests=("assert add(1, 2) == 3", "assert add(0, 0) == 0", "assert add(-1, 1) == 0"),
)
SHOT = Problem(
    task_id="mbpp/2", source="mbpp", split="prompt", text="Say one.", solutions=("one = 1",), tests=("assert one == 1",)
)
BODY = Problem(
    task_id="HumanEval/0",
    source="humaneval",
    split="test",
    text='def f(x):\n    """ Add one. """\n',
    solutions=('def f(x):\n    """ Add one. """\n    return x + 1\n',),
)


def test_the_paper_prompt_is_the_published_text():
    assert MbppPaper3Shot().render(PROBLEM, [SHOT]) == (
        "You are an expert Python programmer, and here is your task: Say one. Your code should pass these tests:\n\n"
        "assert one == 1\n[BEGIN]\none = 1\n[DONE]\n\n"
        "You are an expert Python programmer, and here is your task: Write a function to add. "
        "Your code should pass these tests:\n\n"
        "assert add(1, 2) == 3\nassert add(0, 0) == 0\nassert add(-1, 1) == 0\n[BEGIN]\n"
    )


def test_the_bigcode_prompt_is_the_published_text():
    assert BigcodeMbpp0Shot().render(PROBLEM) == '"""\nWrite a function to add.\nassert add(1, 2) == 3\n"""\n'


def test_humaneval_gives_the_prompt_and_judges_prompt_plus_body():
    prompt = HumanEvalRaw()
    assert prompt.render(BODY) == BODY.text
    assert prompt.completion(BODY) == "    return x + 1\n"
    assert prompt.program(BODY, prompt.completion(BODY)) == BODY.solutions[0]


@pytest.mark.parametrize("prompt", [Synthetic0Shot(), MbppPaper3Shot(), BigcodeMbpp0Shot(), CodeContestsStatement()])
def test_a_training_completion_judged_as_a_program_is_the_reference(prompt):
    completion = prompt.completion(PROBLEM)
    assert completion.startswith(PROBLEM.solutions[0].rstrip())
    assert prompt.program(PROBLEM, completion).removesuffix("[DONE]").strip() == PROBLEM.solutions[0].strip()


def test_a_problem_without_a_solution_cannot_be_trained_on():
    with pytest.raises(DataFormatError, match="t/1 has no reference solution"):
        Synthetic0Shot().completion(Problem("t/1", "t", "train", "Do it."))
