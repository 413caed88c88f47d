from bench.corpus import write_corpus


def test_seed_and_size(tmp_path):
    """A seed gives the same bytes each time, about as many as asked for, in whole documents."""
    written = []
    for name, seed in (("a", 1), ("b", 1), ("c", 2)):
        write_corpus(tmp_path / name, 200_000, seed)
        written.append((tmp_path / name).read_bytes())
    first, again, other = written
    assert first == again != other
    assert abs(len(first) - 200_000) < 20_000
    assert first.endswith(b"\n")
    assert len(first.splitlines()) > 100
