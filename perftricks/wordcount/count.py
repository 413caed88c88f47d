"""Counting words: of documents in memory, and of files."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any, Union

from perftricks.files import PathLike
from perftricks.parallel.progress import byte_progress
from perftricks.wordcount.checkpoint import SECONDS, Checkpoint
from perftricks.wordcount.dictionaries import UserDictionary
from perftricks.wordcount.errors import OptionError
from perftricks.wordcount.job import FileJob, run
from perftricks.wordcount.methods.choice import check
from perftricks.wordcount.methods.method import Progress
from perftricks.wordcount.reading.feeds import ColumnFeed, Feed, TextFeed, arrow_column
from perftricks.wordcount.reading.options import Document, ReadOptions
from perftricks.wordcount.reading.sources import Format, find_sources
from perftricks.wordcount.settings import MethodName, Settings, TableFilter
from perftricks.wordcount.table.counts import WordCounts
from perftricks.wordcount.tagging import parse_tags
from perftricks.wordcount.tokenizers import Cut, Mode, make_spec

if TYPE_CHECKING:
    from distributed import Client

    from perftricks.parallel.launch import StartMethod

ClusterEngine = Union[str, "Client"]  # a name in quotes


def count_words(
    texts: Iterable[str],
    *,
    tokenizer: str | Cut = "jieba",
    workers: int | None = None,
    mode: Mode = "default",
    hmm: bool = True,
    user_dict: UserDictionary | None = None,
    dictionary: PathLike | None = None,
    stop_words: PathLike | Iterable[str] | None = None,
    min_count: int = 1,
    min_length: int = 0,
    words_only: bool = False,
    document_frequency: bool = False,
    method: MethodName | None = None,
    batch_size: int = 1000,
    start_method: StartMethod | None = None,
    progress: bool | Progress | None = None,
    ngrams: int = 1,
    verify: int = 0,
    verify_seed: int | None = None,
    memory_limit: int | float | str | None = None,
    pos: bool | str | Iterable[str] = False,
) -> WordCounts:
    """Count the words of documents that are in memory or come from a generator.

    With the default options the table equals that of
    ``for text in texts: for token in jieba.lcut(text): tokens[token] = tokens.get(token, 0) + 1``.

    Args:
        texts: The documents, read once, in the calling thread, a bounded number ahead. Or a column
            of Arrow that holds them (a ``pyarrow.Array`` or ``ChunkedArray``, a ``polars.Series``),
            which is counted without a Python object for a document.
        tokenizer: "jieba", "chars" (every character is a token), "whitespace" (``str.split``),
            "module:function", or a function from a str to an iterable of str.
        workers: Worker processes, or threads of method "compiled"; None for the number of cores
            this process may use.
        mode: jieba's mode: "default", "all" or "search".
        hmm: Whether jieba looks for words that are not in its dictionary.
        user_dict: A dictionary that jieba uses beside its own, as ``jieba.load_userdict`` takes it:
            the path of a file, an open file, or lines. It has no effect on other uses of jieba in
            this process. What in it is surely not meant is a ``UserWarning``.
        dictionary: The path of a dictionary that jieba uses in place of its own, as
            ``jieba.set_dictionary`` takes it; for this count only, too.
        stop_words: Tokens to leave out of the table: the path of a file with a word on each line,
            the words, or "zh" for the list of Chinese words that ships. A line of blanks stands for
            that token of blanks.
        min_count: Leave out tokens that occur less often.
        min_length: Leave out tokens of fewer characters.
        words_only: Leave out tokens without a letter, of which Chinese characters are some:
            punctuation, blanks, numbers.
        document_frequency: Also count in how many documents each token occurs.
        method: "naive", "batched", "parallel" or "compiled". None chooses "compiled" where it can
            be used and the text is long enough to be worth its start; else "batched" for a short
            text or for one worker, else "parallel". ``run.note`` of the result says why it is not
            "compiled".
        batch_size: Documents in a batch, of methods "batched" and "parallel".
        start_method: How worker processes start: "fork", "fresh" (forked by a fresh interpreter),
            "forkserver" or "spawn"; None for "fork" where that is usual and this process has no
            other threads, else "fresh".
        progress: True for a progress bar, on stderr if that is a terminal or in the output of a
            notebook's cell, else nothing; or a function that is called now and then with the bytes
            done and the bytes there are, the latter None where that is not known.
        ngrams: Count sequences of so many tokens of a document; the keys are tuples then. With 1
            the tokens are counted.
        verify: Count so many documents, chosen at random, once more with jieba, and fail if
            method "compiled" counts one differently.
        verify_seed: Makes the choice of these documents repeatable.
        memory_limit: What tables may take, in bytes or as a size such as "500MB" or "2GiB"; None
            for half of what the machine or the control group has. A table that outgrows it moves
            to the disk, in the temporary folder, in parts that are merged when the result is read.
        pos: Count tokens with their part-of-speech tags, as ``jieba.posseg.lcut`` cuts and tags
            them: True for all of them, or the tags to keep, such as ``("n", "v")`` or "n,v". A tag
            means itself alone, as in jieba's ``allowPOS``; "n*" means all that begin with n. A key
            is a named tuple, ``(token, tag)``.

    Returns:
        The table. ``documents`` and ``tokens`` say what was counted, before words were left out.

    Raises:
        OptionError: If an option cannot be used; nothing has been counted then.
        OSError: If a dictionary or the stop words cannot be read.
        TypeError: If ``texts`` is a single str or a path, a document is not a str, or ``progress``
            is neither a bool nor a function.
        TokenizerError: If a tokenizer of your own fails.
        VerificationError: If a document was counted wrongly.
        SpillError: If the disk is full that the table moves to.
        Exception: Whatever ``texts`` raises.

    >>> count_words(["我爱喝茶", "茶"], pos="n").most_common()
    [(Tagged(token='茶', tag='n'), 1)]
    >>> count_words(["我爱喝茶", "茶"])
    WordCounts({'喝茶': 1, '我': 1, '爱': 1, '茶': 1}, 4 distinct of 4 tokens in 2 documents)
    """
    if isinstance(texts, (str, bytes)):
        raise TypeError("texts is one string; expected an iterable of them, such as [text]")
    if isinstance(texts, os.PathLike):
        raise TypeError(f"texts is a path, {os.fspath(texts)!r}; count_files counts files")
    tags = parse_tags(pos)
    settings = Settings(
        make_spec(
            tokenizer,
            mode=mode,
            hmm=hmm,
            user_dict=user_dict,
            dictionary=dictionary,
            pos=tags is not None,
        ),
        method=method,
        workers=workers,
        batch_size=batch_size,
        document_frequency=document_frequency,
        start_method=start_method,
        ngrams=ngrams,
        verify=verify,
        verify_seed=verify_seed,
        memory_limit=memory_limit,
    )
    check(settings)
    table_filter = TableFilter.make(stop_words, min_count, min_length, words_only, tags)
    table_filter.check(settings.spec)
    with byte_progress(progress) as tell:
        return table_filter.apply(run(_feed(texts), settings, tell))


def _feed(texts: Iterable[str]) -> Feed:
    """Return documents in memory as a feed; a column of Arrow is read as what it is."""
    column = arrow_column(texts)
    return TextFeed(texts) if column is None else ColumnFeed(column)


def count_files(
    paths: PathLike | Iterable[PathLike],
    *,
    tokenizer: str | Cut = "jieba",
    workers: int | None = None,
    mode: Mode = "default",
    hmm: bool = True,
    user_dict: UserDictionary | None = None,
    dictionary: PathLike | None = None,
    stop_words: PathLike | Iterable[str] | None = None,
    min_count: int = 1,
    min_length: int = 0,
    words_only: bool = False,
    document_frequency: bool = False,
    encoding: str = "utf-8",
    errors: str = "strict",
    document: Document = "line",
    field: str | int | None = None,
    format: Format | None = None,
    method: MethodName | None = None,
    batch_size: int = 1000,
    start_method: StartMethod | None = None,
    progress: bool | Progress | None = None,
    ngrams: int = 1,
    verify: int = 0,
    verify_seed: int | None = None,
    checkpoint: PathLike | None = None,
    checkpoint_seconds: float = SECONDS,
    skip_bad: bool = False,
    memory_limit: int | float | str | None = None,
    pos: bool | str | Iterable[str] = False,
    engine: ClusterEngine | None = None,
    folder: PathLike | None = None,
    storage_options: Mapping[str, Any] | None = None,
) -> WordCounts:
    r"""Count the words of files and folders, plain or compressed (.gz, .bz2, .xz, .zst).

    Args:
        paths: Files, folders (searched to the bottom), patterns such as ``corpus/*.txt``, URLs of
            any of them (``s3://``, ``gs://``, ..., read by fsspec), ``-`` for the standard input;
            one path or several. In folders, hidden files and those of unknown extensions are passed
            over; ``run.not_read`` of the result names them.
        tokenizer: "jieba", "chars" (every character is a token), "whitespace" (``str.split``),
            "module:function", or a function from a str to an iterable of str.
        workers: Worker processes, or threads of method "compiled"; None for the number of cores
            this process may use.
        mode: jieba's mode: "default", "all" or "search".
        hmm: Whether jieba looks for words that are not in its dictionary.
        user_dict: A dictionary that jieba uses beside its own, for this count only: the path of a
            file, an open file, or lines. What in it is surely not meant is a ``UserWarning``.
        dictionary: The path of a dictionary that jieba uses in place of its own, for this count
            only.
        stop_words: Tokens to leave out of the table: the path of a file with a word on each line,
            the words, or "zh" for the list of Chinese words that ships.
        min_count: Leave out tokens that occur less often.
        min_length: Leave out tokens of fewer characters.
        words_only: Leave out tokens without a letter, of which Chinese characters are some:
            punctuation, blanks, numbers.
        document_frequency: Also count in how many documents each token occurs.
        encoding: The encoding of the files; "auto" finds it out for each: by its byte order mark,
            else UTF-8 if it is that, else GB18030. ``run.encodings`` of the result says what.
        errors: What to do with bytes that are not that encoding: "strict" raises, "replace" puts
            U+FFFD in their place, "ignore" leaves them out.
        document: What a document is in text files: "line" (ends at ``\n`` or ``\r\n``, which are
            not part of it) or "file" (everything in it, line ends included).
        field: Where the text is in jsonl, json, csv, tsv, parquet and arrow: a key, a path of keys
            with dots between, the name of a column or its number from 1.
        format: Read every file as "text", "jsonl", "json" (an array, or values one after the
            other), "csv", "tsv", "tsv-raw" (no quoting), "parquet" or "arrow"; None goes by the
            extension.
        method: "naive", "batched", "parallel" or "compiled"; None chooses the fastest that can be
            used, and ``run.note`` of the result says why it is not "compiled".
        batch_size: Documents in a batch, of methods "batched" and "parallel".
        start_method: How worker processes start: "fork", "fresh" (forked by a fresh interpreter),
            "forkserver" or "spawn"; None for "fork" where that is usual and this process has no
            other threads, else "fresh".
        progress: True for a progress bar, on stderr if that is a terminal or in the output of a
            notebook's cell, else nothing; or a function that is called now and then with the bytes
            done, as they are stored, and the bytes there are, the latter None for the standard
            input and pipes.
        ngrams: Count sequences of so many tokens of a document; the keys are tuples then. With 1
            the tokens are counted.
        verify: Count so many documents, chosen at random, once more with jieba, and fail if
            method "compiled" counts one differently.
        verify_seed: Makes the choice of these documents repeatable.
        checkpoint: A folder for snapshots, with method "compiled": a run that was killed goes on
            where it was when it is started again with the same files and options.
        checkpoint_seconds: Take a snapshot this often.
        skip_bad: Go on past files that may not be read, are not the encoding, or are broken in
            another way. Nothing of them is counted: each file is read once before. ``run.bad`` of
            the result names them. The standard input and pipes cannot be read twice; what is bad
            in them is an error even so.
        memory_limit: What tables may take, in bytes or as a size such as "500MB"; None for half of
            what there is. A table that outgrows it moves to the disk, in the temporary folder, or
            in that of a checkpoint.
        pos: Count tokens with their part-of-speech tags, as ``jieba.posseg.lcut`` cuts and tags
            them: True for all of them, or the tags to keep, such as ``("n", "v")`` or "n,v". A tag
            means itself alone, as in jieba's ``allowPOS``; "n*" means all that begin with n. A key
            is a named tuple, ``(token, tag)``.
        engine: What counts past one machine: a client of dask.distributed; the address of a
            scheduler, such as "tcp://10.0.0.1:8786"; or "dask" for workers of this machine, which
            end with the count. None counts in this process. Workers read the files themselves, by
            byte range; they need the same perftricks, jieba and dictionary, which is checked.
        folder: With an engine, the path or URL of a new folder to which workers write the table as
            ``.parquet``, each a part of it; the table that is returned reads them when asked.
        storage_options: Options of the file system of URLs, as fsspec takes them.

    Returns:
        The table. ``documents`` and ``tokens`` say what was counted, before words were left out.

    Raises:
        OptionError: If an option or a path cannot be used; nothing has been counted then.
        FileNotFoundError: If a path does not exist.
        PermissionError: If a file may not be read.
        TypeError: If something else than a path is given, such as an open file.
        CorpusError: If data is bad: not the encoding, broken compression, a line that is not JSON,
            a field that is missing. It names the file and the line or the byte.
        TokenizerError: If a tokenizer of your own fails.
        VerificationError: If a document was counted wrongly.
        SpillError: If the disk is full that the table moves to.
        ClusterError: If the scheduler cannot be reached or is lost, or a worker would not count the
            same.

    >>> counts = count_files("docs/samples", min_length=2)
    >>> counts.most_common(2)
    [('没有', 8), ('可以', 6)]
    """
    tags = parse_tags(pos)
    spec = make_spec(
        tokenizer,
        mode=mode,
        hmm=hmm,
        user_dict=user_dict,
        dictionary=dictionary,
        pos=tags is not None,
    )
    job = FileJob(
        find_sources(paths, format=format, skip_bad=skip_bad, storage_options=storage_options),
        ReadOptions(encoding, errors, document, None if field is None else str(field)),
        Settings(
            spec,
            method=method,
            workers=workers,
            batch_size=batch_size,
            document_frequency=document_frequency,
            start_method=start_method,
            ngrams=ngrams,
            verify=verify,
            verify_seed=verify_seed,
            memory_limit=memory_limit,
        ),
        TableFilter.make(stop_words, min_count, min_length, words_only, tags),
        None if checkpoint is None else Checkpoint(checkpoint, checkpoint_seconds),
    )
    if engine is not None:
        from perftricks.wordcount.cluster.engine import ClusterJob

        cluster = ClusterJob(job, engine, None if folder is None else os.fspath(folder))
        cluster.check()
        with byte_progress(progress) as tell:
            return cluster.run(tell)
    if folder is not None:
        raise OptionError("folder is for workers of an engine; write_table writes a table")
    job.check()
    with byte_progress(progress) as tell:
        return job.run(tell)
