"""What the model and its package are compared on: the built-in texts, or the user's own."""

from __future__ import annotations

import codecs
import json
import stat
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from ggufpack.chat_template.prompt import Prompt
from ggufpack.checkpoint.jsonfiles import DuplicateKeyError, unique_keys
from ggufpack.errors import ChatTemplateError, UsageError
from ggufpack.verification.fidelity.builtin import CHATS, PLAIN
from ggufpack.verification.fidelity.records import Message, Record, RecordError, parse_record

MAX_FILES = 10_000
MAX_JSON_BYTES = 64 << 20  # a JSON document is parsed as a whole; JSON lines are not
MAX_LINE_BYTES = 16 << 20
_LONGEST_CHARACTER = 4  # bytes in UTF-8
_BYTE_ORDER_MARK = b"\xef\xbb\xbf"


@dataclass(frozen=True)
class EvaluationText:
    """One text.

    Attributes:
        name: short, for the report.
        kind: a language code (``"en"``), ``"code"``, ``"chat"``, or what the user wrote.
        text: what is tokenised, special tokens parsed. Nothing is added to a chat, whose template
            wrote what it wants; a plain text gets the tokenizer's BOS if it adds one.
        is_chat: whether a chat template rendered it.
    """

    name: str
    kind: str
    text: str
    is_chat: bool


@dataclass(frozen=True)
class Calibration:
    """The user's texts.

    Attributes:
        texts: in the order of the files' paths.
        left_out: a clause for each thing that was not taken, for a finding; empty when all was.
        refused: conversations that the chat template refuses.
    """

    texts: tuple[EvaluationText, ...]
    left_out: tuple[str, ...]
    refused: int


def builtin_texts(prompt: Prompt) -> tuple[EvaluationText, ...]:
    """The built-in set for one checkpoint: plain texts, then chats through its own template.

    A chat ends where the last answer ends: the end of that turn is not in it, as in
    :meth:`Prompt.expected`. Chats that the template refuses are left out (some take no system
    message), and all of them when there is no template.

    Raises:
        ChatTemplateError: the template fails on a chat for another reason than refusing it.
    """
    plain = [EvaluationText(name, kind, text, False) for name, kind, text in PLAIN]
    if prompt.template is None:
        return tuple(plain)
    rendered = ((name, prompt.expected(messages)) for name, messages in CHATS)
    chats = [EvaluationText(name, "chat", text, True) for name, text in rendered if text is not None]
    return (*plain, *chats)


def read_calibration(path: Path, prompt: Prompt, *, max_texts: int, max_bytes: int) -> Calibration:
    """The user's own texts, from one file or from all files in a folder and its folders.

    A ``.jsonl`` file has one record a line and a ``.json`` file a list of them (``records``); a
    conversation is rendered by ``prompt``. Any other file is one plain text. Names that begin with a
    dot are passed over. What comes after a limit is left out, and said: the text that reaches
    ``max_bytes`` is cut at a space.

    Args:
        path: a file or a folder.
        prompt: of the checkpoint that is compared.
        max_texts: the most texts to take.
        max_bytes: the most bytes of UTF-8 to take, of all texts together.

    Raises:
        UsageError: nothing to read, not UTF-8, not JSON, a record of no known form (with file, line
            and key), a link that leaves the folder, or a template that fails. Nothing is skipped.
    """
    reader = _Reader(prompt, max_texts, max_bytes)
    files = _files(path)
    root = path if path.is_dir() else path.parent
    for index, file in enumerate(files):
        if reader.is_full:
            rest = len(files) - index
            reader.left_out.append(f"{rest} more file{'s' if rest > 1 else ''} from {file} on")
            break
        reader.read(file, file.relative_to(root).as_posix())
    if reader.refused:
        why = "there is no chat template for" if prompt.template is None else "the chat template refuses"
        many = "conversations" if reader.refused > 1 else "conversation"
        reader.left_out.append(f"{why} {reader.refused} {many}, first {reader.first_refused}")
    if not reader.texts:
        said = f" ({'; '.join(reader.left_out)})" if reader.left_out else ""
        raise UsageError(
            f"{path} gives no text to compare on{said}.",
            action="Give text files, or JSON lines with messages that the chat template takes.",
            path=path,
        )
    return Calibration(tuple(reader.texts), tuple(reader.left_out), reader.refused)


@dataclass
class _Reader:
    """Takes texts until a limit is reached."""

    prompt: Prompt
    max_texts: int
    max_bytes: int
    texts: list[EvaluationText] = field(default_factory=list)
    left_out: list[str] = field(default_factory=list)
    refused: int = 0
    first_refused: str = ""
    taken: int = 0

    @property
    def is_full(self) -> bool:
        return len(self.texts) >= self.max_texts or self.taken >= self.max_bytes

    def read(self, file: Path, name: str) -> None:
        readers: dict[str, Callable[[Path, str], None]] = {".jsonl": self._lines, ".json": self._document}
        try:
            readers.get(file.suffix.lower(), self._plain)(file, name)
        except OSError as error:
            raise UsageError(f"{file} cannot be read: {error.strerror or error}.", path=file) from error

    def _plain(self, file: Path, name: str) -> None:
        limit = self.max_bytes - self.taken
        with file.open("rb") as stream:
            data = stream.read(limit + _LONGEST_CHARACTER)
        # where it was cut may lie within a character; what is decoded is still over the limit
        text = _decoded(data, file, whole=len(data) < limit + _LONGEST_CHARACTER)
        if not text.strip():
            raise UsageError(f"{file} is empty.", action="Remove it, or write a text into it.", path=file)
        self._take(EvaluationText(name, "text", text, False), str(file))

    def _lines(self, file: Path, name: str) -> None:
        with file.open("rb") as stream:
            for number, line in enumerate(iter(lambda: stream.readline(MAX_LINE_BYTES + 1), b""), 1):
                place = f"{file}, line {number}"
                if len(line) > MAX_LINE_BYTES:
                    raise UsageError(f"{place}, is longer than {MAX_LINE_BYTES >> 20} MiB.", path=file)
                if not line.strip():
                    continue
                if self.is_full:
                    self.left_out.append(f"{file} from line {number} on")
                    return
                value = _parsed(_decoded(line, file, place), file, place)
                self._record(value, f"{name}:{number}", file, place)

    def _document(self, file: Path, name: str) -> None:
        with file.open("rb") as stream:
            data = stream.read(MAX_JSON_BYTES + 1)
        if len(data) > MAX_JSON_BYTES:
            raise UsageError(
                f"{file} is larger than {MAX_JSON_BYTES >> 20} MiB.",
                action="Write it as JSON lines (.jsonl), which are read only as far as needed.",
                path=file,
            )
        value = _parsed(_decoded(data, file), file, str(file))
        records = value if isinstance(value, list) else [value]
        if not records:
            raise UsageError(f"{file} is an empty list.", action="Remove it.", path=file)
        for index, record in enumerate(records):
            if self.is_full:
                self.left_out.append(f"{file} from record {index + 1} of {len(records)} on")
                return
            self._record(record, f"{name}:{index + 1}", file, f"{file}, record {index + 1}")

    def _record(self, value: object, name: str, file: Path, place: str) -> None:
        try:
            record = parse_record(value)
        except RecordError as error:
            where = f"{place}, key {error.key}" if error.key else place
            raise UsageError(f"{where}: {error}.", path=file, key=error.key or None) from error
        if not record.messages:
            text = EvaluationText(record.name or name, record.kind or "text", record.text, False)
            self._take(text, place)
            return
        rendered = self._rendered(record, file, place)
        if rendered is None:
            self.refused += 1
            self.first_refused = self.first_refused or place
            return
        self._take(EvaluationText(record.name or name, record.kind or "chat", rendered, True), place)

    def _rendered(self, record: Record, file: Path, place: str) -> str | None:
        if self.prompt.template is None:
            return None  # Prompt.expected takes a single question for a plain prompt; it was a chat
        try:
            return self.prompt.expected(_continuable(record.messages))
        except ChatTemplateError as error:
            raise UsageError(f"{place}: the chat template fails on it. {error.problem}", path=file) from error

    def _take(self, text: EvaluationText, place: str) -> None:
        try:
            data = text.text.encode("utf-8")
        except UnicodeEncodeError as error:
            raise UsageError(f"{place}: half of a surrogate pair is no character.") from error
        limit = self.max_bytes - self.taken
        if len(data) > limit:
            kept = _cut(data, limit)
            self.left_out.append(f"{place} after its first {len(kept.encode('utf-8')):,} bytes")
            self.taken = self.max_bytes
            if kept.strip():
                self.texts.append(EvaluationText(text.name, text.kind, kept, text.is_chat))
            return
        self.taken += len(data)
        self.texts.append(text)


def _continuable(messages: Sequence[Message]) -> Sequence[Message]:
    """Without a tool call at the very end, which cannot be continued: the model's turn is opened instead."""
    ends_with_call = len(messages) > 1 and bool(messages[-1].get("tool_calls"))
    return messages[:-1] if ends_with_call else messages


def _files(path: Path) -> list[Path]:
    """The regular files below ``path``, sorted, none of them outside of it."""
    try:
        if not path.exists():
            raise UsageError(f"{path} does not exist.", action="Check the path.", path=path)
        files = list(_below(path, path.resolve())) if path.is_dir() else [path]
        for file in files:
            # a FIFO or a device would block the program for ever
            if not stat.S_ISREG(file.stat().st_mode):
                raise UsageError(f"{file} is not a regular file.", path=file)
    except OSError as error:
        raise UsageError(f"{path} cannot be read: {error.strerror or error}.", path=path) from error
    if len(files) > MAX_FILES:
        raise UsageError(
            f"{path} holds more than {MAX_FILES:,} files.", action="Give a folder of texts only.", path=path
        )
    return files


def _below(folder: Path, root: Path) -> Iterator[Path]:
    """Files in order, up to one more than the limit."""
    count = 0
    for entry in sorted(folder.iterdir()):
        if entry.name.startswith("."):
            continue
        if entry.is_symlink():
            _refuse_link(entry, root)
        for file in _below(entry, root) if entry.is_dir() else (entry,):
            yield file
            count += 1
            if count > MAX_FILES:
                return


def _refuse_link(entry: Path, root: Path) -> None:
    """A link to a file inside is followed; one that leaves the folder, or to a folder, is not meant."""
    target = entry.resolve()
    if not target.is_relative_to(root):
        raise UsageError(
            f"{entry} is a link that leaves the folder.",
            action="Copy the file, or remove the link.",
            path=entry,
        )
    if not target.is_file():
        raise UsageError(f"{entry} is a link that leads to no file.", action="Remove it.", path=entry)


def _decoded(data: bytes, file: Path, place: str | None = None, *, whole: bool = True) -> str:
    """UTF-8 as Python's text mode reads it. ``whole`` is false for data that is cut somewhere."""
    data = data.removeprefix(_BYTE_ORDER_MARK)
    try:
        text = codecs.getincrementaldecoder("utf-8")("strict").decode(data, final=whole)
    except UnicodeDecodeError as error:
        raise UsageError(
            f"{place or file} is not UTF-8 text (byte {error.start}).",
            action="Save it as UTF-8, or remove it.",
            path=file,
        ) from error
    return text.replace("\r\n", "\n").replace("\r", "\n")


def _parsed(text: str, file: Path, place: str) -> object:
    try:
        value: object = json.loads(text, object_pairs_hook=unique_keys)
    except json.JSONDecodeError as error:
        where = (
            f"line {error.lineno}, column {error.colno}" if place == str(file) else f"column {error.colno}"
        )
        raise UsageError(
            f"{place} is not JSON ({where}: {error.msg}).", action="Repair it, or remove it.", path=file
        ) from error
    except DuplicateKeyError as error:
        raise UsageError(
            f"{place} gives the key {error.key!r} twice.",
            action="Remove the one that is not meant.",
            path=file,
            key=error.key,
        ) from error
    except (RecursionError, ValueError) as error:
        raise UsageError(f"{place} is not JSON that can be meant: {error}.", path=file) from error
    return value


def _cut(data: bytes, limit: int) -> str:
    """The first ``limit`` bytes, to the last space in them when there is one, as text."""
    text = codecs.getincrementaldecoder("utf-8")("strict").decode(data[:limit], final=False)
    end = max(text.rfind(" "), text.rfind("\n"))
    return text[:end] if end > 0 else text
