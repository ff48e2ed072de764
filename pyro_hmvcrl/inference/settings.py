"""Settings of a fit."""

from __future__ import annotations

from dataclasses import dataclass, fields


@dataclass(frozen=True)
class Settings:
    """Settings of a fit.

    Attributes
    ----------
    platform_factors, preference_factors
        K_P and K_Q.
    restarts, steps, batch_size
        Random starts of the first stage, its steps, and its users a step.
    encoder_steps, encoder_batch_size
        The same of the second stage, which has no restarts.
    device
        ``"auto"`` (a GPU where there is one), ``"cpu"`` or ``"cuda"``.
    seed
        Of everything random; on a CPU it fixes every digit of the result.
    held_out
        Share of the users that are kept from training, to judge the fit.
    periods
        Equal parts of the logs' window, 1 for a story without a past; None: as the window's length has it.
    """

    platform_factors: int
    preference_factors: int
    restarts: int = 3
    steps: int = 600
    batch_size: int = 1_024
    encoder_steps: int = 600
    encoder_batch_size: int = 128
    device: str = "auto"
    seed: int = 0
    held_out: float = 0.1
    periods: int | None = None

    def __post_init__(self) -> None:
        for field in fields(self):
            value = getattr(self, field.name)
            if field.type == "int" and field.name != "seed" and value < 1:
                raise ValueError(f"{field.name} is {value}: it must be at least 1")
        if self.device not in ("auto", "cpu", "cuda"):
            raise ValueError(f"device is {self.device!r}: choose auto, cpu or cuda")
