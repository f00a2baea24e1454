"""A folder of the user's that is called like a room is reported with both paths and passed over."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

from lemix_opt.rooms import HOME, shadows

CODE = """
from lemix_opt.rooms import put_home_first, shadows
for shadow in put_home_first():
    print(shadow)
import solvers
print(solvers.__file__)
assert not shadows()
"""


def test_nothing_is_hidden_here() -> None:
    assert shadows() == []


def test_a_users_own_folder_is_named_and_does_not_break_the_import(tmp_path: Path) -> None:
    (tmp_path / "solvers").mkdir()
    (tmp_path / "solvers" / "__init__.py").write_text("raise RuntimeError('not ours')\n")
    path = os.pathsep.join([str(tmp_path), str(HOME)])
    run = subprocess.run(
        [sys.executable, "-c", CODE],
        env=os.environ | {"PYTHONPATH": path},
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=True,
    )
    first, last = run.stdout.splitlines()
    assert first == f"solvers: {tmp_path / 'solvers'} hides {HOME / 'solvers'}"
    assert Path(last) == HOME / "solvers" / "__init__.py"
