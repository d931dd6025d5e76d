"""Builds the C kernels, and puts templates/ and vendor/ into the wheel (with the converter, where synced).

Everything else is in pyproject.toml. Setuptools packages only what lies below a package, and the
project's layout keeps both folders at the top.
"""

from __future__ import annotations

import platform
import shutil
import sys
from pathlib import Path

from setuptools import Extension, setup
from setuptools.command.build_ext import build_ext
from setuptools.command.build_py import build_py
from setuptools.errors import BaseError, CCompilerError

ROOT = Path(__file__).resolve().parent
DATA_FOLDERS = ("templates", "vendor")
NATIVE = Path("ggufpack", "quantize", "native")
# the bytes must not depend on the compiler: no fused multiply-add, no reordering
EXACT = ["-O3", "-std=gnu11", "-ffp-contract=off", "-fno-math-errno", "-fwrapv", "-fvisibility=hidden", "-g0"]
X86_64_VARIANTS = {
    "avx2": ["-mavx2", "-mf16c"],
    "avx512": [
        *("-mavx512f", "-mavx512bw", "-mavx512dq", "-mavx512vl", "-mf16c"),
        "-mprefer-vector-width=512",
    ],
}


def variants() -> dict[str, list[str]]:
    """Each variant of the kernels that this machine's compiler makes, with its flags."""
    found: dict[str, list[str]] = {"generic": []}
    if sys.platform == "darwin":
        # one compilation may serve both architectures; on arm64 these are never chosen
        for name, flags in X86_64_VARIANTS.items():
            found[name] = [word for flag in flags for word in ("-Xarch_x86_64", flag)]
    elif platform.machine().lower() in ("x86_64", "amd64"):
        found.update(X86_64_VARIANTS)
    return found


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


class BuildVariants(build_ext):
    """build_ext that compiles ``variant.c`` once for each instruction set."""

    def build_extension(self, ext: Extension) -> None:
        """Compile and link, or leave the kernels out: ggufpack runs without them, only slower."""
        build = Path(self.build_temp)
        try:
            objects = []
            for name, flags in variants().items():
                objects += self.compiler.compile(
                    [str(NATIVE / "variant.c")],
                    output_dir=str(build / name),
                    macros=[("VARIANT", name)],
                    depends=ext.depends,
                    extra_postargs=[*EXACT, *flags],
                )
            ext.extra_objects = objects
            super().build_extension(ext)
        except (BaseError, CCompilerError, OSError) as error:
            self.warn(
                f"the C kernels were not built ({type(error).__name__}, see above):"
                " ggml's own will do the work, more slowly"
            )


setup(
    cmdclass={"build_py": BuildWithData, "build_ext": BuildVariants},
    ext_modules=[
        Extension(
            "ggufpack.quantize._native",
            sources=[str(NATIVE / "module.c")],
            depends=[str(path.relative_to(ROOT)) for path in sorted((ROOT / NATIVE).glob("*.[ch]"))],
            define_macros=[("Py_LIMITED_API", "0x030A0000")],
            extra_compile_args=EXACT,
            py_limited_api=True,
            optional=True,
        )
    ],
    options={"bdist_wheel": {"py_limited_api": "cp310"}},
)
