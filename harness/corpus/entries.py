"""The corpus: one readable JSON file for each failure, read back as untrusted data.

A file is named by its fault: subject, kind, check and the shrunk case without its seeds. So the same fault is saved
once, by however many campaigns. Nothing in a file is ever evaluated.
"""

from __future__ import annotations

import dataclasses
import hashlib
import importlib.metadata
import json
import math
import platform
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from harness.corpus.mark import Mark
from harness.errors import CannotRun
from harness.io.files import read_bounded, write_whole
from harness.io.reading import Read, an_object, fields, index, mapping, number, text
from harness.io.strict_json import parse
from harness.judging.verdict import Verdict, finite_or_text
from harness.running.devices import DEVICES
from harness.subject.signature import split_signature
from strategies import AttentionCase, TensorSpec, build, checksum
from strategies.spec import require

ENTRY_FORMAT = 1
MARKER = "flashattest"
"""The first key of every file; its value is the format."""

ID_DIGITS = 12
MAX_BYTES = 1 << 20
MAX_SAVED_SIZE = 1 << 26
"""Most scores of a saved case, and most elements of each of its tensors: 512 MiB in float64, far more than a campaign
draws. A case holds no tensor, so a larger one is refused before anything of its size is allocated."""

_LIBRARIES = ("torch", "triton", "numpy", "flashattest")
_LINE = 100


class CorruptEntry(CannotRun):
    """A file that is not a saved failure that this version reads: one sentence that names the file."""


class OtherFormat(CorruptEntry):
    """A file in a format that this version does not read, usually of a later version."""


class _FormatError(ValueError):
    """The format of an entry is not ours."""


@dataclass(frozen=True)
class Worst:
    """The case with the largest error/budget that was met before the shrinking."""

    ratio: float
    case: AttentionCase


@dataclass(frozen=True)
class Entry:
    """A saved failure: the smallest case that showed it, the verdict, and the device.

    subject: its name as on the command line. checksum: of the tensors of the case. versions: of Python and libraries.
    mark: set by a person. An older version refuses a file with this key; if it ignored the key, it would fail what is
    marked as known.
    """

    subject: str
    device: str
    case: AttentionCase
    verdict: Verdict
    checksum: str
    versions: Mapping[str, str]
    worst: Worst | None = None
    mark: Mark | None = None

    def __post_init__(self) -> None:
        is_name = self.subject.isprintable() and 1 <= len(self.subject) <= 1000
        require(is_name, "subject must be a name of 1 to 1000 printable characters.")
        require(self.device in DEVICES, f"device must be one of {', '.join(DEVICES)}, not {self.device!r}.")
        require(re.fullmatch("[0-9a-f]{64}", self.checksum) is not None, "checksum must be 64 hexadecimal digits.")
        for case in (self.case, *([self.worst.case] if self.worst else [])):
            size = max(case.work, math.prod(case.geometry.q_shape), math.prod(case.geometry.k_shape))
            require(
                size <= MAX_SAVED_SIZE, f"A saved case has at most {MAX_SAVED_SIZE} scores and elements, not {size}."
            )

    @property
    def kind(self) -> str:
        """The kind of the failure."""
        return self.verdict.kind

    @property
    def check(self) -> str:
        """The check that failed."""
        return self.verdict.check

    @property
    def id(self) -> str:
        """Twelve hexadecimal digits that name the fault, whatever the seeds of its case."""
        fault = [self.subject, self.kind, self.check, _without_seeds(self.case).to_json()]
        return hashlib.sha256(json.dumps(fault, sort_keys=True).encode()).hexdigest()[:ID_DIGITS]

    def to_json(self) -> dict[str, Any]:
        """Return plain JSON values, in an order that is easy to read."""
        worst = self.worst and {"ratio": finite_or_text(self.worst.ratio), "case": self.worst.case.to_json()}
        return {
            MARKER: ENTRY_FORMAT,
            "subject": self.subject,
            "device": self.device,
            "repr": repr(self.case),
            "case": self.case.to_json(),
            "verdict": verdict_to_json(self.verdict),
            **({"worst": worst} if worst else {}),
            "checksum": self.checksum,
            "versions": dict(self.versions),
            **({"mark": self.mark.to_json()} if self.mark else {}),
        }

    @classmethod
    def from_json(cls, data: object) -> Entry:
        """Read what `to_json` wrote. Raises ValueError, in one sentence, for anything else."""
        found = an_object("A saved failure", data).get(MARKER)
        require(type(found) is int, f"A saved failure must say its format under {MARKER!r}.")
        if found != ENTRY_FORMAT:
            raise _FormatError(f"It has the format {found}, and this version of Flashattest reads {ENTRY_FORMAT}.")
        return cls(**fields("A saved failure", data, _ENTRY, optional={"worst", "mark"}, dropped={MARKER, "repr"}))


def make_entry(case: AttentionCase, verdict: Verdict, subject: str, device: str, worst: Worst | None = None) -> Entry:
    """Return the entry for a failure. Raises CannotRun where its case is too large to save."""
    try:
        return Entry(subject, device, case, verdict, checksum(build(case)), versions(), worst)
    except ValueError as error:
        raise CannotRun(f"The failure of {subject} cannot be saved: {error}") from error


def versions() -> dict[str, str]:
    """Return the versions of Python and of the libraries that a failure may depend on."""
    return {"python": platform.python_version(), **{name: _version(name) for name in _LIBRARIES}}


def slug(subject: str) -> str:
    """Return the name of a subject's folder: `path/to/bad.py:attention` is saved in `bad.attention`."""
    place, _, attribute = split_signature(subject)[0].rpartition(":")
    module = re.split(r"[/\\]", place)[-1].removesuffix(".py")
    words = re.findall(r"[A-Za-z0-9_-]+", f"{module}.{attribute}")
    return ".".join(words)[:100] or "subject"


def path_of(entry: Entry, corpus: Path) -> Path:
    """Return the file of an entry in a corpus."""
    return corpus / slug(entry.subject) / f"{entry.id}.json"


def save(entry: Entry, corpus: Path) -> Path:
    """Write an entry to a corpus, whole or not at all, and return its file.

    A file of the same fault stays as it is, with its mark, and so does one of a later version; a corrupt one is
    replaced. Raises CannotRun where nothing can be written.
    """
    path = path_of(entry, corpus)
    if not _is_readable(path):
        _write(entry, path)
    return path


def load(path: Path) -> Entry:
    """Read a saved failure. Raises CorruptEntry, in one sentence that names the file, for anything else."""
    try:
        return Entry.from_json(parse(read_bounded(path, MAX_BYTES)))
    except OSError as error:
        raise CorruptEntry(f"{path} cannot be read: {error.strerror or error}.") from error
    except _FormatError as error:
        raise OtherFormat(f"{path} is not a saved failure that can be read here: {error}") from error
    except RecursionError as error:
        raise CorruptEntry(f"{path} is not a saved failure: It is nested too deeply.") from error
    except (ValueError, OverflowError) as error:
        raise CorruptEntry(f"{path} is not a saved failure: {str(error)[:300]}") from error


def mark(path: Path, mark: Mark | None) -> None:
    """Mark a file, or remove its mark (None). Raises CorruptEntry, and CannotRun where it cannot be written."""
    _write(dataclasses.replace(load(path), mark=mark), path)


def remove(path: Path) -> None:
    """Remove a failure from its corpus. Raises CannotRun where that is not allowed."""
    try:
        path.unlink()
    except OSError as error:
        raise CannotRun(f"{path} cannot be removed: {error.strerror or error}.") from error


def find(corpus: Path, selectors: Iterable[str | Path] = ()) -> list[Path]:
    """Return the files that ids, beginnings of ids, files and folders select; with no selector, the whole corpus.

    Raises CannotRun for a selector that matches nothing.
    """
    selectors = list(selectors)
    if not selectors:
        return sorted(corpus.glob("*/*.json"))
    found = dict.fromkeys(path for selector in selectors for path in _select(corpus, selector))
    return list(found)


def find_one(corpus: Path, selector: str | Path) -> Path:
    """Return the one file that an id, a beginning of one, or a path selects. Raises CannotRun for none or several."""
    found = _select(corpus, selector)
    if len(found) != 1:
        raise CannotRun(f"{selector} selects {len(found)} failures; name one by its whole id or its file.")
    return found[0]


def _select(corpus: Path, selector: str | Path) -> list[Path]:
    path = Path(selector)
    if path.is_file():
        return [path]
    if path.is_dir():
        return sorted(path.rglob("*.json"))
    is_id = re.fullmatch(f"[0-9a-f]{{1,{ID_DIGITS}}}", str(selector)) is not None
    found = sorted(corpus.glob(f"*/{selector}*.json")) if is_id else []
    if not found:
        raise CannotRun(f"{selector} is neither a file nor the id of a failure saved in {corpus}.")
    return found


def _without_seeds(case: AttentionCase) -> AttentionCase:
    specs = {field.name: getattr(case, field.name) for field in dataclasses.fields(case)}
    return case.replace(**{n: spec.replace(seed=0) for n, spec in specs.items() if isinstance(spec, TensorSpec)})


def _version(library: str) -> str:
    try:
        return importlib.metadata.version(library)
    except importlib.metadata.PackageNotFoundError:
        return "not installed"


def _write(entry: Entry, path: Path) -> None:
    content = _render(entry.to_json()) + "\n"
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        write_whole(path, content.encode(errors="replace"))
    except OSError as error:
        raise CannotRun(f"The failure cannot be saved as {path}: {error.strerror or error}.") from error


def _is_readable(path: Path) -> bool:
    """Whether a file is a saved failure of this version or a later one."""
    try:
        load(path)
    except OtherFormat:
        return True
    except CorruptEntry:
        return False
    return True


def _render(value: Any, indent: int = 0) -> str:
    """Return JSON with an indent of 2, in which a value that fits on one line is on one line."""
    line = json.dumps(value, ensure_ascii=False)
    if not isinstance(value, dict) or len(line) + indent <= _LINE - 20:
        return line
    inner = " " * (indent + 2)
    items = (f"{inner}{json.dumps(key)}: {_render(item, indent + 2)}" for key, item in value.items())
    return "{\n" + ",\n".join(items) + "\n" + " " * indent + "}"


def verdict_from_json(data: object) -> Verdict:
    """Read what `verdict_to_json` wrote. Raises ValueError, in one sentence, for anything else."""
    return Verdict(**fields("verdict", data, _VERDICT, optional=set(_VERDICT) - {"kind", "check", "sentence"}))


def verdict_to_json(verdict: Verdict) -> dict[str, Any]:
    """Return a verdict as plain JSON values; fields that are None or empty are left out."""
    values = {name: getattr(verdict, name) for name in _VERDICT}
    return {name: _plain(value) for name, value in values.items() if value not in (None, {})}


def _plain(value: Any) -> Any:
    if isinstance(value, float):
        return finite_or_text(value)
    if isinstance(value, dict):
        return {name: _plain(item) for name, item in value.items()}
    return value


def _worst(data: object) -> Worst:
    return Worst(**fields("worst", data, {"ratio": number, "case": AttentionCase.from_json}, optional=set()))


_VERDICT: dict[str, Read] = {
    "kind": text,
    "check": text,
    "sentence": text,
    "ratio": number,
    "tensor": text,
    "where": index,
    "got": number,
    "wanted": number,
    "error": number,
    "budget": number,
    "parts": mapping(number),
    "votes": mapping(text),
}
_ENTRY: dict[str, Read] = {
    "subject": text,
    "device": text,
    "case": AttentionCase.from_json,
    "verdict": verdict_from_json,
    "checksum": text,
    "versions": mapping(text),
    "worst": _worst,
    "mark": Mark.from_json,
}
