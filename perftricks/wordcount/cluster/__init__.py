"""Counting past one machine, on the workers of a dask.distributed cluster.

::

    client     partitions (URL, range), a bounded number under way
    workers    count ─▶ table of Arrow, by hash ─┐
               count ─▶ table of Arrow, by hash ─┼─ merge ─▶ ... ─▶ tables ─┐ ranges of hashes
               count ─▶ table of Arrow, by hash ─┘                          ├─ finish ─▶ part
    client     what is left of the table, once; or nothing, where the workers write the parts

Tasks depend on nothing but a partition, or on tables: what a lost worker had is computed again by
the scheduler, and what is in a table is in it once. Tables go from worker to worker.

====================== ===============================================================
:mod:`.connection`     a client, of a scheduler or of a cluster that is started here
:mod:`.agreement`      whether workers count as the client would
:mod:`.driver`         the client's side of a count
:mod:`.tasks`          what workers do
:mod:`.hashed`         tables in the order of hashes, their sums and ranges
====================== ===============================================================
"""
