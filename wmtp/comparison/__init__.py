"""Hold the comparison of runs: which belong together, what differs, how sure that is, and what follows.

[연구 맥락] "토큰에 무게를 주면 나아지는가, 얼마나, 얼마나 확실한가"에는 실행 하나로 답할 수 없다.
[동작] 읽는 차례:
    arms.py         실행 폴더들을 찾아, 설정에서 다른 것으로 묶는다 (씨앗만 다르면 같은 묶음)
    measures.py     실행 하나에서 견줄 수들: 문제별 pass@k, 헤드별 CE, 속도 …
    statistics.py   차이와 그 구간, p
    findings.py     무엇을 무엇과 견주는지, 성공 기준 셋
    fairness.py     같아야 하는데 같지 않았던 것
    pages.py        compare.json, Markdown, HTML, 화면의 표와 그림
"""
