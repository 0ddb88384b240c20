"""The layers that are recorded: which are due, what their rows are made of, and which have changed their form."""

import copy
import logging
import math
from collections.abc import Iterable, Mapping
from fnmatch import fnmatchcase
from typing import Any

import torch
from torch import nn

from rmtnet import ranks
from rmtnet.matrices import Matrix, select
from rmtnet.record.frames import Frame, columns
from rmtnet.record.link import Link
from rmtnet.record.sources import Source
from rmtnet.schedules import Moment, Schedule, as_schedule
from rmtnet.store import TRANSITIONS, RowSpec, check_unique

_log = logging.getLogger(__name__)
_NEEDS_BEFORE = {"updates", "moments"}
_NEEDS_GRADIENT = {"gradients", "moments"}
_STATE = "schedule_state"
_FEWEST_ROWS, _LEAST_RING = 128, 16 * 2**20


class Layers:
    """Sources by name, the schedule of each, and the frames in which they are sent."""

    def __init__(
        self,
        model: nn.Module,
        patterns: Iterable[str] | None,
        when: Any,
        quantities: tuple[str, ...],
        precision: str | None,
    ):
        self._model, self._quantities, self._precision = model, quantities, precision
        self._patterns = None if patterns is None else [patterns] if isinstance(patterns, str) else list(patterns)
        self._own_steps = isinstance(when, Mapping)
        found = select(model, self._patterns)
        check_unique(matrix.name for matrix in found)  # before an older run is overwritten
        self._sources = {matrix.name: self._source(matrix) for matrix in found}
        # A copy: what a schedule remembers of one run is nothing to another.
        self._schedules = copy.deepcopy(_schedules(when, found))
        self._distinct = list(dict.fromkeys(self._schedules.values()))
        self.ask_for_metrics = any(schedule.needs_agreement for schedule in self._distinct)
        """Whether a schedule may look at metrics, or remember something."""
        self._states = tuple(group for group in quantities if group not in TRANSITIONS)
        self._transitions = tuple(group for group in quantities if group in TRANSITIONS)
        self.have_transitions = bool(self._transitions)
        self._due: frozenset[str] = frozenset()
        self._all = frozenset(self._sources)
        self._frames: dict[tuple[tuple[str, ...], frozenset[str]], Frame] = {}
        self._last: dict[str, int] = {}
        self._anchors = _anchors(model, found)

    @property
    def device(self) -> torch.device:
        """Of the first layer."""
        return next(iter(self._sources.values())).matrix.tensor.device

    @property
    def row_bytes(self) -> int:
        """What the layers send at a step, if all are due."""
        sent = (source.matrix.dtype.itemsize * math.prod(source.shape) + 64 for source in self._sources.values())
        return sum(sent) * max(1, len({"weights", "gradients", "updates"} & set(self._quantities)))

    def ring_bytes(self, limit: int) -> int:
        """Room for some rows of all layers, at most ``limit`` bytes."""
        return min(limit, max(_LEAST_RING, _FEWEST_ROWS * self.row_bytes))

    def specs(self) -> list[RowSpec]:
        """The variables of all rows."""
        return [spec for group in self._quantities for spec in self._specs(group)]

    def axes(self) -> list[tuple[str, str]]:
        """(group, axis) of all rows."""
        return list(dict.fromkeys((spec.group, spec.axis) for spec in self.specs()))

    # --- schedules

    def ask(self, moment: Moment) -> bool:
        """Whether any layer is due at a moment; each schedule is asked once."""
        answers = [self._answer(schedule, moment) for schedule in self._distinct]
        if all(answers):
            self._due = self._all
        elif not any(answers):
            self._due = frozenset()
        else:
            due = dict(zip(self._distinct, answers, strict=True))
            self._due = frozenset(name for name, schedule in self._schedules.items() if due[schedule])
        return bool(self._due)

    @staticmethod
    def _answer(schedule: Schedule, moment: Moment) -> bool:
        answer = bool(schedule(moment))
        return ranks.agreed(answer) if schedule.needs_agreement else answer

    def all_due(self) -> None:
        """Make every layer due."""
        self._due = self._all

    def state(self) -> dict[str, Any]:
        """What the schedules remember, as an attribute of the run."""
        states = [schedule.state() for schedule in self._distinct]
        return {} if all(state is None for state in states) else {_STATE: states}

    def restore(self, attributes: Mapping[str, Any]) -> None:
        """Have the schedules remember what the run says."""
        states = attributes.get(_STATE) or []
        for schedule, state in zip(self._distinct, states, strict=False):
            schedule.restore(state)

    # --- rows

    def keep_before(self) -> None:
        """Copy the weights that the coming step changes, where their update is to be told."""
        if self._due and _NEEDS_BEFORE & set(self._quantities):
            for name in self._due:
                self._sources[name].keep_before()

    def keep_gradients(self) -> None:
        """Copy the gradients that the coming step uses, where they are to be told."""
        if self._due and _NEEDS_GRADIENT & set(self._quantities):
            for name in self._due:
                self._sources[name].keep_gradient()

    def send_states(self, link: Link | None, step: int) -> None:
        """Send the rows of a step that tell of the weights themselves."""
        self._send(link, step, self._states)

    def send_transitions(self, link: Link | None, step: int) -> None:
        """Send the rows of a step that tell of what has just followed it."""
        self._send(link, step, self._transitions)
        for name in self._due:
            self._sources[name].before = self._sources[name].kept_gradient = None

    def start(self, last: Mapping[str, int]) -> None:
        """Begin behind the last committed step of each ``group/axis``."""
        self._last = dict(last)

    def _send(self, link: Link | None, step: int, groups: tuple[str, ...]) -> None:
        if not (self._due and groups):
            return
        frame = self._frame(link, groups, self._due)
        if any(step <= self._last[axis] for axis in frame.axes):
            frame = self._remaining(link, groups, step)
        if frame.axes:
            frame.send(step)
            self._last.update(dict.fromkeys(frame.axes, step))

    def _remaining(self, link: Link | None, groups: tuple[str, ...], step: int) -> Frame:
        """Of the due rows those that the run does not hold yet."""
        left = [
            (group, name)
            for group in groups
            for name in self._due
            if any(step > self._last[f"{spec.group}/{spec.axis}"] for spec in self._sources[name].specs(group))
        ]
        return self._made(link, left)

    def _frame(self, link: Link | None, groups: tuple[str, ...], names: frozenset[str]) -> Frame:
        if (groups, names) not in self._frames:
            ordered = [name for name in self._sources if name in names]
            self._frames[groups, names] = self._made(link, [(group, name) for group in groups for name in ordered])
        return self._frames[groups, names]

    def _made(self, link: Link | None, wanted: list[tuple[str, str]]) -> Frame:
        def frame(in_writer: bool) -> Frame:
            made = (columns(self._sources[name], group, in_writer=in_writer) for group, name in wanted)
            return Frame([column for each in made for column in each], link)

        whole = frame(in_writer=self.device.type == "cpu")
        return frame(in_writer=False) if whole.is_streamed else whole

    # --- forms

    def adopt(self, forms: Mapping[str, list[tuple[str, int, bool, object]]]) -> None:
        """Go on with the forms that a run holds: (group, number, whether it has steps of its own, signature).

        Raises
        ------
        ValueError
            If its layers share their steps and are now to have schedules of their own.
        """
        for name, source in self._sources.items():
            held = [form for form in forms.get(name, []) if form[0] in self._quantities]
            source.latest = max((number for _, number, _, _ in held), default=0)
            wanted = {group: source.specs(group)[0].signature for group in self._quantities if source.specs(group)}
            numbers = [number for group, number, _, signature in held if signature == wanted.get(group)]
            if not numbers:
                continue
            source.form = max(numbers)
            own = any(own for _, number, own, _ in held if number == source.form)
            if self._own_steps and not own and not source.form:
                raise ValueError(
                    f"the layers of the run share their steps: resume with one schedule for all, not one for {name!r}"
                )
            source.own_steps = own

    def left_out(self, groups: Iterable[str]) -> list[str]:
        """Of what a run holds of layers, that which is not recorded now."""
        return [group for group in groups if group != "metrics" and group not in self._quantities]

    def warn_of_strangers(self, optimizers: Iterable[torch.optim.Optimizer]) -> None:
        """Say when none of these optimizers trains any of the layers, or a layer has no gradient to record."""
        trained = {id(parameter) for each in optimizers for group in each.param_groups for parameter in group["params"]}
        matrices = [source.matrix for source in self._sources.values()]
        if not any(id(parameter) in trained for matrix in matrices for parameter in matrix.owner.parameters()):
            _log.warning("none of the recorded layers is trained by this optimizer: is it another model's?")
        blind = [matrix.name for matrix in matrices if not matrix.has_gradient]
        if blind and _NEEDS_GRADIENT & set(self._quantities):
            _log.warning("%s: made from other parameters, it has no gradient: NaN is recorded", ", ".join(blind))

    def have_moved(self) -> bool:
        """Whether modules were replaced since the layers were looked up."""
        return any(parent.get(name) is not module for parent, name, module in self._anchors)

    def refresh(self, link: Link | None, codec: str, step: int) -> None:
        """Look the layers up again: those that have another shape or form now are recorded as a new form.

        Raises
        ------
        ValueError
            If a layer is gone.
        """
        found = {matrix.name: matrix for matrix in select(self._model, self._patterns)}
        if gone := [name for name in self._sources if name not in found]:
            raise ValueError(
                f"layer {gone[0]!r} is gone from the model at step {step}; there are {', '.join(found)}: "
                "close the recorder before the change, and record on in a run of its own"
            )
        new, kept = [], {name: copy.copy(source) for name, source in self._sources.items()}
        self._frames.clear()
        for name, source in self._sources.items():
            source.before = None
            if source.replace(found[name]):
                new += [spec for group in self._quantities for spec in source.specs(group)]
        try:
            if link and new:
                link.ask("declare", new, codec)
        except BaseException:
            self._sources = kept  # the next step tries again
            raise
        self._last.update({f"{spec.group}/{spec.axis}": -1 for spec in new})
        self._anchors = _anchors(self._model, found.values())

    def _source(self, matrix: Matrix) -> Source:
        return Source(matrix, self._own_steps, self._precision)

    def _specs(self, group: str) -> list[RowSpec]:
        return [spec for source in self._sources.values() for spec in source.specs(group)]


def _schedules(when: Any, found: Iterable[Matrix]) -> dict[str, Schedule]:
    """The schedule of each layer.

    Raises
    ------
    ValueError
        If a name or glob matches no layer, or a layer none of them.
    """
    names = [matrix.name for matrix in found]
    if not isinstance(when, Mapping):
        return dict.fromkeys(names, as_schedule(when))
    rules = {pattern: as_schedule(schedule) for pattern, schedule in when.items()}
    for pattern in rules:
        if not any(fnmatchcase(name, pattern) for name in names):
            raise ValueError(f"when: no layer matches {pattern!r}; recorded are {', '.join(names)}")
    matching = {name: [rule for pattern, rule in rules.items() if fnmatchcase(name, pattern)] for name in names}
    if lost := [name for name, found in matching.items() if not found]:
        raise ValueError(f"when: no schedule for layer {lost[0]!r}: add one for '*', or name fewer layers")
    return {name: found[0] for name, found in matching.items()}


def _anchors(model: nn.Module, found: Iterable[Matrix]) -> list[tuple[dict[str, Any], str, nn.Module]]:
    """(children of a module, name, child) on the ways to the layers' owners: all as they are while nothing moved."""
    owners = {id(matrix.owner) for matrix in found}
    ways: dict[tuple[int, str], tuple[dict[str, Any], str, nn.Module]] = {}
    for path, module in model.named_modules():
        if id(module) in owners:
            parent = model
            for name in filter(None, path.split(".")):
                child = parent._modules[name]
                assert child is not None
                ways[id(parent), name] = (parent._modules, name, child)
                parent = child
    return list(ways.values())
