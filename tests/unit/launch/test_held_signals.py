"""Signals are taken one at a time; in a process of its own, as every other thread of it would still receive them."""

import subprocess
import sys

import pytest


def run(code: str) -> subprocess.CompletedProcess[str]:
    head = "import os, signal; from coordinator.launch.held_signals import HeldSignals; me = os.getpid()\n"
    return subprocess.run([sys.executable, "-c", head + code], capture_output=True, text=True, timeout=30)


@pytest.mark.parametrize("number", ["SIGINT", "SIGTERM", "SIGHUP", "SIGQUIT"])
def test_a_signal_waits_until_it_is_taken(number: str) -> None:
    done = run(
        "with HeldSignals() as held:\n"
        f"    os.kill(me, signal.{number})\n"
        f"    print(held.take(5) == signal.{number}, held.take(0))\n"
        f"    os.kill(me, signal.{number})  # a repetition, dropped at the end\n"
        "print('goes on')"
    )
    assert done.stdout == "True 0\ngoes on\n"


def test_the_end_of_a_child_ends_the_waiting_but_is_no_request_to_stop() -> None:
    done = run(
        "import time\n"
        "with HeldSignals() as held:\n"
        "    if os.fork() == 0: os._exit(0)\n"
        "    start = time.monotonic()\n"
        "    print(held.take(20), time.monotonic() - start < 10)"
    )
    assert done.stdout == "0 True\n"


def test_nothing_is_asked_by_being_stopped_and_continued() -> None:
    """As by Ctrl-Z and `fg`."""
    done = run(
        "import time\n"
        "with HeldSignals() as held:\n"
        "    os.kill(me, signal.SIGQUIT)\n"
        "    held.take(1)\n"
        "    if os.fork() == 0:\n"
        "        for number in (signal.SIGSTOP, signal.SIGCONT) * 5:\n"
        "            time.sleep(0.15)\n"
        "            os.kill(me, number)\n"
        "        os._exit(0)\n"
        "    end = time.monotonic() + 2\n"
        "    taken = []\n"
        "    while time.monotonic() < end: taken.append(held.take(0.1))\n"
        "    print(set(taken))"
    )
    assert done.stdout == "{0}\n"


def test_a_hang_up_that_is_ignored_as_under_nohup_stays_ignored() -> None:
    done = run(
        "signal.signal(signal.SIGHUP, signal.SIG_IGN)\n"
        "with HeldSignals() as held:\n"
        "    os.kill(me, signal.SIGHUP)\n"
        "    print(held.take(0.2))"
    )
    assert done.stdout == "0\n"


def test_a_fork_can_be_signalled_again() -> None:
    done = run(
        "with HeldSignals() as held:\n"
        "    pid = os.fork()\n"
        "    if pid == 0:\n"
        "        held.release()\n"
        "        os.kill(os.getpid(), signal.SIGTERM)\n"
        "        os._exit(0)\n"
        "    print(os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]))"
    )
    assert done.stdout == "-15\n"
