"""What programs put around a network's names: wrappers of parallel, compiled and averaged models, and bookkeeping of training."""

from __future__ import annotations

from collections.abc import Callable, Set

from common.networks.tensors import Tensors

WRAPPERS = frozenset({"module", "_orig_mod", "_fsdp_wrapped_module", "_checkpoint_wrapped_module"})
"""Parts of names that PyTorch's wrappers add, before a name or within it: data parallel and averaged, compiled, sharded models."""
OPTIMISER = (
    "moments", "moment", "moment1", "moment2", "accum", "stat", "vhat", "mean_square", "mean_gradient", "linear",
    "adam_m", "adam_v", "lamb_m", "lamb_v",
)  # fmt: skip
"""First parts of the names under which MindSpore's optimisers keep an array beside every parameter."""
SCHEDULE = "learning_rate"
"""How the names of MindSpore's rates begin: one number or one for every step, of every group of parameters."""


def unwrapped(tensors: Tensors) -> Tensors:
    """Return ``tensors`` without the wrappers in their names, unchanged where two names would become one."""
    names = {name: ".".join(part for part in name.split(".") if part not in WRAPPERS) for name in tensors}
    if len(set(names.values())) < len(names):
        return dict(tensors)
    return {names[name]: array for name, array in tensors.items()}


def without_bookkeeping(tensors: Tensors, is_known: Callable[[str], bool]) -> tuple[Tensors, list[str]]:
    """Return the arrays of a network, and the names of what training keeps beside them.

    The latter are an optimiser's array for a parameter that is there too, and single numbers, or the learning rates of all
    steps, whose names belong to no module and are not known: ``global_step``, ``epoch_num``, ``n_averaged``...
    """
    kept, left = {}, []
    for name, array in tensors.items():
        first, _, rest = name.partition(".")
        twin = first in OPTIMISER and rest in tensors
        counts = not rest and (array.size <= 1 or name.startswith(SCHEDULE)) and not is_known(name)
        if twin or counts:
            left.append(name)
        else:
            kept[name] = array
    return kept, left


def without_holder(tensors: Tensors, known: Set[str]) -> Tensors:
    """Return ``tensors`` without first parts that all their names share (``net.``), where names that are ``known`` begin then."""
    names = {name: name for name in tensors}
    while not known & (firsts := {name.partition(".")[0] for name in names.values()}):
        if len(firsts) != 1 or not all("." in name for name in names.values()):
            return tensors
        names = {name: rest.partition(".")[2] for name, rest in names.items()}
    return {names[name]: array for name, array in tensors.items()}
