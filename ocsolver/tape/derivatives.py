"""Derivatives of expressions as expressions; rules at points without a derivative are those of torch's autograd."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from ocsolver.tape.graph import Graph

__all__ = ["gradient", "jacobian"]


def gradient(graph: Graph, output: int, variables: Sequence[int]) -> list[int]:
    """Derivatives of one node by some variables, in reverse mode."""
    bars = {output: graph.one}
    for node in reversed(graph.needed([output])):
        bar = bars.get(node)
        if bar is not None:
            for argument, slope in partials(graph, node):
                term = graph.binary("mul", bar, slope)
                bars[argument] = graph.binary("add", bars.get(argument, graph.zero), term)
    return [bars.get(variable, graph.zero) for variable in variables]


def jacobian(graph: Graph, outputs: Iterable[int], variables: Sequence[int], *, lower: bool = False) -> list[list[int]]:
    """Derivatives of nodes by some variables, in forward mode, zeros left out on the way.

    Of a symmetric one the `lower` half is enough: what stands above the diagonal is not computed then.
    """
    outputs = list(outputs)
    order = graph.needed(outputs)
    last = _last_columns(graph, outputs, order) if lower else None
    dots: dict[int, dict[int, int]] = {}
    place = {variable: j for j, variable in enumerate(variables)}
    for node in order:
        if node in place:
            dots[node] = {place[node]: graph.one}
            continue
        dot: dict[int, int] = {}
        for argument, slope in partials(graph, node, of=dots):
            for j, inner in dots[argument].items():
                if last is None or j <= last[node]:
                    term = graph.binary("mul", slope, inner)
                    dot[j] = graph.binary("add", dot[j], term) if j in dot else term
        if dot:
            dots[node] = dot
    return [[dots.get(node, {}).get(j, graph.zero) for j in range(len(variables))] for node in outputs]


def _last_columns(graph: Graph, outputs: Sequence[int], order: Sequence[int]) -> dict[int, int]:
    """Per node the last of the outputs that depend on it: up to there its derivatives are needed."""
    last = dict.fromkeys(order, -1)
    last.update((node, i) for i, node in enumerate(outputs))  # of equal nodes the last one counts
    for node in reversed(order):
        name, *arguments = graph.code[node]
        if name not in ("input", "constant"):
            for argument in arguments:
                last[argument] = max(last[argument], last[node])
    return last


def partials(graph: Graph, node: int, of: dict[int, dict[int, int]] | None = None) -> list[tuple[int, int]]:
    """Arguments of a node, those among `of` if that is given, with the derivatives by them."""
    name, *arguments = graph.code[node]
    if name in ("input", "constant", "less", "atmost", "equal"):
        return []
    result = []
    for position, argument in enumerate(arguments):
        if graph.value(argument) is None if of is None else argument in of:
            slope = _partial(graph, node, name, arguments, position)
            if slope != graph.zero:
                result.append((argument, slope))
    return result


def _partial(graph: Graph, node: int, name: str, arguments: Sequence[int], position: int) -> int:
    """Derivative of a node by one argument."""
    one, unary, binary = graph.one, graph.unary, graph.binary
    a = arguments[0]
    b = arguments[1] if len(arguments) > 1 else a
    if name == "select":
        flag = graph.select(a, one, graph.zero)
        return (graph.zero, flag, binary("sub", one, flag))[position]
    if name in ("add", "sub"):
        return one if position == 0 or name == "add" else graph.constant(-1.0)
    if name == "mul":
        return b if position == 0 else a
    if name == "div":
        return binary("div", one, b) if position == 0 else unary("neg", binary("div", node, b))
    if name == "pow":
        if position == 0:
            return binary("mul", b, binary("pow", a, binary("sub", b, one)))
        return binary("mul", node, unary("log", a))
    if name == "atan2":
        square = binary("add", binary("mul", a, a), binary("mul", b, b))
        return binary("div", b, square) if position == 0 else unary("neg", binary("div", a, square))
    return _slope(graph, node, name, a)


def _slope(graph: Graph, node: int, name: str, a: int) -> int:
    """Derivative of a function of one argument."""
    one, unary, binary = graph.one, graph.unary, graph.binary

    def square(value: int) -> int:
        return binary("mul", value, value)

    if name == "neg":
        return graph.constant(-1.0)
    if name == "sqrt":
        return binary("div", graph.constant(0.5), node)
    if name == "exp":
        return node
    if name == "expm1":
        return binary("add", node, one)
    if name == "log":
        return binary("div", one, a)
    if name == "log1p":
        return binary("div", one, binary("add", a, one))
    if name == "sin":
        return unary("cos", a)
    if name == "cos":
        return unary("neg", unary("sin", a))
    if name == "tan":
        return binary("add", one, square(node))
    if name in ("asin", "acos"):
        slope = binary("div", one, unary("sqrt", binary("sub", one, square(a))))
        return slope if name == "asin" else unary("neg", slope)
    if name == "atan":
        return binary("div", one, binary("add", one, square(a)))
    if name == "sinh":
        return unary("cosh", a)
    if name == "cosh":
        return unary("sinh", a)
    if name == "tanh":
        return binary("sub", one, square(node))
    raise NotImplementedError(name)
