"""What is said of a system that cannot hold a process."""

from __future__ import annotations

import sys

import pytest

from ggufpack.confinement import OFF_VARIABLE, Confined, Confinement, apply, confine


def test_a_system_that_can_do_everything_is_no_news() -> None:
    held = Confined(7, True, ())
    assert held.note is None
    assert Confined.from_json(held.to_json()) == held


def test_what_is_missing_is_said() -> None:
    note = Confined(0, True, ("files",)).note
    assert note is not None
    assert "does not keep it from other files. Feed it" in note
    note = Confined().note
    assert note is not None
    assert "from other files, the network, starting processes, other processes." in note


def test_switched_off_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(OFF_VARIABLE, "1")
    confined = confine(Confinement())
    assert confined == Confined(switched_off=True)
    assert confined.note is not None
    assert OFF_VARIABLE in confined.note


@pytest.mark.parametrize("system", ["darwin", "win32"])
def test_other_systems_work_without(system: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "platform", system)
    monkeypatch.setattr("ggufpack.confinement.limits.limit_resources", lambda _: None)
    assert apply.confine(Confinement()).missing == ("files", "network", "processes", "signals")
