"""Define the small language of the synthetic problems: what a step says, and what it does.

[연구 맥락] 합성 문제는 "목록(또는 단어)에 연산 1~3개, 그리고 집계 하나"다. 작은 모델이 몇 분 만에 배울 만큼 쉽고,
처음 보는 조합을 풀어야 하므로 외워서는 안 된다.
[동작] 표의 한 줄이 영어 표현 여러 개와 파이썬 식 하나를 갖는다. 실행 함수는 바로 그 식을 컴파일한 것이라 코드와 기대값이 어긋날 수 없다.
식의 뜻이 영어와 맞는지는 tests/unit/data/test_synthetic.py가 손으로 계산한 값으로 확인한다.
[디버깅] 표를 바꾸면 합성 데이터가 달라진다: scripts/make_tokenizer.py와 기본 모델을 다시 만들어야 한다.
"""

from collections.abc import Callable
from dataclasses import dataclass


@dataclass(frozen=True, eq=False)
class Step:
    """Hold one line of a solution: an operation with its constant filled in.

    Attributes:
        operation: 상수를 뺀 연산의 이름. 데이터 분할은 이 이름의 순서로 정한다.
        takes: 읽는 변수. "xs" (정수 목록) 또는 "words" (단어 목록).
        gives: 쓰는 변수, 집계이면 "value".
        statement: 정답 프로그램의 한 줄, 들여쓰기 포함.
        phrases: 같은 뜻의 영어 표현들.
        run: statement의 식을 그대로 계산하는 함수.
    """

    operation: str
    takes: str
    gives: str
    statement: str
    phrases: tuple[str, ...]
    run: Callable[[list], object]


def _operation(name: str, types: str, expression: str, *phrases: str, constants="-") -> tuple[Step, ...]:
    """Build the steps of one operation, one for every constant `K`."""
    takes, gives = types.split(" -> ")

    def step(constant: str) -> Step:
        code = expression.replace("K", constant)
        statement = f"    return {code}" if gives == "value" else f"    {gives} = {code}"
        said = tuple(phrase.replace("K", constant) for phrase in phrases)
        run = eval(f"lambda {takes}: {code}")  # our own table below, never a user's text
        return Step(name, takes, gives, statement, said, run)

    return tuple(map(step, map(str, constants)))


# One operation a line, however long: it reads as a table.
# ruff: noqa: E501
# fmt: off
_NUMBERS = (
    _operation("add", "xs -> xs", "[x + K for x in xs]", "add K to each", "increase every number by K", "make each K larger", constants=range(1, 10)),
    _operation("subtract", "xs -> xs", "[x - K for x in xs]", "subtract K from each", "make each K smaller", "take K off each", constants=range(1, 10)),
    _operation("multiply", "xs -> xs", "[x * K for x in xs]", "multiply each by K", "multiply every number by K", "take each K times", constants=range(2, 10)),
    _operation("modulo", "xs -> xs", "[x % K for x in xs]", "take each modulo K", "replace each by itself modulo K", "take every number modulo K", constants=range(3, 10)),
    _operation("divide", "xs -> xs", "[x // K for x in xs]", "divide each by K rounding down", "floor divide every number by K", "take each over K rounded down", constants=range(2, 6)),
    _operation("square", "xs -> xs", "[x * x for x in xs]", "square each", "replace every number by its square", "multiply each by itself"),
    _operation("negate", "xs -> xs", "[-x for x in xs]", "negate each", "flip the sign of every number", "change all the signs"),
    _operation("absolute", "xs -> xs", "[abs(x) for x in xs]", "take absolute values", "drop the signs", "replace every number by its absolute value"),
    _operation("even", "xs -> xs", "[x for x in xs if x % 2 == 0]", "keep the even numbers", "drop the odd ones", "leave only even numbers"),
    _operation("odd", "xs -> xs", "[x for x in xs if x % 2 == 1]", "keep the odd numbers", "drop the even ones", "leave only odd numbers"),
    _operation("positive", "xs -> xs", "[x for x in xs if x > 0]", "keep the positive numbers", "keep what is above 0", "select the positive ones"),
    _operation("negative", "xs -> xs", "[x for x in xs if x < 0]", "keep the negative numbers", "keep what is below 0", "select the negative ones"),
    _operation("above", "xs -> xs", "[x for x in xs if x > K]", "keep those above K", "keep the numbers greater than K", "select what is larger than K", constants=range(1, 10)),
    _operation("below", "xs -> xs", "[x for x in xs if x < K]", "keep those below K", "keep the numbers less than K", "select what is smaller than K", constants=range(1, 10)),
    _operation("multiples", "xs -> xs", "[x for x in xs if x % K == 0]", "keep the multiples of K", "select multiples of K only", "keep what you can divide by K", constants=range(3, 6)),
    _operation("sort", "xs -> xs", "sorted(xs)", "sort them", "put them in ascending order", "order them from low to high"),
    _operation("sort_down", "xs -> xs", "sorted(xs, reverse=True)", "sort them in reverse", "put them in descending order", "order them from high to low"),
    _operation("reverse", "xs -> xs", "xs[::-1]", "reverse the list", "flip the order", "turn the list around"),
    _operation("first", "xs -> xs", "xs[:K]", "keep the first K", "take K from the front", "cut the list to its first K", constants=range(2, 6)),
    _operation("last", "xs -> xs", "xs[-K:]", "keep the last K", "take K from the end", "cut the list to its last K", constants=range(2, 6)),
    _operation("skip", "xs -> xs", "xs[K:]", "drop the first K", "skip K at the front", "remove the first K", constants=range(1, 4)),
    _operation("trim", "xs -> xs", "xs[:-K]", "drop the last K", "cut K off the end", "remove the last K", constants=range(1, 4)),
    _operation("alternate", "xs -> xs", "xs[::2]", "keep every second one", "take every other number", "skip every second number"),
    _operation("unique", "xs -> xs", "list(dict.fromkeys(xs))", "remove duplicates", "keep each value once", "drop repeated values"),
    _operation("gaps", "xs -> xs", "[b - a for a, b in zip(xs, xs[1:])]", "take the gaps between neighbours", "take the steps from each to the next", "replace the list by its gaps"),
)
_WORDS = (
    _operation("upper", "words -> words", "[w.upper() for w in words]", "put each in upper case", "write every word in capital letters", "make all letters capital"),
    _operation("title", "words -> words", "[w.capitalize() for w in words]", "capitalize each", "make every first letter capital", "start every word with a capital"),
    _operation("mirror", "words -> words", "[w[::-1] for w in words]", "reverse each word", "spell every word backwards", "mirror each word"),
    _operation("repeat", "words -> words", "[w * K for w in words]", "repeat each word K times", "write every word K times", "copy each word K times over", constants=range(2, 5)),
    _operation("prefix", "words -> words", "[w[:K] for w in words]", "cut each to K letters", "keep the first K letters of each", "shorten every word to K letters", constants=range(2, 5)),
    _operation("behead", "words -> words", "[w[K:] for w in words]", "remove the first K letters of each", "cut K letters off the front of each", "skip K letters of every word", constants=range(1, 4)),
    _operation("plural", "words -> words", '[w + "s" for w in words]', "add an s to each", "append s to every word", "put an s after each"),
    _operation("long", "words -> words", "[w for w in words if len(w) > K]", "keep words longer than K", "keep those of more than K letters", "select what is longer than K letters", constants=range(3, 6)),
    _operation("short", "words -> words", "[w for w in words if len(w) < K]", "keep words shorter than K", "keep those of less than K letters", "select what is shorter than K letters", constants=range(4, 7)),
    _operation("with", "words -> words", '[w for w in words if "K" in w]', "keep words with the letter K", "keep those that contain K", "select the words containing K", constants="aeiort"),
    _operation("without", "words -> words", '[w for w in words if "K" not in w]', "keep words without the letter K", "drop those that contain K", "remove the words containing K", constants="aeiort"),
    _operation("sort_words", "words -> words", "sorted(words)", "sort them", "put them in alphabetical order", "order them from a to z"),
    _operation("sort_length", "words -> words", "sorted(words, key=len)", "sort them by length", "put the short words first", "order them from short to long"),
    _operation("reverse_words", "words -> words", "words[::-1]", "reverse the list", "flip the order", "turn the list around"),
    _operation("first_words", "words -> words", "words[:K]", "keep the first K", "take K from the front", "cut the list to its first K", constants=range(2, 5)),
    _operation("last_words", "words -> words", "words[-K:]", "keep the last K", "take K from the end", "cut the list to its last K", constants=range(2, 5)),
    _operation("skip_words", "words -> words", "words[K:]", "drop the first K", "skip K at the front", "remove the first K", constants=range(1, 4)),
    _operation("unique_words", "words -> words", "list(dict.fromkeys(words))", "remove duplicates", "keep each word once", "drop repeated words"),
    _operation("lengths", "words -> xs", "[len(w) for w in words]", "take the lengths", "replace each word by its length", "count the letters of each"),
    _operation("letters", "words -> xs", '[w.count("K") for w in words]', "count the letter K in each", "replace each by how many K it has", "count K in every word", constants="aeiort"),
)
_AGGREGATIONS = (
    _operation("list", "xs -> value", "xs", "the list", "the result", "what you have"),
    _operation("sum", "xs -> value", "sum(xs)", "the sum", "the total", "all of them added up"),
    _operation("max", "xs -> value", "max(xs, default=0)", "the largest or 0", "the maximum or 0", "the greatest or 0"),
    _operation("min", "xs -> value", "min(xs, default=0)", "the smallest or 0", "the minimum or 0", "the least or 0"),
    _operation("count", "xs -> value", "len(xs)", "how many there are", "the count", "the number of items"),
    _operation("distinct", "xs -> value", "len(set(xs))", "how many are distinct", "the number of distinct values", "the count of distinct ones"),
    _operation("squares", "xs -> value", "sum(x * x for x in xs)", "the sum of squares", "the total of the squares", "all the squares added up"),
    _operation("final", "xs -> value", "xs[-1] if xs else 0", "the final one or 0", "the number at the end or 0", "the very last or 0"),
    _operation("list_words", "words -> value", "words", "the list", "the result", "what you have"),
    _operation("join", "words -> value", '"".join(words)', "the words joined", "one string of all", "all words in one string"),
    _operation("dashes", "words -> value", '"-".join(words)', "the words joined by dashes", "one string with dashes", "the words with dashes between"),
    _operation("longest", "words -> value", 'max(words, key=len, default="")', "the longest", "the one with most letters", "the longest word"),
    _operation("earliest", "words -> value", 'min(words, default="")', "the first in the alphabet", "the smallest in order", "the first by letters"),
    _operation("count_words", "words -> value", "len(words)", "how many there are", "the count", "the number of words"),
    _operation("size", "words -> value", "sum(len(w) for w in words)", "the total length", "the number of letters in all", "the sum of the lengths"),
    _operation("final_word", "words -> value", 'words[-1] if words else ""', "the final one", "the word at the end", "the very last"),
)
# fmt: on

# What can come next, by the variable at hand; a step's rivals (same variable in, same out) are what a wrong step is drawn from.
OPERATIONS = {"xs": _NUMBERS, "words": _WORDS}
AGGREGATIONS = {takes: tuple(steps for steps in _AGGREGATIONS if steps[0].takes == takes) for takes in OPERATIONS}
STEP_OF_STATEMENT = {
    step.statement: step for table in (_NUMBERS, _WORDS, _AGGREGATIONS) for steps in table for step in steps
}

OPENINGS = {
    "xs": ("Given a list of numbers xs, ", "For the numbers xs, ", "Take the list xs, ", "From the integers in xs, "),
    "words": ("Given a list of words, ", "For these words, ", "Take the words, ", "From a list of words, "),
}
LINKS = (", ", ", then ", " and then ")
ENDINGS = (", and return ", ", then return ", ". Return ", " and give back ")

VOCABULARY = (
    "apple arch art bear bird boat cart cat clear coin door dust earth east fir fog gate goat hat heart ice iron "
    "kite leaf lion moon night note oak oat opera orbit pear pie rain river root rose sea sky star stone tea tile tree"
).split()
