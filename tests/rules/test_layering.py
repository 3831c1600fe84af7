"""The law of who may import whom. Read the tables; the tests below only apply them.

A module imports from its own layer and from those to the left of it, never from the right:

    errors ← layout, wire ← replica ← pure role files ← shells (sockets, disks, threads) ← faces

The role folders never import each other; what two of them need moves to src/gradmq.
"""

from __future__ import annotations

import ast
from fnmatch import fnmatchcase

#: From left to right. A module that no line names is a shell.
LAYERS = {
    "errors": ["gradmq.errors"],
    "layout and wire": ["gradmq.layout", "gradmq.wire", "gradmq.wire.*"],
    "what roles share": [
        "gradmq.replica",
        "gradmq.membership",
        "gradmq.binding",
        "gradmq.standings",
        "gradmq.ring",
        "gradmq.exposition",
        "gradmq.security.access",
        "gradmq.view.figures",
        "gradmq.view.rates",
        "gradmq.view.words",
    ],
    "pure role files": [
        "gradmq.broker.directory",
        "gradmq.broker.metrics",
        "gradmq.broker.releases",
        "gradmq.broker.silence",
        "gradmq.broker.status",
        "gradmq.ps.durability",
        "gradmq.ps.effects",
        "gradmq.ps.journal.chain",
        "gradmq.ps.journal.records",
        "gradmq.ps.journal.replay",
        "gradmq.ps.judge",
        "gradmq.ps.lineage",
        "gradmq.ps.parameters",
        "gradmq.ps.sessions",
        "gradmq.ps.shard",
        "gradmq.ps.state",
        "gradmq.ps.optim",
        "gradmq.ps.policy",
        "gradmq.ps.publications",
        "gradmq.ps.publishing",
        "gradmq.ps.quarantine",
        "gradmq.ps.tally",
        "gradmq.worker.absence",
        "gradmq.worker.metrics",
        "gradmq.worker.session",
        "gradmq.worker.tally",
        "gradmq.infer.batch_former",
        "gradmq.infer.connections",
        "gradmq.infer.history",
        "gradmq.infer.measures",
        "gradmq.infer.news",
        "gradmq.infer.serving",
        "gradmq.infer.settled_text",
        "gradmq.infer.steering",
        "gradmq.infer.turns",
        "gradmq.infer.wish",
    ],
    "shells": [],
    "faces": ["gradmq", "gradmq.cli", "gradmq.cli.*", "gradmq.__main__", "gradmq.*.__main__"],
}

#: Everything to the left of the shells is pure: events and the time in, what to do out.
PURE = ["errors", "layout and wire", "what roles share", "pure role files"]

#: So none of it imports these, nor what is in them: clock, chance, storage, threads and sockets
#: are arguments. (A type from them in an annotation, under TYPE_CHECKING, is no such import.)
NOT_IN_PURE = [
    "asyncio", "concurrent", "datetime", "fcntl", "io", "mmap", "multiprocessing", "os", "pathlib",
    "queue", "random", "secrets", "select", "selectors", "shutil", "signal", "socket", "subprocess",
    "tempfile", "threading", "time", "uuid", "zmq",
]  # fmt: skip

#: Nor does any of it call these, or reach numpy.random.
NOT_CALLED_IN_PURE = ["open", "input", "print"]

ROLES = ["gradmq.broker", "gradmq.ps", "gradmq.worker", "gradmq.infer"]

#: Outside the roles, only the faces and these (with what is in them) know the roles, for a reason.
KNOW_ROLES = {
    "gradmq.run": "starts the roles of a run, writes its first checkpoints, judges its releases",
    "gradmq.sim": "drives the pure objects of all roles through one schedule",
    "gradmq.bench": "measures them",
    "gradmq.history": "reads the checkpoints and journals of shards",
}

#: Only the faces import these: they use the product, and are no part of it.
IMPORTED_BY_FACES_ONLY = ["gradmq.sim", "gradmq.bench"]


def test_every_name_in_the_tables_is_a_module(package):
    names = [name for names in LAYERS.values() for name in names]
    names += [*KNOW_ROLES, *ROLES, *IMPORTED_BY_FACES_ONLY]
    unknown = [name for name in names if not any(fnmatchcase(module, name) for module in package)]
    assert unknown == [], f"these match no module and so protect nothing: {unknown}"


def test_no_module_imports_from_a_layer_to_the_right_of_its_own(package):
    order = list(LAYERS)
    broken = [
        f"{source.at(line)}: {source.name} ({layer_of(source.name)}) "
        f"imports {target} ({layer_of(target)})"
        for source, target, line in imports_within(package)
        if order.index(layer_of(target)) > order.index(layer_of(source.name))
    ]
    assert broken == [], "\n".join(broken)


def test_roles_never_import_each_other(package):
    broken = [
        f"{source.at(line)}: imports {target}; what two roles need moves to src/gradmq"
        for source, target, line in imports_within(package)
        if role_of(target) not in (None, role_of(source.name)) and not knows_roles(source.name)
    ]
    assert broken == [], "\n".join(broken)


def test_only_the_faces_import_the_simulator_and_the_benchmarks(package):
    broken = [
        f"{source.at(line)}: imports {target}"
        for source, target, line in imports_within(package)
        for top in IMPORTED_BY_FACES_ONLY
        if is_in(target, top) and not is_in(source.name, top) and layer_of(source.name) != "faces"
    ]
    assert broken == [], "\n".join(broken)


def test_pure_files_import_no_clock_no_chance_no_storage_no_sockets(package):
    broken = [
        f"{source.at(found.line)}: imports {found.module}"
        for source in pure(package)
        for found in source.imports
        if not found.types_only and any(is_in(found.module, banned) for banned in NOT_IN_PURE)
    ]
    assert broken == [], "\n".join(broken)


def test_pure_files_open_nothing_and_draw_no_numbers(package):
    broken = [
        f"{source.at(node.lineno)}: {ast.unparse(node)}"
        for source in pure(package)
        for node in ast.walk(source.tree)
        if (isinstance(node, ast.Call) and ast.unparse(node.func) in NOT_CALLED_IN_PURE)
        or (isinstance(node, ast.Attribute) and ast.unparse(node) in ("np.random", "numpy.random"))
    ]
    assert broken == [], "\n".join(broken)


def test_imports_are_absolute(package):
    broken = [
        f"{source.at(found.line)}: {found.module}"
        for source in package.values()
        for found in source.imports
        if found.module.startswith(".")
    ]
    assert broken == [], "relative, in a folder with two parents:\n" + "\n".join(broken)


def layer_of(module):
    return next((layer for layer, names in LAYERS.items() if matches(module, names)), "shells")


def role_of(module):
    return next((role for role in ROLES if is_in(module, role)), None)


def knows_roles(module):
    if role_of(module) is None and layer_of(module) == "faces":
        return True
    return any(is_in(module, name) for name in KNOW_ROLES)


def is_in(module, parent):
    return module == parent or module.startswith(parent + ".")


def matches(module, patterns):
    return any(fnmatchcase(module, pattern) for pattern in patterns)


def pure(package):
    return [source for source in package.values() if layer_of(source.name) in PURE]


def imports_within(package):
    """(source, imported module, line) for each import of one module of gradmq by another."""
    for source in package.values():
        for found in source.imports:
            if is_in(found.module, "gradmq"):
                yield source, defining_module(found.module, package), found.line


def defining_module(dotted, package):
    """``gradmq.layout`` of ``gradmq.layout.Layout``: the longest beginning that is a module."""
    while dotted not in package and "." in dotted:
        dotted = dotted.rpartition(".")[0]
    return dotted
