"""Session fixtures: the real parts. What is slow to make is cached outside the checkout (support/cache.py).

A part that cannot be had makes the tests that need it fail with the reason, it does not skip them;
leave them out on purpose with ``-m "not server"``. The last lines of a run say which parts were real.
"""

from __future__ import annotations

import hashlib
import signal
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import pytest

from ggufpack.errors import GgufpackError
from tests.support import checkpoints, embedder, llama_cpp, oracle
from tests.support.browser import Chromium, find_chromium, running_chromium
from tests.support.disk import state_disk
from tests.support.go_template_oracle.oracle import GoOracle, build_go_oracle
from tests.support.llama_cpp import BuildError
from tests.support.ollama_build import OllamaProgram, find_ollama
from tests.support.ollama_server import RunningOllama, running_ollama

_CANNOT_BE_HAD = (BuildError, GgufpackError)
_OLLAMA = pytest.StashKey[str]()
_DESELECTED = pytest.StashKey[Counter[str]]()
_CHROMIUM = pytest.StashKey[str]()
_MARKERS = ("server", "engine", "go", "browser", "network")


@pytest.fixture
def roomy_disk(monkeypatch: pytest.MonkeyPatch) -> None:
    """A terabyte, half of it free, whatever this machine has."""
    state_disk(monkeypatch, 10**12, 5 * 10**11)


@pytest.fixture(scope="session")
def ollama_program() -> OllamaProgram:
    """The Ollama binary: GGUFPACK_TEST_OLLAMA, the one on PATH, or a build."""
    try:
        return find_ollama()
    except _CANNOT_BE_HAD as error:
        pytest.fail(f"The tests need a real Ollama: {error}", pytrace=False)


@pytest.fixture(scope="session")
def ollama_server(
    ollama_program: OllamaProgram, tmp_path_factory: pytest.TempPathFactory, request: pytest.FixtureRequest
) -> Iterator[RunningOllama]:
    """A running server of this session's own. Register under names of your own, and delete them."""
    try:
        with running_ollama(ollama_program, tmp_path_factory.mktemp("ollama")) as server:
            request.config.stash[_OLLAMA] = f"{server.version}, {ollama_program.origin}"
            yield server
    except BuildError as error:
        pytest.fail(f"The tests need a real Ollama: {error}", pytrace=False)


@pytest.fixture(scope="session")
def llama_cpp_source() -> Path:
    """The llama.cpp folder of the locked sdist: converter, gguf-py, models/templates, vocabularies."""
    try:
        return llama_cpp.llama_cpp_source()
    except GgufpackError as error:
        pytest.fail(f"llama.cpp's source cannot be had: {error}", pytrace=False)


@pytest.fixture(scope="session")
def llama_quantize(llama_cpp_source: Path) -> Path:
    """llama.cpp's own quantiser, built from ``llama_cpp_source``."""
    try:
        return llama_cpp.llama_programs() / "llama-quantize"
    except BuildError as error:
        pytest.fail(f"llama-quantize cannot be built: {error}", pytrace=False)


@pytest.fixture(scope="session")
def go_oracle() -> GoOracle:
    """Ollama's own template engine and Modelfile parser, compiled from its Go module."""
    try:
        return build_go_oracle()
    except BuildError as error:
        pytest.fail(f"Ollama's Go packages cannot be compiled: {error}", pytrace=False)


@pytest.fixture(scope="session")
def smollm2() -> Path:
    """SmolLM2-135M-Instruct as a Hugging Face folder (270 MB). Shared: copy it before you change it."""
    try:
        return checkpoints.smollm2_checkpoint()
    except GgufpackError as error:
        pytest.fail(f"SmolLM2 cannot be had: {error}", pytrace=False)


@pytest.fixture(scope="session")
def minilm() -> Path:
    """all-MiniLM-L6-v2 as sentence-transformers saved it (92 MB). Shared: link it before you change it."""
    try:
        return embedder.minilm_checkpoint()
    except GgufpackError as error:
        pytest.fail(f"all-MiniLM-L6-v2 cannot be had: {error}", pytrace=False)


@pytest.fixture(scope="session")
def tiny_model(llama_cpp_source: Path) -> Callable[[str], Path]:
    """``tiny_model("qwen2")``: a tiny random checkpoint, see ``support.checkpoints.TINY``. Shared."""
    return checkpoints.tiny_checkpoint


@pytest.fixture(scope="session")
def oracle_gguf(
    llama_quantize: Path, tmp_path_factory: pytest.TempPathFactory
) -> Callable[[Path, str], Path]:
    """``oracle_gguf(checkpoint, "Q4_K_M")``: the GGUF of llama.cpp's two steps. Shared: read it only."""
    folder = tmp_path_factory.mktemp("oracle")

    def make(checkpoint: Path, quantization: str) -> Path:
        key = hashlib.sha256(str(checkpoint).encode()).hexdigest()[:12]
        target = folder / f"{key}-{quantization.upper()}.gguf"
        return target if target.exists() else oracle.two_steps(checkpoint, quantization.upper(), target)

    return make


@pytest.fixture(scope="session")
def chromium(request: pytest.FixtureRequest) -> Iterator[Chromium]:
    """A running Chromium, for the pages that ggufpack writes."""
    try:
        program = find_chromium()
        with running_chromium(program) as browser:
            request.config.stash[_CHROMIUM] = f"{browser.version}, {program.origin}"
            yield browser
    except _CANNOT_BE_HAD as error:
        pytest.fail(f"The tests need a real Chromium: {error}", pytrace=False)


def pytest_configure() -> None:
    """A background job starts with Ctrl-C ignored, and so would every program that a test interrupts."""
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)


# --- which parts were real ----------------------------------------------------


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Whatever uses the server or the browser carries the marker: ``-m "not server"`` leaves none behind."""
    for item in items:
        if {"ollama_server", "ollama_program"} & set(getattr(item, "fixturenames", ())):
            item.add_marker("server")
        if "chromium" in getattr(item, "fixturenames", ()):
            item.add_marker("browser")


def pytest_deselected(items: Sequence[pytest.Item]) -> None:
    """Remember what a run left out."""
    for item in items:
        counts = item.config.stash.setdefault(_DESELECTED, Counter())
        counts.update([name for name in _MARKERS if item.get_closest_marker(name)] or ["other"])


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter, config: pytest.Config) -> None:
    """One section: the Ollama and the embedded engine of this run, and what was deselected."""
    terminalreporter.section("real parts")
    terminalreporter.line(f"Ollama: {config.stash.get(_OLLAMA, 'not started in this run')}")
    try:
        engine = f"xllamacpp {version('xllamacpp')} installed"
    except PackageNotFoundError:
        engine = "xllamacpp is not installed"
    terminalreporter.line(f"embedded engine: {engine}")
    terminalreporter.line(f"Chromium: {config.stash.get(_CHROMIUM, 'not started in this run')}")
    deselected = config.stash.get(_DESELECTED, Counter())
    parts = ", ".join(f"{count} {name}" for name, count in sorted(deselected.items()))
    terminalreporter.line(f"deselected: {parts or 'nothing'}")
