"""Nodes are counted as machines, whatever they are called."""

from __future__ import annotations

from pathlib import Path

from twistnet.taking_part import counted_by_node, machine_id

ONE, OTHER = "5c1f", "9a70"


def test_machines_of_the_same_name_are_two_nodes() -> None:
    ranks = [("localhost", ONE, "H100"), ("localhost", ONE, "H100"), ("localhost", OTHER, "H100"), ("c", OTHER, "cpu")]
    assert counted_by_node(ranks) == {"localhost": "2 x H100", "localhost 2": "1 x H100", "c": "1 x cpu"}


def test_cards_of_several_kinds_are_one_node() -> None:
    ranks = [("a", ONE, "H100"), ("b", OTHER, "H100"), ("a", ONE, "A100"), ("a", ONE, "H100")]
    assert counted_by_node(ranks) == {"a": "2 x H100, 1 x A100", "b": "1 x H100"}


def test_a_machine_is_known_by_its_boot() -> None:
    assert machine_id() == Path("/proc/sys/kernel/random/boot_id").read_text().strip()
    assert machine_id() == machine_id() != ""
