"""ggufpack.json of a package: refused with UsageError, or typed."""

from __future__ import annotations

import json
from collections.abc import Iterator

from ggufpack.errors import UsageError
from ggufpack.package_folder import RECORD_NAME
from ggufpack.report.reading import read_record, typed
from tests.fuzz import scratch

IS_JSON = True
WORDS = (b'"schema"', b'"result"', b'"verifications"', b'"files"', b'"findings"', b'"checkpoint"')


def one_input(data: bytes) -> None:
    path = scratch.put(RECORD_NAME, data)
    try:
        record = typed(read_record(path.parent), path)
    except UsageError as error:
        assert error.path == path
        str(error).encode()
        return
    assert record.result.status in ("verified", "unverified", "failed")
    assert all(file.size < 2**63 + 1 for file in record.result.files)


def seeds() -> Iterator[bytes]:
    file = {
        "quantization": "Q4_K_M",
        "path": "m.gguf",
        "size": 9,
        "sha256": "0" * 64,
        "tensor_types": {"F32": 1},
    }
    finding = {"id": "GP110", "severity": "info", "message": "m", "path": None, "key": "k", "action": None}
    yield json.dumps(
        {
            "schema": 1,
            "ggufpack": "0.1.0",
            "created": "2026-01-01T00:00:00+00:00",
            "checkpoint": {
                "folder": "/m",
                "architecture": "LlamaForCausalLM",
                "files": {"config.json": "0" * 64},
                "tensors": {"count": 1, "bytes": 4, "dtypes": {"F32": 1}, "weights_digest": "d"},
            },
            "request": {},
            "converter": {},
            "versions": {},
            "result": {
                "status": "verified",
                "name": "m",
                "files": [file],
                "registered": ["m:latest"],
                "verifications": [],
                "findings": [finding],
                "template": "go",
                "seconds": {"convert": 1.5},
            },
        }
    ).encode()
