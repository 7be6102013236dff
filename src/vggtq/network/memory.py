"""Options that bound the memory of a pass (`vggtq.network.bounded`), one per lever. Imports nothing heavy."""

from dataclasses import dataclass

from vggtq.errors import ConfigError, check_choice
from vggtq.terminal.options import option

TOKENS = ("float32", "bfloat16", "disk")
KEYS = ("float32", "int8")
KEY_BLOCK = 256  # keys of a head that share a scale where they are coded
CHUNK_TOKENS = 4096  # where chunks are needed and no option gives their size


@dataclass
class Memory:
    """Levers; the defaults bound nothing. Those of `lossy` change results, the others no more than rounding does."""

    head_frames: int | None = option("frames that dense heads take at a time; null: 8", None, least=1)
    tokens: str = option(
        "where the kept layers' tokens wait for the heads: in memory as they are, in half precision, or on disk",
        "float32",
        choices=TOKENS,
    )
    chunk_tokens: int | None = option(
        f"tokens that blocks take at a time, a multiple of {KEY_BLOCK}; null: all at once",
        None,
        least=KEY_BLOCK,
    )
    keys: str = option(
        f"keys and values of global attention; int8: a scale per head and {KEY_BLOCK} keys",
        "float32",
        choices=KEYS,
    )

    def __post_init__(self) -> None:
        check_choice("memory.tokens", self.tokens, TOKENS)
        check_choice("memory.keys", self.keys, KEYS)
        if self.head_frames is not None and self.head_frames < 1:
            raise ConfigError(f"memory.head_frames={self.head_frames}: use at least 1, or null for 8")
        if self.chunk_tokens is not None and (self.chunk_tokens < KEY_BLOCK or self.chunk_tokens % KEY_BLOCK):
            raise ConfigError(
                f"memory.chunk_tokens={self.chunk_tokens}: use a multiple of {KEY_BLOCK}, or null for all at once"
            )

    @property
    def bounds(self) -> bool:
        """Whether anything is asked for."""
        return self != Memory()

    @property
    def lossy(self) -> tuple[str, ...]:
        """The levers among these that change results, as options."""
        chosen = (("tokens", self.tokens, "bfloat16"), ("keys", self.keys, "int8"))
        return tuple(f"memory.{name}={value}" for name, value, loses in chosen if value == loses)

    @property
    def label(self) -> str:
        """The levers as options, separated by blanks; empty for none."""
        values = (
            ("head_frames", self.head_frames, None),
            ("tokens", self.tokens, "float32"),
            ("chunk_tokens", self.chunk_tokens, None),
            ("keys", self.keys, "float32"),
        )
        return " ".join(f"memory.{name}={value}" for name, value, default in values if value != default)
