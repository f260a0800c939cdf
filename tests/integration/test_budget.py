"""What a worker has imported before it runs the user's code."""

from __future__ import annotations

import pytest
from test_house import BANNED

import mainstay


@pytest.mark.parametrize("launcher", ["local", "mpiexec"])
def test_a_worker_imports_next_to_nothing(launcher):
    with mainstay.Executor(1, launcher=launcher) as executor:
        modules = set(executor.submit(eval, "list(__import__('sys').modules)").result(30))
    assert not modules & BANNED
    assert len(modules) <= 95
