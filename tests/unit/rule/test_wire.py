"""Formats of what passes over an edge."""

from functools import partial
from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from common.rule.packet import Packet, StagedPacket, packet_bytes
from common.rule.wire import Wire, decoder_of, encoder_of, wire_spec
from tests.support.settings import config_of

SHAPES = st.one_of(
    st.lists(st.integers(1, 5), min_size=2, max_size=4),
    st.tuples(st.integers(1, 3), st.integers(1, 5), st.integers(3, 6), st.integers(4, 7)).map(list),  # images
    st.tuples(st.integers(1, 3), st.integers(1, 5), st.integers(14, 20)).map(list),  # tokens
)
DTYPES = st.sampled_from([torch.float32, torch.bfloat16])


class Edge:
    """Both ends of an edge of this format, without a transport."""

    def __init__(self, wire: Wire, shape: list[int], dtype: torch.dtype = torch.float32, last: bool = False) -> None:
        spec, make = (torch.Size(shape), dtype), partial(Packet, channels_last=last)
        self.encoder, self.decoder = encoder_of(wire, spec, make), decoder_of(wire, spec, make)
        self.packet, self.source = make(*wire_spec(wire, spec)), Packet((shape[0], 1))

    def pass_on(self, tensor: Tensor, clip: int = 1, tick: int = 5) -> Packet:
        self.source.set_header(tick - 1, 3)
        self.source.clips[:], self.source.labels[:] = clip, 4
        self.encoder.pack(self.packet, tick, self.source, tensor)
        return self.decoder.unpack(self.packet)


@given(st.sampled_from(["float32", "bfloat16", "int8"]), SHAPES, DTYPES, st.integers(0, 1000))
def test_what_arrives_has_the_computed_dtype_and_is_as_near_as_the_format_allows(
    wire: Wire, shape: list[int], dtype: torch.dtype, seed: int
) -> None:
    sent = torch.randn(shape, generator=torch.Generator().manual_seed(seed)).to(dtype)
    got = Edge(wire, shape, dtype).pass_on(sent)
    assert (got.tick, got.frame, got.clips.tolist(), got.labels.tolist()) == (5, 3, [1] * shape[0], [4] * shape[0])
    assert (got.tensor.shape, got.tensor.dtype) == (sent.shape, dtype)
    if wire == "float32":
        assert torch.equal(got.tensor, sent)
    elif wire == "bfloat16":
        assert torch.equal(got.tensor, sent.to(torch.bfloat16).to(dtype))
    else:
        largest = sent.float().flatten(1).abs().amax(1).view(-1, *[1] * (len(shape) - 1))
        rounding = 0.004 if dtype == torch.bfloat16 else 1e-6
        assert ((got.tensor.float() - sent.float()).abs() <= largest * (0.5 / 127 + rounding)).all()


@given(st.sampled_from(["float32", "bfloat16", "int8"]), SHAPES, DTYPES, st.integers(0, 1000))
def test_the_order_of_maps_in_memory_changes_no_value(
    wire: Wire, shape: list[int], dtype: torch.dtype, seed: int
) -> None:
    sent = torch.randn(shape, generator=torch.Generator().manual_seed(seed)).to(dtype)
    edges = Edge(wire, shape, dtype), Edge(wire, shape, dtype, last=True)
    for _ in range(2):  # int8 adds what the first lost to the second
        plain, last = (edge.pass_on(sent).tensor for edge in edges)
        assert torch.equal(plain, last)
        if len(shape) == 4:
            assert last.is_contiguous(memory_format=torch.channels_last)


@given(SHAPES, st.integers(0, 1000), st.integers(2, 20), st.floats(1e-6, 1e6))
def test_over_a_clips_ticks_int8_passes_on_the_sum_of_what_was_computed(
    shape: list[int], seed: int, ticks: int, magnitude: float
) -> None:
    """But for what the last tick's rounding has lost, however many ticks there are."""
    edge, generator = Edge("int8", shape), torch.Generator().manual_seed(seed)
    sent, got = torch.zeros(shape, dtype=torch.float64), torch.zeros(shape, dtype=torch.float64)
    for tick in range(ticks):
        tensor = torch.randn(shape, generator=generator) * magnitude
        sent += tensor
        got += edge.pass_on(tensor, tick=tick).tensor
    assert edge.encoder.residual is not None
    residual = edge.encoder.residual.tensor.view(shape)
    assert torch.allclose(got + residual, sent, rtol=1e-5, atol=1e-5 * magnitude)
    assert residual.abs().max() <= 0.51 * 6 * magnitude / 127


def test_a_constant_too_small_for_a_step_of_int8_still_arrives_on_average() -> None:
    edge, constant = Edge("int8", [1, 4]), torch.tensor([[1.0, 0.001, -0.002, 0.0]])
    got = torch.stack([edge.pass_on(constant).tensor.clone() for _ in range(400)])
    assert not got[0, 0, 1]
    assert torch.allclose(got.mean(0), constant, atol=1 / 127 / 400)


def test_where_another_clip_begins_nothing_of_the_one_before_is_sent() -> None:
    edge, fresh = Edge("int8", [2, 5]), Edge("int8", [2, 5])
    first, second = torch.randn(2, 5), torch.randn(2, 5)
    edge.pass_on(first, clip=1)
    expected = fresh.pass_on(second, clip=2).tensor
    assert torch.equal(edge.pass_on(second, clip=2).tensor, expected)


def test_each_channel_of_images_has_its_own_scale() -> None:
    sent = torch.randn(2, 3, 4, 4) * torch.tensor([1.0, 1e-3, 1e3]).view(1, 3, 1, 1)
    got = Edge("int8", [2, 3, 4, 4]).pass_on(sent).tensor
    largest = sent.abs().amax((2, 3), keepdim=True)
    assert ((got - sent).abs() <= largest * 0.51 / 127).all()


@pytest.mark.parametrize("bad", [torch.nan, torch.inf])
def test_a_diverged_tensor_is_not_hidden(bad: float) -> None:
    sent = torch.ones(2, 3)
    sent[1, 1] = bad
    got = Edge("int8", [2, 3]).pass_on(sent).tensor
    assert got[0].isfinite().all()
    assert not got[1].isfinite().all()


@pytest.mark.parametrize("bad", [torch.nan, torch.inf, -torch.inf])
def test_what_is_not_finite_is_not_fed_back(bad: float) -> None:
    edge, following = Edge("int8", [2, 3]), torch.randn(2, 3)
    edge.pass_on(torch.tensor([[1.0, bad, 2.0], [0.0, 0.0, 0.0]]))
    assert torch.equal(edge.pass_on(following).tensor, Edge("int8", [2, 3]).pass_on(following).tensor)


def test_what_is_kept_back_in_one_row_is_kept_when_another_begins_a_clip() -> None:
    edge, constant = Edge("int8", [2, 2]), torch.tensor([[1.0, 0.003], [1.0, 0.003]])
    edge.pass_on(constant)
    edge.source.clips[:] = 1, 2
    edge.encoder.pack(edge.packet, 6, edge.source, constant)
    got = edge.decoder.unpack(edge.packet).tensor
    assert got[0, 1] > 0
    assert not got[1, 1]


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("wire", ["float32", "bfloat16", "int8"])
def test_a_tick_allocates_nothing_of_a_tensors_size(wire: Wire, dtype: torch.dtype) -> None:
    edge, tensor = Edge(wire, [4, 8, 16, 16], dtype), torch.randn(4, 8, 16, 16).to(dtype)
    edge.pass_on(tensor, clip=1)
    with torch.profiler.profile(profile_memory=True) as profile:
        edge.pass_on(tensor, clip=2)
    assert max(each.self_cpu_memory_usage for each in profile.key_averages()) <= 64


def test_zeros_arrive_as_zeros() -> None:
    assert not Edge("int8", [2, 3, 4, 4]).pass_on(torch.zeros(2, 3, 4, 4)).tensor.any()


def test_what_arrives_stays_when_the_packet_is_overwritten() -> None:
    for wire in ("bfloat16", "int8"):
        edge = Edge(wire, [2, 3])
        got = edge.pass_on(torch.ones(2, 3))
        edge.packet.tensor.zero_()
        edge.packet.head[:] = -1
        assert torch.allclose(got.tensor, torch.ones(2, 3))
        assert got.clips.tolist() == [1, 1]


@given(SHAPES)
def test_packets_are_as_short_as_promised(shape: list[int]) -> None:
    def nbytes(wire: Wire) -> int:
        spec = torch.Size(shape), torch.float32
        return packet_bytes(*wire_spec(wire, spec)) - packet_bytes((shape[0], 0), torch.float32)

    whole = nbytes("float32")
    assert nbytes("bfloat16") == whole / 2
    assert nbytes("int8") <= whole * 0.25 * (1 + 4 / 16) + 7 * shape[0]


def test_a_residual_is_restored_from_its_bytes() -> None:
    edge, other = Edge("int8", [2, 3]), Edge("int8", [2, 3])
    edge.pass_on(torch.randn(2, 3))
    assert edge.encoder.residual is not None
    assert other.encoder.residual is not None
    other.encoder.residual.from_bytes(edge.encoder.residual.to_bytes())
    following = torch.randn(2, 3)
    assert torch.equal(other.pass_on(following).tensor, edge.pass_on(following).tensor)


def test_a_packet_on_another_device_is_sent_from_host_memory() -> None:
    device = torch.device("cpu", 0)
    spec = torch.Size((2, 3)), torch.float32

    def make(shape: torch.Size, dtype: torch.dtype) -> Packet:
        return Packet(shape, dtype, device)

    encoder, decoder = encoder_of("int8", spec, make), decoder_of("int8", spec, make)
    sent, got = (StagedPacket(*wire_spec("int8", spec), device) for _ in range(2))
    tensor, source = torch.randn(2, 3), Packet((2, 1))
    encoder.pack(sent, 1, source, tensor)
    sent.flush()
    got.from_bytes(sent.to_bytes())
    got.load()
    assert torch.equal(decoder.unpack(got).tensor, Edge("int8", [2, 3]).pass_on(tensor).tensor)


def test_it_keeps_no_graph_and_takes_gradients_of_any_layout() -> None:
    edge = Edge("int8", [2, 3, 4, 4])
    tensor = torch.randn(2, 3, 4, 4, requires_grad=True)
    got = edge.pass_on(tensor.transpose(2, 3) * 2)
    assert not got.tensor.requires_grad
    assert torch.equal(got.tensor, Edge("int8", [2, 3, 4, 4]).pass_on((tensor.transpose(2, 3) * 2).contiguous()).tensor)


@pytest.mark.parametrize("wire", ["bfloat16", "int8"])
def test_exact_gradients_pass_as_computed(tmp_path: Path, wire: str) -> None:
    with pytest.raises(Exception, match="is for algorithm"):
        config_of(tmp_path, stages=3, algorithm="gpipe", data__slots=6, network__wire=wire)
