"""Hold the critic: rewards of programs, a value fitted to them (stage 1), and what that value knows.

[연구 맥락] 토큰마다의 가중치는 "여기까지 읽은 프로그램이 맞을 확률" V의 변화에서 나온다 (maths.md 5절, docs/critic.md).
[동작] 읽는 차례:
    rewards/         프로그램에 보상을 준다: 시험, 보상모델, −CE
    rewarded.py      보상이 있는 프로그램을 토큰으로 바꾸고 묶는다
    value.py         V: 얼린 몸통 위의 작은 가치헤드
    fitting.py       V의 손실과 한 스텝, 그리고 V가 무엇을 아는지 재기
    pretraining.py   1단계: 학습 전에 V를 맞추거나, 캐시나 체크포인트에서 찾는다 (콜백)
    known.py         무엇을 아는지 적고, 모르면 경고한다
    localisation.py  학습하는 동안 점수가 틀린 자리를 찾는지 잰다 (콜백, 어느 알고리즘에나)
    2단계, V로 토큰을 채점하는 것은 `wmtp.algos.critic`이다.
"""
