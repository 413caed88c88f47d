"""Real Chinese text from public repositories, for measuring.

``python -m bench.real_corpus FOLDER`` writes one file for each kind of text, UTF-8, a document a
line, no document twice:

=============  ==============================================================================
laws.txt       laws, regulations and judicial interpretations, a whole one a line; court cases
articles.txt   technical news and articles, translated and not, a whole one a line
questions.txt  reviews, questions, dialogues, passages of encyclopedias: short, by many hands
poetry.txt     poems of the Tang and Song dynasties and operas, most of them in old characters
=============  ==============================================================================

The repositories are cloned at the commits named below, without their history. Within a kind the
documents stand in the order of their digests, as chance would have it, and the file ends where it
has the size asked for; so two people who run this get the same bytes, which the digests at the end
show. The texts belong to their authors: they are for measuring, not for passing on.
"""

from __future__ import annotations

import argparse
import csv
import hashlib
import io
import json
import re
import subprocess
import tempfile
import zipfile
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

Extract = Callable[[bytes], Iterable[str]]

LARGEST_FILE = 4 << 20  # bytes; larger ones are left out
LEAST_HAN = 4  # characters of a document
HAN = re.compile("[\u4e00-\u9fff]")
# What is no text in Markdown: code, comments, pictures, the targets of links, addresses.
CODE = re.compile(r"^(```|~~~).*?^\1", re.DOTALL | re.MULTILINE)
COMMENT = re.compile(r"<[^<>]*>", re.DOTALL)
TARGET = re.compile(
    r"!?\[([^\[\]]*)\](?:\([^()]*\)|\[\d*\])|^\[\d+\]:.*$|https?://\S+", re.MULTILINE
)


class Part(NamedTuple):
    """Some files of a repository, and how documents are taken from them."""

    kind: str
    repository: str
    commit: str
    path: str  # a regular expression for the whole path
    extract: Extract


def text_of(data: bytes, encoding: str = "utf-8-sig") -> str:
    """The text of a file; empty if it has another encoding than it should."""
    try:
        return data.decode(encoding)
    except UnicodeDecodeError:
        return ""


def markdown(data: bytes) -> Iterator[str]:
    """One document: the lines with Chinese characters, without code and without addresses."""
    text = COMMENT.sub("", CODE.sub("", text_of(data)))
    text = TARGET.sub(lambda match: match[1] or "", text)
    yield " ".join(line for line in text.splitlines() if HAN.search(line))


def columns(*names: str, encoding: str = "utf-8-sig") -> Extract:
    """A document from each of the named columns of a CSV file."""

    def extract(data: bytes) -> Iterator[str]:
        for row in csv.DictReader(io.StringIO(text_of(data, encoding), newline="")):
            yield from (row.get(name) or "" for name in names)

    return extract


def fields(*numbers: int) -> Extract:
    """A document from each of the numbered fields of a file of fields between tabs."""

    def extract(data: bytes) -> Iterator[str]:
        for line in text_of(data).splitlines():
            row = line.split("\t")
            yield from (row[number] for number in numbers if number < len(row))

    return extract


def zipped(inner: Extract) -> Extract:
    """The documents of the files in a ZIP archive."""

    def extract(data: bytes) -> Iterator[str]:
        with zipfile.ZipFile(io.BytesIO(data)) as archive:
            for name in sorted(archive.namelist()):
                yield from inner(archive.read(name))

    return extract


def values(*keys: str) -> Extract:
    """A document from every string, or list of strings, under one of the keys of a JSON file."""

    def walk(node: Any) -> Iterator[str]:
        if isinstance(node, dict):
            for key, value in node.items():
                if key not in keys:
                    yield from walk(value)
                elif isinstance(value, str):
                    yield value
                elif value and isinstance(value[0], str):
                    yield "".join(value)
        elif isinstance(node, list):
            for value in node:
                yield from walk(value)

    return lambda data: walk(json.loads(text_of(data)))


def json_lines(*keys: str) -> Extract:
    """The same for a file with a JSON text on each line."""
    inner = values(*keys)

    def extract(data: bytes) -> Iterator[str]:
        for line in data.splitlines():
            yield from inner(line)

    return extract


def annotated(data: bytes) -> Iterator[str]:
    """The lines of a text with ``{{kind:name}}`` in place of names."""
    for line in text_of(data).splitlines():
        yield re.sub(r"\{\{\w+:([^{}]*)\}\}", r"\1", line)


LAWS = "LawRefBook/Laws", "2f4c5c23716267af9dbebbbbd6cbbf732b101981"
CASES = "china-ai-law-challenge/CAIL2019", "010ebcedb4a1faf0ae25576254d134fa518e4830"
LCTT = "LCTT/TranslateProject", "4948360714403ebcefc3abff80dcc69ad706bf5d"
GOLD_MINER = "xitu/gold-miner", "db4f91ae0df1f31d3b02dbf21b4137bfb9fda374"
WEEKLY = "ruanyf/weekly", "cf5e367d98e5141fb3381816f2ac8c5dd1bdb69f"
POETRY = "chinese-poetry/chinese-poetry", "99ebbef7e1345c0985c44b9fd96a3f9e776f117b"
REVIEWS = "SophonPlus/ChineseNlpCorpus", "a0b781d72158bde242c0626c9e354d2b328865ff"
CARS = "OYE93/Chinese-NLP-Corpus", "e9bb5b5f262466af5d45bcf7ee3380f2cb994907"
SENTENCES = "zejunwang1/CSTS", "2e7eeedf505c78bf39d34f836773081cfc98af0c"
DOCTORS = "Toyhom/Chinese-medical-dialogue-data", "26724a4357fcd142f0cab81188cacf1a2dd8a827"
PASSAGES = "ymcui/cmrc2018", "c0eb1b6ba219847457e6af3180da722bbeb656af"
OLD_PASSAGES = "DRCKnowledgeTeam/DRCD", "b944790de5af02c5fbb7cd9cb1473d27d169eebf"
TRAVEL = "thu-coai/CrossWOZ", "df82c9fdff91b9b130f2d6b89110d3870ba6260e"
NEWS = "InsaneLife/ChineseNLPCorpus", "65fc49b20af96c9f1ae159bef7f04b9e56157fda"

PARTS = (
    Part("laws", *LAWS, r".*\.md", markdown),
    Part("laws", *CASES, r"阅读理解/data/.*\.json", values("context")),
    Part("laws", *CASES, r"scm/baseline/tf_idf/input\.txt", json_lines("A", "B", "C")),
    Part("articles", *LCTT, r"published/.*\.md", markdown),
    Part("articles", *GOLD_MINER, r"(TODO1?|article)/.*\.md", markdown),
    Part("articles", *WEEKLY, r"docs/.*\.md", markdown),
    Part("questions", *REVIEWS, r"datasets/online_shopping.*\.zip", zipped(columns("review"))),
    Part("questions", *REVIEWS, r"datasets/.*\.csv", columns("review")),
    Part("questions", *CARS, r"Classification/BDCI.*\.csv", columns("content")),
    Part("questions", *SENTENCES, r"(?!README).*\.(txt|tsv)", fields(0, 1)),
    Part("questions", *DOCTORS, r".*\.csv", columns("ask", "answer", encoding="gb18030")),
    Part("questions", *PASSAGES, r"data/.*\.json", values("context_text", "query_text")),
    Part("questions", *OLD_PASSAGES, r".*\.json", values("context", "question")),
    Part("questions", *CASES, r"阅读理解/data/.*\.json", values("question")),
    Part("questions", *TRAVEL, r"data/crosswoz/\w+\.json\.zip", zipped(values("content"))),
    Part("questions", *NEWS, r"NER/boson/origindata\.txt", annotated),
    Part("poetry", *POETRY, r"(全唐诗|宋词|元曲|御定全唐詩|五代).*\.json", values("paragraphs")),
)
KINDS = tuple(dict.fromkeys(part.kind for part in PARTS))


def git(folder: Path, *command: str, given: bytes | None = None) -> bytes:
    """What git prints."""
    return subprocess.run(
        ["git", "-C", str(folder), *command], input=given, stdout=subprocess.PIPE, check=True
    ).stdout


def repository_of(part: Part, mirror: Path | None, clones: Path) -> Path:
    """The folder of a repository that has the commit: one of the mirror's, or a clone made now."""
    if mirror is not None:
        folder = mirror / part.repository.replace("/", "+")
        found = [f for f in (folder / "repo" / ".git", folder / "repo", folder) if f.is_dir()]
        if not found:
            raise SystemExit(f"the mirror has no {folder.name}")
        return found[0]
    folder = clones / part.repository.replace("/", "+")
    if not folder.is_dir():
        folder.mkdir(parents=True)
        git(folder, "init", "--quiet", "--bare")
        url = f"https://github.com/{part.repository}"
        git(folder, "fetch", "--quiet", "--depth", "1", url, part.commit)
    return folder


def files_of(part: Part, folder: Path) -> Iterator[bytes]:
    """The contents of the part's files, as they stand in the commit."""
    rows = git(folder, "ls-tree", "-r", "-l", "-z", part.commit).decode().split("\0")[:-1]
    names = []
    for row in rows:
        (_, _, name, size), path = row.split("\t", 1)[0].split(), row.split("\t", 1)[1]
        if re.fullmatch(part.path, path) and size.isdecimal() and int(size) < LARGEST_FILE:
            names.append(name)
    answer = io.BytesIO(git(folder, "cat-file", "--batch", given="\n".join(names).encode()))
    for _ in names:
        length = int(answer.readline().split()[2])
        yield answer.read(length)
        answer.read(1)


def documents_of(part: Part, folder: Path) -> Iterator[bytes]:
    """The part's documents: one line each, runs of whitespace as one space."""
    for data in files_of(part, folder):
        for text in part.extract(data):
            if len(HAN.findall(text)) >= LEAST_HAN:
                yield " ".join(text.split()).encode("utf-8", "ignore")


def write_kind(path: Path, parts: Iterable[tuple[Part, Path]], size: int) -> tuple[int, int, str]:
    """Write one file: its documents, its bytes, its digest."""
    found = {}
    for part, folder in parts:
        for document in documents_of(part, folder):
            found[hashlib.sha256(document).digest()] = document
    digest, written, count = hashlib.sha256(), 0, 0
    with open(path, "wb") as file:
        for _, document in sorted(found.items()):
            if written + len(document) >= size:
                break
            line = document + b"\n"
            file.write(line)
            digest.update(line)
            written += len(line)
            count += 1
    return count, written, digest.hexdigest()


def main() -> None:
    """Write the files and say what they are."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("folder", type=Path, help="where the files go")
    parser.add_argument("--size", type=int, default=32, help="largest size of a file, in MB")
    parser.add_argument(
        "--mirror", type=Path, help="bare clones that are there already: OWNER+NAME/repo"
    )
    chosen = parser.parse_args()
    chosen.folder.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory() as clones:
        for kind in KINDS:
            parts = [
                (part, repository_of(part, chosen.mirror, Path(clones)))
                for part in PARTS
                if part.kind == kind
            ]
            path = chosen.folder / f"{kind}.txt"
            count, written, digest = write_kind(path, parts, chosen.size * 10**6)
            print(f"{path.name:14} {count:>8,} documents {written:>12,} bytes {digest}", flush=True)


if __name__ == "__main__":
    main()
