"""The file system that the hosts share and that counts: each host's client counts what that host asks for."""

from __future__ import annotations

import sys

import pytest

import slowmount
from slowmount import Cache

pytestmark = pytest.mark.skipif(bool(slowmount.why_not()), reason=slowmount.why_not() or "-")


def test_each_host_has_a_client_of_its_own(cluster):
    with cluster.counted(cache=Cache.NONE) as mount:
        (mount.behind / "file").write_text("seen by all")
        look = f"import os; os.stat({str(mount.path / 'file')!r})"
        assert cluster.run(["srun", "-N2", "-w", "n1,n2", sys.executable, "-c", look]).returncode == 0
        assert cluster.on("n3", ["cat", mount.path / "file"]).stdout == "seen by all"
        counts = mount.counts()
        assert counts["n1"] == counts["n2"] == {"getattr": 2}
        assert counts["n3"]["open"] == 1
        assert counts["login"] == {}
        asked = mount["n1"].operations()
        assert {row.path for row in asked} == {"/file"}
        assert all(look in row.command for row in asked)
    assert not any(process.name().startswith("python") for process in cluster.processes())
    assert cluster.on("n1", ["ls", mount.path]).stdout == ""
