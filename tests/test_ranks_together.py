"""What ranks tell each other, by two threads over one store in place of processes."""

import itertools
import threading

import numpy as np
import pytest
import torch
from models import Small
from torch.distributed import HashStore, PrefixStore

import robustcore as rc
from robustcore.runs.behaviour import Behaviour
from robustcore.runs.errors import Changed, RunError
from robustcore.runs.ranks import KINDS, Many, One, Stopped
from robustcore.runs.rows import rows_of


def ranks(size=2):
    store = HashStore()
    crew = []
    for rank in range(size):
        one = Many.__new__(Many)  # without a process group
        one.rank, one.size = rank, size
        one._store, one._steps = PrefixStore("crew", store), itertools.count()
        one._second = PrefixStore("crew", store) if rank == 0 else None
        crew.append(one)
    return crew


def told(body, size=2):
    """What body(rank's end) returns or raises, on each rank."""
    crew = ranks(size)
    answers = [None] * size

    def run(rank):
        try:
            answers[rank] = body(crew[rank])
        except BaseException as error:
            answers[rank] = error

    threads = [threading.Thread(target=run, args=(rank,)) for rank in range(size)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert not any(thread.is_alive() for thread in threads)
    return answers


@pytest.fixture(scope="module")
def rows():
    x = torch.rand(4, 3, 8, 8, generator=torch.Generator().manual_seed(3))
    return [rows_of(rc.error_rate(Small(), x[i : i + 1], 0.2, samples=20)) for i in range(4)]


def test_what_rank_0_finds_reaches_all_in_the_order_of_the_calls():
    def body(crew):
        return [crew.led(lambda k=k: [k, crew.rank]) for k in range(3)]

    assert told(body, 3) == [[[0, 0], [1, 0], [2, 0]]] * 3


@pytest.mark.parametrize(
    ("error", "kind"),
    [
        (Changed("x is another"), RunError),
        (ValueError("bad"), ValueError),
        (TypeError("no number"), TypeError),
        (FileNotFoundError(2, "gone"), OSError),
        (ZeroDivisionError("by 0"), RuntimeError),
    ],
)
def test_an_error_of_rank_0_is_raised_on_all_as_what_it_is(error, kind):
    def fail():
        raise error

    first, other = told(lambda crew: crew.led(fail))
    assert first is error
    assert type(other) is kind
    assert str(other) == f"rank 0: {error}"
    assert kind is RuntimeError or kind in KINDS.values()


def test_ranks_agree_on_every_setting_or_one_of_them_names_it():
    same = {"x": "a", "y": None, "samples": 60}
    assert told(lambda crew: crew.agree(same)) == [None, None]
    first, other = told(lambda crew: crew.agree({**same, "samples": 60 + crew.rank}))
    assert first is None  # it hears of it where it waits next
    assert str(other) == (
        "samples must be the same on every rank, was 60 on rank 0 and 61 on rank 1"
    )
    given = {0: {**same, "more": 1}, 1: same}
    assert "more must be the same" in str(told(lambda crew: crew.agree(given[crew.rank]))[1])


def test_a_model_does_the_same_on_every_rank():
    def does(value):
        return Behaviour(np.full((2, 3), value, np.float32), np.zeros(3, np.float32), 2.0**-24)

    assert told(lambda crew: crew.behave(does(1.0))) == [None, None]
    first, other = told(lambda crew: crew.behave(does(1.0 + crew.rank)))
    assert first is None
    assert "model must do the same on every rank, on ranks 0 and 1 logit 0" in str(other)


def measured(crew, rows, written, measure=None, stopping=lambda: False):
    def write(block, rank, part):
        written.append((block, rank, part))

    return crew.measure([3, 1, 2, 0], measure or (lambda k: rows[k]), write, stopping)


@pytest.mark.parametrize("size", [2, 3])
def test_every_block_is_measured_once_and_written_by_rank_0(rows, size):
    written, met = [], set()
    meet = threading.Barrier(size)

    def measure(crew, k):
        if crew.rank not in met:
            met.add(crew.rank)
            meet.wait(30)  # until each has a block
        return rows[k]

    answers = told(lambda crew: measured(crew, rows, written, lambda k: measure(crew, k)), size)
    assert answers == [None] * size
    assert sorted(block for block, _, _ in written) == [0, 1, 2, 3]
    assert {rank for _, rank, _ in written} == set(range(size))
    for block, _, part in written:
        assert part.to_bytes() == rows[block].to_bytes()


@pytest.mark.parametrize("failing", [0, 1])
def test_a_rank_that_fails_is_named_by_the_others(rows, failing):
    meet, met = threading.Barrier(2), set()

    def measure(crew, k):
        if crew.rank not in met:
            met.add(crew.rank)
            meet.wait(30)  # until each has a block
        if crew.rank == failing:
            raise RuntimeError("a broken disk")
        return rows[k]

    def body(crew):
        return measured(crew, rows, [], lambda k: measure(crew, k))

    answers = told(body)
    assert str(answers[failing]) == "a broken disk"
    assert str(answers[1 - failing]) == f"rank {failing} failed: a broken disk"


def test_what_one_rank_tries_and_fails_at_reaches_those_that_wait():
    def fail():
        raise ValueError("no such image")

    def body(crew):
        return crew.tried(fail) if crew.rank == 1 else crew._wait("never")

    first, other = told(body)
    assert str(first) == "rank 1 failed: no such image"
    assert type(other) is ValueError
    assert told(lambda crew: crew.tried(lambda: crew.rank)) == [0, 1]


def test_an_error_without_words_is_told_by_its_kind(rows):
    def fail(*_):
        raise KeyboardInterrupt

    def body(crew):
        return crew.tried(fail) if crew.rank == 1 else crew._wait("never")

    assert str(told(body)[0]) == "rank 1 failed: KeyboardInterrupt"
    assert str(told(lambda crew: crew.led(fail))[1]) == "rank 0: KeyboardInterrupt"
    answers = told(lambda crew: crew.measure([0], lambda k: rows[k], fail, lambda: False))
    assert str(answers[1]) == "rank 0 failed: KeyboardInterrupt"


def test_where_one_is_told_to_stop_all_finish_the_block_in_flight(rows):
    written, in_flight = [], threading.Event()

    def body(crew):
        def stopping():
            return crew.rank == 1 and in_flight.wait(30)

        def measure(k):
            in_flight.set()
            crew._store.wait(["stop"])
            return rows[k]

        return measured(crew, rows, written, measure, stopping)

    assert [type(each) for each in told(body)] == [Stopped, Stopped]
    assert [rank for _, rank, _ in written] == [0]


def test_a_stop_in_the_last_block_is_a_stop_although_all_are_written(rows):
    written, in_flight = [], threading.Event()

    def body(crew):
        if crew.rank == 1:
            in_flight.wait(30)  # the one block is taken

        def stopping():
            return crew.rank == 1

        def measure(k):
            in_flight.set()
            crew._store.wait(["stop"])
            return rows[k]

        return crew.measure([2], measure, lambda *block: written.append(block), stopping)

    assert [type(each) for each in told(body)] == [Stopped, Stopped]
    assert len(written) == 1
    one = []
    with pytest.raises(Stopped):
        One().measure([2], lambda k: one.append(k) or rows[k], lambda *_: None, lambda: bool(one))


def test_one_process_that_is_told_to_stop_finishes_its_block(rows):
    written = []
    with pytest.raises(Stopped):
        measured(One(), rows, written, stopping=lambda: len(written) > 0)
    assert [(block, rank) for block, rank, _ in written] == [(3, 0)]


def test_one_process_measures_every_block_in_turn(rows):
    written = []
    measured(One(), rows, written)
    assert [(block, rank) for block, rank, _ in written] == [(3, 0), (1, 0), (2, 0), (0, 0)]
    assert One().led(lambda: "found") == One().tried(lambda: "found") == "found"
