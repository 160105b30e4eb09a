"""A site: where a norm or function remembers its last calls, so that a similar call is not analysed again.

A call similar to an earlier one has the same plan, because everything that axes, shapes and options decide was checked
then. It remains to check that the call is similar: that its arrays have the same shapes, dtypes and flags, and that no
option has changed. Calls are remembered only here; a norm clears its site whenever an attribute is set.
"""

from collections.abc import Mapping
from math import inf
from typing import Any, NamedTuple
from weakref import WeakSet

from numpy import ndarray

from normzoo.backends import backend, chosen
from normzoo.backends.around import NOTHING, Around, Beside
from normzoo.backends.contract import Array, Kind
from normzoo.passes import plan as plans
from normzoo.passes.around import (
    BESIDES,
    CHECKS,
    LEARNED,
    SURROUNDINGS,
    Besides,
    Setting,
    check_names,
    check_scale,
    find_around,
)
from normzoo.passes.arrays import Memo, are_running, is_counter
from normzoo.passes.beside import place_usual
from normzoo.passes.beside_saved import run_short
from normzoo.passes.form import UNTRACKED, Form, Given, RunningArrays
from normzoo.passes.normalize import find_plan, forget_plans, run
from normzoo.passes.view_saved import DOUBLE, Arrays, ViewSaved

TWO = 2  # number of calls remembered: alternating between two shapes is as fast as one shape

_new = tuple.__new__
_sites: WeakSet["Site"] = WeakSet()


def forget() -> None:
    """Forget all plans and the arrays that they refer to."""
    for site in _sites.copy():
        site.forget()
    forget_plans()


class Route(NamedTuple):
    """A remembered call, and how to run a similar one."""

    asked: object  # what the call asked for beside arrays: an int or ints for a function, the mode for a norm
    plan: Any  # a `ForwardPlan` whose `kinds` is not None
    running: tuple[Kind | None, Kind | None, Kind | None]  # kinds of mean, variance and number of batches
    given: bool  # are the running statistics used, as in evaluation? Otherwise they are updated, if there are any
    values: int  # number of values in a set


Stands = tuple["Site", Around | None, Beside]  # where calls like this are remembered, and what stands around


class Way(NamedTuple):
    """What a call with arrays of these names beside x, and no setting but that of a norm, has around it."""

    setting: Setting | None
    site: "Site"
    around: Around | None
    residual: bool
    other: str  # "add" or "gate"
    scale: float
    whole: Stands | None  # where there are no arrays


class Site:
    """The last calls of one norm or function; those with something around it have a site of their own."""

    __slots__ = ("__weakref__", "again", "owner", "routes", "trusted", "ways")

    def __init__(self, owner: object) -> None:
        self.owner = owner
        self.trusted = Memo()  # (asked, axes) -> does the norm ask for everything that its axes depend on?
        self.routes: tuple[Route, ...] = ()
        self.ways = Memo()  # by what is around: (site, around)
        self.again = Memo()  # by the names of a call's arrays: its `Way`
        _sites.add(self)

    def __reduce__(self) -> tuple:
        return Site, (self.owner,)

    def forget(self) -> None:
        self.routes = ()
        self.ways.clear()
        self.again.clear()

    def stands_again(self, beside: Mapping[str, Any], setting: Setting | None = None) -> Stands | None:
        """`stands` of a call with the setting and the names of an earlier one, in a third of the time; None of another
        one."""
        way = self.again.get(tuple(beside))
        if way is None:
            return None
        known, site, around, has_residual, other, scale, whole = way
        if known is not setting or whole is not None:
            return whole if known is setting else None
        residual, z = beside["residual"] if has_residual else None, beside[other] if other else None
        if (residual is None and has_residual) or (z is None and other):
            return None
        return site, around, _new(Beside, (residual, None, z, scale))

    def stands(self, beside: Mapping[str, Any], setting: Setting | None = None, learned: Any = None) -> Stands:
        """What a call has around the norm, by the names of `around.Besides`; without the setting of a norm also by
        those of `around.Behind`, as functions take them. `learned`: the parameter of a norm's activation."""
        if setting is None:
            if found := self.stands_again(beside):
                return found
            if not SURROUNDINGS.issuperset(beside):  # a norm checks the names, as it knows more of them
                check_names(self.owner, beside.keys() - SURROUNDINGS, Besides.__annotations__)
        get = beside.get
        residual, add, gate, s = get("residual"), get("add"), get("gate"), get("residual_out")
        if setting is None:
            activation, gate_first, scale = get("activation"), get("gate_first", False), get("residual_scale", 1.0)
            learned = get(LEARNED)
        else:
            activation, gate_first, scale = setting
        if s is not None and residual is None:
            raise ValueError(f"{self.owner}: expected residual_out with a residual, got it alone; write out=")
        key = residual is None, add is None, gate is None, learned is None, activation, bool(gate_first)
        try:
            found = self.ways.get(key)
        except TypeError:
            found = None  # what cannot be a key is no activation
        if found is None:
            act = CHECKS["activation"](self.owner, activation)
            given = (a is not None for a in (residual, add, gate, learned))
            around = find_around(self.owner, act, bool(gate_first), *given)
            found = self.ways.keep(key, (self if around is None else Site(self.owner), around))
        site, around = found
        if around is None:
            return self, None, NOTHING
        if not (type(scale) is float and -inf < scale < inf):
            scale = check_scale(self.owner, scale)
        other = learned if learned is not None else add if gate is None else gate
        found = site, around, _new(Beside, (residual, s, other, scale))  # in half the time of Beside(...)
        settled = setting is not None or BESIDES.issuperset(
            beside
        )  # nothing but the arrays differs in a call like this
        if settled and s is None and learned is None and not any(a is None for a in beside.values()):
            names, name = tuple(beside), "" if other is None else "add" if gate is None else "gate"
            whole = None if names else found
            self.again.keep(names, Way(setting, site, around, residual is not None, name, scale, whole))
        return found

    def recall(
        self, asked: object, arrays: Arrays, eps: Any, running: RunningArrays = UNTRACKED, keep: bool = True,
        beside: Any = NOTHING,
    ) -> tuple[Any, Any] | None:  # fmt: skip
        """y and, with `keep`, the `Saved` of a call like a remembered one; None where it is like none of them."""
        x, weight, bias, out = arrays
        mean, var, batches, momentum = running
        if running is not UNTRACKED:  # momentum may be None if batches are counted
            weighs = batches is not None if momentum is None else type(momentum) is float and 0.0 <= momentum <= 1.0
            if not (weighs and type(eps) is float and eps > 0.0):
                return None
        name = chosen()
        for route in self.routes:
            before, plan, kinds, given, values = route
            if plan.name != name or (before is not asked and not _is_same(before, asked)):
                continue
            shortcut = plan.shortcut if kinds[0] is None else plan.tracked
            if shortcut and out is None and not given:
                kept = plan.new_small(plan.kept_shape, DOUBLE) if keep else None
                if beside is NOTHING:
                    y = shortcut(x, weight, bias, eps, kept, mean, var, batches, momentum)
                    if y is not None:
                        return y, None if kept is None else ViewSaved(self.owner, plan, arrays, x, eps, kept)
                elif found := run_short((plan, shortcut, self.owner), arrays, eps, kept, running, beside):
                    return found
            if type(eps) is float and eps > 0.0 and _fits((*plan.kinds, *kinds), (x, weight, bias, *running), out):
                break
        else:
            return None
        where, updates = backend(name), mean is not None and not given
        refused = updates and not (where.updates_whole and momentum != 0.0)
        if not refused and beside is not NOTHING:
            beside = place_usual(plan, self.owner, arrays, beside, (mean, var))
        if refused or beside is None:
            return None
        if shortcut is None and plan.uses + 1 >= plans.ENOUGH:
            plan.shorten(kinds[:2])
        y, stats, saved = run(
            plan, self.owner, arrays, eps, Given(mean, var) if given else None, keep, (mean, var), beside
        )
        if updates:
            where.update(mean, var, stats, values, momentum, batches)
        return y, saved

    def remember(
        self,
        asked: object,
        form: Form,
        arrays: Arrays,
        running: RunningArrays = UNTRACKED,
        given: bool = False,
        norm: Any = None,
    ) -> None:
        """Remember a call, if `asked` and the arrays are enough to recognise a similar one.

        Args:
            asked: the arguments of a function besides arrays, an int or a tuple, both immutable.
            given: the running statistics were used, not updated.
            norm: the norm, if a norm was called: whether it asks for everything that its axes depend on is checked.
        """
        if any(type(a) is not ndarray and a is not None for a in (*arrays, *running[:3])):
            return
        if norm is None and type(asked) not in (int, tuple):
            return
        if norm is not None and not self._is_trusted(norm, arrays[0], form.axes):
            return
        name = chosen()
        if running[0] is not None and not _is_ready(name, running, updates=not given):
            return
        plan = find_plan(form, name, arrays, Given(*running[:2]) if given else None)
        mean, var, batches = (None if a is None else (a.shape, a.dtype, a.flags.num) for a in running[:3])
        least = 1 if given or mean is None else 2  # a set of one value has no variance for running statistics
        if plan.kinds is not None and form.axes.values >= least:
            route = Route(asked, plan, (mean, var, batches), given, form.axes.values)
            others = [r for r in self.routes if r.plan is not plan]
            self.routes = (route, *others[: TWO - 1])

    def _is_trusted(self, norm: Any, x: Array, axes: Any) -> bool:
        """Does the norm ask for everything that its axes depend on, all of it immutable?"""
        asked = norm._asked(norm)
        if type(asked) not in (int, tuple):
            return False
        try:
            known = self.trusted.get((asked, axes))
        except TypeError:  # a mutable value
            return False
        return self.trusted.keep((asked, axes), norm.reads_what_it_asks(x)) if known is None else known


def _is_ready(name: str, running: RunningArrays, updates: bool) -> bool:
    """Does the backend take the running statistics without conversion, and update them in one step?"""
    mean, var, batches, _ = running
    if not are_running(mean, var):
        return False
    if not updates:
        return True
    counts = batches is None or is_counter(batches)
    return backend(name).updates_whole and counts and mean.flags.writeable and var.flags.writeable


def _is_same(asked: Any, again: Any) -> bool:
    """Are both equal and made of ints? 64.0 and True equal ints that they must not replace."""
    if type(again) is not tuple or asked != again:
        return type(again) is int and type(asked) is int and asked == again
    return all(type(i) is int for i in again)


def _fits(kinds: tuple[Kind | None, ...], arrays: tuple[Any, ...], out: Any) -> bool:
    """Are the arrays of these kinds (shape, dtype, flags)?"""
    if out is not None and type(out) is not ndarray:
        return False
    for a, kind in zip(arrays, kinds, strict=False):
        if (type(a) is not ndarray or (a.shape, a.dtype, a.flags.num) != kind) if kind is not None else a is not None:
            return False
    return True
