"""Fine-tune code models with weighted multi-token prediction.

토큰마다 중요도가 다르다는 생각을 다중토큰예측(MTP) 미세조정에 적용하는 연구 도구입니다.
읽는 순서: maths → models → data → algos → evaluation → train.py / eval.py.
"""

__version__ = "1.0.0"
