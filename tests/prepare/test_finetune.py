"""Fine-tuning: gradients against differentiated surrogates, the packed network against the trained one, interruptions."""

import copy
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.nn import functional as F

from helpers.runs import recorded
from vggtq import artifact
from vggtq.config.compose import compose
from vggtq.config.validate import validated
from vggtq.errors import ConfigError, DataError, QuantizationError
from vggtq.files.cache import TensorCache
from vggtq.prepare.finetune import Views
from vggtq.quant.finetune import finetune, trainer
from vggtq.quant.finetune.finetune import finetune_
from vggtq.quant.finetune.layers import LearnedLinear, LearnedWeight
from vggtq.quant.finetune.losses import learnable, named_outputs, relative_error
from vggtq.quant.finetune.straight_through import rounded_inputs, rounded_linear, rounded_tokens
from vggtq.quant.finetune.trainer import WARMUP, Checkpoint, Progress, share_of_rate
from vggtq.quant.kernels.linear import ReferenceLinear
from vggtq.quant.kernels.modules import TransformedLinear
from vggtq.quant.methods.round import pack_weight
from vggtq.quant.numbers.input_codes import fake_quantize
from vggtq.quant.numbers.input_range import InputRange
from vggtq.quant.numbers.rounding import dequantize, quantization_parameters, round_to_codes
from vggtq.quant.scheme.activations import Activations
from vggtq.quant.scheme.methods import Compensation, Rounding, Transform
from vggtq.quant.scheme.parts import Finetune, Layers
from vggtq.quant.scheme.scheme import Scheme
from vggtq.quant.scheme.weights import Weights
from vggtq.quant.walk.quantize import quantize_

SPECS = [
    Weights(bits=4),
    Weights(bits=3, granularity="group", group_size=24, symmetric=False),  # a short last group
    Weights(bits=4, granularity="group", group_size=16, scale_dtype="float16"),
    Weights(bits=2, granularity="per_tensor", symmetric=False),
]
FOUR = Activations("dynamic", 4)
by_numbers = pytest.mark.parametrize(
    "spec", SPECS, ids=lambda s: f"w{s.bits} {s.granularity} {s.scale_dtype}"
)


def weight(spec: Weights, rows: int = 5, columns: int = 40) -> tuple[Tensor, Tensor, Tensor | None]:
    """A weight some of which lies outside the range, its scale and zero point."""
    exact = torch.randn(rows, columns, generator=torch.Generator().manual_seed(spec.bits))
    scale, zero = quantization_parameters(exact, spec)
    return exact, 0.6 * scale, zero


def rounded_weight(rows: Tensor, scale: Tensor, zero: Tensor | None, spec: Weights) -> Tensor:
    """ŵ (R, C): its product with the unit matrix."""
    return rounded_linear(torch.eye(rows.shape[1], dtype=rows.dtype), rows, scale, zero, None, spec).T


@by_numbers
def test_values_are_those_of_rounding_bit_for_bit(spec: Weights) -> None:
    exact, scale, zero = weight(spec)
    expected = dequantize(round_to_codes(exact, scale, zero, spec), scale, zero, spec)
    assert torch.equal(rounded_weight(exact, scale, zero, spec), expected)
    product = rounded_linear(exact, exact, scale, zero, exact[:, 0], spec)
    assert torch.equal(product, F.linear(exact, expected, exact[:, 0]))


@by_numbers
def test_gradients_are_those_of_the_surrogate(spec: Weights) -> None:
    """LSQ's surrogate: rounding adds a constant. Differentiated numerically, in float64."""
    exact, scale, zero = weight(spec)
    exact, scale = exact.double().requires_grad_(), scale.double().requires_grad_()
    direction = torch.randn_like(exact)
    (rounded_weight(exact, scale, zero, spec) * direction).sum().backward()
    size = spec.group_size or exact.shape[1]

    def spread(parameter: Tensor) -> Tensor:
        return parameter.expand(exact.shape[0], -1).repeat_interleave(size, 1)[:, : exact.shape[1]]

    shift = 0 if zero is None else spread(zero)
    low, high = spec.qmin - shift, spec.qmax - shift

    def limited(steps: Tensor) -> Tensor:
        return torch.minimum(torch.maximum(steps, torch.as_tensor(low)), torch.as_tensor(high))

    clipped = limited(exact.detach() / spread(scale.detach()))
    constant = clipped.round() - clipped

    def surrogate(w: Tensor, s: Tensor) -> Tensor:
        return ((limited(w / spread(s)) + constant) * spread(s) * direction).sum()

    epsilon, w, s = 1e-6, exact.detach(), scale.detach()
    assert exact.grad is not None and scale.grad is not None
    for parameter, grad in ((w, exact.grad), (s, scale.grad * (w.numel() / s.numel() * spec.qmax) ** 0.5)):
        for place in range(0, parameter.numel(), 3):
            change = torch.zeros_like(parameter).view(-1)
            change[place] = epsilon
            change = change.view_as(parameter)
            pair = [(w + k * change, s) if parameter is w else (w, s + k * change) for k in (1, -1)]
            numeric = (surrogate(*pair[0]) - surrogate(*pair[1])) / (2 * epsilon)
            assert grad.view(-1)[place] == pytest.approx(float(numeric), abs=1e-5)


@by_numbers
def test_products_pass_gradients_on_and_keep_no_rounded_weight(spec: Weights) -> None:
    exact, scale, zero = weight(spec)
    inputs, bias = torch.randn(7, 40, requires_grad=True), torch.randn(5, requires_grad=True)
    direction = torch.randn(7, 5)
    kept: list[Tensor] = []
    with torch.autograd.graph.saved_tensors_hooks(lambda t: kept.append(t) or t, lambda t: t):
        product = rounded_linear(inputs, exact, scale, zero, bias, spec)
    assert {t.data_ptr() for t in kept} == {inputs.data_ptr(), exact.data_ptr(), scale.data_ptr()}
    product.backward(direction)
    twins = [t.detach().clone().requires_grad_() for t in (inputs, bias)]
    F.linear(twins[0], rounded_weight(exact, scale, zero, spec), twins[1]).backward(direction)
    for leaf, twin in zip((inputs, bias), twins, strict=True):
        assert leaf.grad is not None and torch.allclose(leaf.grad, twin.grad, rtol=1e-5, atol=1e-5)


@by_numbers
def test_products_in_half_precision_have_gradients_in_single(spec: Weights) -> None:
    exact, scale, zero = weight(spec)
    grads = []
    for half in (False, True):
        leaves = [t.clone().requires_grad_() for t in (exact[:3], exact, scale, exact[:, 0])]
        inputs, rows, step, bias = leaves
        with torch.autocast("cpu", torch.bfloat16, enabled=half):
            product = rounded_linear(inputs, rows, step, zero, bias, spec)
        assert product.dtype == (torch.bfloat16 if half else torch.float32)
        product.sum().backward()
        grads.append([leaf.grad for leaf in leaves])
    for single, mixed in zip(*grads, strict=True):
        assert mixed is not None and mixed.dtype == torch.float32
        assert torch.linalg.vector_norm(mixed - single) < 0.02 * torch.linalg.vector_norm(single)


@pytest.mark.parametrize("clip", [1.0, 0.7])
def test_gradients_of_tokens_are_those_of_the_surrogate(clip: float) -> None:
    numbers = replace(FOUR, clip=clip)
    rows = torch.randn(6, 10, dtype=torch.float64, requires_grad=True)
    direction = torch.randn(6, 10, dtype=torch.float64)
    values = rounded_tokens(rows, numbers)
    assert torch.equal(values, fake_quantize(rows.detach(), numbers))
    (values * direction).sum().backward()

    def steps_of(x: Tensor) -> tuple[Tensor, Tensor]:
        scale = clip * x.abs().amax(1, keepdim=True) / 7
        return (x / scale).clamp(-7, 7), scale

    steps, _ = steps_of(rows.detach())
    constant = steps.round() - steps
    assert ((steps.abs() == 7).sum() > 6) == (clip < 1), "some values saturate"

    def surrogate(x: Tensor) -> Tensor:
        steps, scale = steps_of(x)
        return ((steps + constant) * scale * direction).sum()

    expected = torch.autograd.functional.jacobian(surrogate, rows.detach())
    assert rows.grad is not None
    assert torch.allclose(rows.grad, expected, atol=1e-6)


@pytest.mark.parametrize("symmetric", [True, False])
def test_static_inputs_are_rounded_as_the_kernels_do_and_their_range_learns(symmetric: bool) -> None:
    rows = torch.randn(20, 6, generator=torch.Generator().manual_seed(0)) + 0.5
    known = InputRange.between(-0.7, 1.5, 4, symmetric)  # some values saturate
    scale = known.scale.view(1, 1).clone().requires_grad_()
    rows.requires_grad_()
    values = rounded_inputs(rows, scale, known)
    assert torch.equal(values, known.round_trip(rows))
    values.sum().backward()
    low, high = known.ends
    assert rows.grad is not None and scale.grad is not None
    inside = (rows > low) & (rows < high)
    assert torch.equal(rows.grad, inside.float()) and not inside.all()
    steps = (rows / known.scale).detach()
    codes = (values / known.scale).detach()
    by_hand = (
        torch.where(inside, codes - steps, codes).sum() / (6 * (known.largest - int(known.zero_point))) ** 0.5
    )
    assert float(scale.grad) == pytest.approx(float(by_hand), abs=1e-4)


@by_numbers
@given(seed=st.integers(0, 10**6))
@settings(max_examples=10)
def test_what_is_packed_is_what_was_trained(spec: Weights, seed: int) -> None:
    torch.manual_seed(seed)
    start = pack_weight(torch.randn(6, 40), spec, Rounding("mse"))
    learned = LearnedWeight(start)
    assert torch.equal(learned.product(torch.eye(40)).T, start.dequantize()), (
        "the start is rounding after training"
    )
    with torch.no_grad():
        learned.latent += 0.2 * torch.randn_like(learned.latent)
        learned.log_step += 0.3 * torch.randn_like(learned.log_step)
    packed = learned.pack()
    assert torch.equal(packed.dequantize(), learned.product(torch.eye(40)).T)
    assert {k: (t.shape, t.dtype) for k, t in packed.tensors.items()} == {
        k: (t.shape, t.dtype) for k, t in start.tensors.items()
    }


def net() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(
        *(nn.Linear(16, 32), nn.GELU(), nn.LayerNorm(32), nn.Linear(32, 32), nn.GELU(), nn.Linear(32, 8))
    )


class Noise:
    """Inputs from a generator, no files."""

    def __init__(self, fail_at: int | None = None) -> None:
        self.validation = [self.made(10**6 + i, 32) for i in range(2)]
        self.fail_at = fail_at

    @staticmethod
    def made(seed: int, size: int) -> Tensor:
        return torch.randn(size, 16, generator=torch.Generator().manual_seed(seed))

    def batch(self, step: int, size: int) -> list[Tensor]:
        if step == self.fail_at:
            raise KeyboardInterrupt
        return [self.made(step, 8 * size), self.made(step + 10**5, size)]


TINY = Finetune(steps=60, learning_rate=0.03, evaluate_every=10, patience=9, rest_learning_rate=1e-3)
RECIPE = Scheme(
    "tiny",
    Weights(bits=3),
    Activations("dynamic", 4),
    Layers(skip_first_last=False),
    rounding=Rounding("gptq"),
    transform=Transform("smooth", hadamard=True),
    finetune=TINY,
)


def calibrate(model: nn.Module) -> None:
    model(Noise.made(1, 256))


def tuned(
    scheme: Scheme = RECIPE, data: Noise | None = None, checkpoint: Checkpoint | None = None
) -> tuple[nn.Module, Progress]:
    teacher = net()
    student = copy.deepcopy(teacher)
    _, progress = finetune_(
        student,
        teacher,
        scheme,
        data or Noise(),
        calibrate=calibrate,
        checkpoint=checkpoint,
        linear=ReferenceLinear,
    )
    return student, progress


def test_the_error_falls_below_rounding_after_training() -> None:
    teacher, x = net(), Noise.made(7, 500)
    rounded = net()
    quantize_(rounded, replace(RECIPE, finetune=Finetune()), calibrate=calibrate, linear=ReferenceLinear)
    longer = replace(TINY, steps=200, learning_rate=0.01, step_learning_rate=3e-3, rest_learning_rate=3e-3)
    student, progress = tuned(replace(RECIPE, finetune=longer))
    assert progress.losses[-1] < progress.losses[0]
    assert progress.best_error < 0.85 * progress.errors[0][1]
    before, after = ((model(x) - teacher(x)).square().mean() for model in (rounded, student))
    assert after < 0.85 * before, "on inputs that nobody has seen"


@pytest.fixture
def caught(monkeypatch: pytest.MonkeyPatch) -> list[nn.Module]:
    """Gets the trained network before its layers are exchanged."""
    found: list[nn.Module] = []
    exchange = finetune._exchange_

    def catch(model: nn.Module, *rest: object) -> None:
        found.append(copy.deepcopy(model))
        exchange(model, *rest)  # type: ignore[arg-type]

    monkeypatch.setattr(finetune, "_exchange_", catch)
    return found


@pytest.mark.parametrize(
    "activations",
    [
        Activations(),
        FOUR,
        Activations("dynamic", 8, granularity="per_tensor", symmetric=False),
        Activations("static", 6),
        Activations("static", 8, symmetric=False, observer="mse"),
    ],
    ids=["float", "per token", "per tensor", "static", "static with a zero point"],
)
def test_the_packed_network_computes_what_was_trained(
    activations: Activations, caught: list[nn.Module]
) -> None:
    student, progress = tuned(replace(RECIPE, activations=activations))
    assert progress.best_step > 0
    x = Noise.made(3, 100)
    assert any(isinstance(m, LearnedLinear) for m in caught[0].modules())
    assert not any(isinstance(m, LearnedLinear) for m in student.modules())
    assert torch.equal(student(x), caught[0](x))
    assert not any(p.requires_grad for p in student.parameters())


def test_a_low_rank_branch_learns_too_and_is_stored_in_half(caught: list[nn.Module]) -> None:
    recipe = replace(RECIPE, compensation=Compensation(rank=2))
    rounded = net()
    quantize_(rounded, replace(recipe, finetune=Finetune()), calibrate=calibrate, linear=ReferenceLinear)
    student, progress = tuned(replace(recipe, finetune=replace(TINY, branch_learning_rate=0.01)))
    assert progress.best_step > 0
    x = Noise.made(3, 100)
    assert torch.equal(student(x), caught[0](x))
    for before, after in zip(rounded.modules(), student.modules(), strict=True):
        assert type(before) is type(after)
        if isinstance(before, TransformedLinear) and isinstance(after, TransformedLinear):
            own, old = after.low_rank, before.low_rank
            assert own is not None and old is not None
            assert own.up.dtype == own.down.dtype == torch.float16
            assert not torch.equal(own.up, old.up) and not torch.equal(own.down, old.down)
    assert not any(p.requires_grad for p in student.parameters())


def test_the_float_network_stays_as_it_was() -> None:
    teacher, twin = net(), copy.copy(net())
    expected = {name: p.clone() for name, p in teacher.named_parameters()}
    twin = copy.deepcopy(teacher, {id(p): p for p in teacher.parameters()})  # shares all tensors
    finetune_(twin, teacher, RECIPE, Noise(), calibrate=calibrate)
    assert all(torch.equal(p, expected[name]) for name, p in teacher.named_parameters())


def test_shared_weights_are_learned_together_and_packed_once() -> None:
    teacher = nn.Sequential(nn.Linear(16, 16), nn.GELU(), nn.Linear(16, 16))
    teacher[2].weight = teacher[0].weight
    student = copy.deepcopy(teacher)
    scheme = replace(RECIPE, transform=Transform())
    result, _ = finetune_(student, teacher, scheme, Noise(), calibrate=calibrate, linear=ReferenceLinear)
    first, last = student[0], student[2]
    assert torch.equal(first.codes, last.codes) and first.weight_id == last.weight_id
    assert [layer.name for layer in result.layers] == ["0", "2"]


@pytest.mark.parametrize("fail_at", [1, 37])
def test_a_stopped_training_ends_with_the_same_numbers(
    tmp_path: Path, fail_at: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(trainer, "SAVE_EVERY_S", 0.0)
    expected, whole = tuned()
    identity = {"test": fail_at}
    with pytest.raises(KeyboardInterrupt):
        tuned(data=Noise(fail_at), checkpoint=Checkpoint(TensorCache(tmp_path), identity))
    resumed, progress = tuned(checkpoint=Checkpoint(TensorCache(tmp_path), identity))
    assert progress.resumed == 1
    assert (progress.losses, progress.errors) == (whole.losses, whole.errors)
    for name, tensor in expected.state_dict().items():
        assert torch.equal(resumed.state_dict()[name], tensor), name
    again, known = tuned(data=Noise(fail_at=0), checkpoint=Checkpoint(TensorCache(tmp_path), identity))
    assert known == progress, "an ended training is not repeated"
    assert torch.equal(again(Noise.made(3, 10)), resumed(Noise.made(3, 10)))
    _, other = tuned(checkpoint=Checkpoint(TensorCache(tmp_path), {"test": "other"}))
    assert other.resumed == 0


def test_a_damaged_checkpoint_is_not_used(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    checkpoint = Checkpoint(TensorCache(tmp_path), {})
    tuned(checkpoint=checkpoint)
    assert checkpoint.path is not None
    content = bytearray(checkpoint.path.read_bytes())
    content[-5] ^= 1
    checkpoint.path.write_bytes(content)
    _, progress = tuned(checkpoint=Checkpoint(TensorCache(tmp_path), {}))
    assert progress.resumed == 0 and progress.step == 60
    assert "does not match its digest" in caplog.text


def test_a_folder_that_cannot_be_written_is_noted(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    teacher = net()
    checkpoint = Checkpoint(TensorCache(tmp_path / "file" / "folder"), {})
    scheme = replace(RECIPE, finetune=replace(TINY, steps=2))
    result, progress = finetune_(
        copy.deepcopy(teacher), teacher, scheme, Noise(), calibrate=calibrate, checkpoint=checkpoint
    )
    assert progress.step == 2
    assert "cache=null" in result.notes[0]


@pytest.mark.parametrize(
    ("changes", "ended", "steps"),
    [
        ({"learning_rate": 50.0, "step_learning_rate": 5.0, "patience": 2}, "2 evaluations were no better", 20),
        ({"minutes": 1e-9}, "minutes were over", 1),
        ({}, "all steps are done", 60),
    ],
    ids=["worse", "clock", "whole"],
)  # fmt: skip
def test_it_ends_when_nothing_is_gained(changes: dict, ended: str, steps: int) -> None:
    _, progress = tuned(replace(RECIPE, finetune=replace(TINY, **changes)))
    assert ended in progress.ended
    assert progress.step == steps
    assert progress.best_error == min(error for _, error in progress.errors)


def test_rates_rise_and_fall_by_steps_or_by_the_clock() -> None:
    settings_ = Finetune(steps=100, minutes=1)
    rates = [share_of_rate(Progress(step=step), settings_) for step in range(100)]
    assert rates[0] < rates[5] < max(rates) <= 1
    assert rates[WARMUP:] == sorted(rates[WARMUP:], reverse=True) and rates[-1] < 0.01
    assert share_of_rate(Progress(step=20, seconds=45), settings_) == share_of_rate(
        Progress(step=75), settings_
    )


def test_only_the_rounded_weights_learn_without_a_rate_for_the_rest() -> None:
    student, _ = tuned(replace(RECIPE, transform=Transform(), finetune=replace(TINY, rest_learning_rate=0.0)))
    rest = {name: p for name, p in net().named_parameters() if name.endswith("bias") or name.startswith("2.")}
    assert all(torch.equal(student.get_parameter(name), p) for name, p in rest.items())


def test_steps_and_the_rest_can_learn_without_the_weights() -> None:
    plain, scheme = net(), replace(RECIPE, transform=Transform())
    quantize_(plain, replace(scheme, finetune=Finetune()), calibrate=calibrate, linear=ReferenceLinear)
    changes = replace(TINY, learning_rate=0.0, step_learning_rate=1e-3, rest_learning_rate=3e-3)
    student, progress = tuned(replace(scheme, finetune=changes))
    assert progress.best_error < progress.errors[0][1]
    for before, after in zip(plain.modules(), student.modules(), strict=True):
        if isinstance(before, ReferenceLinear) and isinstance(after, ReferenceLinear):
            assert not torch.equal(before.scale, after.scale)
            assert not torch.equal(before.bias, after.bias)


def test_outputs_of_all_kinds_are_named() -> None:
    x = torch.ones(2)
    assert set(named_outputs(x)) == {"output"}
    assert set(named_outputs((x, x.int(), x))) == {"0", "2"}
    assert set(named_outputs({"a": x, "b": [x]})) == {"a"}
    assert relative_error(torch.tensor([3.0, 0.0]), torch.tensor([0.0, 4.0])) == pytest.approx(1.25)
    wanted = torch.tensor([[3.0, 4.0], [0.0, 5.0]])
    assert relative_error(wanted + torch.tensor([[1.0, 0.0], [0.0, 2.0]]), wanted) == pytest.approx(
        (1 + 2) / 2 / 5
    )
    equal = torch.ones(3, 2, requires_grad=True)
    relative_error(equal, torch.ones(3, 2)).backward()
    assert equal.grad is not None and equal.grad.isfinite().all()
    with pytest.raises(
        QuantizationError, match=r"none of the network's outputs \(output\) depends on what is learned"
    ):
        learnable({"output": x})


def test_views_show_every_scene_once_and_keep_the_last_for_validation() -> None:
    scenes = [torch.full((3, 3, 2, 2), float(i)) + torch.arange(3).view(3, 1, 1, 1) / 10 for i in range(9)]
    views = Views(scenes, 0.125, seed=0)
    assert [float(v.mean().round()) for v in views.validation] == [8]
    seen = torch.cat([torch.cat(views.batch(step, 2)) for step in range(4)])
    assert sorted(seen[:, 0, 0, 0, 0].floor().tolist()) == list(range(8))
    assert torch.equal(torch.cat(views.batch(3, 2)), torch.cat(views.batch(3, 2)))
    assert len({tuple(views.batch(s, 2)[0][0, :, 0, 0, 0].frac().tolist()) for s in range(20)}) > 2
    single = Views([torch.rand(16, 3, 2, 2)], 0.25, seed=0)
    assert [len(v[0]) for v in single.validation] == [4]
    assert single.batch(0, 4)[0].shape == (1, 12, 3, 2, 2)
    mixed = Views([torch.rand(2, 3, 2, 2), torch.rand(2, 3, 4, 2), torch.rand(2, 3, 2, 2)], 0.1, 0)
    assert sorted(len(group) for group in mixed.batch(0, 2)) == [1, 1]
    with pytest.raises(DataError, match="there is one"):
        Views([torch.rand(1, 3, 2, 2)], 0.1, 0)


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["scheme.finetune.steps=-1"], "steps=-1: use 0 or more"),
        (["scheme.finetune.batch=0"], "batch=0: use at least 1"),
        (["scheme.finetune.learning_rate=-1"], "learning_rate=-1.0: use 0 or more"),
        (
            [f"scheme.finetune.{part}learning_rate=0" for part in ("", "step_", "branch_", "rest_")],
            "are all 0, so that nothing learns",
        ),
        (["scheme.finetune.validation=0"], "validation=0.0: use a share"),
        (["scheme.layers.types=[Linear,Conv2d]"], "quantized Conv2d cannot be trained"),
    ],
)
def test_impossible_settings_are_refused(overrides: list[str], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        validated(compose(["scheme=qat", *overrides]))


def test_float_weights_have_nothing_to_learn() -> None:
    with pytest.raises(ConfigError, match="only integer weights have step sizes"):
        validated(compose(["scheme=fp16", "scheme.finetune.steps=5"]))
    with pytest.raises(QuantizationError, match="use finetune_"):
        quantize_(net(), RECIPE, calibrate=calibrate)


SMALL = ["scheme=qat", "calibration.samples=3", "scheme.finetune.steps=2", "scheme.finetune.batch=1"]


def test_a_run_is_recorded_and_repeated_from_the_cache(tmp_path: Path) -> None:
    cache = f"cache={tmp_path / 'cache'}"
    record = recorded(tmp_path / "a", *SMALL, cache, "save=true")
    assert record["status"] == "ok", record["error"]
    entry = record["finetune"]
    assert (entry["step"], entry["planned_steps"], entry["ended"]) == (2, 2, "all steps are done")
    assert (entry["scenes"], entry["validation_scenes"], entry["cached"]) == (2, 1, False)
    assert len(entry["losses"]) == 2 and [step for step, _ in entry["errors"]] == [0, 2]
    assert "QAT" in record["scheme"]["label"]
    again = recorded(tmp_path / "b", *SMALL, cache, "save=true")
    assert again["finetune"] == entry | {"cached": True}
    assert (
        record["calibration"]["cached"]
        == again["calibration"]["computed"]
        == 0
        < again["calibration"]["cached"]
    )
    assert again["artifact"]["sha256"] == record["artifact"]["sha256"]
    assert again["fidelity"] == record["fidelity"]
    loaded = artifact.load(tmp_path / "a" / "model.safetensors")
    assert loaded.header.scheme.finetune.steps == 2


def test_a_static_range_that_was_learned_is_in_the_file(tmp_path: Path) -> None:
    static = [
        "scheme.activations.mode=static",
        "scheme.activations.bits=8",
        "scheme.activations.clip=1",
        "save=true",
    ]
    record = recorded(tmp_path, *SMALL, *static)
    assert record["status"] == "ok", record["error"]
    loaded = artifact.load(tmp_path / "model.safetensors")
    ranges = {layer.name: list(layer.input_range or ()) for layer in loaded.quantization.layers}
    assert ranges == {layer["name"]: layer["input_range"] for layer in record["layers"]}
    assert all(low < high for low, high in ranges.values())
