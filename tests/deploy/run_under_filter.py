#!/usr/bin/python3
"""Runs a program under the system call filter of a systemd unit, as systemd would, but for one thing: what the filter does
not let through ends the program (SIGSYS), where the unit only refuses it, so that nothing passes unnoticed.

    run_under_filter.py UNIT PROGRAM ARGUMENT…

What groups such as @system-service hold is asked of systemd-analyze. Needs Debian's python3-seccomp.
"""

import os
import socket
import subprocess
import sys

import seccomp
from seccomp import ALLOW, EQ, KILL_PROCESS, MASKED_EQ, Arg

WRITE, EXEC = 2, 4  # PROT_WRITE, PROT_EXEC


def groups():
    """Each group of system calls, with what it holds: calls, and groups again."""
    printed = subprocess.run(["systemd-analyze", "syscall-filter"], check=True, capture_output=True, text=True).stdout
    found, name = {}, None
    for line in printed.splitlines():
        word = line.strip()
        if line.startswith("@"):
            name = word
            found[name] = set()
        elif name and line.startswith(" ") and not word.startswith("#"):
            found[name].add(word)
    return found


def calls(names, known):
    """The calls behind these names."""
    flat = set()
    for name in names:
        flat |= calls(known[name], known) if name.startswith("@") else {name}
    return flat


def settings(unit, key):
    """The values of a key, in order."""
    with open(unit, encoding="utf-8") as lines:
        return [line.strip().partition("=")[2] for line in lines if line.startswith(f"{key}=")]


def main():
    unit, program = sys.argv[1], sys.argv[2:]
    known = groups()
    # Always there, whatever the unit says.
    allowed = calls({"@default"}, known)
    for value in settings(unit, "SystemCallFilter"):
        if value.startswith("~"):
            allowed -= calls(value[1:].split(), known)
        else:
            allowed |= calls(value.split(), known)
    rules = seccomp.SyscallFilter(KILL_PROCESS)
    special = set()
    if families := [word for value in settings(unit, "RestrictAddressFamilies") for word in value.split()]:
        special.add("socket")
        for family in families:
            rules.add_rule(ALLOW, "socket", Arg(0, EQ, getattr(socket, family)))
    if settings(unit, "MemoryDenyWriteExecute") == ["yes"]:
        special |= {"mmap", "mprotect", "pkey_mprotect"}
        for protection in (0, WRITE, EXEC):
            rules.add_rule(ALLOW, "mmap", Arg(2, MASKED_EQ, WRITE | EXEC, protection))
        for name in ("mprotect", "pkey_mprotect"):
            rules.add_rule(ALLOW, name, Arg(2, MASKED_EQ, EXEC, 0))
    for name in sorted(allowed - special):
        try:
            rules.add_rule(ALLOW, name)
        except (RuntimeError, OSError, ValueError):
            pass  # not a call of this architecture
    rules.load()
    os.execvp(program[0], program)


main()
