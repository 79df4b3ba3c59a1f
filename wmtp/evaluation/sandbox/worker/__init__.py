"""Run hostile programs: what lives inside one worker process.

[동작] 작업자 하나는 세 프로세스다. 표준 라이브러리만 쓰고, torch가 든 학습 프로세스에서 fork하지 않고 새로 exec한다.

    학습 프로세스 ──(Program)──► judge ──(소켓)──► program   (fork, 프로그램마다 새 프로세스 트리)
                  ◄─(Verdict)──  │   │              ▲
                                 │   └─(실행 요청)─► zygote
                                 └─(다섯 바이트)──► keeper

- judge (`judge.py`)는 시험을 실행한다. 시험의 글은 judge 밖으로 나가지 않고, judge 자신도 갇혀 있다.
- keeper (`keeper.py`)는 judge가 못 하는 일을 한다: 죽이기, 재기, 치우기.
- zygote (`zygote.py`)는 표준 라이브러리를 미리 올려 두고 fork만 한다. 시험도 정답도 본 적이 없으므로,
  프로그램이 제 메모리를 모두 뒤져도 훔칠 것이 없다.
- program (`program_side.py`)은 함수 호출 요청에 평범한 값(`wire.py`)으로만 답한다.
- 격리는 `confinement.py` (무엇을 막는가)와 `kernel.py` (시스템 호출)에 있다.

이 패키지는 wmtp를 import하지 않는다: 작업자는 이 디렉터리만 보고 30 ms 안에 시작한다.
"""
