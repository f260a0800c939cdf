"""What is made of strace's lines, of hooks' lines and of the file systems' own counters; recorded texts."""

from __future__ import annotations

from collections import Counter

import pytest

from mainstay.audit import counters, hooked, strace
from mainstay.audit.events import UNKNOWN, Directory, Fork, Interpreter, Mark, Module, Operation, Program, Seen
from mainstay.audit.replay import IMPORTS, LATE_IMPORTS, OTHER, REST, START, TASKS, play
from mainstay.audit.report import peak, rate, sums

# strace 6.1, -ff -y -ttt
LINES = r"""
1.000001 execve("/env/bin/python", ["/env/bin/python", "-c", "import sys; sys.path[:] = []; print(\")\")"], 0x7ffd8 /* 9 vars */) = 0
1.000002 access("/etc/ld.so.preload", R_OK) = -1 ENOENT (No such file or directory)
1.000003 openat(AT_FDCWD</proj>, "lib/a b.so", O_RDONLY|O_CLOEXEC) = 3</proj/lib/a b.so>
1.000004 newfstatat(3</proj/lib/a b.so>, "", {st_mode=S_IFREG|0644, st_size=1406, ...}, AT_EMPTY_PATH) = 0
1.000005 newfstatat(1<pipe:[4168622]>, "", {st_mode=S_IFIFO|0600, st_size=0, ...}, AT_EMPTY_PATH) = 0
1.000006 openat(AT_FDCWD</proj>, "d\303\251", O_RDONLY|O_NONBLOCK|O_CLOEXEC|O_DIRECTORY) = 4</proj/d\303\251>
1.000007 openat(AT_FDCWD</proj>, "/x/__pycache__/m.cpython-311.pyc.1", O_WRONLY|O_CREAT|O_EXCL, 0100644) = -1 EROFS (Read-only file system)
1.000008 chdir("/usr")                     = 0
1.000009 mkdir("q/z", 0777)                = -1 ENOENT (No such file or directory)
1.000010 symlink("target", "link")         = 0
1.000011 openat(AT_FDCWD</usr>, "/mainstay-audit/begin/import", O_RDONLY|O_CLOEXEC) = -1 ENOENT (No such file or directory)
1.000012 clone(child_stack=NULL, flags=CLONE_CHILD_CLEARTID|SIGCHLD, child_tidptr=0x7fb6fa033a10) = 24661
1.000013 clone3({flags=CLONE_VM|CLONE_FS|CLONE_THREAD|CLONE_SYSVSEM, child_tid=0x7f}, 88) = 24662
1.000014 readlink("rehash", 0x557917be1b60, 64) = -1 EINVAL (Invalid argument)
1.000015 utimensat(3</proj/f>, NULL, NULL, 0) = 0
1.000016 execve("/no/python", ["python"], 0x7ffd8 /* 9 vars */) = -1 ENOENT (No such file or directory)
1.000017 exit_group(1)         = ?
1.000018 +++ exited with 1 +++
--- SIGCHLD {si_signo=SIGCHLD} ---
"""  # noqa: E501


def test_the_lines_of_strace():
    words = ("/env/bin/python", "-c", 'import sys; sys.path[:] = []; print(")")')
    pairs = {  # by the last digits of the time
        1: Operation(1.000001, 7, "exec", "/env/bin/python"),
        2: Operation(1.000002, 7, "access", "/etc/ld.so.preload", "", "ENOENT"),
        3: Operation(1.000003, 7, "open", "lib/a b.so", "/proj"),
        4: Operation(1.000004, 7, "stat", "", "/proj/lib/a b.so"),
        6: Operation(1.000006, 7, "list", "dé", "/proj"),
        7: Operation(1.000007, 7, "create", "/x/__pycache__/m.cpython-311.pyc.1", "/proj", "EROFS"),
        8: Operation(1.000008, 7, "access", "/usr"),
        9: Operation(1.000009, 7, "change", "q/z", "", "ENOENT"),
        10: Operation(1.000010, 7, "change", "link"),
        11: Mark(1.000011, 7, "begin/import"),
        12: Fork(1.000012, 7, 24661, is_thread=False),
        13: Fork(1.000013, 7, 24662, is_thread=True),
        14: Operation(1.000014, 7, "readlink", "rehash", "", "EINVAL"),
        15: Operation(1.000015, 7, "change", "", "/proj/f"),
        16: Operation(1.000016, 7, "exec", "/no/python", "", "ENOENT"),
    }
    found = list(strace.events(7, LINES.splitlines()))
    others = [Program(1.000001, 7, words), Directory(1.000008, 7, "/usr")]
    assert [event for event in found if event not in others] == list(pairs.values())
    assert [event for event in found if event in others] == others


AGENT = ("/env/bin/python3.11", "-c", "import mainstay.node.__main__ as node")
EVENTS = [
    Program(0.0, 1, ("/env/bin/python", "job.py")),
    Operation(0.1, 1, "stat", "a"),
    Mark(0.2, 1, "up"),
    Mark(0.3, 1, "begin/import"),
    Operation(0.4, 1, "open", "numpy/x.py", "/env"),
    Fork(0.45, 1, 9, is_thread=True),
    Operation(0.46, 9, "stat", "/by-a-thread"),  # which imports nothing
    Mark(0.5, 1, "end/import"),
    Mark(0.55, 1, "batch"),
    Fork(0.6, 1, 2, is_thread=False),
    Program(0.7, 2, AGENT),
    Mark(0.8, 2, "up"),
    Directory(0.85, 2, "sub"),
    Fork(0.9, 2, 3, is_thread=False),
    Mark(1.0, 3, "begin/task"),
    Operation(1.1, 3, "open", "data"),
    Mark(1.2, 3, "begin/import"),
    Operation(1.3, 3, "open", "late"),
    Mark(1.4, 3, "end/import"),
    Fork(1.5, 3, 4, is_thread=False),
    Program(1.6, 4, ("/bin/cat", "data")),
    Operation(1.7, 4, "open", "data"),
    Mark(1.8, 3, "end/task"),
    Mark(1.9, 1, "batch"),
    Operation(2.0, 3, "stat", ".."),
    Fork(2.1, 1, 5, is_thread=False),
    Program(2.2, 5, ("/bin/ls",)),
    Operation(2.3, 5, "list", "."),
]


def test_who_was_where_in_which_phase():
    replay = play(reversed(EVENTS), "/home")
    told = [(one.process, one.phase, one.batch, one.path) for one in replay.seen]
    assert told == [
        (1, START, 0, "/home/a"),
        (1, IMPORTS, 0, "/env/numpy/x.py"),
        (1, REST, 0, "/by-a-thread"),
        (3, TASKS, 1, "/home/sub/data"),
        (3, LATE_IMPORTS, 1, "/home/sub/late"),
        (4, TASKS, 1, "/home/sub/data"),  # what a task starts is the task's
        (3, REST, 2, "/home"),
        (5, OTHER, 2, "/home"),
    ]
    roles = {pid: process.role for pid, process in replay.processes.items()}
    assert roles == {1: "Python", 2: "agent", 3: "worker", 4: "program", 5: "program"}
    found = sums(replay.seen, replay, "/home")
    assert (found.total, found.batches, found.peak) == (8, (3, 2), 4)
    assert found.phases == {START: 1, IMPORTS: 1, TASKS: 2, LATE_IMPORTS: 1, REST: 2, OTHER: 1}
    assert [share.operations for share in found.shares] == [3, 3, 1, 1]


def test_the_peak_is_of_any_second():
    assert peak([]) == 0
    assert peak([0.0, 0.9, 1.0, 1.8, 1.89, 5.0]) == 4
    assert rate([3.5, 3.6, 4.4, 5.6]) == (3, 0, 1)
    assert rate([]) == ()


def test_the_lines_of_hooks():
    lines = [
        "('interpreter', 5, '/env', '/usr', '/home', ('/env/lib', ''))",
        "('program', 5, 1.0, 4, ('/env/bin/python', 'job.py'))",
        "('mark', 5, 1.1, 5, 'up')",
        "('module', 5, 'numpy.lib', '/env/numpy/lib.py', 'numpy')",
        "('module', 6, 'numpy.lib', '/env/numpy/lib.py', 'other')",
        "('used', 5, '/env/numpy/lib.py')",
        "('mark', 1.0",  # cut off
        "('fork', 6, 1.5, 5)",
        "('mark', 6, 1.6, 6, 'begin/task')",
        "('operation', 6, 1.7, 6, 'open', '/data')",
        "('operation', 6, 1.8, 66, 'open', '/data')",
    ]
    rows = hooked.rows(lines)
    told = hooked.told(rows)
    assert told.interpreters == (Interpreter("/env", "/usr", "/home", ("/env/lib", "")),)
    assert told.modules == (Module("numpy.lib", "/env/numpy/lib.py", "numpy"),)
    assert (told.used, told.is_silent) == ({"/env/numpy/lib.py"}, False)
    replay = play(hooked.events(rows), "/")
    assert replay.seen == [
        Seen(1.7, 6, TASKS, 0, "open", "/data", UNKNOWN),
        Seen(1.8, 6, REST, 0, "open", "/data", UNKNOWN),  # a thread, which is in no task
    ]
    assert replay.processes[6].parent == 5


MOUNTSTATS = """\
device /dev/sda1 mounted on / with fstype ext4
device server:/home mounted on /home with fstype nfs4 statvers=1.1
\topts:\trw,vers=4.2,rsize=1048576
\tage:\t1192
\tevents:\t30 1047 2 0 14 19
\tper-op statistics
\t        NULL: 1 1 0 44 24 0 0 0 0
\t        READ: 500 500 0 100 100 0 0 0 0
\t        OPEN: 12 12 0 3840 4416 0 5 5 0
\t     GETATTR: 300 300 0 60000 70000 1 100 110 0
\t      LOOKUP: 0 0 0 0 0 0 0 0 0

device tmpfs mounted on /tmp with fstype tmpfs
"""
LLITE = """\
snapshot_time             1700000000.123456789 secs.nsecs
start_time                1690000000.000000000 secs.nsecs
read_bytes                1000 samples [bytes] 1 4096 100000
open                      240 samples [usecs] 1 200 3000
close                     240 samples [usecs] 1 200 3000
getattr                   1234 samples [usecs] 0 100 2000 90000
ioctl                     7 samples [reqs]
statfs                    0 samples [usecs] 0 0 0
"""
MDC = """\
req_waittime              18 samples [usec] 50 900 5000
req_active                18 samples [reqs] 1 2 20
mds_getattr               5 samples [usec] 60 80 300
ldlm_ibits_enqueue        13 samples [reqs] 1 1 13
"""


def test_the_counters_of_nfs_and_lustre():
    assert counters.nfs(MOUNTSTATS.splitlines()) == {"NFS /home": {"OPEN": 12, "GETATTR": 300}}
    assert counters.lustre(LLITE.splitlines()) == {"open": 240, "close": 240, "getattr": 1234}
    assert counters.lustre(MDC.splitlines()) == {"mds_getattr": 5, "ldlm_ibits_enqueue": 13}


def test_counters_are_told_since_then():
    before = {"NFS /home": Counter(OPEN=12), "NFS /idle": Counter(OPEN=1)}
    after = {"NFS /home": Counter(OPEN=15, LOOKUP=2), "NFS /idle": Counter(OPEN=1), "NFS /new": Counter(OPEN=1)}
    assert counters.since(before, after) == {"NFS /home": {"OPEN": 3, "LOOKUP": 2}, "NFS /new": {"OPEN": 1}}


@pytest.mark.parametrize("path", ["/proc/fs/lustre/llite/scratch-ffff9/stats"])
def test_a_lustre_mount_has_a_name(path):
    assert counters._named(path) == "Lustre llite scratch"


def test_an_older_strace_tells_no_working_directory():
    line = '1.000001 openat(AT_FDCWD, "lib", O_RDONLY) = 3</proj/lib>'
    assert list(strace.events(7, [line])) == [Operation(1.000001, 7, "open", "lib")]
