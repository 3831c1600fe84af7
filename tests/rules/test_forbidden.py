"""What a peer or a file says is data: nothing in the package turns bytes into code."""

from __future__ import annotations

import ast

#: They revive objects; YAML's loaders do, and multiprocessing does it with what a pipe brings.
FORBIDDEN_MODULES = [
    "pickle", "cPickle", "_pickle", "marshal", "shelve", "dill", "cloudpickle", "joblib",
    "jsonpickle", "yaml", "multiprocessing",
]  # fmt: skip

#: The simulator spreads schedules over processes of its own; nobody else talks to them.
TALKS_TO_ITSELF = {"gradmq.sim.many": "multiprocessing"}

#: By their last name, however they are reached.
FORBIDDEN_ATTRIBUTES = ["recv_pyobj", "send_pyobj", "unsafe_load"]

#: As they are written: ``model.eval()`` is another thing than ``eval(text)``.
FORBIDDEN_CALLS = [
    "eval", "exec", "compile", "__import__", "builtins.eval", "builtins.exec", "torch.jit.load",
    "torch.hub.load", "torch.package.PackageImporter", "np.load", "numpy.load",
]  # fmt: skip

#: The one module that may read a file written by torch.save, and only its weights.
READER_OF_TORCH_FILES = "gradmq.parameters_file"


def test_nothing_imports_a_module_that_revives_objects(package):
    found = [
        f"{source.at(found.line)}: imports {found.module}"
        for source in package.values()
        for found in source.imports
        if (top := found.module.partition(".")[0]) in FORBIDDEN_MODULES
        and TALKS_TO_ITSELF.get(source.name) != top
    ]
    assert found == [], "\n".join(found)


def test_nothing_evaluates_or_unpickles_what_it_was_given(package):
    found = [
        f"{source.at(node.lineno)}: {ast.unparse(node)}"
        for source in package.values()
        for node in ast.walk(source.tree)
        if (isinstance(node, ast.Attribute) and node.attr in FORBIDDEN_ATTRIBUTES)
        or (isinstance(node, ast.Call) and ast.unparse(node.func) in FORBIDDEN_CALLS)
        or (isinstance(node, ast.keyword) and node.arg == "allow_pickle" and not is_false(node))
    ]
    assert found == [], "\n".join(found)


def test_torch_load_is_called_in_one_module_and_reads_weights_only(package):
    found = [
        f"{source.at(call.lineno)}: {ast.unparse(call)}"
        for source in package.values()
        for call in calls_of_torch_load(source.tree)
        if source.name != READER_OF_TORCH_FILES or not reads_weights_only(call)
    ]
    assert found == [], "\n".join(found)


def test_torch_load_goes_by_no_other_name(package):
    found = [
        f"{source.at(found.line)}: imports {found.module}"
        for source in package.values()
        for found in source.imports
        if found.module in ("torch.load", "torch.serialization", "torch.serialization.load")
    ]
    assert found == [], "\n".join(found)


def calls_of_torch_load(tree):
    return [
        node
        for node in ast.walk(tree)
        if isinstance(node, ast.Call)
        and ast.unparse(node.func) in ("torch.load", "torch.serialization.load")
    ]


def reads_weights_only(call):
    return any(
        keyword.arg == "weights_only"
        and isinstance(keyword.value, ast.Constant)
        and keyword.value.value is True
        for keyword in call.keywords
    )


def is_false(keyword):
    return isinstance(keyword.value, ast.Constant) and keyword.value.value is False
