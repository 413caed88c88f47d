from __future__ import annotations

import os

import pytest

from perftricks.wordcount import OptionError, count_files, count_words
from perftricks.wordcount.reading import sources
from perftricks.wordcount.reading.sources import find_sources


def write(folder, *names):
    for name in names:
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("茶\n", encoding="utf-8")


def found(corpus, folder):
    return [os.path.relpath(source.path, folder) for source in corpus.sources]


def test_folder(tmp_path):
    """A folder gives the texts below it, sorted; the rest is passed over and counted."""
    write(
        tmp_path, "b.txt", "a/z.txt", "a/b/c.md.gz", "part-0.zst", "README", "x.jsonl.xz", "y.TXT"
    )
    write(tmp_path, "photo.png", "archive.tar.gz", ".hidden.txt", ".git/config")
    corpus = find_sources([tmp_path])
    assert found(corpus, tmp_path) == [
        "README",
        "a/b/c.md.gz",
        "a/z.txt",
        "b.txt",
        "part-0.zst",
        "x.jsonl.xz",
        "y.TXT",
    ]
    assert corpus.passed_over == 3
    assert {(os.path.relpath(path, tmp_path), reason) for path, reason in corpus.not_read} == {
        (".git", "hidden folder"),
        (".hidden.txt", "hidden"),
        ("archive.tar.gz", "unknown extension .tar"),
        ("photo.png", "unknown extension .png"),
    }
    assert corpus.size == 7 * 4


@pytest.mark.parametrize(
    ("name", "format", "compression"),
    [
        ("a.txt", "text", ""),
        ("a.md.bz2", "text", "bz2"),
        ("a.jsonl.gz", "jsonl", "gz"),
        ("a.ndjson", "jsonl", ""),
        ("a.CSV.ZST", "csv", "zst"),
        ("a.tsv", "tsv", ""),
        ("a.json.gz", "json", "gz"),
        ("photo.png", "text", ""),
        (".hidden", "text", ""),
    ],
)
def test_named_file_is_read_whatever_its_extension(tmp_path, name, format, compression):
    """Format and compression go by the extension; an unknown one is text."""
    write(tmp_path, name)
    (source,) = find_sources(tmp_path / name).sources
    assert (source.format, source.compression, source.size) == (format, compression, 4)


@pytest.mark.parametrize("name", ["a.tar.gz", "a.TGZ", "a.tar", "a.zip", "a.pdf", "a.docx", "a.7z"])
def test_archives_and_documents(tmp_path, name):
    """What is counted of an archive would be what is around its texts; a format says it is text."""
    write(tmp_path, name, "b.txt")
    for path in (tmp_path / name, f"file://{tmp_path / name}", tmp_path / "a.*"):
        with pytest.raises(OptionError, match=r"is \.\w+, which is no text: (unpack|save)"):
            find_sources(path)
    assert len(find_sources(tmp_path / name, format="text").sources) == 1
    corpus = find_sources([tmp_path / name, tmp_path / "b.txt"], skip_bad=True)
    assert found(corpus, tmp_path) == ["b.txt"]
    assert [path for path, _ in corpus.bad] == [str(tmp_path / name)]


def test_what_is_no_path(tmp_path):
    """An open file is not taken for its lines."""
    write(tmp_path, "a.txt")
    with open(tmp_path / "a.txt", encoding="utf-8") as file:
        with pytest.raises(TypeError, match="paths is an open file"):
            find_sources(file)
        with pytest.raises(TypeError, match="a path is of type TextIOWrapper"):
            find_sources([file])
    with pytest.raises(TypeError, match=r"texts is a path, .*a\.txt'; count_files counts files"):
        count_words(tmp_path / "a.txt")
    with pytest.raises(OptionError, match="encoding must be a name"):
        count_files(tmp_path / "a.txt", encoding=None)


def test_format_overrides_the_extension(tmp_path):
    """A format that is given holds for every file; the compression still goes by the extension."""
    write(tmp_path, "a.txt", "b.log.gz")
    corpus = find_sources([tmp_path / "a.txt", tmp_path / "b.log.gz", "-"], format="jsonl")
    assert [(s.format, s.compression) for s in corpus.sources] == [
        ("jsonl", ""),
        ("jsonl", "gz"),
        ("jsonl", ""),
    ]
    with pytest.raises(OptionError, match="format must be one of text, jsonl, csv, tsv, tsv-raw"):
        find_sources("-", format="xml")


def test_stdin():
    """A dash is the standard input, whose size nobody knows."""
    corpus = find_sources("-")
    assert [source.name for source in corpus.sources] == ["<stdin>"]
    assert corpus.size is None


def test_missing(tmp_path):
    """A path that does not exist is named, also one below a file."""
    write(tmp_path, "a.txt")
    for path in (tmp_path / "b.txt", tmp_path / "a.txt" / "b", "nul\0"):
        with pytest.raises(FileNotFoundError, match="does not exist; name a file or a folder"):
            find_sources([path])


def test_nothing_to_read(tmp_path):
    """A folder without text is an error that says what was expected, and so is no path at all."""
    with pytest.raises(OptionError, match=r"holds no text to count; expected \.txt"):
        find_sources(tmp_path)
    write(tmp_path, "photo.png")
    with pytest.raises(OptionError, match=r"no text to count \(1 files passed over\)"):
        find_sources(tmp_path)
    with pytest.raises(OptionError, match="no path given"):
        find_sources([])


def test_given_twice(tmp_path):
    """The same file or folder named twice is an error, in whatever spelling."""
    write(tmp_path, "a.txt")
    path = str(tmp_path / "a.txt")
    with pytest.raises(OptionError, match="is given twice; its words would count double"):
        find_sources([path, path])
    (tmp_path / "link.txt").symlink_to("a.txt")
    with pytest.raises(OptionError, match=r"is given twice \(as .*a\.txt' and .*link\.txt'\)"):
        find_sources([path, tmp_path / "link.txt"])
    with pytest.raises(OptionError, match="is given twice"):
        find_sources([tmp_path, f"{tmp_path}/"])
    with pytest.raises(OptionError, match="'-' is given twice"):
        find_sources(["-", "-"])


def test_overlapping_folders(tmp_path):
    """A file that several of the paths lead to is read once."""
    write(tmp_path, "a/a.txt", "b.txt")
    paths = [tmp_path / "b.txt", tmp_path, tmp_path / "a", tmp_path / "a" / "a.txt"]
    corpus = find_sources(paths)
    assert found(corpus, tmp_path) == ["b.txt", "a/a.txt"]
    assert corpus.passed_over == 2


def test_links(tmp_path):
    """Links to files and folders are followed, a loop ends, a dangling link is passed over."""
    write(tmp_path, "corpus/a.txt", "elsewhere/b.txt")
    corpus = tmp_path / "corpus"
    (corpus / "loop").symlink_to(".")
    (corpus / "other").symlink_to("../elsewhere")
    (corpus / "again.txt").symlink_to("a.txt")
    (corpus / "dangling.txt").symlink_to("nowhere")
    result = find_sources(corpus)
    assert found(result, corpus) == ["a.txt", "other/b.txt"]
    assert result.passed_over == 2


def test_pipes(tmp_path):
    """A named pipe in a folder is passed over; one that is named itself is read, without a size."""
    os.mkfifo(tmp_path / "pipe.txt")
    write(tmp_path, "a.txt")
    assert found(find_sources(tmp_path), tmp_path) == ["a.txt"]
    (source,) = find_sources(tmp_path / "pipe.txt").sources
    assert source.size is None


@pytest.mark.parametrize("through_folder", [False, True])
def test_unreadable_file(tmp_path, monkeypatch, through_folder):
    """A file that may not be read is found before anything is counted."""
    write(tmp_path, "a.txt", "b.txt")
    forbid_opening(monkeypatch, "b.txt")
    paths = tmp_path if through_folder else [tmp_path / "a.txt", tmp_path / "b.txt"]
    with pytest.raises(PermissionError, match=r"b\.txt' cannot be read: permission denied"):
        find_sources(paths)


def forbid_listing(monkeypatch, name):
    """Have the system refuse to list folders of a name."""
    listdir = os.listdir

    def guarded(path):
        if str(path).endswith(name):
            raise PermissionError(13, "Permission denied", path)
        return listdir(path)

    monkeypatch.setattr(os, "listdir", guarded)


def test_unreadable_folder(tmp_path, monkeypatch):
    """A folder that may not be searched is an error, not silently empty."""
    write(tmp_path, "a.txt", "sub/b.txt")
    forbid_listing(monkeypatch, "sub")
    with pytest.raises(PermissionError, match="sub' cannot be read: permission denied"):
        find_sources(tmp_path)


def test_bad_ones_are_skipped(tmp_path, monkeypatch):
    """With skip_bad what may not be read is noted with its reason, and so are dangling links."""
    write(tmp_path, "a.txt", "b.txt", "c.txt", "sub/d.txt")
    (tmp_path / "e.txt").symlink_to("nowhere")
    (tmp_path / "f.txt").symlink_to("f.txt")
    forbid_opening(monkeypatch, "b.txt")
    forbid_listing(monkeypatch, "sub")
    corpus = find_sources(tmp_path, skip_bad=True)
    assert found(corpus, tmp_path) == ["a.txt", "c.txt"]
    assert {os.path.relpath(path, tmp_path): reason for path, reason in corpus.bad} == {
        "b.txt": f"'{tmp_path}/b.txt' cannot be read: permission denied",
        "sub": f"folder '{tmp_path}/sub' cannot be read: permission denied",
        "e.txt": "a link that leads nowhere",
        "f.txt": "a link that leads nowhere",
    }
    named = find_sources([tmp_path / "a.txt", tmp_path / "e.txt"], skip_bad=True)
    assert [path for path, _ in named.bad] == [str(tmp_path / "e.txt")]
    with pytest.raises(FileNotFoundError, match=r"no\.txt' does not exist"):
        find_sources(tmp_path / "no.txt", skip_bad=True)


def test_binary_files(tmp_path):
    """A file without extension that holds NUL bytes is passed over, unless they are UTF-16."""
    write(tmp_path, "a.txt")
    (tmp_path / "program").write_bytes(b"\x7fELF\0")
    (tmp_path / "nul.txt").write_bytes(b"a\0b")
    (tmp_path / "wide").write_bytes("茶a".encode("utf-16"))
    corpus = find_sources(tmp_path)
    assert found(corpus, tmp_path) == ["a.txt", "nul.txt", "wide"]
    assert find_sources(tmp_path / "program").sources


def test_json_in_folders(tmp_path):
    """A .json file in a folder is read only if it is asked for."""
    write(tmp_path, "a.txt", "b.json")
    assert found(find_sources(tmp_path), tmp_path) == ["a.txt"]
    assert found(find_sources(tmp_path, format="json"), tmp_path) == ["a.txt", "b.json"]


def forbid_opening(monkeypatch, name):
    """Make opening a file fail as it does without permission, also for root, who may open all."""

    def guarded(path, *args, **kwargs):
        if str(path).endswith(name):
            raise PermissionError(13, "Permission denied", path)
        return open(path, *args, **kwargs)

    monkeypatch.setattr(sources, "open", guarded, raising=False)


def test_patterns(tmp_path, monkeypatch):
    """A pattern that no shell has expanded stands for what matches it; a name is no pattern."""
    monkeypatch.chdir(tmp_path)
    for name in ("a.txt", "b.txt", "deep/c.txt", "[1].txt", ".hidden.txt"):
        path = tmp_path / name
        path.parent.mkdir(exist_ok=True)
        path.write_text(name)

    def found(*patterns):
        return [source.path for source in find_sources(patterns).sources]

    assert found("?.txt") == ["a.txt", "b.txt"]
    assert found("**/*.txt") == ["[1].txt", "a.txt", "b.txt", "deep/c.txt"]
    assert found("[1].txt") == ["[1].txt"]
    assert found("d*") == ["deep/c.txt"]
    assert found("b*", "a*") == ["b.txt", "a.txt"]
    with pytest.raises(FileNotFoundError, match=r"'\*\.csv' does not exist.*matches nothing"):
        found("*.csv")
    with pytest.raises(OptionError, match="is given twice"):
        found("*.txt", "a.txt")
