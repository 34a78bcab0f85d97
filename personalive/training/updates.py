"""One step of training: gradients, their mean over all processes, the optimizer, and the averages."""

import logging
import math
from collections.abc import Sequence

import torch
from torch import nn

from personalive.training.captured import Captured, Tensors
from personalive.training.flat import Chosen, clear_gradients, collect_gradients, publish
from personalive.training.processes import Processes
from personalive.training.stages import Stage

WARM_UP = 100
"""Steps over which the learning rate rises."""
LEAST_RATE = 0.03
"""Fraction of the highest learning rate at a stage's end."""
CLIP = 1.0
"""Largest norm of a gradient."""
EMA_DECAY = 0.998

log = logging.getLogger("personalive.training")


class Update:
    """What every step of a stage does with the weights."""

    def __init__(self, stage: Stage, chosen: Sequence[Chosen], processes: Processes, rate: float) -> None:
        """Make an optimizer for the chosen weights, with a highest learning rate."""
        self.stage, self.chosen, self.processes, self.rate = stage, chosen, processes, rate
        self.parameters = [stretch.parameter for stretch in chosen]
        fused = self.parameters[0].is_cuda or None
        self.optimizer = torch.optim.AdamW(self.parameters, lr=rate, betas=(0.9, 0.98), weight_decay=0.01, fused=fused)
        self._gradients = Captured("the gradients", self._run)

    def run(self, step: int, inputs: Tensors, progress: float, late: bool) -> tuple[float, bool, dict[str, float]]:
        """Update the weights.

        Args:
            step: within the stage.
            inputs: what the stage prepared.
            progress: how much of the stage's budget is spent, 0 to 1, as this process sees it.
            late: whether this process has to stop.

        Returns:
            Progress, whether to stop, and the losses, as all processes see them together.
        """
        results = self._gradients(inputs)
        self.stage.take(results)
        collect_gradients(self.chosen)
        losses = {name: value.float() for name, value in results.items() if value.ndim == 0}
        said = torch.tensor([progress, float(late)], device=results["loss"].device)
        means = self.processes.average(self.parameters, torch.cat((said, torch.stack(list(losses.values())))))
        norm = nn.utils.clip_grad_norm_(self.parameters, CLIP)
        *values, size = torch.cat((means, norm[None].to(means))).tolist()
        if math.isfinite(size):  # one bad batch must not end a run
            self._step(step, values[0])
        else:
            log.warning("step %d of %s is skipped: its gradient is not finite", step, self.stage.name)
        return values[0], values[1] > 0, dict(zip(losses, values[2:], strict=True))

    def _run(self, inputs: Tensors) -> Tensors:
        clear_gradients(self.chosen)
        results = self.stage.compute(inputs)
        results["loss"].backward()
        return {name: value.detach() for name, value in results.items()}

    def _step(self, step: int, progress: float) -> None:
        rate = self.rate * max(LEAST_RATE, 0.5 + 0.5 * math.cos(math.pi * min(progress, 1)))
        for group in self.optimizer.param_groups:
            group["lr"] = rate * min(1, (step + 1) / WARM_UP)
        self.optimizer.step()
        publish(self.chosen, min(EMA_DECAY, (1 + step) / (10 + step)))
