"""Memory that is freed is kept while it is asked for, and only then."""

from __future__ import annotations

import json
import subprocess
import sys
import threading

import pytest

from landslip.learn import allocation
from landslip.learn.allocation import freed_memory_kept

glibc_only = pytest.mark.skipif(allocation._glibc() is None, reason="the C library is not glibc")

COUNTED = """
import json, resource
from pathlib import Path
import torch
from landslip.learn.allocation import freed_memory_kept
from landslip.learn.models import build_model

network, image = build_model("unet-small", 3).eval(), torch.rand(1, 3, 768, 768)

def lent(work):
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    with torch.inference_mode():
        work()
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before

def forward():
    network(image)

def filled():
    return b"1" * 2**28

def resident():
    return int(Path("/proc/self/statm").read_text().split()[1]) * resource.getpagesize() / 2**28

outside = [lent(forward) for _ in range(3)]
before = resident()
with freed_memory_kept():
    inside = [lent(forward) for _ in range(4)]
    with freed_memory_kept():
        filled()
    kept, again = resident() - before, lent(filled)
print(json.dumps({
    "outside": min(outside), "inside": inside[-1], "after": lent(forward),
    "kept": kept, "again": again, "left": resident() - before,
}))
"""


@glibc_only
def test_pages_are_lent_once_and_given_back_at_the_end() -> None:
    # In a process of its own: what others have freed before hides what is lent.
    done = subprocess.run([sys.executable, "-c", COUNTED], capture_output=True, check=True)
    found = json.loads(done.stdout)
    assert found["inside"] < 0.25 * found["outside"]
    assert found["after"] > 0.5 * found["outside"] > 5000
    # A block inside another one does not end it.
    assert found["kept"] > 0.9
    assert found["again"] < 3000
    assert found["left"] < 0.2


def test_blocks_in_several_threads_end_in_any_order() -> None:
    entered, leave = threading.Event(), threading.Event()

    def hold() -> None:
        with freed_memory_kept():
            entered.set()
            leave.wait(10)

    thread = threading.Thread(target=hold)
    with freed_memory_kept():
        thread.start()
        assert entered.wait(10)
    if allocation._glibc() is not None:
        assert allocation._holders == 1
    leave.set()
    thread.join()
    assert allocation._holders == 0


def test_nothing_is_asked_of_another_c_library(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(allocation, "_glibc", lambda: None)
    with freed_memory_kept():
        assert allocation._holders == 0
