"""What `preload=` does, by behaviour, over every launcher."""

from __future__ import annotations

import os
import sys

import pytest

import mainstay

MODEL = """
import os
print("importing", flush=True)
with open(os.path.join(os.path.dirname(__file__), "imports"), "a") as file:
    file.write(f"{os.getpid()}\\n")
"""


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A folder on the path, with `mymodel`, which counts its imports, and modules that cannot be imported."""
    folder = tmp_path_factory.mktemp("modules")
    (folder / "mymodel.py").write_text(MODEL)
    (folder / "misfit.py").write_text("raise OSError('no licence')\n")
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(folder)
        yield folder
    for name in ("mymodel", "misfit"):
        sys.modules.pop(name, None)


def known(name):
    return name in sys.modules


def test_a_node_imports_once_before_any_task(launcher, folder):
    sys.modules.pop("mymodel", None)
    (folder / "imports").unlink(missing_ok=True)
    with mainstay.Executor(2, launcher=launcher, preload=["mymodel", "xml.dom"]) as executor:
        description = executor.wait_ready(timeout=60)
        assert all(executor.map(known, ["mymodel", "xml.dom", "cloudpickle"], chunksize=1))
        importer = executor.submit(lambda: os.getppid()).result(30)
        here = executor.submit(os.getpid).result(30) == os.getpid()
    assert description.preloaded.names == ["mymodel", "xml.dom"]
    assert "; preloaded mymodel, xml.dom once per node (" in str(description)
    assert (folder / "imports").read_text().split() == [str(os.getpid() if here else importer)]


def test_a_module_that_fails_breaks_the_pool(launcher, folder):
    with mainstay.Executor(1, launcher=launcher, preload=["misfit"]) as executor:
        with pytest.raises(mainstay.PreloadFailed, match="cannot preload 'misfit': OSError: no licence") as caught:
            executor.submit(abs, 1).result(60)
        error = caught.value
        assert (error.host, error.module) == (os.uname().nodename, "misfit")
        assert isinstance(error.__cause__, OSError)
        assert "raise OSError('no licence')" in error.__cause__.__cause__.tb
        with pytest.raises(mainstay.PreloadFailed):
            executor.wait_ready(timeout=30)


def test_a_module_that_is_not_there_is_named(launcher, folder):
    with mainstay.Executor(1, launcher=launcher, preload=["nosuchmodule"]) as executor:
        with pytest.raises(mainstay.PreloadFailed, match="No module named 'nosuchmodule'"):
            executor.submit(abs, 1).result(60)
