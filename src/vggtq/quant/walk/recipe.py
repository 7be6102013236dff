"""One weight through the recipe: statistics of its inputs, the basis to round in, rounding, packing. Changes no network."""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

from torch import Tensor, nn

from vggtq.errors import QuantizationError
from vggtq.quant.kernels.modules import weight_rows
from vggtq.quant.methods.low_rank import low_rank
from vggtq.quant.methods.round import check_finite, pack_weight
from vggtq.quant.methods.scales import channel_scale
from vggtq.quant.methods.statistics import InputStatistics
from vggtq.quant.numbers.basis import InputTransform
from vggtq.quant.numbers.hadamard import rotate, rotation_of
from vggtq.quant.numbers.packed import PackedWeight
from vggtq.quant.scheme.scheme import Scheme
from vggtq.quant.scheme.weights import Weights
from vggtq.quant.walk.fold import Folds
from vggtq.quant.walk.observe import Observer
from vggtq.quant.walk.replace import Fetch, as_it_is
from vggtq.quant.walk.select import WeightOf, layer_weights

UNCALIBRATED = "rounded to nearest: only linear layers are calibrated"


@dataclass(frozen=True)
class Rounded:
    """A rounded weight. parameters: new values of those that take over a part of its transform, by name.

    special_ratio: of the inputs, where they were observed (`InputStatistics.special_ratio`).
    """

    packed: PackedWeight
    parameters: Mapping[str, Tensor] = field(default_factory=dict)
    special_ratio: float | None = None


class Recipe:
    """Rounds the weights of a model, one after the other, in the order that inputs reach them.

    modules: all that will be rounded. A weight with several users is rounded once, without statistics of its inputs, and shares
    its codes. keep_exact: whether packed weights bring along what they were rounded from.
    """

    def __init__(
        self,
        model: nn.Module,
        scheme: Scheme,
        modules: Sequence[Sequence[WeightOf]],
        observer: Observer | None,
        folds: Folds,
        fetch: Fetch = as_it_is,
        keep_exact: bool = False,
    ) -> None:
        self._model, self._scheme, self._observer, self._folds = model, scheme, observer, folds
        self._fetch, self._keep_exact = fetch, keep_exact
        self._users = Counter(id(weight.parameter) for weights in modules for weight in weights)
        self._shared: dict[tuple[object, ...], PackedWeight] = {}
        self._merged: dict[str, InputTransform] = {}  # of projections behind attention

    def round(self, weight: WeightOf, spec: Weights) -> Rounded:
        """The weight in the numbers of `spec`. Raises QuantizationError, which names the layer."""
        shared = self._users[id(weight.parameter)] > 1
        statistics = None if shared else self._statistics(weight.name)
        try:
            if shared:
                return Rounded(self._round_shared(weight, spec))
            return self._round(weight, spec, statistics)
        except QuantizationError as error:
            raise QuantizationError(f"{weight.name}: {error}") from None

    def _round_shared(self, weight: WeightOf, spec: Weights) -> PackedWeight:
        # The same tensor has other rows as a transposed or grouped convolution.
        key = (id(weight.parameter), spec.bits, weight.transposed, weight.groups)
        if key not in self._shared:
            self._shared[key] = pack_weight(self._rows(weight), spec)
        return self._shared[key]

    def _round(self, weight: WeightOf, spec: Weights, statistics: InputStatistics | None) -> Rounded:
        name, scheme = weight.name, self._scheme
        rows, parameters = self._with_merged_values(name, self._rows(weight))
        if scheme.needs_statistics and statistics is None:
            packed = pack_weight(rows, spec)
            return Rounded(replace(packed, notes=(*packed.notes, UNCALIBRATED)), parameters)
        transform = InputTransform()
        if name in self._folds.values:
            transform = self._merged_transform(name)
        elif weight.linear:
            transform = input_transform(rows, spec, scheme, statistics)
        gram = None if statistics is None else transform.gram(statistics.gram)
        rank = scheme.compensation.rank if weight.linear else 0
        exact = transform.weight(rows)
        packed = pack_with_branch(exact, spec, scheme, rank, gram)
        norm = self._folds.norm_for(name, transform)
        if norm is not None and transform.scale is not None:
            for key in (f"{norm}.weight", f"{norm}.bias"):
                old = self._parameter(key)
                parameters[key] = (old / transform.scale).to(old.dtype)
        if self._keep_exact and packed.low_rank is not None:
            exact = exact - packed.low_rank.weight()  # what the codes stand for
        left = self._folds.left_to_do(name, transform)
        packed = replace(packed, transform=left, exact=exact if self._keep_exact else None)
        return Rounded(packed, parameters, None if statistics is None else statistics.special_ratio)

    def _with_merged_values(self, name: str, rows: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
        """The weight (R, C) of the layer `name` and its bias after they took over the transforms of what reads its values."""
        parameters: dict[str, Tensor] = {}
        for projection, values in self._folds.values.items():
            if values.layer != name:
                continue
            transform = self._merged_transform(projection)
            rows = values.merged(rows, transform)
            if self._model.get_submodule(name).bias is not None:
                bias = parameters.get(f"{name}.bias", self._parameter(f"{name}.bias"))
                parameters[f"{name}.bias"] = values.merged(bias, transform).to(bias.dtype)
        return rows, parameters

    def _merged_transform(self, projection: str) -> InputTransform:
        """The transform of a projection, found once, since its values and the projection itself have to use the same."""
        if projection not in self._merged:
            weight, spec = self._parameter(f"{projection}.weight"), layer_weights(self._scheme, projection)
            try:
                transform = input_transform(weight, spec, self._scheme, self._statistics(projection))
            except QuantizationError as error:
                raise QuantizationError(f"{projection}, which reads its values: {error}") from None
            self._merged[projection] = transform
        return self._merged[projection]

    def _statistics(self, name: str) -> InputStatistics | None:
        return None if self._observer is None else self._observer.of(name)

    def _rows(self, weight: WeightOf) -> Tensor:
        assert weight.parameter is not None
        return weight_rows(self._fetch(weight.parameter).detach(), weight.transposed, weight.groups)

    def _parameter(self, name: str) -> Tensor:
        parameter = self._model.get_parameter(name)
        return (self._fetch(parameter) if parameter.is_meta else parameter).detach()


def input_transform(
    rows: Tensor, spec: Weights, scheme: Scheme, statistics: InputStatistics | None
) -> InputTransform:
    """The basis in which `scheme` rounds the weight (R, C) of a linear layer."""
    if not scheme.transforms:
        return InputTransform()
    check_finite(rows)
    rotation = rotation_of(rows.shape[1]) if scheme.transform.hadamard else 0
    rotation_first = rotation > 0 and scheme.scales_rotated
    if rotation_first:  # scales are those of rotated channels
        rows, statistics = rotate(rows, rotation), statistics and statistics.rotated()
    scale = channel_scale(rows, spec, scheme.transform, statistics)
    return InputTransform(scale, rotation, rotation_first=rotation_first)


def pack_with_branch(
    rows: Tensor, spec: Weights, scheme: Scheme, rank: int, gram: Tensor | None
) -> PackedWeight:
    """The weight (R, C) without its largest singular values, rounded, and a branch fitted to all that is missing then.

    gram: (C, C) of the inputs. rank: 0 for no branch.
    """
    if not rank:
        return pack_weight(rows, spec, scheme.rounding, gram)
    check_finite(rows)
    exact = rows.float()
    packed = pack_weight(exact - low_rank(exact, rank).weight(), spec, scheme.rounding, gram)
    rounded = packed.dequantize()
    branch = low_rank(exact - rounded, rank, gram)
    missing = (exact - rounded - branch.weight()).double()
    signal, noise = float(exact.double().square().sum()), float(missing.square().sum())
    return replace(packed, low_rank=branch, signal=signal, noise=noise)
