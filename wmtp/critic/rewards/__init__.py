"""Give whole programs a reward: what the critic learns to foresee, token by token.

[연구 맥락] critic은 "이 프로그램이 맞을 것인가"를 배운다 (maths.md 5절의 R). 맞은 프로그램과 틀린 프로그램이 한 곳만
    다르면 둘의 차이는 그 자리에서만 배울 수 있다. 오답이 없는 데이터에서는 정답을 한 곳만 고치고(`Source.mutate`),
    정말 틀렸는지는 샌드박스가 판정한다.
[동작] 세 가지가 같은 모양이다: `judge(data, split, limit, model) -> [RewardedProgram]`.
    Tests        시험을 통과하면 1, 아니면 0
    RewardModel  보상모델(sequence classification)의 로짓. 실행하지 않는다
    NegCE        학습할 모델의 −평균 CE. 다른 것이 없을 때
    데이터의 알려진 손상(noise_spans)은 결코 보지 않는다.
[디버깅] 보상이 모두 0이면 데이터의 정답이 제 시험을 통과하는지 본다. 캐시는 `<캐시>/rewards/`, 언제 지워도 된다.
"""

from wmtp.critic.rewards.base import RewardedProgram, Rewards
from wmtp.critic.rewards.neg_ce import NegCE
from wmtp.critic.rewards.reward_model import RewardModel
from wmtp.critic.rewards.tests import Tests

__all__ = ["NegCE", "RewardModel", "RewardedProgram", "Rewards", "Tests"]
