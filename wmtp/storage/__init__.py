"""Find data and models wherever they are, and mirror what is far away. The only package that talks to S3 and the Hub.

[연구 맥락] 한 달 뒤에 다시 돌려도 같은 바이트여야 실험이다. 그래서 먼 곳의 파일은 한 번 통째로 캐시에 복사하고
    (mirror), 그 뒤로는 복사본만 읽는다. 반쯤 받은 파일이 데이터로 쓰이는 일은 설계로 막는다.
[동작] 찾는 순서는 언제나 로컬 → 캐시 → S3 → Hugging Face Hub.
    find.py      찾는 순서 (Storage)
    current.py   이 실행이 어느 Storage를 쓰는지
    listing.py   장소에 무엇이 있는지: 이름, 크기, ETag(또는 커밋). 그 해시가 복사본의 판(version)이다
    s3.py        S3를 읽는다
    hub.py       Hub를 읽고 라이선스를 확인한다
    download.py  목록을 토막씩 받아 검사한다
    copies.py    다 받은 것을 이름을 바꾸어 캐시에 두고, 그 가운데 온전한 것을 찾는다
    lock.py, files.py  한 번에 하나씩, 온전하게 쓰기 (어느 방이든 쓴다)
[디버깅] 캐시는 언제 지워도 된다. 무엇이 어디서 왔는지는 복사본의 wmtp-manifest.json에 있다.
    비밀번호와 키는 환경 변수로만 받으며, 설정에 적으면 오류다.
"""

from wmtp.storage.current import in_use, using
from wmtp.storage.download import MANIFEST, say
from wmtp.storage.find import Storage
from wmtp.storage.s3 import is_s3

__all__ = ["MANIFEST", "Storage", "in_use", "is_s3", "say", "using"]
