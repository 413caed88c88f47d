import logging

import jieba
import pytest

from perftricks.wordcount.kernel import load
from perftricks.wordcount.kernel.cache import load_kernel
from perftricks.wordcount.storage.cachefolder import open_cache

jieba.setLogLevel(logging.ERROR)


@pytest.fixture(scope="session")
def kernel():
    with open_cache() as folder:
        return load_kernel(folder)


@pytest.fixture(scope="session")
def default_engine():
    jieba.initialize()
    return load()
