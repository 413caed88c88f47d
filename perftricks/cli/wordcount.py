"""``perftricks wordcount``."""

from __future__ import annotations

import contextlib
import os
import sys
import warnings
from typing import TYPE_CHECKING, Annotated

import typer

from perftricks.cli import counting, merging
from perftricks.cli.choices import (
    Document,
    Engine,
    Errors,
    Format,
    Method,
    Mode,
    OutputFormat,
)
from perftricks.cli.clusters import ClusterOptions, storage_options
from perftricks.cli.errors import complain, reported
from perftricks.cli.json_files import JsonFile, JsonOption
from perftricks.cli.keywords import KeywordOptions
from perftricks.cli.table_files import STDOUT, CloudOption, FontOption, TableFiles

if TYPE_CHECKING:
    from perftricks.wordcount.writing.export import TableFormat

COMMAND = "perftricks wordcount"

# "\b" keeps the lines of the next paragraph apart.
HELP = """Count the words of a corpus, exactly as jieba cuts them.

A document is a line of a text file (see --document), or a record of a jsonl, csv, tsv, parquet or
arrow file.

\b
Examples:
  perftricks wordcount corpus/ -o counts.tsv
  perftricks wordcount corpus/ --words-only --stop-words zh
  perftricks wordcount news.txt.gz --stop-words stop.txt --min-length 2
  perftricks wordcount reviews.jsonl --field text --doc-freq -o counts.csv
  zcat big.gz | perftricks wordcount - --json
  perftricks wordcount corpus/ --pos n,v -o nouns-and-verbs.tsv
  perftricks wordcount corpus/ --tfidf 100 --idf corpus -o keywords.tsv
  perftricks wordcount corpus/ --ngrams 2 --min-count 10 -o bigrams.tsv
  perftricks wordcount corpus/ --method compiled --verify 1000
  perftricks wordcount corpus/ --checkpoint state/ -o counts.tsv
  perftricks wordcount corpus/ --ngrams 3 --memory-limit 500MB -o trigrams.tsv
  perftricks wordcount corpus/ -o - | head
  perftricks wordcount corpus/ --skip-bad --encoding auto -v
  perftricks wordcount corpus/ --compare
  perftricks wordcount corpus/ --report counts.html --plot zipf.svg
  perftricks wordcount corpus/ --stop-words zh --cloud cloud.svg
  perftricks wordcount s3://bucket/corpus/ --engine dask --scheduler tcp://10.0.0.1:8786
  perftricks wordcount --merge monday.tsv tuesday.parquet -o both.tsv

Exit status: 0 done, 1 bad data, 2 wrong usage, 130 interrupted, 128 + n ended by signal n.
"""


app = typer.Typer(add_completion=False, rich_markup_mode=None)


@app.command("wordcount", help=HELP, context_settings={"help_option_names": ["-h", "--help"]})
def wordcount(
    context: typer.Context,
    paths: Annotated[
        list[str],
        typer.Argument(
            metavar="PATHS",
            help="Files, folders (searched to the bottom), or - for the standard input. Plain or "
            ".gz, .bz2, .xz, .zst; text, .jsonl, .json, .csv or .tsv; .parquet, .arrow or "
            ".feather (with pyarrow).",
            show_default=False,
        ),
    ],
    output: Annotated[
        str | None,
        typer.Option(
            "-o",
            "--output",
            metavar="FILE",
            help="Write the whole table: .tsv, .csv, .json, or .parquet, .arrow, .feather (with "
            "pyarrow); - for the standard output, and everything else goes to stderr.",
        ),
    ] = None,
    output_format: Annotated[
        OutputFormat | None,
        typer.Option(
            "--output-format",
            help="Write the table in this format.",
            show_default="by extension; tsv to the standard output",
        ),
    ] = None,
    top: Annotated[
        int, typer.Option("-n", "--top", metavar="N", min=0, help="Show this many tokens.")
    ] = 20,
    workers: Annotated[
        int | None,
        typer.Option(
            "-w",
            "--workers",
            "--threads",
            metavar="N",
            min=1,
            help="Worker processes, or threads of method compiled.",
            show_default="the cores there are",
        ),
    ] = None,
    batch_size: Annotated[
        int | None,
        typer.Option(
            "--batch-size", metavar="N", min=1, help="Documents in a batch.", show_default="1000"
        ),
    ] = None,
    method: Annotated[
        Method | None,
        typer.Option(
            "--method",
            help="One process and one loop; one process and a table for each "
            "batch; batches on worker processes; or jieba's algorithm as machine code, on threads. "
            "The table is the same.",
            show_default="compiled where it can be used and is worth its start, else parallel "
            "or batched",
        ),
    ] = None,
    compare: Annotated[
        bool,
        typer.Option(
            "--compare",
            help="Run all methods on the first 5 MB of text, show times and "
            "whether the tables are equal.",
        ),
    ] = False,
    merge: Annotated[
        bool,
        typer.Option(
            "--merge",
            help="PATHS are tables that --output has written, in any format, or patterns: add them "
            "up.",
        ),
    ] = False,
    tokenizer: Annotated[
        str,
        typer.Option(
            "--tokenizer",
            metavar="NAME",
            help="jieba, chars, whitespace, or module:function of your own.",
        ),
    ] = "jieba",
    mode: Annotated[
        Mode | None, typer.Option("--mode", help="jieba's mode.", show_default="default")
    ] = None,
    hmm: Annotated[
        bool | None,
        typer.Option(
            "--hmm/--no-hmm",
            help="Whether jieba looks for words that are not in its dictionary.",
            show_default="hmm",
        ),
    ] = None,
    user_dict: Annotated[
        str | None,
        typer.Option(
            "--user-dict",
            metavar="FILE",
            help="A dictionary for jieba beside its own: 'word [frequency] [tag]' lines.",
        ),
    ] = None,
    dictionary: Annotated[
        str | None,
        typer.Option(
            "--dict",
            metavar="FILE",
            help="A dictionary in place of jieba's own: 'word frequency [tag]' lines.",
        ),
    ] = None,
    words_only: Annotated[
        bool,
        typer.Option(
            "--words-only", help="Leave out tokens without a letter: punctuation, blanks, numbers."
        ),
    ] = False,
    stop_words: Annotated[
        str | None,
        typer.Option(
            "--stop-words",
            metavar="FILE",
            help="Leave these words out of the table; one on each line. zh is a list of Chinese "
            "words that ships.",
        ),
    ] = None,
    min_count: Annotated[
        int, typer.Option("--min-count", metavar="N", min=1, help="Leave out rarer tokens.")
    ] = 1,
    min_length: Annotated[
        int,
        typer.Option(
            "--min-length", metavar="N", min=0, help="Leave out shorter tokens (characters)."
        ),
    ] = 0,
    doc_freq: Annotated[
        bool,
        typer.Option("--doc-freq", help="Also count in how many documents each token occurs."),
    ] = False,
    ngrams: Annotated[
        int,
        typer.Option(
            "--ngrams", metavar="N", min=1, help="Count sequences of N tokens of a document."
        ),
    ] = 1,
    pos: Annotated[
        str | None,
        typer.Option(
            "--pos",
            metavar="TAGS",
            help="Count tokens with their part-of-speech tags, as jieba.posseg cuts and tags them, "
            "and keep those with these tags, such as n,v. A tag means itself alone, as in jieba's "
            "allowPOS; 'n*' (in quotes) means n, nr, ns and so on; all keeps every tag.",
            show_default="no tags",
        ),
    ] = None,
    tfidf: Annotated[
        int | None,
        typer.Option(
            "--tfidf",
            metavar="N",
            min=0,
            help="Show, and write, the N words with the largest TF-IDF, as "
            "jieba.analyse.extract_tags weighs them, in place of the most frequent ones; 0 for "
            "all of them.",
            show_default="no weights",
        ),
    ] = None,
    idf: Annotated[
        str | None,
        typer.Option(
            "--idf",
            metavar="FILE",
            help="For --tfidf: a file with 'word idf' lines; jieba for jieba's own; or corpus for "
            "that of the corpus, ln((1 + documents) / (1 + document frequency)) + 1.",
            show_default="jieba",
        ),
    ] = None,
    verify: Annotated[
        int,
        typer.Option(
            "--verify",
            metavar="N",
            min=0,
            help="Count N random documents once more with jieba; any difference is an error.",
        ),
    ] = 0,
    verify_seed: Annotated[
        int | None,
        typer.Option(
            "--verify-seed",
            metavar="N",
            help="Choose the same documents each time.",
            show_default="other ones each time",
        ),
    ] = None,
    checkpoint: Annotated[
        str | None,
        typer.Option(
            "--checkpoint",
            metavar="FOLDER",
            help="Take snapshots there (method compiled): a run that is killed goes on where it "
            "was when it is started again.",
        ),
    ] = None,
    checkpoint_seconds: Annotated[
        float | None,
        typer.Option(
            "--checkpoint-seconds",
            metavar="S",
            min=0,
            help="Take a snapshot this often.",
            show_default="15",
        ),
    ] = None,
    memory_limit: Annotated[
        str | None,
        typer.Option(
            "--memory-limit",
            metavar="SIZE",
            help="What tables may take, such as 500MB or 2GiB; one that outgrows it moves to the "
            "disk (TMPDIR).",
            show_default="half of the memory there is",
        ),
    ] = None,
    encoding: Annotated[
        str,
        typer.Option(
            "--encoding",
            metavar="NAME",
            help="Encoding of the files; auto finds it out (UTF-16 or -32 by its mark, UTF-8, "
            "else GB18030).",
        ),
    ] = "utf-8",
    errors: Annotated[
        Errors, typer.Option("--errors", help="What to do with bytes that are not that encoding.")
    ] = Errors.STRICT,
    document: Annotated[
        Document, typer.Option("--document", help="What a document is in a text file.")
    ] = Document.LINE,
    field: Annotated[
        str | None,
        typer.Option(
            "--field",
            metavar="NAME",
            help="Where the text is in jsonl and json (a key, or keys with dots between) and csv, "
            "tsv, parquet, arrow (a column's name, or number from 1).",
        ),
    ] = None,
    format: Annotated[
        Format | None,
        typer.Option(
            "--format",
            help="Read every file, and the standard input, in this format.",
            show_default="by extension",
        ),
    ] = None,
    skip_bad: Annotated[
        bool,
        typer.Option(
            "--skip-bad",
            help="Go on past files that cannot be read or are broken; each is named at the end, "
            "and the exit status is 1.",
        ),
    ] = False,
    verbose: Annotated[
        bool,
        typer.Option("--verbose", "-v", help="Name on stderr what in folders was passed over."),
    ] = False,
    report: Annotated[
        str | None,
        typer.Option(
            "--report",
            metavar="FILE",
            help="Write a page to look at, .html: figures, plot, table to search and sort.",
        ),
    ] = None,
    title: Annotated[
        str | None,
        typer.Option(
            "--title",
            metavar="TEXT",
            help="The heading of the page.",
            show_default="what was counted",
        ),
    ] = None,
    plot: Annotated[
        str | None,
        typer.Option(
            "--plot",
            metavar="FILE",
            help="Draw counts against ranks: .svg; or .png, .pdf (with matplotlib).",
        ),
    ] = None,
    cloud: CloudOption = None,
    font: FontOption = None,
    engine: Annotated[
        Engine | None,
        typer.Option(
            "--engine",
            help="dask: count on the workers of a dask cluster, which read the files themselves.",
            show_default="this process",
        ),
    ] = None,
    scheduler: Annotated[
        str | None,
        typer.Option(
            "--scheduler",
            metavar="ADDRESS",
            help="The cluster's scheduler: tcp://HOST:PORT, or tls://HOST:PORT. Name only one that "
            "you trust.",
            show_default="a cluster of this machine",
        ),
    ] = None,
    tls_ca: Annotated[
        str | None,
        typer.Option("--tls-ca", metavar="FILE", help="For tls://: the certificate authority."),
    ] = None,
    tls_cert: Annotated[
        str | None,
        typer.Option("--tls-cert", metavar="FILE", help="For tls://: your certificate."),
    ] = None,
    tls_key: Annotated[
        str | None, typer.Option("--tls-key", metavar="FILE", help="For tls://: its key.")
    ] = None,
    folder: Annotated[
        str | None,
        typer.Option(
            "--folder",
            metavar="FOLDER",
            help="With --engine: a new folder, or its URL, to which workers write the table as "
            ".parquet, part by part; for tables larger than memory.",
        ),
    ] = None,
    storage: Annotated[
        list[str] | None,
        typer.Option(
            "--storage-option",
            metavar="KEY=VALUE",
            help="An option of the file system of URLs, as fsspec takes it; may be repeated.",
        ),
    ] = None,
    quiet: Annotated[
        bool, typer.Option("--quiet", "-q", help="No table and no progress bar on the screen.")
    ] = False,
    json: JsonOption = None,
) -> None:
    """Parse the options, count or compare, and show the result."""
    from perftricks.parallel import ParallelError
    from perftricks.wordcount.checkpoint import SECONDS, Checkpoint
    from perftricks.wordcount.errors import CorpusError, OptionError, TokenizerError
    from perftricks.wordcount.job import FileJob
    from perftricks.wordcount.reading.options import ReadOptions
    from perftricks.wordcount.reading.sources import find_sources
    from perftricks.wordcount.reading.stop_words import SHIPPED
    from perftricks.wordcount.settings import Settings, TableFilter
    from perftricks.wordcount.tagging import parse_tags
    from perftricks.wordcount.tokenizers import make_spec
    from perftricks.wordcount.verify import VerificationError

    with reported(
        COMMAND,
        usage=(OptionError, FileNotFoundError, PermissionError),
        data=(
            CorpusError,
            TokenizerError,
            VerificationError,
            ParallelError,
            OSError,
            MemoryError,
        ),
    ):
        other = tokenizer != "jieba"
        no_hmm_there = mode is Mode.ALL and hmm is not None
        no_batches = method in (Method.NAIVE, Method.COMPILED) and batch_size is not None
        weighed = tfidf is not None
        no_choice = verify_seed is not None and not verify
        nothing_to_show = quiet and not (output or report or plot or cloud or json or folder)
        no_figures = compare and any((report, plot, cloud, font))
        contradictions = (
            (other and mode is not None, "--mode is for jieba; the tokenizer is another"),
            (other and hmm is not None, "--hmm/--no-hmm is for jieba; the tokenizer is another"),
            (other and user_dict is not None, "--user-dict is for jieba; the tokenizer is another"),
            (other and dictionary is not None, "--dict is for jieba; the tokenizer is another"),
            (other and pos is not None, "--pos is for jieba; the tokenizer is another"),
            (pos and mode not in (None, Mode.DEFAULT), "--pos: jieba.posseg has no modes"),
            (pos and ngrams > 1, "--ngrams counts tokens without tags; leave --pos or it out"),
            (
                pos and checkpoint and engine is not None,
                "a checkpoint of --engine holds no tags; leave --pos, --engine or --checkpoint out",
            ),
            (idf is not None and tfidf is None, "--idf is for --tfidf N"),
            (weighed and ngrams > 1, "--tfidf weighs words; leave --ngrams out"),
            (weighed and compare, "--compare compares counts; leave --tfidf out"),
            (
                weighed and min_count > 1,
                "--tfidf needs the counts of all words; leave --min-count out",
            ),
            (
                weighed and (report is not None or plot is not None),
                "--report and --plot show counts; leave them or --tfidf out",
            ),
            (no_hmm_there, "--hmm/--no-hmm means nothing in mode all, which has no HMM"),
            (
                no_batches,
                f"--batch-size means nothing to method {method and method.value}, "
                "which has no batches",
            ),
            (no_choice, "--verify-seed chooses the documents of --verify; add --verify N"),
            (
                checkpoint is None and checkpoint_seconds is not None,
                "--checkpoint-seconds is for --checkpoint FOLDER",
            ),
            (
                compare and checkpoint is not None,
                "--compare keeps no snapshots; leave --checkpoint out",
            ),
            (
                compare and memory_limit is not None,
                "--compare holds whole tables; leave --memory-limit out",
            ),
            (compare and verify > 0, "--compare compares whole tables; leave --verify out"),
            (compare and method is not None, "--compare runs all methods; --method says one"),
            (compare and engine is not None, "--compare is of this machine; leave --engine out"),
            (compare and output is not None, "--compare writes no table; leave --output out"),
            (title is not None and report is None, "--title is for --report FILE"),
            (
                output is None and output_format is not None,
                "--output-format is for --output FILE",
            ),
            (compare and engine is not None, "--compare runs here; leave --engine out"),
            (compare and skip_bad, "--compare reads part of the files; leave --skip-bad out"),
            (no_figures, "--compare draws nothing; leave --report, --plot, --cloud and --font out"),
            (
                nothing_to_show,
                "--quiet leaves nothing to show; add --output, --report, --plot or --json",
            ),
        )
        for present, message in contradictions:
            if present:
                raise OptionError(message)
        if ":" in tokenizer:  # a module of the user's is looked for where they are
            sys.path.insert(0, os.getcwd())
        json_file = JsonFile(json)
        table_format: TableFormat | None = None if output_format is None else output_format.value
        output = STDOUT if output == "/dev/stdout" else output
        if title is None:
            more = f" and {len(paths) - 1} more"
            title = ", ".join(paths) if len(paths) <= 3 else paths[0] + more
        target = sys.stdout.buffer if output == STDOUT and sys.__stdout__ is not None else output
        files = TableFiles(target, table_format, report, plot, title, json_file, cloud, font)
        to_stdout = output == STDOUT
        shown = 0 if to_stdout and not json_file.wanted else top
        aside = contextlib.redirect_stdout(sys.stderr) if to_stdout else contextlib.nullcontext()
        stop_file = None if stop_words in SHIPPED else stop_words
        tags = parse_tags(pos)
        table_filter = TableFilter.make(stop_words, min_count, min_length, words_only, tags)
        chosen: KeywordOptions | None = None
        idf_file = None if idf in ("jieba", "corpus") else idf
        if tfidf is not None:  # jieba compares stop words otherwise, see there
            chosen = KeywordOptions.make(tfidf, idf, table_filter.chosen.stop_words)
            table_filter = TableFilter.make(None, min_count, min_length, words_only, tags)
        if merge:
            merging.refuse_others(context)
            files.check((), [*paths, stop_file, idf_file, font])
            with aside:
                merging.merge(paths, table_filter, memory_limit, files, shown, chosen, quiet=quiet)
            return
        with warnings.catch_warnings(record=True) as doubts:
            warnings.simplefilter("always", UserWarning)
            spec = make_spec(
                tokenizer,
                mode="default" if mode is None else mode.value,
                hmm=hmm is not False,
                user_dict=user_dict,
                dictionary=dictionary,
                pos=tags is not None,
            )
        for doubt in doubts:
            complain(COMMAND, f"warning: {doubt.message}")
        job = FileJob(
            find_sources(
                paths,
                format=None if format is None else format.value,
                skip_bad=skip_bad,
                storage_options=storage_options(storage),
            ),
            ReadOptions(encoding, errors.value, document.value, field),
            Settings(
                spec,
                method=None if method is None else method.value,
                workers=workers,
                batch_size=batch_size or 1000,
                document_frequency=doc_freq or idf == "corpus",
                ngrams=ngrams,
                verify=verify,
                verify_seed=verify_seed,
                memory_limit=memory_limit,
            ),
            table_filter,
            None
            if checkpoint is None
            else Checkpoint(
                checkpoint, SECONDS if checkpoint_seconds is None else checkpoint_seconds
            ),
        )
        cluster = ClusterOptions(
            engine and engine.value, scheduler, tls_ca, tls_cert, tls_key, folder
        )
        counted_by = cluster.job(job, COMMAND, quiet=quiet)
        taken = [stop_file, user_dict, dictionary, idf_file, font]
        files.check(job.corpus.sources, taken, chinese=not other)
        if verbose:
            for path, reason in job.corpus.not_read:
                complain(COMMAND, f"not read: {path}: {reason}")
        if compare:
            counting.compare(job, COMMAND, json_file, quiet=quiet)
            return
        with aside:
            counting.count(counted_by, job, files, shown, COMMAND, chosen, quiet=quiet)
