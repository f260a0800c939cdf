"""What is installed, and what is said where it cannot be; nothing is installed here."""

from __future__ import annotations

import os
import subprocess

import pytest

from cluster import install
from cluster.slurm import cgroup_conf, fields


def test_only_root_can_have_a_cluster(monkeypatch):
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    with pytest.raises(install.Unavailable, match="needs root"):
        install.ensure_slurm()


def test_without_a_package_manager_it_says_what_is_missing(monkeypatch):
    monkeypatch.setattr(os, "geteuid", lambda: 0)
    monkeypatch.setattr(install.shutil, "which", lambda *_, **__: None)
    with pytest.raises(install.Unavailable, match=r"slurmctld, slurmd, .* no apt-get"):
        install.ensure_slurm()


def test_a_failing_package_manager_is_quoted(monkeypatch):
    asked = []

    def apt(*words):
        asked.append(words[0])
        return subprocess.CompletedProcess(words, 100, "no such package\n")

    monkeypatch.setattr(install, "_apt", apt)
    with pytest.raises(install.Unavailable, match="no such package"):
        install._apt_install()
    assert asked == ["install", "update", "install"]


def test_what_is_there_is_not_installed_again_and_nobody_but_root_tries(monkeypatch, tmp_path):
    asked: list[tuple[str, ...]] = []
    there = {"apt-get", "squashfuse"}
    monkeypatch.setattr(install, "POLICY", tmp_path / "policy-rc.d")
    monkeypatch.setattr(install, "_apt", lambda *words: asked.append(words))
    monkeypatch.setattr(install.shutil, "which", lambda name, **_: name if name in there else None)
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    install.ensure_mounts()
    assert asked == []
    monkeypatch.setattr(os, "geteuid", lambda: 0)
    install.ensure_mounts()
    assert [words[-1] for words in asked] == ["update", "fuse3", "squashfs-tools"]
    there |= {"fusermount3", "sqfstar"}
    install.ensure_mounts()
    assert len(asked) == 3


def test_no_service_starts_while_packages_are_installed(monkeypatch, tmp_path):
    policy = tmp_path / "policy-rc.d"
    monkeypatch.setattr(install, "POLICY", policy)
    with install.no_service_starts():
        assert subprocess.run([policy, "munge", "start"], check=False).returncode == 101
    assert not policy.exists()
    policy.write_text("the machine's own")
    with install.no_service_starts():
        assert policy.read_text() == "the machine's own"
    assert policy.exists()


def test_control_groups_are_left_alone_in_each_version():
    assert cgroup_conf("slurm-wlm 22.05.8") == "CgroupPlugin=cgroup/v1\n"
    assert cgroup_conf("slurm 23.11.4") == "CgroupPlugin=disabled\n"


def test_a_line_of_scontrol_is_read():
    line = "JobId=7 JobName=a b JobState=RUNNING ReqB:S:C:T=0:0:*:* StdOut=/x/slurm-7.out Power="
    assert fields(line)["JobState"] == "RUNNING"
    assert fields(line)["StdOut"] == "/x/slurm-7.out"
