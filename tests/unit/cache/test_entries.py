"""Hold the cache to its word: the same input is read, another is made, a damaged entry is made again."""

import multiprocessing
import os
import time
from pathlib import Path

import pytest
import torch

from wmtp.cache import fingerprint
from wmtp.cache.entries import build_together, entry_file, read_entry, read_or_build
from wmtp.cache.fingerprint import digest_of_file
from wmtp.data.module import MTPDataModule
from wmtp.data.prompts import Synthetic0Shot
from wmtp.data.synthetic import Synthetic
from wmtp.models.tokenizer import load_tokenizer

TOKENIZER = Path(__file__).parents[3] / "wmtp" / "assets" / "tokenizer"


@pytest.fixture
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("WMTP_CACHE", str(tmp_path))
    return tmp_path


def module(**source) -> MTPDataModule:
    source = Synthetic(**{"train_size": 30, "validation_size": 4, "noise": 0.5, **source})
    return MTPDataModule(source, Synthetic0Shot(), load_tokenizer(TOKENIZER), token_budget=512, max_length=90)


def files_in(cache: Path) -> dict[str, float]:
    return {file.name: file.stat().st_mtime_ns for file in cache.glob("tokens/*.safetensors")}


def same(one, other) -> bool:
    return list(one.tensors) == list(other.tensors) and all(
        map(torch.equal, one.tensors.values(), other.tensors.values())
    )


def test_a_second_start_neither_generates_nor_tokenizes(cache, monkeypatch):
    first = module()
    first.setup()
    monkeypatch.setattr(Synthetic, "stream", lambda *_: pytest.fail("generated again"))
    second = module()
    second.setup()
    for split in ("train", "validation"):
        assert same(first.samples[split], second.samples[split])
        assert first.dropped[split] == second.dropped[split]
    assert first.dropped["train"] and any(any(sample.noise) for sample in second.samples["train"])


def test_whatever_decides_the_tokens_changes_the_key(cache, monkeypatch):
    tokenizer = load_tokenizer(TOKENIZER)
    tokenizer.add_tokens(["<extra>"])
    others = [module(), module(seed=43), module(noise=0.25), module(), module(), module()]
    others[3].tokenizer = tokenizer
    others[4].max_length = 80

    class Louder(Synthetic0Shot):
        pass

    others[5].prompt = Louder()
    keys = [entry_file("tokens", other.key("train")) for other in others]
    keys.append(entry_file("tokens", module().key("validation")))
    with monkeypatch.context() as patch:  # an edited line of code
        getsource = fingerprint.inspect.getsource
        patch.setattr(fingerprint.inspect, "getsource", lambda of: getsource(of) + "\n1")
        keys.append(entry_file("tokens", module().key("train")))
    assert len(set(keys)) == len(keys) == 8
    assert entry_file("tokens", module().key("train")) == keys[0]


def flipped(content: bytes, at: int) -> bytes:
    return content[:at] + bytes([content[at] ^ 1]) + content[at + 1 :]


@pytest.mark.parametrize(
    "damage", ["truncated", "empty", "a flipped bit in the tokens", "a flipped bit in the header", "no tensors"]
)
def test_a_damaged_entry_is_made_again_and_said_so(cache, capsys, damage):
    first = module()
    first.setup()
    file = max(cache.glob("tokens/*.safetensors"), key=lambda file: file.stat().st_size)
    whole = file.read_bytes()
    damaged = {
        "truncated": whole[:-100],
        "empty": b"",
        "a flipped bit in the tokens": flipped(whole, len(whole) // 2),
        "a flipped bit in the header": flipped(whole, 40),
        "no tensors": b"\2" + b"\0" * 7 + b"{}",
    }
    file.unlink()  # what is mapped stays as it was
    file.write_bytes(damaged[damage])
    second = module()
    second.setup()
    assert f"{file} is damaged; making it again" in capsys.readouterr().err
    assert same(second.samples["train"], first.samples["train"])
    assert file.read_bytes() == whole
    assert not list(cache.rglob("*.tmp"))


def test_a_cache_that_cannot_be_written_is_said_and_training_goes_on(tmp_path, monkeypatch, capsys):
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("WMTP_CACHE", str(tmp_path / "file"))
    data = module()
    data.setup()
    assert len(data.samples["train"]) > 20
    assert "cannot keep" in capsys.readouterr().err


def build_slowly(file: Path, seconds: float, said: Path) -> None:
    def build():
        with said.open("a") as journal:
            journal.write("building\n")
        time.sleep(seconds)
        return {"x": torch.arange(1000)}

    total = int(read_or_build(file, build)["x"].sum())
    with said.open("a") as journal:
        journal.write(f"{total}\n")


def test_of_two_processes_one_builds_and_a_killed_builder_is_replaced(tmp_path):
    file, said = tmp_path / "entry.safetensors", tmp_path / "said"
    fork = multiprocessing.get_context("fork")
    killed, *both = (fork.Process(target=build_slowly, args=(file, wait, said)) for wait in (600, 0.2, 0.2))
    killed.start()
    while not said.exists():
        time.sleep(0.01)
    for process in both:
        process.start()
    killed.kill()
    for process in (killed, *both):
        process.join(timeout=30)
    assert said.read_text().split() == ["building", "building", "499500", "499500"]
    assert torch.equal(read_entry(file)["x"], torch.arange(1000))


def share_work(folder: Path, names: str, seconds: float, said: Path) -> None:
    def build(name: str) -> dict[str, torch.Tensor]:
        with said.open("a") as journal:
            journal.write(f"{name}\n")
        time.sleep(seconds)
        return {"x": torch.tensor([ord(name)])}

    entries = build_together(((folder / f"{name}.safetensors", name) for name in names), build)
    assert {work: chr(entry["x"]) for _, work, entry in entries} == {name: name for name in names}


def test_processes_share_entries_and_take_over_what_a_killed_one_had_claimed(tmp_path):
    said = tmp_path / "said"
    fork = multiprocessing.get_context("fork")
    killed = fork.Process(target=share_work, args=(tmp_path, "abcd", 600, said))
    both = [fork.Process(target=share_work, args=(tmp_path, names, 0.2, said)) for names in ("abcd", "cdab")]
    killed.start()
    while not said.exists():
        time.sleep(0.01)
    for process in both:
        process.start()
    while len(said.read_text().split()) < 4:  # all but what is claimed
        assert all(process.is_alive() for process in both)
        time.sleep(0.01)
    killed.kill()
    for process in (killed, *both):
        process.join(timeout=30)
    assert [process.exitcode for process in both] == [0, 0]
    assert sorted(said.read_text().split()) == ["a", "a", "b", "c", "d"]


def test_what_a_killed_writer_left_is_cleared_away(tmp_path):
    file = tmp_path / "entry.safetensors"
    left = tmp_path / ".entry.safetensors.123.tmp"
    left.write_bytes(b"half")
    read_or_build(file, lambda: {"x": torch.arange(3)})
    assert sorted(path.name for path in tmp_path.iterdir()) == ["entry.lock", "entry.safetensors"]


def test_entries_are_mapped_not_copied(tmp_path):
    entry = read_or_build(tmp_path / "big.safetensors", lambda: {"x": torch.ones(50_000_000, dtype=torch.uint8)})
    mapped = [line for line in Path("/proc/self/maps").read_text().splitlines() if "big.safetensors" in line]
    assert mapped and len(entry["x"]) == 50_000_000


def test_a_large_file_is_hashed_once_and_again_when_it_changed(cache, tmp_path, monkeypatch):
    monkeypatch.setattr(fingerprint, "LARGE", 10)
    reads = []
    read = fingerprint._read_digest
    monkeypatch.setattr(fingerprint, "_read_digest", lambda file: reads.append(file) or read(file))
    started = time.time()
    monkeypatch.setattr(fingerprint.time, "time", lambda: started + 60)
    file = tmp_path / "data.jsonl"
    file.write_text("a" * 100)
    first = digest_of_file(file)
    assert digest_of_file(file) == first and len(reads) == 1
    times = (file.stat().st_atime_ns, file.stat().st_mtime_ns)
    file.write_text("b" * 100)
    os.utime(file, ns=times)  # the same size and the same time
    assert digest_of_file(file) != first and len(reads) == 2
