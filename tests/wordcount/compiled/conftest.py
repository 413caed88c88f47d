import logging

import jieba
import pytest

from perftricks.wordcount import compiled
from perftricks.wordcount.cachefolder import open_cache
from perftricks.wordcount.compiled.cache import load_kernel

jieba.setLogLevel(logging.ERROR)


@pytest.fixture(scope="session")
def kernel():
    with open_cache() as folder:
        return load_kernel(folder)


@pytest.fixture(scope="session")
def default_engine():
    jieba.initialize()
    return compiled.load()
