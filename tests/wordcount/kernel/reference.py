"""The reference: jieba itself, document by document."""

from collections import Counter

from perftricks.wordcount.kernel import TextCounter
from perftricks.wordcount.methods.kernel_tables import token_table


def documents_of(text, newline):
    """The documents of a text, written independently of the kernel."""
    if newline == "none":
        return [text]
    if newline == "byte":
        return text.split("\x00")[:-1] if text else []
    if newline == "universal":
        text = text.replace("\r\n", "\n").replace("\r", "\n")
    if newline == "crlf":
        text = text.replace("\r\n", "\n")
    documents = text.split("\n")
    return documents if documents[-1] else documents[:-1]


def cutter(tokenizer, mode="default", hmm=True):
    if mode == "all":
        return lambda text: tokenizer.lcut(text, cut_all=True)
    if mode == "search":
        return lambda text: tokenizer.lcut_for_search(text, HMM=hmm)
    return lambda text: tokenizer.lcut(text, HMM=hmm)


def expected(tokenizer, text, newline="lf", mode="default", hmm=True, ngram=1):
    """Count tokens, their documents, n-grams, their documents, and documents with jieba."""
    cut = cutter(tokenizer, mode, hmm)
    counts, frequencies, grams, gram_frequencies = Counter(), Counter(), Counter(), Counter()
    documents = documents_of(text, newline)
    for document in documents:
        tokens = cut(document)
        counts.update(tokens)
        frequencies.update(set(tokens))
        if ngram > 1:
            these = list(zip(*(tokens[i:] for i in range(ngram)), strict=False))
            grams.update(these)
            gram_frequencies.update(set(these))
    return counts, frequencies, grams, gram_frequencies, len(documents)


def check(
    engine,
    tokenizer,
    text,
    *,
    newline="lf",
    mode="default",
    hmm=True,
    ngram=1,
    doc_freq=False,
    threads=1,
):
    """Compare everything the kernel counts with the reference."""
    data = text.encode()
    if newline == "byte":  # a byte that no text has, where the reference has NUL
        text += "\x00"
        data = text.encode().replace(b"\x00", b"\xff")
    counts, frequencies, grams, gram_frequencies, documents = expected(
        tokenizer, text, newline, mode, hmm, ngram
    )
    counter = TextCounter(
        *engine,
        newline=newline,
        mode=mode,
        hmm=hmm,
        ngram=ngram,
        doc_freq=doc_freq,
        threads=threads,
    )
    counter.feed(data)
    table = counter.table()
    assert table.to_dict() == counts
    assert counter.documents == documents
    if doc_freq:
        assert token_table(table).frequency() == frequencies
    if ngram > 1:
        got = list(table.ngram_items())
        assert {gram: count for gram, count, _ in got} == grams
        if doc_freq:
            assert {gram: count for gram, _, count in got} == gram_frequencies
