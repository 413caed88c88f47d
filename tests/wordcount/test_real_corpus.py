"""The script that builds a corpus of real text, on a repository made for it."""

import json
import subprocess

import pytest

from bench import real_corpus
from bench.real_corpus import Part, columns, files_of, markdown, values, write_kind

ARTICLE = """# 标题在这里

English only

```python
print("代码不是文章")
```

正文有[链接](https://example.com/链接)和 ![图](a.png) 结束。
"""


@pytest.fixture
def repository(tmp_path):
    """A repository with an article, reviews and a poem, and the commit."""
    folder = tmp_path / "owner+name" / "repo"
    folder.mkdir(parents=True)

    def git(*command):
        user = ("-c", "user.name=a", "-c", "user.email=a@example.com")
        done = subprocess.run(
            ["git", "-C", str(folder), *user, *command], check=True, capture_output=True, text=True
        )
        return done.stdout.strip()

    (folder / "a.md").write_text(ARTICLE, encoding="utf-8")
    rows = "label,review\n1,很好吃的米饭\n0,很好吃的米饭\n0,ok\n1,味道一般不再来\n"
    (folder / "b.csv").write_text(rows, encoding="utf-8")
    poem = [{"author": "某人", "paragraphs": ["床前明月光，", "疑是地上霜。"]}]
    (folder / "c.json").write_text(json.dumps(poem), encoding="utf-8")
    git("init", "--quiet")
    git("add", ".")
    git("commit", "--quiet", "-m", "texts")
    return tmp_path, git("rev-parse", "HEAD")


def part(commit, path, extract):
    return Part("kind", "owner/name", commit, path, extract)


@pytest.mark.parametrize(
    ("path", "extract", "documents"),
    [
        (r".*\.md", markdown, ["# 标题在这里 正文有链接和 图 结束。"]),
        (r".*\.csv", columns("review"), ["很好吃的米饭", "味道一般不再来"]),
        (r".*\.json", values("paragraphs"), ["床前明月光，疑是地上霜。"]),
    ],
)
def test_kinds(repository, tmp_path, path, extract, documents):
    """Each kind of file gives its documents, one a line, none twice, none without Chinese."""
    mirror, commit = repository
    chosen = part(commit, path, extract)
    folder = real_corpus.repository_of(chosen, mirror, tmp_path)
    count, size, _ = write_kind(tmp_path / "out.txt", [(chosen, folder)], 10**6)
    written = (tmp_path / "out.txt").read_text(encoding="utf-8")
    assert sorted(written.splitlines()) == sorted(documents)
    assert (count, size) == (len(documents), len(written.encode()))


def test_size_and_digest(repository, tmp_path):
    """A file ends where it has its size, and is the same each time."""
    mirror, commit = repository
    chosen = part(commit, r".*\.csv", columns("review"))
    folder = real_corpus.repository_of(chosen, mirror, tmp_path)
    first = write_kind(tmp_path / "a", [(chosen, folder)], 25)
    assert first == write_kind(tmp_path / "b", [(chosen, folder)], 25)
    assert first[0] == 1


def test_the_commit_counts(repository):
    """What is in the folder but not in the commit is not read; a missing repository is named."""
    mirror, commit = repository
    (mirror / "owner+name" / "repo" / "b.csv").write_text("review\n改过的评论\n", encoding="utf-8")
    chosen = part(commit, r".*\.csv", columns("review"))
    (data,) = files_of(chosen, mirror / "owner+name" / "repo" / ".git")
    assert "改过" not in data.decode()
    with pytest.raises(SystemExit, match=r"owner\+other"):
        real_corpus.repository_of(chosen._replace(repository="owner/other"), mirror, mirror)
