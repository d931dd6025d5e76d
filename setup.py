"""Puts templates/ and vendor/ (with the converter, where it was synced) into the wheel.

Everything else is in pyproject.toml. Setuptools packages only what lies below a package, and the
project's layout keeps both folders at the top.
"""

from __future__ import annotations

import shutil
from pathlib import Path

from setuptools import setup
from setuptools.command.build_py import build_py

ROOT = Path(__file__).resolve().parent
DATA_FOLDERS = ("templates", "vendor")


class BuildWithData(build_py):
    """build_py, and the data folders as ``ggufpack/_data``. Editable installs read them in place."""

    def run(self) -> None:
        """Copy the data folders into the build tree."""
        super().run()
        if self.editable_mode:
            return
        for name in DATA_FOLDERS:
            target = Path(self.build_lib) / "ggufpack" / "_data" / name
            shutil.rmtree(target, ignore_errors=True)
            shutil.copytree(ROOT / name, target, ignore=shutil.ignore_patterns("__pycache__", "*.tmp*"))


setup(cmdclass={"build_py": BuildWithData})
