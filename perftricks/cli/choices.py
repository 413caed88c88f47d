"""The choices that options of ``perftricks wordcount`` have."""

from __future__ import annotations

from enum import Enum


class Method(str, Enum):
    """Choices of --method."""

    NAIVE = "naive"
    BATCHED = "batched"
    PARALLEL = "parallel"
    COMPILED = "compiled"


class Engine(str, Enum):
    """Choices of --engine."""

    DASK = "dask"


class Mode(str, Enum):
    """Choices of --mode."""

    DEFAULT = "default"
    ALL = "all"
    SEARCH = "search"


class Errors(str, Enum):
    """Choices of --errors."""

    STRICT = "strict"
    REPLACE = "replace"
    IGNORE = "ignore"


class Document(str, Enum):
    """Choices of --document."""

    LINE = "line"
    FILE = "file"


class Format(str, Enum):
    """Choices of --format."""

    TEXT = "text"
    JSONL = "jsonl"
    CSV = "csv"
    TSV = "tsv"
    TSV_RAW = "tsv-raw"
    JSON = "json"
    PARQUET = "parquet"
    ARROW = "arrow"


class OutputFormat(str, Enum):
    """Choices of --output-format."""

    TSV = "tsv"
    CSV = "csv"
    JSON = "json"
    PARQUET = "parquet"
    ARROW = "arrow"
    FEATHER = "feather"
