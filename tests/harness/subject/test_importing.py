"""A user's package wins over another of its name, installed or loaded; our running packages stay loaded."""

import subprocess
import sys

import pytest

from harness.subject.importing import OURS, import_from

LOADS = """
import sys
from harness.subject.loading import load
for name in sys.argv[1:]:
    try:
        print(load(name).function(1, 2, 3))
    except Exception as error:
        print(f"{type(error).__name__}: {error}")
import harness.judging.judge, strategies.draw  # our running packages can still be imported
"""
MINE = "def attention(q, k, v):\n    return __name__\n"


@pytest.fixture(params=["package", "folder"])
def repository(tmp_path, request):
    """A `kernel` that is a package, or a folder that is none, with a module and one that imports it."""
    for package in ("kernel", "strategies"):
        (tmp_path / package).mkdir()
        (tmp_path / package / "mine.py").write_text(MINE)
        (tmp_path / package / "imports.py").write_text(f"from {package}.mine import attention\n")
        if request.param == "package":
            (tmp_path / package / "__init__.py").write_text("")
    return tmp_path


def loaded(folder, *names):
    """What subjects of these names answer, loaded one after the other in a process of its own."""
    command = [sys.executable, "-c", f"import sys; sys.path[0] = {str(OURS)!r}\n{LOADS}", *names]
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True)
    assert done.stderr == ""
    return done.stdout.splitlines()


def test_theirs_is_found_by_module_and_by_file(repository):
    names = (
        "kernel.mine:attention",
        "kernel.imports:attention",
        "kernel/mine.py:attention",
        "kernel/imports.py:attention",
    )
    assert loaded(repository, *names) == ["kernel.mine", "kernel.mine", "subject_mine", "kernel.mine"]


def test_theirs_is_found_after_ours_and_ours_after_theirs(repository):
    ours, theirs, by_file = "kernel:flash_attention", "kernel.mine:attention", "kernel/imports.py:attention"
    refused = "TypeError: q must be a torch.Tensor, got int"
    assert loaded(repository, ours, theirs, ours, by_file) == [refused, "kernel.mine", refused, "kernel.mine"]


def test_their_own_function_of_that_name_wins(repository):
    (repository / "kernel" / "__init__.py").write_text("def flash_attention(q, k, v):\n    return 'theirs'\n")
    assert loaded(repository, "kernel:flash_attention") == ["theirs"]


def test_a_package_named_as_a_running_one_is_found_and_unloaded_again(repository):
    assert loaded(repository, "strategies.mine:attention") == ["strategies.mine"]


def test_a_module_that_is_nowhere_is_reported(repository):
    (line,) = loaded(repository, "kernel.nothing:attention")
    assert line.startswith("CannotRun: The subject's module 'kernel.nothing' cannot be imported: ModuleNotFoundError")


def test_a_folder_that_is_no_package_hides_no_installed_one(tmp_path):
    (tmp_path / "json").mkdir()
    assert import_from(tmp_path, "json.decoder").__name__ == "json.decoder"


def test_a_relative_import_gets_a_hint(repository):
    (repository / "kernel" / "relative.py").write_text("from .mine import attention\n")
    by_file, by_name = loaded(repository, "kernel/relative.py:attention", "kernel.relative:attention")
    assert by_file.endswith("Name it as package.module:function.")
    assert by_name == "kernel.mine"
