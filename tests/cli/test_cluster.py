"""``perftricks wordcount --engine dask``: a cluster of its own, one that is named, and TLS."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys

import pytest

from perftricks.wordcount import count_files, read_table
from tests.clusters import Cluster
from tests.conftest import PATIENCE

pytest.importorskip("distributed", reason="distributed is not installed")
pytest.importorskip("pyarrow", reason="pyarrow is not installed")


def run(*arguments):
    """Run the command in a process of its own."""
    command = [sys.executable, "-W", "ignore", "-m", "perftricks", "wordcount", *arguments]
    return subprocess.run(command, capture_output=True, text=True, timeout=PATIENCE)


def test_a_cluster_of_its_own(tmp_path):
    """Without a scheduler there are workers for the count, which end with it."""
    done = run("docs/samples", "--engine", "dask", "-w", "1", "-o", str(tmp_path / "a.tsv"))
    assert done.returncode == 0, done.stderr
    assert "method     dask" in done.stdout
    assert read_table(tmp_path / "a.tsv") == count_files("docs/samples")


def test_a_scheduler_that_is_named(cluster, tmp_path):
    """Its workers count, and write a folder if one is asked for."""
    folder = tmp_path / "parts"
    options = ("--engine", "dask", "--scheduler", cluster.address, "--folder", str(folder), "-q")
    done = run("docs/samples", *options)
    assert (done.returncode, done.stdout) == (0, ""), done.stderr
    assert read_table(folder) == count_files("docs/samples")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--scheduler", "tcp://x:1"], "--scheduler is for --engine dask"),
        (["--tls-ca", "x"], "--tls-ca is for --engine dask"),
        (["--engine", "dask", "--scheduler", "x:1"], "expected an address such as tcp://"),
        (
            ["--engine", "dask", "--scheduler", "tcp://x:1", "--tls-ca", "x"],
            "tls_ca: for a scheduler at tls://",
        ),
        (
            ["--engine", "dask", "--scheduler", "tls://x:1", "--tls-ca", "README.md"],
            "is missing",
        ),
        (["--engine", "dask", "--verify", "3"], "verify"),
        (["--engine", "dask", "--compare"], "leave --engine out"),
        (["--storage-option", "x"], "expected KEY=VALUE"),
    ],
)
def test_options_that_do_not_go_together(arguments, message):
    """One line says what is wrong, and the status is that of wrong usage."""
    done = run("docs/samples", *arguments)
    assert done.returncode == 2
    assert message in done.stderr
    assert done.stderr.count("\n") == 1


def certificates(folder):
    """Make a certificate authority, and a certificate that it has signed."""
    folder.mkdir()

    def openssl(*arguments):
        subprocess.run(["openssl", *arguments], cwd=folder, check=True, capture_output=True)

    new = ("-newkey", "rsa:2048", "-nodes")
    openssl("req", "-x509", *new, "-keyout", "ca.key", "-out", "ca.pem", "-subj", "/CN=authority")
    openssl("req", *new, "-keyout", "key.pem", "-out", "cert.csr", "-subj", "/CN=127.0.0.1")
    signing = ("-CA", "ca.pem", "-CAkey", "ca.key", "-CAcreateserial")
    openssl("x509", "-req", "-in", "cert.csr", *signing, "-out", "cert.pem")
    return folder


@pytest.mark.cluster_faults
@pytest.mark.skipif(shutil.which("openssl") is None, reason="no openssl to make certificates with")
def test_tls(tmp_path):
    """Who has a certificate of the cluster's authority counts there, and nobody else."""
    good, other = certificates(tmp_path / "good"), certificates(tmp_path / "other")
    cluster = Cluster(1, tls=str(good))
    try:
        assert cluster.address.startswith("tls://")

        def count(folder, *more):
            files = (("ca", "ca.pem"), ("cert", "cert.pem"), ("key", "key.pem"))
            tls = [part for name, file in files for part in (f"--tls-{name}", f"{folder}/{file}")]
            options = ("--engine", "dask", "--scheduler", cluster.address, *more)
            return run("docs/samples", *options, *(tls if folder else ()), "--json", "-", "--quiet")

        done = count(good)
        assert done.returncode == 0, done.stderr
        assert '"tokens": 1499' in done.stdout
        os.environ["DASK_DISTRIBUTED__COMM__TIMEOUTS__CONNECT"] = "5s"
        try:
            done = count(other)
        finally:
            del os.environ["DASK_DISTRIBUTED__COMM__TIMEOUTS__CONNECT"]
        assert done.returncode == 1
        assert "cannot be reached" in done.stderr
        assert done.stderr.splitlines()[-1].startswith("perftricks wordcount: ")
    finally:
        cluster.close()
