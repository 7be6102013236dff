"""The description of its origin that an exported file carries."""

import json
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

from vggtq.version import __version__

if TYPE_CHECKING:
    from vggtq.models.checkpoints.fingerprint import WeightsInfo
    from vggtq.quant.scheme.scheme import Scheme


def described(
    scheme: "Scheme", weights: "WeightsInfo", model: dict[str, Any] | None, rest: str
) -> dict[str, str]:
    """Plain text by key: the label, recipe, licence and fingerprint, and the network's configuration."""
    return {
        "vggtq": __version__,
        "scheme": scheme.label,
        "recipe": json.dumps(asdict(scheme), sort_keys=True),
        "licence": weights.license or "not stated",
        "source": weights.source,
        "fingerprint": weights.fingerprint,
        "model": json.dumps(model, sort_keys=True),
        "rest": rest,
    }
