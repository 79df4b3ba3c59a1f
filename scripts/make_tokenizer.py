"""Train the byte-level BPE tokenizer that ships with wmtp: `python scripts/make_tokenizer.py [FOLDER]` (seconds).

[연구 맥락] 1.3M 모델에서 어휘가 크면 매개변수 대부분이 임베딩이 된다. 512개면 합성 문제 하나가 약 70토큰이다.
[동작] 합성 학습 문제와 아래의 일반 파이썬 글(우리 글)로 배운다. 256바이트가 모두 어휘에 있어 어떤 글도 잃지 않는다.
줄바꿈과 들여쓰기는 한 조각, 숫자는 한 자리씩. 특수 토큰은 <|endoftext|>(eos)와 <|pad|>뿐이고 BOS는 없다.
[디버깅] 같은 문법(wmtp/data/grammar.py)이면 두 번 실행해도 같은 바이트가 나온다.
달라졌다면 기본 모델도 다시 만들어야 한다.
"""

import sys
from pathlib import Path

from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import PreTrainedTokenizerFast

from wmtp.data.synthetic import Synthetic

FOLDER = Path(__file__).parents[1] / "wmtp" / "assets" / "tokenizer"
VOCABULARY_SIZE = 512
EOS, PAD = "<|endoftext|>", "<|pad|>"
# A line break with the indent after it; a word; one digit; a run of signs; other spaces (but the last before a word).
PIECES = r"\r?\n[ \t]*| ?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+"

# What MBPP-like text needs beyond the synthetic problems; written for this file.
GENERAL_PYTHON = '''"""
Write a function to find the first element of the given string that is not in the list.
"""
import math
import re
from collections import Counter

def find_element(arr, n, value=None):
    result = []
    for i in range(len(arr)):
        for j in range(i + 1, n):
            if arr[i] > arr[j] and i != j:
                arr[i], arr[j] = arr[j], arr[i]
            elif arr[i] == value or not value:
                result.append((i, arr[j]))
            else:
                continue
    return result

"""
Write a python function to check whether the given number is the sum of two integers or not.
"""
def check_number(num, k):
    count = 0
    total = 1
    while num > 0 and count <= k:
        digit = num % 10
        total *= digit
        num = num // 10
        count += 1
    if total in {1: True, 2: False}:
        return True
    return False

class Node:
    def __init__(self, data):
        self.data = data
        self.next = None

def text_match(text):
    pattern = re.compile("[a-z]+")
    res = max(map(str, text.split(" ")), key=lambda x: (len(x), int(x)))
    return tuple(sorted(set(res))) if re.search(pattern, text) else "Not matched!"
'''


def corpus() -> list[str]:
    """Collect the texts to learn from, in the shape that the model sees."""
    problems = Synthetic(train_size=4000, seed=42).problems("train")
    synthetic = [f'"""\n{problem.text}\n"""\n{problem.solutions[0]}' for problem in problems]
    return synthetic + [GENERAL_PYTHON] * 20


def make_tokenizer() -> PreTrainedTokenizerFast:
    """Train the tokenizer and wrap it for transformers."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(PIECES), behavior="isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=VOCABULARY_SIZE,
        special_tokens=[EOS, PAD],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(corpus(), trainer)
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, eos_token=EOS, pad_token=PAD, clean_up_tokenization_spaces=False
    )


if __name__ == "__main__":
    folder = Path(sys.argv[1]) if len(sys.argv) > 1 else FOLDER
    make_tokenizer().save_pretrained(folder)
    print(f"{folder}: saved the tokenizer")
