"""Counts what is read from files."""

from __future__ import annotations

import os

import pytest


def noted_reads(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """The bytes that each read of a file asks for, from now on; the list grows with each."""
    reads: list[int] = []
    preadv = os.preadv

    def noted(descriptor: int, buffers: list[memoryview], offset: int) -> int:
        reads.append(sum(map(len, buffers)))
        return preadv(descriptor, buffers, offset)

    monkeypatch.setattr(os, "preadv", noted)
    return reads
