"""The format in which tensors pass over an edge (network.wire): as they were computed, or shorter for slow links.

    float32     as computed
    bfloat16    rounded to it
    int8        multiples of a scale, the largest value of a row's channel / 127:
                scale of each channel, float32 | values, int8 | padding to 4 bytes

With int8, what rounding loses at a tick is added to what is sent at the next, e being zeroed in the rows where another
clip begins:

    sent(k) = round(y(k) + e(k-1))      e(k) = y(k) + e(k-1) - sent(k)

So over a clip's ticks the neighbour gets the sum of what was computed, but for the last e. Where y is not finite, its
whole channel is not at the neighbour, and e is zero, so that a later y arrives as it should.

Stages compute with tensors of the dtype that the model gives them; only what is in a packet has the wire's.

The format is the same whatever carries an edge, so that a run's results do not depend on where its stages run.
Evaluations have edges of their own, which pass tensors as computed.
"""

from collections.abc import Callable
from typing import Literal

import torch
from torch import Tensor

from common.models.shapes import TensorSpec
from common.rule.gate import gate
from common.rule.host_values import HostValues
from common.rule.packet import Packet

Wire = Literal["float32", "bfloat16", "int8"]
MakePacket = Callable[[torch.Size, torch.dtype], Packet]

_LARGEST = 127  # of an int8 value
_SMALLEST_SCALE = 1e-30
_CHANNEL = 16  # values that a channel must have for a scale of its own, which takes the bytes of 4


def wire_spec(wire: Wire, spec: TensorSpec) -> TensorSpec:
    """Shape and dtype of what passes for tensors of a shape and dtype."""
    shape, dtype = spec
    if wire == "bfloat16":
        return shape, torch.bfloat16
    if wire == "int8":
        return torch.Size((shape[0], -(-(4 * _channels(shape) + shape[1:].numel()) // 4) * 4)), torch.int8
    return shape, dtype


class Encoder:
    """The sending end of an edge: fills its packets, which have the wire's spec.

    Attributes:
        residual: what int8's rounding has lost of each row, with the rows' clips; None in other formats.
    """

    residual: Packet | None = None

    def pack(self, packet: Packet, tick: int, source: Packet, tensor: Tensor) -> None:
        """Fill a packet with `tensor`, computed at `tick` from `source`."""
        packet.pack(tick, source, tensor)


class Decoder:
    """The receiving end of an edge."""

    def unpack(self, packet: Packet) -> Packet:
        """What arrived, with the dtype to compute with; valid until the next call."""
        return packet


def encoder_of(wire: Wire, spec: TensorSpec, make: MakePacket) -> Encoder:
    """The sending end for tensors of this spec. `make` creates a packet on the stage's device."""
    return _Int8Encoder(spec, make) if wire == "int8" else Encoder()


def decoder_of(wire: Wire, spec: TensorSpec, make: MakePacket) -> Decoder:
    """The receiving end for tensors of this spec. `make` creates a packet on the stage's device."""
    if wire_spec(wire, spec) == spec:
        return Decoder()
    return _Int8Decoder(spec, make) if wire == "int8" else _Converter(spec, make)


class _Converter(Decoder):
    def __init__(self, spec: TensorSpec, make: MakePacket) -> None:
        self._own = make(*spec)

    def unpack(self, packet: Packet) -> Packet:
        self._own.pack_header(packet.tick, packet)
        self._convert(packet.tensor, self._own.tensor)
        return self._own

    def _convert(self, arrived: Tensor, own: Tensor) -> None:
        own.copy_(arrived)


class _Int8Decoder(_Converter):
    def __init__(self, spec: TensorSpec, make: MakePacket) -> None:
        super().__init__(spec, make)
        own = self._own.tensor
        fits = own.dtype == torch.float32 and own.is_contiguous()
        self._exact = own if fits else torch.empty(own.shape, device=own.device)

    def _convert(self, arrived: Tensor, own: Tensor) -> None:
        scales, values = _parts(arrived, own.shape)
        self._exact.view(values.shape).copy_(values).mul_(scales)
        if own is not self._exact:
            own.copy_(self._exact)


class _Int8Encoder(Encoder):
    """Every operation is one rounding of each element by itself, so that the reference computes the same bits."""

    residual: Packet

    def __init__(self, spec: TensorSpec, make: MakePacket) -> None:
        shape, _ = spec
        # in the order of the wire, whatever that of maps in memory
        self.residual = make(torch.Size((shape[0], shape[1:].numel())), torch.float32)
        self._lost = self.residual.tensor.view(shape)
        self._scratch = torch.empty_like(self._lost)
        self._by_channel = shape[0], _channels(shape), -1
        self._scales = torch.empty((*self._by_channel[:2], 1), device=self._lost.device)
        self._masks = HostValues()

    def pack(self, packet: Packet, tick: int, source: Packet, tensor: Tensor) -> None:
        packet.pack_header(tick, source)
        gate(self.residual, source, self._masks)
        self.residual.pack_header(tick, source)
        self._lost.add_(self._scratch.copy_(tensor.detach()))  # copied first: other dtypes would allocate in the sum
        whole, rounded, scales = self._lost.view(self._by_channel), self._scratch.view(self._by_channel), self._scales
        torch.amax(torch.abs(whole, out=rounded), 2, keepdim=True, out=scales)
        scales.div_(_LARGEST).clamp_(min=_SMALLEST_SCALE)
        torch.div(whole, scales, out=rounded).round_()
        sent_scales, sent_values = _parts(packet.tensor, tensor.shape)
        sent_scales.copy_(scales)
        sent_values.copy_(rounded)
        whole.sub_(rounded.mul_(scales)).nan_to_num_(0, 0, 0)


def _channels(shape: torch.Size) -> int:
    """The number of scales of a row."""
    return shape[1] if len(shape) > 2 and shape[2:].numel() >= _CHANNEL else 1


def _parts(message: Tensor, shape: torch.Size) -> tuple[Tensor, Tensor]:
    """Views of the scales, [rows, channels, 1], and of the values, [rows, channels, …], in a message of tensors."""
    channels, values = _channels(shape), shape[1:].numel()
    start = 4 * channels
    scales = message[:, :start].view(torch.float32).unsqueeze(2)
    return scales, message[:, start : start + values].view(shape[0], channels, -1)
