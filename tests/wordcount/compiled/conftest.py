import logging

import jieba
import pytest

from perftricks.wordcount import compiled
from perftricks.wordcount.cachefolder import cache_folder
from perftricks.wordcount.compiled.cache import load_kernel

jieba.setLogLevel(logging.ERROR)


@pytest.fixture(scope="session")
def kernel():
    return load_kernel(cache_folder())


@pytest.fixture(scope="session")
def default_engine():
    jieba.initialize()
    return compiled.load()
