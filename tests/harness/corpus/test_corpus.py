"""Saved failures: written whole, read strictly, found by name, and harmless whoever wrote them."""

import errno
import json
import math
import multiprocessing
import os
import stat
import time
from dataclasses import fields, replace
from pathlib import Path

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from harness.corpus import entries
from harness.corpus.entries import CorruptEntry, Entry, Worst, find, load, save, slug
from harness.corpus.mark import Mark
from harness.errors import CannotRun
from harness.judging.verdict import Verdict
from strategies import AttentionCase, Features, Geometry, TensorSpec, attention_cases, build, checksum

FORK = multiprocessing.get_context("fork")
CASE = AttentionCase(Geometry(Nk=2), features=Features(causal=True))
VERDICT = Verdict(
    "wrong_values",
    "values",
    "O[0, 0, 0, 0] is nan and should be 1.5.",
    ratio=math.inf,
    tensor="O",
    where=(0, 0, 0, 0),
    got=math.nan,
    wanted=1.5,
    error=math.inf,
    budget=1e-6,
    parts={"scores": 1e-7, "store of O": 9e-7},
    votes={"naive_fp32": "agrees with float64", "sdpa_math": "agrees with float64"},
)
ENTRY = Entry(
    "path/to/bad.py:attention",
    "cpu",
    CASE,
    VERDICT,
    checksum(build(CASE)),
    {"python": "3.11.9", "torch": "2.13.0"},
    Worst(1234.5, CASE.replace(dtype="bf16")),
)


FULL = replace(ENTRY, mark=Mark("known", "issue 7")).to_json()
"""An entry with every key there is."""


def text_of(entry):
    return json.dumps(entry.to_json())


# --- what is in a file


def test_an_entry_comes_back_from_its_file(tmp_path):
    again = load(save(ENTRY, tmp_path))
    assert repr(again) == repr(ENTRY)  # by repr, since NaN is not equal to itself


def test_a_file_reads_well(tmp_path):
    content = save(ENTRY, tmp_path).read_text()
    assert content.startswith('{\n  "flashattest": 1,\n  "subject": "path/to/bad.py:attention",\n')
    assert content.endswith("}\n")
    assert f'  "repr": {json.dumps(repr(CASE))},\n' in content
    assert '    "where": [0, 0, 0, 0],\n' in content
    assert '    "got": "nan",\n' in content
    json.loads(content, parse_constant=lambda name: pytest.fail(f"{name} is not JSON"))


def test_the_same_entry_is_the_same_bytes(tmp_path):
    assert save(ENTRY, tmp_path / "a").read_bytes() == save(ENTRY, tmp_path / "b").read_bytes()


def test_every_field_of_a_verdict_is_kept():
    of_this_run = {"place"}  # a line of the subject, which its sentence names
    assert set(entries._VERDICT) == {field.name for field in fields(Verdict)} - of_this_run


def test_what_a_verdict_does_not_say_is_left_out():
    raised = replace(ENTRY, verdict=Verdict("raised", "returns", "The call raised ValueError: no."))
    assert raised.to_json()["verdict"] == {
        "kind": "raised",
        "check": "returns",
        "sentence": "The call raised ValueError: no.",
        "ratio": "inf",
    }


BACKWARD = CASE.replace(
    operation="forward_backward",
    features=Features(return_lse=True),
    dO=TensorSpec("one_hot", 3, "expanded_all"),
    dLSE=TensorSpec(seed=4),
    needs_grad=("q", "v"),
)


@given(case=attention_cases(gradients=True))
def test_every_case_survives_the_file(case):
    entry = replace(ENTRY, case=case, worst=None)
    assert Entry.from_json(json.loads(text_of(entry))).case == case


def test_text_that_is_not_unicode_is_saved_readably(tmp_path):
    verdict = replace(VERDICT, sentence="The call raised OSError: \udce9")
    assert load(save(replace(ENTRY, verdict=verdict), tmp_path)).verdict.sentence.endswith("OSError: ?")


# --- the id


def test_id_is_twelve_hexadecimal_digits_and_names_the_file(tmp_path):
    assert len(ENTRY.id) == 12
    assert int(ENTRY.id, 16) >= 0
    assert save(ENTRY, tmp_path) == tmp_path / "bad.attention" / f"{ENTRY.id}.json"


def test_id_stays_the_same_over_versions():
    assert ENTRY.id == "80f2ce2c07f8"


def test_other_seeds_of_what_comes_back_are_the_same_fault():
    entry = replace(ENTRY, case=BACKWARD)
    reseeded = BACKWARD.replace(dO=BACKWARD.dO.replace(seed=8), dLSE=TensorSpec(seed=9))
    assert replace(entry, case=reseeded).id == entry.id != ENTRY.id
    assert replace(entry, case=BACKWARD.replace(needs_grad=("q",))).id != entry.id


def test_a_forward_says_nothing_of_gradients():
    assert ENTRY.to_json()["case"] == {"geometry": {"Nk": 2}, "features": {"causal": True}}


def test_a_version_that_knows_no_backward_refuses_its_entries(tmp_path, monkeypatch):
    path = save(replace(ENTRY, case=BACKWARD), tmp_path)
    monkeypatch.setattr("strategies.case.OPERATIONS", ("forward",))
    with pytest.raises(CorruptEntry, match="operation must be one of forward, not 'forward_backward'"):
        load(path)


@pytest.mark.parametrize(
    "same",
    [
        replace(ENTRY, case=CASE.replace(q=TensorSpec(seed=7), v=TensorSpec(seed=8))),
        replace(ENTRY, device="cuda"),
        replace(ENTRY, worst=None, versions={}),
        replace(ENTRY, verdict=replace(VERDICT, ratio=2.0, sentence="Another number.")),
    ],
)
def test_the_same_fault_has_one_id(same):
    assert same.id == ENTRY.id


@pytest.mark.parametrize(
    "other",
    [
        replace(ENTRY, subject="other/bad.py:attention"),
        replace(ENTRY, verdict=replace(VERDICT, kind="not_finite")),
        replace(ENTRY, verdict=replace(VERDICT, check="lse")),
        replace(ENTRY, case=CASE.replace(dtype="bf16")),
        replace(ENTRY, case=CASE.replace(q=TensorSpec(layout="sliced"))),
    ],
)
def test_another_fault_has_another_id(other):
    assert other.id != ENTRY.id


@pytest.mark.parametrize(
    ("subject", "folder"),
    [
        ("kernel:flash_attention", "kernel.flash_attention"),
        ("path/to/bad.py:attention", "bad.attention"),
        ("/abs/bad.py:Kernel.forward", "bad.Kernel.forward"),
        ("C:\\kernels\\bad.py:attention", "bad.attention"),
        ("package.module:function", "package.module.function"),
        ("sdpa", "sdpa"),
        ("../..:..", "subject"),
        ("a b/c*?.py:f\n", "c.f"),
        ("x" * 1000, "x" * 100),
    ],
)
def test_slug_is_safe_as_a_folder(subject, folder):
    assert slug(subject) == folder


# --- saving


def test_the_same_fault_is_saved_once(tmp_path):
    first = save(ENTRY, tmp_path)
    before = first.read_bytes()
    again = save(replace(ENTRY, case=CASE.replace(q=TensorSpec(seed=7))), tmp_path)
    assert again == first
    assert first.read_bytes() == before


def test_a_torn_file_is_replaced(tmp_path):
    path = save(ENTRY, tmp_path)
    path.write_bytes(path.read_bytes()[:50])
    save(ENTRY, tmp_path)
    assert load(path).id == ENTRY.id


def test_a_file_of_a_later_version_is_left_as_it_is(tmp_path):
    path = save(ENTRY, tmp_path)
    path.write_text(json.dumps(changed(flashattest=2)))
    assert save(ENTRY, tmp_path) == path
    assert json.loads(path.read_text())["flashattest"] == 2
    with pytest.raises(entries.OtherFormat, match=str(path)):
        load(path)


def _save_from_another_process(folder, start):
    start.wait()
    for _ in range(20):
        save(ENTRY, folder).unlink(missing_ok=True)
    save(ENTRY, folder)


def test_campaigns_in_parallel_save_the_same_fault_once_and_whole(tmp_path):
    start = FORK.Barrier(4)
    writers = [FORK.Process(target=_save_from_another_process, args=(tmp_path, start)) for _ in range(4)]
    for writer in writers:
        writer.start()
    for writer in writers:
        writer.join()
    assert [writer.exitcode for writer in writers] == [0] * 4
    (left,) = (path for path in tmp_path.rglob("*") if path.is_file())
    assert load(left).id == ENTRY.id


def test_a_disk_that_fills_up_while_it_is_written_is_one_sentence(tmp_path, monkeypatch):
    def full(descriptor, content=b""):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr("harness.io.files.os.replace", full)
    with pytest.raises(CannotRun, match=r"cannot be saved as .*\.json: No space left on device\.$"):
        save(ENTRY, tmp_path)
    assert [path for path in tmp_path.rglob("*") if path.is_file()] == []


@pytest.mark.parametrize(("options", "sentence"), [("size=4k", "No space left"), ("ro", "Read-only file system")])
def test_a_real_disk_that_takes_no_file_is_one_sentence(disk, options, sentence):
    folder = disk(options)
    with pytest.raises(CannotRun, match=rf"{ENTRY.id}\.json: {sentence}"):
        save(ENTRY, folder)
    assert list(folder.rglob("*.json*")) == []


def test_a_real_disk_with_room_takes_the_file(disk):
    assert load(save(ENTRY, disk("size=64k"))).id == ENTRY.id


def test_a_disk_that_cannot_sync_a_folder_loses_nothing(tmp_path, monkeypatch):
    sync = os.fsync

    def files_alone(handle):
        if stat.S_ISDIR(os.fstat(handle).st_mode):
            raise OSError(errno.EINVAL, "Invalid argument")
        sync(handle)

    monkeypatch.setattr(os, "fsync", files_alone)
    assert load(save(ENTRY, tmp_path)).id == ENTRY.id


def test_a_full_disk_leaves_nothing_behind_and_is_one_sentence(tmp_path, monkeypatch):
    def full(handle):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(CannotRun, match=rf"{ENTRY.id}\.json: No space left on device\.$"):
        save(ENTRY, tmp_path)
    assert [path for path in tmp_path.rglob("*") if path.is_file()] == []


def test_a_file_in_the_place_of_the_corpus_is_one_sentence(tmp_path):
    (tmp_path / "corpus").write_text("")
    with pytest.raises(CannotRun, match="cannot be saved as"):
        save(ENTRY, tmp_path / "corpus")


def test_content_is_on_the_disk_before_it_has_its_name(tmp_path, monkeypatch):
    done = []
    sync, rename = os.fsync, os.replace
    monkeypatch.setattr(os, "fsync", lambda handle: done.append("sync") or sync(handle))
    monkeypatch.setattr(
        os, "replace", lambda old, new: done.append(Path(old).parent == Path(new).parent) or rename(old, new)
    )
    save(ENTRY, tmp_path)
    assert done == ["sync", True, "sync"]


# --- finding


@pytest.fixture
def saved(tmp_path):
    """A corpus of three failures of two subjects."""
    entries = [ENTRY, replace(ENTRY, subject="sdpa"), replace(ENTRY, case=CASE.replace(dtype="fp16"))]
    return tmp_path, [save(entry, tmp_path) for entry in entries]


def test_find_without_a_selector_is_the_whole_corpus(saved):
    root, paths = saved
    assert find(root) == sorted(paths)
    assert find(root / "nowhere") == []


def test_find_by_id_beginning_file_and_folder(saved):
    root, paths = saved
    assert find(root, [paths[0].stem]) == [paths[0]]
    assert find(root, [paths[1].stem[:6]]) == [paths[1]]
    assert find(root, [paths[2]]) == [paths[2]]
    assert find(root, [str(root / "sdpa")]) == [paths[1]]
    assert find(root, [paths[1], root / "sdpa"]) == [paths[1]]


@pytest.mark.parametrize("selector", ["0123456789ab", "", "../..", "*", "[0-9]", "0/../0", "a.json", "\0"])
def test_find_says_what_matches_nothing(tmp_path, selector):
    selector = str(tmp_path / "none") if selector in ("", "../..") else selector
    with pytest.raises(CannotRun, match="is neither a file nor the id of a failure saved in"):
        find(tmp_path, [selector])


# --- untrusted files


def without(name):
    return {key: value for key, value in ENTRY.to_json().items() if key != name}


def changed(**parts):
    return ENTRY.to_json() | parts


def in_verdict(**parts):
    return changed(verdict=ENTRY.to_json()["verdict"] | parts)


@pytest.mark.parametrize(
    ("data", "sentence"),
    [
        ([], "must be a JSON object"),
        (without("flashattest"), "must say its format"),
        (changed(flashattest=True), "must say its format"),
        (changed(flashattest=2), "has the format 2, and this version of Flashattest reads 1"),
        (without("case"), "must have the field 'case'"),
        (changed(more=1), "has no field 'more'"),
        (changed(subject=3), "A text was expected"),
        (changed(subject=""), "subject must be a name"),
        (changed(subject="a\x1b[31m"), "subject must be a name"),
        (changed(device="tpu"), "device must be one of"),
        (changed(checksum="0"), "checksum must be 64"),
        (changed(case={"dtype": "fp8"}), "dtype must be one of"),
        (changed(case={"geometry": {"B": 10**9}}), "B must be a whole number"),
        (changed(case={"geometry": {"B": 10**5, "Nq": 10**4, "d": 1000}}), "holds at most"),
        (changed(case={"geometry": {"B": 60, "Nq": 60000, "Nk": 60000}}), "at most 67108864 scores"),
        (changed(case={"geometry": {"B": 16, "Nq": 60000, "d": 256}}), "scores and elements, not 245760000"),
        (changed(worst={"ratio": 1, "case": {"geometry": {"B": 60, "Nq": 60000, "Nk": 60000}}}), "at most"),
        (in_verdict(kind="odd"), "kind must be one of"),
        (in_verdict(where=[True]), "whole numbers"),
        (in_verdict(got="1.5"), "A number was expected"),
        (in_verdict(got=10**400), "too large"),
        (in_verdict(parts={"a": None}), "A number was expected"),
        (in_verdict(votes=[]), "must be a JSON object"),
        (in_verdict(sentence="\ud800"), "surrogates not allowed"),
    ],
)
def test_what_is_not_an_entry_is_refused_in_one_sentence(tmp_path, data, sentence):
    path = tmp_path / "entry.json"
    path.write_text(json.dumps(data))
    with pytest.raises(CorruptEntry, match=sentence) as caught:
        load(path)
    assert str(path) in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"\xff\xfe",
        b"{",
        b'{"flashattest": 1',
        b"[" * 100_000,
        b"1" * 5000,
        b'{"flashattest": NaN}',
        b'{"flashattest": -Infinity}',
        b'{"flashattest": 1e999}',
        b'{"flashattest": 1, "flashattest": 1}',
        b'{"a":' * 100_000,
        b"{" + b",".join(b'"%d":0' % n for n in range(80_000)) + b',"9":0}',
        b" " * (entries.MAX_BYTES + 1),
    ],
)
def test_what_is_not_json_of_bounded_size_is_refused(tmp_path, content):
    path = tmp_path / "entry.json"
    path.write_bytes(content)
    with pytest.raises(CorruptEntry, match="is not a saved failure"):
        load(path)


def test_what_is_no_regular_file_is_refused_without_waiting(tmp_path):
    os.mkfifo(tmp_path / "pipe.json")
    for path in (tmp_path / "pipe.json", tmp_path):
        with pytest.raises(CorruptEntry, match="not a regular file"):
            load(path)
    with pytest.raises(CorruptEntry, match="cannot be read: No such file"):
        load(tmp_path / "missing.json")


def test_repr_is_shown_and_never_evaluated(tmp_path):
    path = tmp_path / "entry.json"
    path.write_text(json.dumps(changed(repr=f"open({str(tmp_path / 'touched')!r}, 'w')")))
    assert load(path).case == CASE
    assert not (tmp_path / "touched").exists()


JSON = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats()
    | st.text()
    | st.sampled_from([10**400, -(10**4000), 2**63, 1e308, "nan", "inf", "__class__", "../..", "\x1b[31m", "\0"]),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=8,
)


def places(value, path=()):
    """Where a JSON value can be changed: the path of every part of it."""
    inner = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    return [path, *(place for key, item in inner for place in places(item, (*path, key)))]


def put(value, path, part):
    """The JSON value with another part at a path."""
    if not path:
        return part
    copy = dict(value) if isinstance(value, dict) else list(value)
    copy[path[0]] = put(copy[path[0]], path[1:], part)
    return copy


SECONDS = 5.0
"""What a loader may take at most, on a machine with other work: without the file it takes milliseconds."""


def load_bytes(folder, content):
    """Load a file of these bytes, quickly; what comes out is an entry, or CorruptEntry and nothing else."""
    path = folder / "entry.json"
    path.write_bytes(content)
    start = time.monotonic()
    try:
        return load(path)
    except CorruptEntry:
        return None
    finally:
        assert time.monotonic() - start < SECONDS


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("untrusted")


@given(content=st.binary())
def test_no_bytes_break_the_loader(folder, content):
    assert load_bytes(folder, content) is None


@given(where=st.sampled_from(places(FULL)), part=JSON)
@example(where=("case",), part={"history": [[]]})
@example(where=("case", "geometry"), part=None)
@example(where=("case",), part={"features": {"seqlens_k": [[1]]}})
def test_no_changed_part_breaks_the_loader(folder, where, part):
    changed = put(FULL, where, part)
    entry = load_bytes(folder, json.dumps(changed).encode())
    assert entry is None or json.loads(text_of(entry)) is not None


@given(data=st.data())
def test_no_damaged_file_breaks_the_loader(folder, data):
    content = bytearray(text_of(ENTRY).encode())
    start = data.draw(st.integers(0, len(content)))
    content[start : start + data.draw(st.integers(0, 40))] = data.draw(st.binary(max_size=40))
    entry = load_bytes(folder, bytes(content))
    assert entry is None or len(entry.id) == 12


@given(where=st.sampled_from(places(FULL)), depth=st.integers(2, 200_000), bracket=st.sampled_from("[{"))
@example(where=(), depth=200_000, bracket="[")
def test_no_depth_breaks_the_loader(folder, where, depth, bracket):
    deep = "[" * depth + "]" * depth if bracket == "[" else '{"a":' * depth + "1" + "}" * depth
    content = json.dumps(put(FULL, where, "HERE")).replace('"HERE"', deep)
    assert load_bytes(folder, content.encode()) is None or where == ("repr",)


@given(where=st.sampled_from([path for path in places(FULL) if path]))
def test_a_repeated_key_is_refused(folder, where):
    twice = put(FULL, where, "HERE")
    content = json.dumps(twice).replace('"HERE"', '{"twin": 1, "twin": 2}')
    assert load_bytes(folder, content.encode()) is None


@given(where=st.sampled_from(places(FULL)), word=st.sampled_from(["NaN", "Infinity", "-Infinity", "-1e999"]))
def test_no_number_is_past_float64(folder, where, word):
    content = json.dumps(put(FULL, where, "HERE")).replace('"HERE"', word)
    assert load_bytes(folder, content.encode()) is None


@given(
    version=st.integers().filter(lambda version: version != entries.ENTRY_FORMAT),
    more=st.dictionaries(st.text(), st.integers() | st.text()),
)
def test_every_other_version_is_refused_by_its_number(folder, version, more):
    (folder / "later.json").write_text(json.dumps(more | {"flashattest": version}))
    with pytest.raises(entries.OtherFormat, match=f"has the format {version}, and this version"):
        load(folder / "later.json")


@given(B=st.integers(1, 2**18), H=st.integers(1, 2**18), N=st.integers(0, 2**16), d=st.integers(1, 1024))
def test_no_case_of_a_file_is_larger_than_the_bound(folder, B, H, N, d):
    geometry = {"B": B, "Hq": H, "Nq": N, "Nk": N, "d": d}
    entry = load_bytes(folder, json.dumps(changed(case={"geometry": geometry})).encode())
    largest = max(B * H * N * N, B * H * N * d, B * N * d)
    assert (entry is not None) == (largest <= entries.MAX_SAVED_SIZE)
