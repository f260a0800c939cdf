"""What killed ranks leave in a node's memory, and who has it."""

from __future__ import annotations

import mmap
import os

from mainstay.node import shm
from mainstay.node.home import sweep_memory


def test_only_what_is_old_and_nobody_has_is_removed(tmp_path):
    for name in ("mpich_shm_had", "mpich_shm_new", "mpich_shm_left", "other"):
        (tmp_path / name).write_bytes(bytes(4096))
        if name != "mpich_shm_new":
            os.utime(tmp_path / name, (0, 0))
    with open(tmp_path / "mpich_shm_had", "r+b") as file, mmap.mmap(file.fileno(), 0):
        assert shm.mapped(["self", "0"], str(tmp_path)) == {str(tmp_path / "mpich_shm_had")}
        shm.sweep(str(tmp_path))
        assert {path.name for path in tmp_path.iterdir()} == {"mpich_shm_had", "mpich_shm_new", "other"}
    sweep_memory(str(tmp_path))
    assert {path.name for path in tmp_path.iterdir()} == {"mpich_shm_new", "other"}
    sweep_memory(str(tmp_path / "nowhere"))
