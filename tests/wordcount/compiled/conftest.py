import logging

import jieba
import pytest

jieba.setLogLevel(logging.ERROR)

from perftricks.wordcount import compiled
from perftricks.wordcount.compiled.cache import cache_folder, load_kernel  # noqa: E402


@pytest.fixture(scope="session")
def kernel():
    return load_kernel(cache_folder())


@pytest.fixture(scope="session")
def default_engine():
    jieba.initialize()
    return compiled.load()
