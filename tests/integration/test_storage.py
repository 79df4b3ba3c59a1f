"""Hold storage to its one promise: the right bytes or a clear error, whatever happens on the way.

[동작] S3는 moto의 진짜 HTTP 서버, Hub는 그 프로토콜로 말하는 작은 서버, 그 앞에 고장을 일으키는 프록시.
    모두 127.0.0.1에만 있다. 50번의 고장 중 8번이 기본 시험이고, 나머지는 `-m slow`이다.
"""

import hashlib
import io
import json
import multiprocessing
import os
import random
import signal
import subprocess
import time
from pathlib import Path

import boto3
import pytest
from moto.server import ThreadedMotoServer
from storage_child import CHUNK, ask
from storage_servers import FaultyProxy, HubServer

from wmtp.data.sources import CodeContests, HumanEval, Mbpp
from wmtp.errors import ConfigError, DataNotFoundError, StorageError
from wmtp.models.loading import find_model, load_model
from wmtp.storage import MANIFEST, Storage, download, s3, using

BUCKET = "team-bucket"
KEYS = {"AWS_ACCESS_KEY_ID": "test-key-id", "AWS_SECRET_ACCESS_KEY": "test-secret", "AWS_DEFAULT_REGION": "us-east-1"}
ASSETS = Path(s3.__file__).parents[1] / "assets"


@pytest.fixture(scope="module")
def moto():
    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    yield f"http://{host}:{port}"
    server.stop()


@pytest.fixture(scope="module")
def shared_proxy(moto):
    with FaultyProxy(moto) as proxy:
        yield proxy


@pytest.fixture
def proxy(shared_proxy):
    shared_proxy.clear()
    return shared_proxy


@pytest.fixture
def hub(monkeypatch):
    with HubServer() as server:
        monkeypatch.setenv("HF_ENDPOINT", server.url)
        yield server


@pytest.fixture(autouse=True)
def loopback_only(monkeypatch):
    """Give credentials, quick retries and small chunks, and no way out of this machine."""
    for name, value in KEYS.items():
        monkeypatch.setenv(name, value)
    for name in ("WMTP_DATA", "WMTP_CACHE", "HF_HUB_OFFLINE", "HF_TOKEN", "AWS_ENDPOINT_URL", "AWS_ENDPOINT_URL_S3"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HF_ENDPOINT", "http://127.0.0.1:1")
    monkeypatch.setattr(download, "WAITS", (0.01,) * 5)
    monkeypatch.setattr(download, "CHUNK", CHUNK)


@pytest.fixture
def bucket(moto, request):
    """Give a client, and a prefix of the bucket that is this test's own."""
    client = boto3.client("s3", endpoint_url=moto)
    client.create_bucket(Bucket=BUCKET)
    prefix = hashlib.sha256(request.node.name.encode()).hexdigest()[:12]

    class Bucket:
        url = f"s3://{BUCKET}/{prefix}"

        def put(self, name: str, body: bytes, multipart: bool = False) -> None:
            """Put an object; after a multipart upload its ETag is not an MD5, and proves nothing."""
            where = {"Bucket": BUCKET, "Key": f"{prefix}/{name}"}
            if not multipart:
                client.put_object(**where, Body=body)
                return
            where["UploadId"] = client.create_multipart_upload(**where)["UploadId"]
            part = {"ETag": client.upload_part(**where, PartNumber=1, Body=body)["ETag"], "PartNumber": 1}
            client.complete_multipart_upload(**where, MultipartUpload={"Parts": [part]})

        def settings(self, endpoint: str) -> dict:
            return {"bucket": BUCKET, "prefix": prefix, "endpoint_url": endpoint}

    return Bucket()


def find(at: Storage, name: str = "mbpp", path=None, hub=("nobody/nothing", "*.jsonl")) -> bytes:
    (file,) = at.find_data(name, path, ["mbpp.jsonl"], hub=hub)
    return file.read_bytes()


def visible(cache: Path) -> list[Path]:
    """List the files that a reader of the cache can meet."""
    found = [path for path in cache.rglob("*") if path.is_file() and path.name != MANIFEST]
    return [path for path in found if not any(part.startswith(".") for part in path.relative_to(cache).parts)]


# ---- faults ----------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="session")
def child():
    """Start `ask` in a fresh process, quickly."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["storage_child", "s3fs", "filelock", "tqdm"])

    def start(*arguments, **more):
        process = context.Process(
            target=ask, args=(*arguments, dict(KEYS, HF_ENDPOINT="http://127.0.0.1:1")), kwargs=more
        )
        process.start()
        return process

    return start


@pytest.fixture
def small_disk(tmp_path):
    """Mount a disk of 1 MB where that is allowed; None elsewhere."""
    folder = tmp_path / "small-disk"
    folder.mkdir()
    mounted = (
        os.geteuid() == 0
        and not subprocess.run(
            ["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", str(folder)], capture_output=True
        ).returncode
    )
    yield folder if mounted else None
    if mounted:
        subprocess.run(["umount", "-l", str(folder)], check=True)


FAULTS = {
    "reset": ("reset",),
    "500": ("500",),
    "slow": ("slow",),
    "truncated": ("cut", "short"),
    "replaced": ("replaced", "reset"),
    "full disk": (),
    "kill -9": ("slow",),
    "everything": ("reset", "500", "slow", "cut", "short", "flip"),
}
ROUNDS = [*range(8), *(pytest.param(number, marks=pytest.mark.slow) for number in range(8, 50))]


@pytest.mark.parametrize("number", ROUNDS)
def test_a_fault_never_leaves_a_wrong_file(number, proxy, bucket, child, tmp_path, small_disk):
    kind = list(FAULTS)[number % len(FAULTS)]
    rng = random.Random(42 + number)
    first, second = rng.randbytes(rng.randrange(300_000, 600_000)), rng.randbytes(500_000)
    settings, cache = bucket.settings(proxy.url), tmp_path / "cache"
    multipart = "flip" not in FAULTS[kind]
    bucket.put("mbpp/mbpp.jsonl", first, multipart)
    right = {first}
    proxy.clear(seed=number)
    proxy.faults = tuple(fault for fault in FAULTS[kind] if fault != "replaced")
    proxy.probability = rng.choice([0.3, 0.6, 0.9])
    outcome = "the right bytes"

    if kind == "replaced":
        right.add(second)
        after = rng.randrange(1, 4)
        asked = iter(range(1000))
        proxy.before = lambda: next(asked) == after and bucket.put("mbpp/mbpp.jsonl", second, multipart)
    if kind == "full disk" and small_disk and number % 16 < 8:
        cache, asked = small_disk, iter(range(1000))
        after = rng.randrange(1, 4)
        proxy.before = lambda: (
            next(asked) == after and (small_disk / "another").write_bytes(bytes(900_000 - 70_000 * after))
        )
    elif kind == "full disk":
        process = child(settings, cache, limit=rng.randrange(10_000, 290_000))
        process.join()
        assert process.exitcode == 3
    if kind == "kill -9":
        proxy.probability = 1.0
        process = child(settings, cache)
        enough = rng.randrange(1, len(first) - CHUNK)
        deadline = time.monotonic() + 20
        while proxy.sent < enough and time.monotonic() < deadline:
            time.sleep(0.001)
        os.kill(process.pid, signal.SIGKILL)
        process.join()
        assert all(file.read_bytes() in right for file in visible(cache))

    try:
        assert find(Storage(cache=cache, s3=settings)) in right
    except StorageError as error:
        outcome = str(error)
        assert bucket.url in outcome
    if cache == small_disk:
        assert f"storage.cache = {cache} has no room for {bucket.url}" in outcome
        (small_disk / "another").unlink()
    print(f"{kind}: {outcome}")

    wrong = [file for file in visible(cache) if file.read_bytes() not in right]
    assert wrong == []
    proxy.clear()  # and when all is well again, the same call ends well
    assert find(Storage(cache=cache, s3=settings)) in right
    assert find(Storage(cache=cache, s3=settings, mode="offline")) in right
    assert [path.name for path in cache.rglob("*.part")] == []


def test_a_killed_download_goes_on_where_it_stopped(proxy, bucket, child, tmp_path):
    body = random.Random(42).randbytes(1_000_000)
    settings = bucket.settings(proxy.url)
    bucket.put("mbpp/mbpp.jsonl", body, multipart=True)
    proxy.faults, proxy.probability = ("slow",), 1.0
    process = child(settings, tmp_path)
    while proxy.sent < 600_000:
        time.sleep(0.001)
    os.kill(process.pid, signal.SIGKILL)
    process.join()
    assert visible(tmp_path) == []
    (chunks,) = tmp_path.rglob("chunks/0")
    (fetched,) = tmp_path.rglob("files/mbpp.jsonl")
    whole = chunks.read_text().count("\n")
    with fetched.open("r+b") as part, chunks.open("a") as journal:  # as a power cut leaves them: zeros, a torn line
        part.seek((whole - 1) * CHUNK)
        part.write(bytes(CHUNK))
        journal.write("1234")
    proxy.settle()
    proxy.clear()
    assert find(Storage(cache=tmp_path, s3=settings)) == body
    proxy.settle()
    assert proxy.sent == 1_000_000 - (whole - 1) * CHUNK < 600_000  # no byte twice


def test_processes_that_ask_at_once_fetch_once(proxy, bucket, child, tmp_path):
    body = random.Random(42).randbytes(500_000)
    bucket.put("mbpp/mbpp.jsonl", body)
    proxy.faults, proxy.probability = ("slow",), 1.0
    processes = [child(bucket.settings(proxy.url), tmp_path) for _ in range(2)]
    assert [process.join() or process.exitcode for process in processes] == [0, 0]
    assert proxy.sent == len(body)
    assert [file.read_bytes() == body for file in visible(tmp_path)] == [True]


def test_machines_without_a_common_lock_agree(proxy, bucket, child, tmp_path):
    body = random.Random(42).randbytes(500_000)
    bucket.put("mbpp/mbpp.jsonl", body)
    proxy.faults, proxy.probability = ("slow",), 1.0
    processes = [child(bucket.settings(proxy.url), tmp_path, machine=name) for name in ("one", "two")]
    assert [process.join() or process.exitcode for process in processes] == [0, 0]
    assert [file.read_bytes() == body for file in visible(tmp_path)] == [True]
    assert list(tmp_path.rglob("*.part")) == []


# ---- where things are found ------------------------------------------------------------------------------------------


def test_the_order_is_local_then_cache_then_s3_then_hub(proxy, bucket, hub, tmp_path, monkeypatch):
    monkeypatch.setenv("WMTP_DATA", str(tmp_path / "data"))
    at = {"cache": tmp_path / "cache", "s3": bucket.settings(proxy.url)}
    known = ("org/mbpp", "full/*.jsonl")

    with pytest.raises(DataNotFoundError) as nowhere:
        find(Storage(**at), hub=known)
    assert str(nowhere.value).startswith(
        f"data=mbpp: no mbpp.jsonl in $WMTP_DATA/mbpp, in the cache ({tmp_path}/cache), in {bucket.url}/mbpp "
        "(not there), or on the Hub as org/mbpp (not there, or private: set HF_TOKEN). Put the file there"
    )
    hub.add("datasets/org/mbpp", {"full/mbpp.jsonl": b"from the Hub"})
    assert find(Storage(**at), hub=known) == b"from the Hub"
    bucket.put("mbpp/mbpp.jsonl", b"from S3")
    assert find(Storage(**at), hub=known) == b"from the Hub"  # from the cache, as a month ago
    assert find(Storage(**at | {"cache": tmp_path / "empty"}), hub=known) == b"from S3"
    for folder, text in (("cache/data/mbpp", b"put into the cache"), ("data/mbpp", b"local")):
        (tmp_path / folder).mkdir(parents=True)
        (tmp_path / folder / "mbpp.jsonl").write_bytes(text)
        assert find(Storage(**at), hub=known) == text


def test_offline_uses_the_cache_and_asks_nobody(proxy, bucket, tmp_path, monkeypatch):
    bucket.put("mbpp/mbpp.jsonl", b"rows")
    at = {"cache": tmp_path, "s3": bucket.settings(proxy.url)}
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    with pytest.raises(
        DataNotFoundError, match=r"in s3://\S+ \(offline\), or on the Hub as nobody/nothing \(offline\)"
    ):
        find(Storage(**at))
    monkeypatch.delenv("HF_HUB_OFFLINE")
    find(Storage(**at))
    proxy.before = lambda: pytest.fail("asked S3 while offline")
    assert find(Storage(**at, mode="offline")) == b"rows"
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    assert find(Storage(**at)) == b"rows"


def test_a_damaged_copy_is_said_and_fetched_again(proxy, bucket, tmp_path, capsys):
    bucket.put("mbpp/mbpp.jsonl", b"rows")
    at = {"cache": tmp_path, "s3": bucket.settings(proxy.url)}
    find(Storage(**at))
    (copy,) = visible(tmp_path)
    copy.write_bytes(b"rowz")  # the size is right
    with pytest.raises(DataNotFoundError):
        find(Storage(**at, mode="offline"))
    assert "damaged, and is not used" in capsys.readouterr().err
    assert find(Storage(**at)) == b"rows"
    assert find(Storage(**at, mode="offline")) == b"rows"
    copy.touch()  # another time and the same bytes is no damage
    assert find(Storage(**at, mode="offline")) == b"rows"


def test_an_s3_address_notices_what_changed_and_a_name_does_not(proxy, bucket, tmp_path):
    at = {"cache": tmp_path, "s3": bucket.settings(proxy.url)}
    address = f"{bucket.url}/mbpp/mbpp.jsonl"
    bucket.put("mbpp/mbpp.jsonl", b"first")
    assert (find(Storage(**at)), find(Storage(**at), path=address)) == (b"first", b"first")
    kept = Storage(**at)
    find(kept, path=address)
    bucket.put("mbpp/mbpp.jsonl", b"second")
    assert (find(Storage(**at)), find(Storage(**at), path=address)) == (b"first", b"second")
    assert find(kept, path=address) == b"first"  # one process, one version
    assert find(Storage(**at, mode="offline"), path=address) == b"second"


def test_a_path_of_the_users_is_the_only_place(bucket, proxy, tmp_path):
    bucket.put("mbpp/mbpp.jsonl", b"rows")
    with pytest.raises(DataNotFoundError, match=r"data=mbpp: no mbpp\.jsonl in data\.path=/nowhere\. Correct the path"):
        find(Storage(cache=tmp_path, s3=bucket.settings(proxy.url)), path="/nowhere")


def test_a_bucket_that_cannot_be_read_stops_with_the_way_out(proxy, bucket, tmp_path, monkeypatch):
    bucket.put("mbpp/mbpp.jsonl", b"rows")
    at = {"cache": tmp_path, "s3": bucket.settings(proxy.url)}
    find(Storage(**at), path=f"{bucket.url}/mbpp/mbpp.jsonl")
    proxy.faults, proxy.probability = ("500",), 1.0
    with pytest.raises(StorageError, match=rf"{bucket.url}/mbpp could not be read .*Check the network\."):
        find(Storage(**at))
    with pytest.raises(StorageError, match=r"or use the copy in the cache with storage\.mode=offline"):
        find(Storage(**at), path=f"{bucket.url}/mbpp/mbpp.jsonl")
    for name in KEYS:
        monkeypatch.delenv(name)
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    monkeypatch.setenv("AWS_CONFIG_FILE", "/nowhere")
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", "/nowhere")
    proxy.clear()
    s3._s3_filesystem.cache_clear()
    with pytest.raises(StorageError, match=r"credentials.*Set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY"):
        find(Storage(**at))
    s3._s3_filesystem.cache_clear()


# ---- the Hub ---------------------------------------------------------------------------------------------------------


def parquet(*rows: dict) -> bytes:
    import pyarrow
    import pyarrow.parquet

    written = io.BytesIO()
    pyarrow.parquet.write_table(pyarrow.Table.from_pylist(list(rows)), written)
    return written.getvalue()


def add_official_repositories(hub: HubServer) -> None:
    mbpp = {"text": "Add.", "code": "def add(a, b):\r\n    return a + b", "test_list": ["assert add(1, 2) == 3"]}
    mbpp |= {"test_setup_code": "", "challenge_test_list": []}
    files = {
        f"{folder}/{split}-00000-of-00001.parquet": parquet(mbpp | {"task_id": number})
        for folder in ("full", "sanitized")
        for split, number in (("prompt", 2), ("test", 11), ("validation", 511), ("train", 601))
    }
    hub.add("datasets/google-research-datasets/mbpp", files | {"README.md": b"x"}, ["cc-by-4.0"])
    humaneval = {"task_id": "HumanEval/0", "prompt": "def f(x):\n", "canonical_solution": "    return x\n"}
    humaneval |= {"entry_point": "f", "test": "def check(candidate):\n    assert candidate(1) == 1\n"}
    files = {"openai_humaneval/test-00000-of-00001.parquet": parquet(humaneval)}
    hub.add("datasets/openai/openai_humaneval", files, "mit")
    tests = {"input": ["1 2\n"], "output": ["3\n"]}
    contest = {"description": "Add.", "public_tests": tests, "private_tests": tests, "generated_tests": tests}
    contest["solutions"] = {"language": [2, 3], "solution": ["int main", "print(sum(map(int, input().split())))"]}
    contest["incorrect_solutions"] = {"language": [3], "solution": ["print(0)"]}
    names = ("train-00000-of-00002-aa", "train-00001-of-00002-bb", "valid-00000-of-00001-cc", "test-00000-of-00001-dd")
    files = {f"data/{name}.parquet": parquet(contest | {"name": f"1_{name}"}) for name in names}
    hub.add("datasets/deepmind/code_contests", files, "cc-by-4.0")


def test_data_by_name_comes_from_the_hub_and_then_from_the_cache(hub, tmp_path, monkeypatch):
    monkeypatch.setenv("WMTP_CACHE", str(tmp_path))
    at = Storage()
    add_official_repositories(hub)

    def ids(source, *splits):
        return [[problem.task_id for problem in source.problems(split)] for split in splits]

    def everything():
        assert ids(Mbpp(), "prompt", "test", "train") == [["mbpp/2"], ["mbpp/11"], ["mbpp/601"]]
        assert ids(Mbpp(sanitized=True), "validation") == [["mbpp/511"]]
        assert ids(HumanEval(), "test") == [["HumanEval/0"]]
        assert ids(CodeContests(), "test") == [["codecontests/1_test-00000-of-00001-dd"]]
        assert [len(found) for found in ids(CodeContests(), "train", "validation", "all")] == [2, 1, 4]

    with using(at):
        assert ids(CodeContests(), "test")
        assert not [path for path in hub.requests if "/train-" in path]  # gigabytes that nobody asked for
        everything()
    assert at.used["mbpp"]["licence"] == "cc-by-4.0" and at.used["humaneval"]["licence"] == "mit"
    assert at.used["mbpp"]["from"] == "hf://datasets/google-research-datasets/mbpp"
    hub.repos.clear()
    hub.requests.clear()
    with using(Storage()):
        everything()
    assert hub.requests == []


def test_faults_between_us_and_the_hub_leave_no_wrong_file(hub, tmp_path, monkeypatch):
    body = random.Random(42).randbytes(400_000)
    hub.add("datasets/org/mbpp", {"full/mbpp.jsonl": body})
    with FaultyProxy(hub.cdn.url) as cdn, FaultyProxy(hub.url) as front:
        monkeypatch.setattr(hub.cdn, "url", cdn.url)
        monkeypatch.setenv("HF_ENDPOINT", front.url)
        front.faults = cdn.faults = ("reset", "500", "cut", "short", "flip")
        front.probability = cdn.probability = 0.3
        for number in range(6):
            cache = tmp_path / str(number)
            for _ in range(20):
                try:
                    assert find(Storage(cache=cache), hub=("org/mbpp", "full/*.jsonl")) == body
                    break
                except (StorageError, DataNotFoundError) as error:
                    assert "org/mbpp" in str(error)
                    assert "Signature" not in str(error)
            assert [file.read_bytes() == body for file in visible(cache)] == [True]


@pytest.mark.parametrize("licence", [None, "unknown", "other"])
def test_an_unknown_licence_stops_until_the_user_accepts_it(hub, tmp_path, licence):
    hub.add("datasets/org/mbpp", {"full/mbpp.jsonl": b"rows"}, licence)
    known = ("org/mbpp", "full/*.jsonl")
    with pytest.raises(
        StorageError, match=r"datasets/org/mbpp names no licence .*storage\.accept_licences=\[org/mbpp\]"
    ):
        find(Storage(cache=tmp_path), hub=known)
    assert visible(tmp_path) == []
    assert find(Storage(cache=tmp_path, accept_licences=["org/mbpp"]), hub=known) == b"rows"


def test_a_gated_repository_says_how_to_accept_its_licence(hub, tmp_path, monkeypatch):
    hub.add("datasets/org/mbpp", {"full/mbpp.jsonl": bytes(5000)}, "llama3", gated=True)
    known = ("org/mbpp", "full/*.jsonl")
    for token in ("", "hf_other"):
        monkeypatch.setenv("HF_TOKEN", token)
        with pytest.raises(StorageError, match=r"/datasets/org/mbpp is gated: accept its licence there.*HF_TOKEN"):
            find(Storage(cache=tmp_path), hub=known)
    monkeypatch.setenv("HF_TOKEN", "hf_accepted")
    assert find(Storage(cache=tmp_path), hub=known) == bytes(5000)
    assert hub.cdn.leaked_tokens == 0
    assert not any("hf_accepted" in path.read_text() for path in tmp_path.rglob(MANIFEST))


# ---- models and checkpoints ------------------------------------------------------------------------------------------


@pytest.fixture
def tiny() -> dict[str, bytes]:
    return {file.name: file.read_bytes() for file in (ASSETS / "tiny-reference").iterdir() if file.is_file()}


def test_a_model_loads_from_s3_and_from_the_hub(proxy, bucket, hub, tiny, tmp_path):
    for name, body in tiny.items():
        bucket.put(f"models/tiny/{name}", body)
    hub.add("org/tiny", tiny | {"pytorch_model.bin": b"pickle"}, "apache-2.0")
    with using(Storage(cache=tmp_path, s3=bucket.settings(proxy.url))):
        for path in (f"{bucket.url}/models/tiny", "org/tiny"):
            folder = find_model(path)
            assert tmp_path in folder.parents and not (folder / "pytorch_model.bin").exists()
            load_model(folder, heads=1)
    nowhere = r"model\.path = org/none: no config\.json in org/none, in the cache .*Hub"
    with using(Storage(cache=tmp_path, mode="offline", s3=bucket.settings(proxy.url))):
        assert find_model("org/tiny") == folder
        with pytest.raises(DataNotFoundError, match=nowhere):
            find_model("org/none")


def test_a_gguf_comes_from_s3_and_from_the_hub_without_its_neighbours(proxy, bucket, hub, tmp_path):
    pytest.importorskip("gguf", reason="needs pip install gguf")
    from tests.gguf_files import code_tokenizer, tiny_llama, write_gguf

    tokenizer = code_tokenizer(digits_apart=True)
    body = write_gguf(tmp_path / "tiny.gguf", tiny_llama(tokenizer.get_vocab_size()), tokenizer).read_bytes()
    files = {"tiny.gguf": body, "tiny.Q8_0.gguf": b"another", "config.json": b"{}"}
    for name, content in files.items():
        bucket.put(f"models/ggufs/{name}", content)
    hub.add("org/tiny-GGUF", files, "apache-2.0")
    storage = Storage(cache=tmp_path / "cache", s3=bucket.settings(proxy.url))
    with using(storage):
        for path in (f"{bucket.url}/models/ggufs/tiny.gguf", "org/tiny-GGUF/tiny.gguf"):
            assert load_model(find_model(path)).config.stored_as == "read from F32"
            found = storage.find_model(path)
            assert {file.name for file in found.parent.iterdir()} == {"tiny.gguf", "wmtp-manifest.json"}
        with pytest.raises(DataNotFoundError, match=r"none.gguf: no none.gguf in s3://.*/models/ggufs \(not there\)\."):
            find_model(f"{bucket.url}/models/ggufs/none.gguf")
    with using(Storage(cache=tmp_path / "cache", mode="offline", s3=bucket.settings(proxy.url))):
        assert load_model(find_model("org/tiny-GGUF/tiny.gguf"))


def test_one_model_of_a_repository_that_holds_several_comes_alone(hub, tmp_path):
    parts = {f"{name}/{file}": b"{}" for name in ("7B_1T_4", "7B_1T_1") for file in ("params.json", "consolidated.pth")}
    hub.add("org/several", parts | {"tokenizer.model": b"x"}, "mit")
    found = Storage(cache=tmp_path).find_model("org/several/7B_1T_4")
    files = {file.relative_to(found.parent).as_posix() for file in found.parent.rglob("*") if file.is_file()}
    assert files == {"7B_1T_4/params.json", "7B_1T_4/consolidated.pth", "tokenizer.model", "wmtp-manifest.json"}
    (tmp_path / "runs").mkdir()
    with pytest.raises(DataNotFoundError) as typo:
        Storage(cache=tmp_path).find_model(str(tmp_path / "runs" / "a"))
    assert "Hub" not in str(typo.value).split("Give")[0]


def test_a_checkpoint_in_s3_comes_with_what_belongs_to_it(proxy, bucket, tmp_path):
    names = ("config.yaml", "checkpoints/last.ckpt", "checkpoints/best.ckpt", "model/tokenizer.json", "report.html")
    for name in names:
        bucket.put(f"runs/x/{name}", name.encode())
    at = Storage(cache=tmp_path, s3={"endpoint_url": proxy.url})
    for address, name in (("runs/x", "last"), ("runs/x/checkpoints/best.ckpt", "best")):
        found = at.find_checkpoint(f"{bucket.url}/{address}")
        assert found.read_text() == f"checkpoints/{name}.ckpt"
        assert (found.parent.parent / "model" / "tokenizer.json").is_file()
        assert not (found.parent.parent / "report.html").exists()
    with pytest.raises(
        DataNotFoundError, match=r"ckpt = s3://\S+/runs/y: no checkpoints/last\.ckpt in s3://\S+ \(not there\)"
    ):
        at.find_checkpoint(f"{bucket.url}/runs/y")


# ---- configuration ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("settings", "sentence"),
    [
        ({"bucket": "b"}, r"storage\.bucket is a flat key; write it nested: storage\.s3\.bucket=…"),
        ({"s3_region": "b"}, r"write it nested: storage\.s3\.region=…"),
        ({"s3": {"secret_key": "b"}}, r"storage\.s3\.secret_key = \*\*\* holds a secret.*environment"),
        ({"hf_token": "b"}, r"storage\.hf_token = \*\*\* holds a secret.*HF_TOKEN"),
        ({"s3": {"endpoint_url": "http://me:pw@host"}}, r"endpoint_url = http://\*\*\*@host holds a secret"),
        ({"mode": "online"}, r"storage\.mode = 'online' must be one of auto, offline"),
        ({"colour": 1}, r"storage\.colour is not a key"),
        ({"s3": {"colour": 1}}, r"storage\.s3\.colour is not a key; there are bucket, prefix, endpoint_url, region"),
    ],
)
def test_a_wrong_setting_is_answered_with_the_right_one(settings, sentence):
    with pytest.raises(ConfigError, match=sentence) as refused:
        Storage(**settings)
    assert "pw" not in str(refused.value)


def test_the_manifest_proves_every_byte_and_holds_no_secret(proxy, bucket, tmp_path):
    bucket.put("mbpp/mbpp.jsonl", b"rows")
    find(Storage(cache=tmp_path, s3=bucket.settings(proxy.url)))
    (manifest,) = tmp_path.rglob(MANIFEST)
    entry = json.loads(manifest.read_text())["files"]["mbpp.jsonl"]
    assert entry["sha256"] == hashlib.sha256(b"rows").hexdigest() and entry["size"] == 4
    assert "test-secret" not in manifest.read_text() and "test-key-id" not in manifest.read_text()
