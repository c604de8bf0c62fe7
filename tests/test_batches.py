"""Recordings that fail, without a GPU: torch's rules of streams are played by `Device`."""

from contextlib import contextmanager

import pytest
import torch

from robustcore.batches import Graph, Slots


class Stream:
    def wait_stream(self, other):
        pass


class Device:
    """Its current stream, and the one that is recorded: to be ended where it began, as in torch."""

    def __init__(self, monkeypatch, end=None):
        self.own = self.current = Stream()
        self.recorded, self.end = None, end
        for name, fake in {
            "Stream": Stream,
            "current_stream": lambda: self.current,
            "set_stream": lambda stream: setattr(self, "current", stream),
            "stream": self.stream,
            "CUDAGraph": object,
            "graph": self.graph,
            "get_sync_debug_mode": lambda: 0,
            "set_sync_debug_mode": lambda mode: None,
        }.items():
            monkeypatch.setattr(torch.cuda, name, fake)

    @contextmanager
    def stream(self, stream):
        before, self.current = self.current, stream
        yield
        self.current = before

    @contextmanager
    def graph(self, graph):
        before, self.current = self.current, Stream()
        self.recorded = self.current
        try:
            yield
        finally:
            if self.current is not self.recorded:
                raise RuntimeError("Capture must end on the same stream it began on.")
            self.recorded = None
            if self.end is not None:
                raise self.end
            self.current = before


def recorded(device, error=None):
    """A model that leaves torch on a stream of its own and raises where it is recorded."""
    notes = []

    def step(slots):
        if device.recorded is not None and error is not None:
            device.current = Stream()
            raise error
        return slots.sigma * 2

    slots = Slots(*torch.ones(4, 3))
    return Graph(step, slots, notes), notes, step(slots)


def test_a_recording_that_succeeds_leaves_the_stream(monkeypatch):
    device = Device(monkeypatch)
    graph, notes, want = recorded(device)
    assert graph.graph is not None
    assert torch.equal(graph.logits, want)
    assert not notes
    assert device.current is device.own


@pytest.mark.parametrize("end", [None, RuntimeError("capture was invalidated")])
def test_a_recording_that_fails_is_ended_and_the_model_called_as_it_is(monkeypatch, end):
    device = Device(monkeypatch, end)
    graph, notes, want = recorded(device, RuntimeError("not permitted"))
    said = "not permitted" if end is None else "capture was invalidated"
    assert notes == [f"no CUDA graph, as recording failed: {said}"]
    assert torch.equal(graph(graph.slots), want)
    assert device.recorded is None
    assert device.current is device.own


@pytest.mark.parametrize("kind", [ValueError, KeyboardInterrupt, torch.OutOfMemoryError])
def test_what_a_model_raises_while_it_is_recorded_is_raised(monkeypatch, kind):
    device = Device(monkeypatch)
    with pytest.raises(kind, match=r"^mine$"):
        recorded(device, kind("mine"))
    assert device.recorded is None
    assert device.current is device.own
