"""Merges a template with its layouts and constants before it is compiled: rendering takes about a third of the time."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TypeVar

from jinja2 import Environment, Template, nodes
from jinja2.visitor import NodeTransformer

from backline.errors import Misconfigured

N = TypeVar("N", bound=nodes.Node)

# Allowed outside the blocks of a child template; a block that contains one needs a scope of its own.
_DEFINITIONS = (nodes.Import, nodes.FromImport, nodes.Assign, nodes.AssignBlock, nodes.Macro)


def load_flattened(environment: Environment, name: str, constants: Mapping[str, object]) -> Template:
    """Load a template merged with its layouts and the constants, which a context cannot override.

    Misconfigured if the template uses `super()` or `self`, which a merged template does not have.
    """
    chain = [_parse_template(environment, name)]
    while (extends := chain[-1].find(nodes.Extends)) is not None:
        if not isinstance(extends.template, nodes.Const):
            raise Misconfigured(f"template {name}: extends needs a quoted name")
        chain.append(_parse_template(environment, extends.template.value))
    for used in (use for tree in chain for use in tree.find_all(nodes.Name) if use.name in {"super", "self"}):
        raise Misconfigured(f"template {name}, line {used.lineno}: {used.name} is not available in these templates")
    tree = chain[-1]
    blocks: dict[str, nodes.Block] = {}
    for each in chain:
        for block in each.find_all(nodes.Block):
            blocks.setdefault(block.name, block)
    definitions = [node for each in chain[:-1] for node in each.body if isinstance(node, _DEFINITIONS)]
    tree = _BlockInliner(blocks).visit(tree)
    tree.body = definitions + tree.body
    assigned = {found.name for found in tree.find_all(nodes.Name) if found.ctx != "load"}
    tree = _ConstantFolder({key: value for key, value in constants.items() if key not in assigned}).visit(tree)
    tree = _OutputMerger().visit(tree)
    tree.set_environment(environment)
    code = environment.compile(tree, name)
    return environment.template_class.from_code(environment, code, environment.make_globals(None))


def _parse_template(environment: Environment, name: str) -> nodes.Template:
    try:
        source, filename, _ = environment.loader.get_source(environment, name)  # type: ignore[union-attr]
    except ValueError as exc:  # not UTF-8, or HTML in which the loader cannot inline CSS
        raise Misconfigured(f"template {name}: {exc}") from None
    return environment.parse(source, name, filename)


class _BlockInliner(NodeTransformer):
    def __init__(self, blocks: Mapping[str, nodes.Block]) -> None:
        self._blocks = blocks

    def visit_Block(self, node: nodes.Block) -> nodes.Node | list[nodes.Node]:  # noqa: N802, the visitor's naming
        body: list[nodes.Node] = []
        for child in self._blocks[node.name].body:
            inlined = self.visit(child)
            body += inlined if isinstance(inlined, list) else [inlined]
        if any(isinstance(child, _DEFINITIONS) for child in body):
            return nodes.Scope(body, lineno=node.lineno)
        return body


class _ConstantFolder(NodeTransformer):
    def __init__(self, constants: Mapping[str, object]) -> None:
        self._constants = constants

    def visit_Name(self, node: nodes.Name) -> nodes.Node:  # noqa: N802
        if node.ctx == "load" and node.name in self._constants:
            return nodes.Const(self._constants[node.name], lineno=node.lineno)
        return node


class _OutputMerger(NodeTransformer):
    """Joins adjacent outputs, so that their constants are joined too."""

    def generic_visit(self, node: N, *args: object, **kwargs: object) -> N:
        super().generic_visit(node, *args, **kwargs)
        body = getattr(node, "body", None)
        if isinstance(body, list):
            joined: list[nodes.Node] = []
            for child in body:
                if joined and isinstance(child, nodes.Output) and isinstance(joined[-1], nodes.Output):
                    joined[-1].nodes.extend(child.nodes)
                else:
                    joined.append(child)
            node.body = joined  # type: ignore[attr-defined]
        return node
