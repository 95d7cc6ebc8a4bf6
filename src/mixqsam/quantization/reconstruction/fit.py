"""Fit one piece of the model: learn rounding and scales so that the piece's output is the float model's."""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from mixqsam.numeric.affine import AffineGrid
from mixqsam.progress import Progress
from mixqsam.quantization.reconstruction.candidate import Candidate, Trainee, attach, deployable
from mixqsam.quantization.reconstruction.method import Phase, ReconstructionOptions
from mixqsam.sam.load import Sam

# How often a phase looks at what it would deploy; flat is a gain of less than _FLAT in _PATIENCE looks, for scales gain
# little by little; decided is a rounding of which less than that share is open.
_CHECKS = 10
_FLAT, _PATIENCE = 0.003, 3
_DECIDED = 0.01
# Groups of channels are merged in this number of steps, over this share of the iterations.
_MERGES, _MERGED_BY = 4, 0.5
# Images on which candidates are judged.
_JUDGES = 8
# β of the regulariser, at its beginning and at its end.
_BETA = (20.0, 2.0)


@dataclass(frozen=True)
class Piece:
    """What is fitted.

    Attributes:
        name: for messages.
        grids: unit → its weight's grid, for those with a weight on a grid.
        loss: ‖y_q − y_fp‖² of a draft on an image, as it is learned from (some of the input may be the float model's).
        judge: the same with the quantized model's own input.
        count: images.
    """

    name: str
    grids: Mapping[str, AffineGrid]
    loss: Callable[[Sam, int], Tensor]
    judge: Callable[[Sam, int], Tensor]
    count: int


@dataclass(frozen=True)
class Log:
    """How a fit went.

    Attributes:
        piece: its name.
        before, after: loss rounded to nearest, and as deployed.
        iterations: that were run.
        ending: `complete`, `flat` or `not finite`.
    """

    piece: str
    before: float
    after: float
    iterations: int
    ending: str


class Fit:
    """The fitting of one piece; afterwards the best candidate that was seen is attached to the draft.

    Args:
        draft: the model in the making; all pieces before this one are finished.
        piece: what to fit.
        source: the float model.
        options: how long and how fast.
        progress: receives iterations.
    """

    def __init__(
        self, draft: Sam, piece: Piece, *, source: Sam, options: ReconstructionOptions, progress: Progress
    ) -> None:
        self._draft, self._piece, self._source = draft, piece, source
        self._options, self._progress = options, progress
        self._generator = torch.Generator(device=draft.device).manual_seed(options.seed)
        self._order = torch.Generator().manual_seed(options.seed)
        self._best: Candidate = {}
        self._least = math.inf

    def run(self, start: Candidate, phases: Sequence[Phase]) -> tuple[Candidate, Log]:
        """Learn in turn what each phase learns.

        Args:
            start: rounded to nearest; deployed if nothing better comes up.
            phases: what to learn.
        """
        before = self._consider(start)
        done, ending = 0, "complete"
        current = start
        for phase in phases:
            trainee = Trainee(
                current, grids=self._piece.grids, source=self._source, phase=phase, generator=self._generator
            )
            steps, ending = self._phase(trainee, phase)
            done += steps
            if ending == "not finite":
                break
            current = trainee.freeze()
        attach(self._draft, self._best, source=self._source)
        return self._best, Log(self._piece.name, before, self._least, done, ending)

    def _phase(self, trainee: Trainee, phase: Phase) -> tuple[int, str]:
        if not trainee.alphas and not trainee.scales:
            return 0, "complete"
        trainee.attach(self._draft)
        total = max(1, round(self._options.iterations * phase.share))
        every, losses = max(1, total // _CHECKS), [math.inf]
        targets = _merge_targets(trainee.groups(), trainee.deployed_groups(), total)
        optimizer = self._optimizer(trainee)
        for step in self._progress.track(range(total), label=self._piece.name, total=total):
            if not self._step(trainee, optimizer, step / total):
                return step, "not finite"
            if step + 1 in targets:
                trainee.merge(targets[step + 1])
                trainee.attach(self._draft)
                optimizer = self._optimizer(trainee, old=optimizer)
            if (step + 1) % every and step + 1 < total:
                continue
            losses.append(self._consider(trainee.freeze()))
            trainee.attach(self._draft)
            settled = trainee.undecided < _DECIDED and trainee.groups() <= trainee.deployed_groups()
            if settled and _is_flat(losses) and step + 1 < total:
                return step + 1, "flat"
        return total, "complete"

    def _optimizer(self, trainee: Trainee, *, old: torch.optim.Optimizer | None = None) -> torch.optim.Optimizer:
        """Adam over what is learned; what was learned before keeps its moments."""
        groups = [
            {"params": trainee.alphas, "lr": self._options.weight_rate, "falls": False},
            {"params": trainee.scales, "lr": self._options.scale_rate, "falls": True},
        ]
        optimizer = torch.optim.Adam([group for group in groups if group["params"]], fused=True)
        if old is not None:
            kept = {id(p) for group in optimizer.param_groups for p in group["params"]}
            optimizer.state.update({p: state for p, state in old.state.items() if id(p) in kept})
        return optimizer

    def _step(self, trainee: Trainee, optimizer: torch.optim.Optimizer, done: float) -> bool:
        """One step; false where the loss is not finite."""
        optimizer.zero_grad(set_to_none=True)
        for index in torch.randint(self._piece.count, (self._options.batch,), generator=self._order).tolist():
            loss = self._piece.loss(self._draft, index) / self._options.batch
            if not bool(torch.isfinite(loss)):
                return False
            loss.backward()
        warmup = self._options.warmup
        if trainee.soft and done >= warmup:
            beta = _BETA[0] + (_BETA[1] - _BETA[0]) * (done - warmup) / (1 - warmup)
            for one in trainee.soft.values():
                one.settle(beta, weight=self._options.regulariser)
        for group in optimizer.param_groups:
            if group["falls"]:
                group["lr"] = self._options.scale_rate * 0.5 * (1 + math.cos(math.pi * done))
        optimizer.step()
        return True

    @torch.no_grad()
    def _consider(self, candidate: Candidate) -> float:
        """The loss of a candidate as deployed; the best one so far is kept."""
        candidate = deployable(candidate)
        attach(self._draft, candidate, source=self._source)
        count = self._piece.count
        judges = torch.linspace(0, count - 1, min(_JUDGES, count)).long().unique().tolist()
        loss = sum(float(self._piece.judge(self._draft, index)) for index in judges) / len(judges)
        if loss < self._least or not self._best:
            self._least, self._best = loss, candidate
        return loss


def _is_flat(losses: Sequence[float]) -> bool:
    """Whether the last few losses gained next to nothing on those before."""
    before, last = losses[:-_PATIENCE], losses[-_PATIENCE:]
    return len(before) > 1 and min(last) > min(before) * (1 - _FLAT)


def _merge_targets(groups: int, last: int, total: int) -> dict[int, int]:
    """After which step channels are merged to how many groups: in geometric steps down to the last."""
    if groups <= last:
        return {}
    ratio = (last / groups) ** (1 / _MERGES)
    return {
        max(k, round(total * _MERGED_BY * k / _MERGES)): max(last, round(groups * ratio**k))
        for k in range(1, _MERGES + 1)
    }
