"""Digests that tell data apart."""

from __future__ import annotations

import hashlib


def fingerprint(*values: object) -> str:
    """SHA-256 of values of Python's own types, by their `repr`, in hexadecimal."""
    return hashlib.sha256(repr(values).encode(errors="surrogateescape")).hexdigest()


def image_digest(data: bytes | memoryview) -> int:
    """64 bits that differ for images that differ."""
    return int.from_bytes(hashlib.blake2b(data, digest_size=8).digest(), "little")
