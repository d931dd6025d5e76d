"""The bill of materials: against CycloneDX's own schema, and against what is really there."""

from __future__ import annotations

import hashlib
import json

import pytest
from click.testing import CliRunner
from cyclonedx.schema import SchemaVersion
from cyclonedx.validation.json import JsonStrictValidator

from ggufpack import vendoring
from ggufpack.cli.main import main
from ggufpack.report.sbom import CONVERSION_PACKAGES, sbom_of_installation, sbom_of_package
from tests.support import records


def check(document: dict[str, object]) -> None:
    assert JsonStrictValidator(SchemaVersion.V1_6).validate_str(json.dumps(document)) is None


def test_the_installation() -> None:
    answer = CliRunner().invoke(main, ["sbom"])
    assert answer.exit_code == 0
    document = json.loads(answer.stdout)
    check(document)
    assert document["metadata"]["component"]["name"] == "ggufpack"
    converter, *distributions = document["components"]
    assert {item["name"] for item in distributions} == set(CONVERSION_PACKAGES)
    assert all(item["licenses"] for item in distributions)
    folder = vendoring.status().folder
    assert len(converter["components"]) > 50
    for file in converter["components"]:
        (found,) = file["hashes"]
        assert hashlib.sha256((folder / file["name"]).read_bytes()).hexdigest() == found["content"]


def test_a_package_has_the_versions_of_its_record() -> None:
    record = records.record(["Q4_K_M"])
    record["versions"] = {"python": "3.12", "torch": "2.0.0+cpu", "ollama": "1", "gguf": "not installed"}
    record["converter"] |= {"commit": "abc", "build": "b1", "package": "p", "version": "1"}
    document = sbom_of_package(record, {})
    check(document)
    names = {item["name"]: item for item in document["components"]}
    assert set(names) == {"ggufpack", "llama.cpp", "torch"}
    assert names["torch"]["purl"] == "pkg:pypi/torch@2.0.0%2Bcpu"
    assert "licenses" not in names["torch"], "another version's licence is not known"
    (gguf,) = document["metadata"]["component"]["components"]
    assert gguf["hashes"][0]["content"] == record["result"]["files"][0]["sha256"]


def test_the_validator_would_see_a_mistake() -> None:
    document = sbom_of_installation(vendoring.status().to_json(), {})
    document["components"][0]["type"] = "converter"
    with pytest.raises(AssertionError):
        check(document)
