"""What took part in a conversion, as a CycloneDX 1.6 document (ECMA-424).

Components: ggufpack, the vendored converter with the digest of each of its files, and the Python
distributions that a conversion imports. Of a package they are those of its record. There is no serial
number and no time: the same package gives the same document.
"""

from __future__ import annotations

from collections.abc import Mapping
from importlib.metadata import Distribution, PackageNotFoundError, distribution
from typing import Any

SPECIFICATION = "1.6"
# what the worker imports (convert.worker) beside the standard library
CONVERSION_PACKAGES = (
    *("blake3", "gguf", "libggml-python", "numpy", "protobuf", "safetensors", "sentencepiece"),
    *("tokenizers", "torch", "transformers"),
)
_CLASSIFIER = "License :: "


def make_sbom(
    versions: Mapping[str, str],
    converter: Mapping[str, Any],
    files: Mapping[str, str],
    subject: Mapping[str, Any] | None = None,
) -> dict[str, Any]:
    """The document as JSON data.

    Args:
        versions: distribution name → version, ``ggufpack`` among them.
        converter: ``package``, ``version``, ``commit``, ``build`` and ``tree_sha256`` of the vendored one.
        files: path in the vendored tree → SHA-256 in hex; empty when that tree is not at hand.
        subject: the component that was made; ``None`` describes the installation.
    """
    own = _distribution("ggufpack", versions["ggufpack"])
    components = [_converter(converter, files)]
    components += [_distribution(name, versions[name]) for name in sorted(versions) if name != "ggufpack"]
    if subject is not None:
        components.insert(0, own)
    return {
        "bomFormat": "CycloneDX",
        "specVersion": SPECIFICATION,
        "version": 1,
        "metadata": {"component": own if subject is None else dict(subject)},
        "components": components,
    }


def sbom_of_installation(converter: Mapping[str, Any], files: Mapping[str, str]) -> dict[str, Any]:
    """The document of what a conversion would use now. Arguments as ``make_sbom``."""
    return make_sbom(_installed(("ggufpack", *CONVERSION_PACKAGES)), converter, files)


def sbom_of_package(record: Mapping[str, Any], files: Mapping[str, str]) -> dict[str, Any]:
    """The document of a package, by its record (``report.record``); ``files`` as ``make_sbom``."""
    result = record["result"]
    made = [*result["files"], *([] if result["projector"] is None else [result["projector"]])]
    subject = {
        "type": "machine-learning-model",
        "bom-ref": "package",
        "name": result["name"],
        "components": [
            {"type": "file", "name": file["path"], "hashes": [_sha256(file["sha256"])]} for file in made
        ],
    }
    versions = {
        name: version
        for name, version in record["versions"].items()
        if name in CONVERSION_PACKAGES and version != "not installed"
    }
    return make_sbom({"ggufpack": record["ggufpack"], **versions}, record["converter"], files, subject)


def license_of(found: Distribution) -> str | None:
    """What a distribution says of its licence: an SPDX expression, a name, or its classifiers."""
    said = (found.metadata.get_all(key) for key in ("License-Expression", "License"))
    text = next((str(values[0]) for values in said if values and values[0]), None)
    if text and "\n" not in text.strip() and text.strip().upper() != "UNKNOWN":
        return text.strip()
    classifiers = found.metadata.get_all("Classifier") or []
    names = [line.rpartition(" :: ")[2] for line in classifiers if line.startswith(_CLASSIFIER)]
    if names:
        return ", ".join(names)
    # some put the whole text there
    return next((line.strip() for line in (text or "").splitlines() if line.strip()), None)


def _installed(names: tuple[str, ...]) -> dict[str, str]:
    found = {}
    for name in names:
        try:
            found[name] = distribution(name).version
        except PackageNotFoundError:
            continue
    return found


def _distribution(name: str, version: str) -> dict[str, Any]:
    purl = f"pkg:pypi/{name}@{version.replace('+', '%2B')}"
    component: dict[str, Any] = {
        "type": "application" if name == "ggufpack" else "library",
        "bom-ref": purl,
        "name": name,
        "version": version,
        "purl": purl,
    }
    license_text = _license(name, version)
    if license_text is not None:
        component["licenses"] = [{"license": {"name": license_text}}]
    return component


def _license(name: str, version: str) -> str | None:
    """Of this very version, where it is installed; another one may have another licence."""
    try:
        found = distribution(name)
    except PackageNotFoundError:
        return None
    return license_of(found) if found.version == version else None


def _converter(converter: Mapping[str, Any], files: Mapping[str, str]) -> dict[str, Any]:
    commit, tree = converter["commit"], converter.get("tree_sha256")
    component: dict[str, Any] = {
        "type": "library",
        "bom-ref": "llama.cpp",
        "name": "llama.cpp",
        "version": converter["build"] or commit,
        "description": f"the converter in the sdist of {converter['package']} {converter['version']}",
        "purl": f"pkg:github/ggml-org/llama.cpp@{commit}",
        "licenses": [{"license": {"id": "MIT"}}],
        "properties": [{"name": "ggufpack:commit", "value": commit}],
    }
    if tree:
        component["properties"].append({"name": "ggufpack:tree_sha256", "value": tree})
    if files:
        component["components"] = [
            {"type": "file", "bom-ref": f"llama.cpp/{path}", "name": path, "hashes": [_sha256(digest)]}
            for path, digest in sorted(files.items())
        ]
    return component


def _sha256(digest: str) -> dict[str, str]:
    return {"alg": "SHA-256", "content": digest}
