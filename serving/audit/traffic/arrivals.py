"""When the requests came and how much work they brought: tokens per window, in bounded memory."""

from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from serving.audit.formats.call import Call

WINDOW_S = 60.0  # shorter ones show the noise of single arrivals, which the queueing formula already has
MAX_WINDOWS = 200_000  # 4.5 months of minutes. A longer log gets wider windows


@dataclass(slots=True)
class Arrivals:
    """Requests, input and output tokens per window. Windows double in width when there are too many of them."""

    width_s: float = WINDOW_S
    untimed: int = 0
    first_s: float | None = None
    last_s: float | None = None
    windows: dict[int, list[int]] = field(default_factory=dict)

    def add(self, call: Call) -> None:
        """Add one request."""
        at_s = call.at_s
        if at_s is None:
            self.untimed += 1
            return
        if self.first_s is None or self.last_s is None:
            self.first_s = self.last_s = at_s
        elif at_s > self.last_s:
            self.last_s = at_s
        elif at_s < self.first_s:
            self.first_s = at_s
        number = int(at_s // self.width_s)
        window = self.windows.get(number)
        if window is None:
            window = self.windows[number] = [0, 0, 0]
            if len(self.windows) > MAX_WINDOWS:
                self._widen()
                window = self.windows[int(at_s // self.width_s)]
        window[0] += 1
        window[1] += call.input_tokens
        window[2] += call.output_tokens

    def _widen(self) -> None:
        self.width_s *= 2
        wider: dict[int, list[int]] = {}
        for number, window in self.windows.items():
            into = wider.setdefault(number // 2, [0, 0, 0])
            for n, value in enumerate(window):
                into[n] += value
        self.windows = wider

    @property
    def span_s(self) -> float | None:
        """From the first to the last request and one mean gap. None for fewer than two moments."""
        if self.first_s is None or self.last_s is None or self.last_s <= self.first_s:
            return None
        timed = sum(window[0] for window in self.windows.values())
        return (self.last_s - self.first_s) * timed / (timed - 1)

    def table(self) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
        """(ascending window numbers (n,), their requests, input and output tokens (n, 3)), without empty windows."""
        numbers = np.array(sorted(self.windows), dtype=np.int64)
        return numbers, np.array([self.windows[n] for n in numbers.tolist()], dtype=np.float64).reshape(-1, 3)
