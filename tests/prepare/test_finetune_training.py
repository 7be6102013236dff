"""What fine-tuning learns, when it ends, and that the packed network computes what was trained."""

import copy
from dataclasses import replace

import pytest
import torch
from torch import nn

from helpers.finetuned import FOUR, RECIPE, TINY, Noise, calibrate, net, tuned
from vggtq.errors import QuantizationError
from vggtq.quant.finetune import finetune
from vggtq.quant.finetune.finetune import finetune_
from vggtq.quant.finetune.layers import LearnedLinear
from vggtq.quant.finetune.losses import learnable, named_outputs, relative_error
from vggtq.quant.finetune.trainer import WARMUP, Progress, share_of_rate
from vggtq.quant.kernels.linear import ReferenceLinear
from vggtq.quant.kernels.modules import TransformedLinear
from vggtq.quant.scheme.activations import Activations
from vggtq.quant.scheme.methods import Compensation, Transform
from vggtq.quant.scheme.parts import Finetune
from vggtq.quant.walk.quantize import quantize_


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
