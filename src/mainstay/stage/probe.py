"""Run by the interpreter of the environment that is to be packed: prints, as JSON, where everything of it is.

Only the standard library is there for sure.
"""

import json
import os
import platform
import site
import sys
import sysconfig
from importlib.util import find_spec


def _sites() -> "list[str]":
    """The directories with packages that are on the path, in its order."""
    known = [*site.getsitepackages(), *([site.getusersitepackages()] if site.ENABLE_USER_SITE else [])]
    known += [path for path in sys.path if os.path.basename(path) in ("site-packages", "dist-packages")]
    real = {os.path.realpath(path) for path in known}
    found = [path for path in sys.path if os.path.isdir(path) and os.path.realpath(path) in real]
    return list(dict.fromkeys(found))


def _package(name: str) -> str:
    try:
        spec = find_spec(name)
    except (ImportError, ValueError):
        return ""
    return (spec.origin or "") if spec else ""


def main() -> None:
    value = sysconfig.get_config_var
    found = {
        "version": platform.python_version(),
        "machine": platform.machine(),
        "tag": sys.implementation.cache_tag,
        "prefix": sys.prefix,
        "base": sys.base_prefix,
        "executable": os.path.realpath(getattr(sys, "_base_executable", "") or sys.executable),
        "library": f"{sys.platlibdir}/python{sys.version_info[0]}.{sys.version_info[1]}",
        "stdlib": sysconfig.get_path("stdlib"),
        "extensions": value("DESTSHARED") or os.path.join(sysconfig.get_path("platstdlib"), "lib-dynload"),
        "libpython": os.path.join(value("LIBDIR"), value("INSTSONAME")) if value("Py_ENABLE_SHARED") else "",
        "sites": _sites(),
        "mainstay": _package("mainstay"),
        "cloudpickle": _package("cloudpickle"),
    }
    print(json.dumps(found))


if __name__ == "__main__":
    main()
