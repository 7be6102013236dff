"""Small quantized models and their files."""

from pathlib import Path

import torch
from torch import nn

from helpers.runs import TINY
from vggtq import artifact
from vggtq.config.compose import compose
from vggtq.config.schema import Config
from vggtq.config.validate import validated
from vggtq.models.checkpoints.fingerprint import WeightsInfo
from vggtq.models.loading import LoadedModel, share_parameters
from vggtq.quant.walk.quantize import Quantization, quantize_
from vggtq.quant.walk.stored import round_rest_

NOWHERE = WeightsInfo("seed 0", "random", "0" * 64, random=True)


def config(*overrides: str) -> Config:
    return validated(compose([*TINY, *overrides]))


def quantized(settings_: Config) -> tuple[LoadedModel, nn.Module, Quantization]:
    loaded, twin, result = rounded(settings_)
    round_rest_(twin, settings_.rest)
    return loaded, twin, result


def rounded(settings_: Config) -> tuple[LoadedModel, nn.Module, Quantization]:
    loaded = settings_.model.load(torch.device("cpu"))
    twin = share_parameters(loaded.module)
    pictures = torch.rand(1, 3, 56, 56, generator=torch.Generator().manual_seed(1))
    return loaded, twin, quantize_(twin, settings_.scheme, calibrate=lambda model: model(pictures))


def saved(settings_: Config, path: Path) -> tuple[LoadedModel, nn.Module]:
    loaded, twin, result = quantized(settings_)
    write(loaded, twin, result, settings_, path)
    return loaded, twin


def write(loaded: LoadedModel, twin: nn.Module, result: Quantization, settings_: Config, path: Path) -> None:
    identity = settings_.model.identity()
    artifact.save(twin, path, settings_.scheme, result, loaded.weights, identity, settings_.rest)
