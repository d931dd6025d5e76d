"""The process of the source model: ``python -m …source_worker EVENT_FD VENDOR BYTECODE``.

Requests (``ggufpack.child``) are ``{"do": NAME, …}``, where NAME is ``open`` or a request of ``Source``.
torch and transformers are here and nowhere else.
"""

from __future__ import annotations

import json
import logging
import os
import shutil
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
import transformers

from ggufpack.child import Reporter, leave, serve
from ggufpack.convert.guard import forbid_network_and_pickle
from ggufpack.errors import GgufpackError, VerificationError
from ggufpack.gguf_header import GgufFileError
from ggufpack.packages import sha256_of
from ggufpack.quantize.types import TensorType
from ggufpack.resources import write_whole
from ggufpack.vendoring.loading import compiled_elsewhere
from ggufpack.verification.fidelity import cache
from ggufpack.verification.fidelity.adapted_source import files_of, load_adapted
from ggufpack.verification.fidelity.compare import Distance, divergence
from ggufpack.verification.fidelity.confined import begin_confined, source_confinement
from ggufpack.verification.fidelity.decoded import decoded_size, write_decoded
from ggufpack.verification.fidelity.distributions import ROWS, Distributions, DistributionWriter, Rows
from ggufpack.verification.fidelity.rounding import GgufTypes, round_weights, rounded_inputs

SAMPLE_TOKENS = 400  # on which the arithmetic of the engine is repeated
SPARE_BYTES = 1 << 30  # for logits and activations
RECIPE = 3  # of the cache: another number when the same inputs lead to other values

Texts = Sequence[Sequence[int]]


class Source:
    """One checkpoint: its tokenizer and its model, each loaded when it is asked for.

    Args:
        request: ``checkpoint``, ``trust_remote_code``, ``threads``, ``device``, ``adaptation``.
        reporter: told about tokens done.
        gguf: the vendored module.
    """

    def __init__(self, request: dict[str, Any], reporter: Reporter, gguf: Any) -> None:
        self._gguf = gguf
        self._reporter = reporter
        self._folder = Path(request["checkpoint"])
        self._adaptation = request["adaptation"]
        self._trusted = bool(request["trust_remote_code"])
        self._device = device_of(request["device"])
        self._model: Any = None
        self._own_dtypes: dict[str, Any] = {}
        self._precise = False
        self._tokenizer: Any = None
        self._digest: str | None = None
        torch.set_num_threads(request["threads"])
        torch.set_grad_enabled(False)

    def tokenize(self, request: dict[str, Any]) -> dict[str, Any]:
        """Token ids of texts; ``special`` says whether the tokenizer's own BOS and EOS are added."""
        if self._tokenizer is None:
            self._tokenizer = self._pretrained(transformers.AutoTokenizer, self._folder)
        encode, special = self._tokenizer.encode, request["special"]
        return {"tokens": [encode(text, add_special_tokens=special) for text in request["texts"]]}

    def reference(self, request: dict[str, Any]) -> dict[str, Any]:
        """The distributions of the texts, from the cache or computed."""
        texts = request["texts"]
        folder = cache.root() / self._key(texts)
        if not cache.use(folder):
            self._load()
            vocabulary = int(self._logits(texts[0][:1]).shape[-1])
            with DistributionWriter(folder, sum(map(len, texts)), vocabulary) as writer:
                for _, rows in self._all_rows(texts, "the trained model"):
                    writer.add(rows)
                writer.finish({"reference": self._name(), "precise": self._precise})
            cache.prune(folder)
        return {"folder": str(folder), **Distributions(folder).meta}

    def own(self, request: dict[str, Any]) -> dict[str, Any]:
        """KL at each token when the source computes in its own dtype; empty when the reference does so."""
        texts, source = request["texts"], Distributions(Path(request["source"]))
        if not source.meta["precise"]:
            return {"kl": []}
        kept = Path(request["source"]) / "own.json"
        if kept.is_file():
            return {"kl": json.loads(kept.read_text(encoding="utf-8"))}
        self._load()
        for name, parameter in self._model.named_parameters():
            parameter.data = parameter.data.to(self._own_dtypes[name])
        kl: list[float] = []
        for start, rows in self._all_rows(texts, "the trained model in its own dtype"):
            kl += divergence(source.rows(start, start + len(rows)), rows).tolist()
        for parameter in self._model.parameters():
            parameter.data = parameter.data.float()
        write_whole(kept, json.dumps(kl))
        return {"kl": kl}

    def rounded(self, request: dict[str, Any]) -> dict[str, Any]:
        """The distributions with the weights rounded as a GGUF's types say.

        ``exact``: whether every weight was. ``kl``: mean, from the source. ``moved``: relative distance of
        the logits from the source's. ``arithmetic``: how far the engine's own rounding moves them.
        ``float_arithmetic``: how far F16 alone would. ``routed``: whether the model has experts.
        """
        texts, source = request["texts"], Distributions(Path(request["source"]))
        types = GgufTypes(Path(request["gguf"]), self._gguf)
        folder = cache.root() / self._key(texts, types=types.tensors, imatrix=types.imatrix)
        if not cache.use(folder):
            self._load()
            done = round_weights(self._model, types, self._gguf)
            moved, arithmetic, in_f16, kl = Distance(), Distance(), Distance(), 0.0
            half = dict.fromkeys(done.types, TensorType.F16)
            sample = _sample(texts)
            with DistributionWriter(folder, *source.shape) as writer:
                for start, rows in self._all_rows(texts, "the weights rounded as in the file"):
                    writer.add(rows)
                    before = source.rows(start, start + len(rows))
                    moved.add(before, rows)
                    kl += float(divergence(before, rows).sum())
                for text in sample:
                    plain = _array(self._logits(texts[text]))
                    for kinds, distance in ((done.types, arithmetic), (half, in_f16)):
                        with rounded_inputs(self._model, kinds):
                            distance.add(plain, _array(self._logits(texts[text])))
                writer.finish(
                    {
                        # of a file with an importance matrix nobody says how it was rounded
                        "exact": done.unknown == 0 and not types.imatrix,
                        "kl": kl / source.shape[0],
                        "moved": moved.relative,
                        "arithmetic": arithmetic.relative,
                        "float_arithmetic": in_f16.usual if types.routed else in_f16.relative,
                        "routed": types.routed,
                    }
                )
            self._model = None  # its weights are not the source's any more
            cache.prune(folder)
        return {"folder": str(folder), **Distributions(folder).meta}

    def decoded(self, request: dict[str, Any]) -> dict[str, Any]:
        """See ``decoded_copy``."""
        return decoded_copy(request, self._gguf)

    def choices(self, request: dict[str, Any]) -> dict[str, Any]:
        """What the source would write at the places of a text from ``start`` on, one behind its end too.

        ``best``: rows of the most probable id, its probability, and the second's.
        """
        self._load()
        values, ids = self._logits(request["text"])[request["start"] - 1 :].float().softmax(-1).topk(2)
        rows = zip(ids.tolist(), values.tolist(), strict=True)
        return {"best": [(token, top, second) for (token, _), (top, second) in rows]}

    # --- the model --------------------------------------------------------------

    def _load(self) -> None:
        if self._model is not None:
            return
        if self._adaptation is None:
            model = self._model_of(self._folder, dtype="auto")
        else:
            model = load_adapted(self._adaptation, self._model_of)
        model.eval()
        self._own_dtypes = {name: parameter.dtype for name, parameter in model.named_parameters()}
        weights = sum(parameter.numel() for parameter in model.parameters())
        there = free_bytes(self._device)
        self._precise = there is None or 4 * weights + SPARE_BYTES <= there
        if self._precise:
            # bfloat16 and float16 values are float32 values too; buffers keep the dtype they have
            for parameter in model.parameters():
                parameter.data = parameter.data.float()
        self._model = model.to(self._device)

    def _model_of(self, folder: Path, **options: Any) -> Any:
        return self._pretrained(transformers.AutoModelForCausalLM, folder, use_safetensors=True, **options)

    def _pretrained(self, auto: Any, folder: Path, **options: Any) -> Any:
        try:
            return auto.from_pretrained(
                folder, trust_remote_code=self._trusted, local_files_only=True, **options
            )
        except GgufpackError:
            raise
        except Exception as error:
            raise VerificationError(
                f"transformers cannot load {folder} ({type(error).__name__}: {first_line(error)})",
                action="Update transformers, or use --verify smoke, which needs no source model.",
                path=folder,
            ) from error

    def _all_rows(self, texts: Texts, item: str) -> Iterator[tuple[int, Rows]]:
        """(number of the first row, log probabilities) in blocks of rows."""
        total, start = sum(map(len, texts)), 0
        for text in texts:
            logits = self._logits(text)
            for at in range(0, len(text), ROWS):
                rows = logits[at : at + ROWS].float().log_softmax(-1)
                yield start + at, _array(rows)
            start += len(text)
            self._reporter.progress(start, total, item)

    def _logits(self, text: Sequence[int]) -> Any:
        ids = torch.tensor([text], device=self._device)
        try:
            return self._model(input_ids=ids, use_cache=False).logits[0]
        except MemoryError:
            raise
        except torch.OutOfMemoryError as error:
            raise MemoryError from error
        except Exception as error:  # models need kernels and packages of their own
            raise VerificationError(
                f"transformers cannot run {self._folder} ({type(error).__name__}: {first_line(error)})",
                action="Install what it asks for, or use --verify smoke, which needs no source model.",
                path=self._folder,
            ) from error

    def _name(self) -> str:
        dtypes = {str(parameter.dtype).removeprefix("torch.") for parameter in self._model.parameters()}
        return f"torch {torch.__version__} {', '.join(sorted(dtypes))} on {self._device.type}"

    def _key(self, texts: Texts, **more: Any) -> str:
        if self._digest is None:
            files = sorted(self._folder.glob("*.safetensors")) + sorted(self._folder.glob("*.json"))
            digests = {file.name: sha256_of(file) for file in files}
            adapters = {} if self._adaptation is None else _digests(self._adaptation)
            self._digest = cache.digest_of(files=digests, **adapters)
        versions = [torch.__version__, transformers.__version__, self._device.type, RECIPE]
        return cache.digest_of(source=self._digest, texts=texts, versions=versions, **more)


def decoded_copy(request: dict[str, Any], gguf_module: Any) -> dict[str, Any]:
    """A copy of a GGUF with F32 weights. ``lacks``: why there is none, empty when there is one."""
    gguf, target = Path(request["gguf"]), Path(request["target"])
    try:
        needed = decoded_size(gguf) + SPARE_BYTES
        memory = free_bytes(torch.device("cpu"))
        if shutil.disk_usage(target.parent).free < needed:
            lacks = "disk space"
        elif memory is not None and memory < needed:
            lacks = "memory"
        else:
            write_decoded(gguf, target, gguf_module)
            return {"lacks": ""}
    except GgufFileError as error:
        raise VerificationError(f"{gguf}: {error.problem}", action=error.action, path=gguf) from error
    return {"lacks": f"that takes {needed >> 20:,} MiB of {lacks}"}


def _digests(adaptation: dict[str, Any]) -> dict[str, Any]:
    weights = [adapter["weight"] for adapter in adaptation["adapters"]]
    return {"adapters": [sha256_of(file) for file in files_of(adaptation)], "weights": weights}


def _array(rows: Any) -> Rows:
    return np.ascontiguousarray(rows.float().cpu().numpy())


def _sample(texts: Texts) -> list[int]:
    """Numbers of texts spread over all, with about ``SAMPLE_TOKENS`` tokens."""
    share = max(1, sum(map(len, texts)) // SAMPLE_TOKENS)
    return list(range(0, len(texts), share))


def device_of(name: str) -> Any:
    """The device of a name; ``"auto"`` is a GPU that is there."""
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    try:
        return torch.zeros(1, device=name).device
    except (RuntimeError, AssertionError) as error:
        raise VerificationError(
            f"torch has no device {name!r} ({first_line(error)})", action="Use --device cpu."
        ) from error


def free_bytes(device: Any) -> int | None:
    """Memory for a model; ``None`` where the system does not say."""
    if device.type == "cuda":
        return int(torch.cuda.mem_get_info(device)[0])
    try:
        text = Path("/proc/meminfo").read_text(encoding="ascii")
    except OSError:
        return None
    rows = dict(line.split(":", 1) for line in text.splitlines())
    return int(rows["MemAvailable"].split()[0]) << 10


def first_line(error: BaseException) -> str:
    """Of its message, cut to 300 characters."""
    return next(iter(str(error).strip().splitlines()), "")[:300]


def serve_source(descriptor: int, vendor: Path, bytecode: Path, make: Any) -> None:
    """Serve requests until standard input closes; ``make(request, reporter, gguf)`` answers them."""
    reporter = Reporter(descriptor)
    logging.basicConfig(level=logging.INFO, stream=sys.stderr, format="%(levelname)s %(name)s: %(message)s")
    sys.path.insert(0, str(vendor / "gguf-py"))
    with compiled_elsewhere(bytecode):
        import gguf
        import gguf.quants
    forbid_network_and_pickle()
    reporter.send("ready")

    def begin(request: dict[str, Any]) -> tuple[Any, dict[str, Any]]:
        begin_confined()
        return make(request, reporter, gguf), {}

    libraries = (vendor, bytecode)
    serve(reporter, begin, "trained model", lambda request: source_confinement(request, libraries))


if __name__ == "__main__":
    os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")
    serve_source(int(sys.argv[1]), Path(sys.argv[2]), Path(sys.argv[3]), Source)
    leave()
