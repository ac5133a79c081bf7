"""The one grammar of expressions: sweep files, overrides, `derive`, `where` and `--where` all speak it.

Text is parsed by `ast`, checked against a fixed list of forms and compiled once to closures; nothing is ever `eval`'d.
Numbers, text, names (`width`, `model.width`), lists, arithmetic, comparisons, `and or not in`, `x if c else y` and
the calls of `FUNCTIONS` are all there is.
"""

import ast
import math
import operator
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from sweeper.errors import ConfigError
from sweeper.typed import did_you_mean

MAX_TEXT = 10_000
"""Characters of one expression."""
MAX_DEPTH = 60
"""Forms inside one another."""
MAX_ITEMS = 1_000_000
"""Items of one list: ten times the largest sweep that planning is built for."""
MAX_BITS = 1024
"""Size of a whole number; a float ends there too."""
GRID_DIGITS = 6
"""Significant digits of the points that `geom` and `around` place: tables stay readable and identities stable."""

CONSTANTS: Mapping[str, Any] = {"true": True, "false": False, "True": True, "False": False, "None": None, "null": None}

Scope = Mapping[str, Any]
_Closure = Callable[[Scope], Any]


@dataclass(frozen=True, slots=True, kw_only=True)
class Expression:
    """A compiled expression; call it with the values of its names."""

    text: str
    names: frozenset[str]
    """What it reads, as `resolve` spelled it."""
    where: str
    """The place named in its errors."""
    closure: _Closure

    def __call__(self, values: Scope) -> Any:
        """The value over `values`.

        Raises:
            ConfigError: A name without a value, operands that do not fit, or a result beyond the limits.
        """
        try:
            return self.closure(values)
        except KeyError as error:
            name = str(error.args[0])
            hint = did_you_mean(name, map(str, values)) if values else "only numbers stand here"
            raise ConfigError(f"{self.where}: unknown name {name!r} in {_short(self.text)!r}; {hint}") from error
        except ZeroDivisionError as error:
            raise ConfigError(f"{self.where}: division by zero in {_short(self.text)!r}") from error
        except (TypeError, ValueError, OverflowError) as error:
            raise ConfigError(f"{self.where}: {error} in {_short(self.text)!r}") from error


def compile_expression(
    text: str, where: str = "expression", resolve: Callable[[str], str] = lambda name: name
) -> Expression:
    """The expression that `text` states; `resolve` gives each name its canonical spelling and may refuse it.

    Raises:
        ConfigError: Bad syntax, a form or function outside the grammar, or more text than the limits allow.

    >>> compile_expression("50 * params")({"params": 3})
    150
    >>> compile_expression("width in [32, 64] and state != 'failed'")({"width": 32, "state": "done"})
    True
    """
    tree = _parse(text, where)
    names: set[str] = set()

    def named(name: str) -> str:
        canonical = resolve(name)
        names.add(canonical)
        return canonical

    closure = _Compiler(text=text, where=where, resolve=named).closure(tree)
    return Expression(text=text, names=frozenset(names), where=where, closure=closure)


def select(text: str, columns: Mapping[str, Sequence[Any]], where: str = "selector") -> list[bool]:
    """Whether each row of `columns` satisfies the condition `text`.

    Raises:
        ConfigError: An unknown column, or a condition that is not true or false.

    >>> select("depth == 16 and state == 'failed'", {"depth": [8, 16], "state": ["failed", "failed"]})
    [False, True]
    """

    def known(name: str) -> str:
        if name not in columns:
            raise ConfigError(f"{where}: unknown column {name!r} in {_short(text)!r}; {did_you_mean(name, columns)}")
        return name

    condition = compile_expression(text, where, known)
    read = sorted(condition.names)
    rows = max((len(column) for column in columns.values()), default=0)
    return [holds(condition, {name: columns[name][row] for name in read}) for row in range(rows)]


def holds(condition: Expression, values: Scope) -> bool:
    """Whether the condition is true over `values`.

    Raises:
        ConfigError: Its value is not true or false.
    """
    verdict = condition(values)
    # numpy's bool is not bool, but knows itself to be one.
    if not isinstance(verdict, bool) and type(verdict).__name__ not in ("bool_", "bool"):
        raise ConfigError(
            f"{condition.where}: {_short(condition.text)!r} is {verdict!r}, not true or false; write a comparison"
        )
    return bool(verdict)


def compared_texts(text: str, name: str) -> frozenset[str]:
    """The literal texts that a condition compares a name with.

    >>> sorted(compared_texts("state == 'done' or lr > 1 and state in ['new', 'failed']", "state"))
    ['done', 'failed', 'new']
    """
    found: set[str] = set()
    for node in ast.walk(_parse(text, "selector")):
        sides = (node.left, *node.comparators) if isinstance(node, ast.Compare) else ()
        if any(isinstance(side, ast.Name) and side.id == name for side in sides):
            parts = (part for side in sides for part in ast.walk(side))
            found |= {part.value for part in parts if isinstance(part, ast.Constant) and isinstance(part.value, str)}
    return frozenset(found)


def opened(text: str, where: str = "expression") -> Any:
    """The mappings and lists of mappings that `text` writes, each leaf left as the text of its expression.

    A sweep's nested parts (`zip`, `union`, a whole `axes`) can so be given on the command line.

    >>> opened("[{width: [32, 64], lr: geom(0.1, 0.2, 2)}]")
    [{'width': '[32, 64]', 'lr': 'geom(0.1, 0.2, 2)'}]
    >>> opened("[32, 64]")
    '[32, 64]'
    """

    def open_(node: ast.expr) -> Any:
        if isinstance(node, ast.Dict):
            if not all(isinstance(key, ast.Name | ast.Attribute | ast.Constant) for key in node.keys):
                raise ConfigError(f"{where}: the keys of {_short(ast.unparse(node))!r} must be names")
            return {_key(key): open_(value) for key, value in zip(node.keys, node.values, strict=True)}
        if isinstance(node, ast.List) and any(isinstance(item, ast.Dict) for item in node.elts):
            return [open_(item) for item in node.elts]
        return ast.unparse(node)

    tree = _parse(text, where)
    return open_(tree) if isinstance(tree, ast.Dict | ast.List) else text


def clauses(text: str, where: str = "expression") -> tuple[str, ...]:
    """The conditions of a `where`: the items of a list, or the text itself.

    >>> clauses("[width > 32, 'depth < 8']")
    ('width > 32', 'depth < 8')
    """
    tree = _parse(text, where)
    if not isinstance(tree, ast.List):
        return (text,)
    return tuple(
        item.value if isinstance(item, ast.Constant) and isinstance(item.value, str) else ast.unparse(item)
        for item in tree.elts
    )


def geom(low: float, high: float, count: float) -> list[float]:
    """`count` points from `low` to `high`, both included, evenly spaced in the logarithm, to 6 significant digits.

    >>> geom(1e-3, 1e-1, 3)
    [0.001, 0.01, 0.1]
    """
    _positive("geom", low=low, high=high)
    points = _count("geom", count, least=2)
    step = math.log(high / low) / (points - 1)
    inner = [_rounded(low * math.exp(i * step)) for i in range(1, points - 1)]
    return [float(low), *inner, float(high)]


def around(centre: float, factor: float, count: float) -> list[float]:
    """`count` points whose neighbours differ by `factor`, centred on `centre`, to 6 significant digits.

    >>> around(0.04, 2, 3)
    [0.02, 0.04, 0.08]
    """
    _positive("around", centre=centre, factor=factor)
    points = _count("around", count, least=1)
    if factor == 1 and points > 1:
        raise ValueError("around needs a factor other than 1 to place more than one point")
    return [_rounded(centre * factor ** (i - (points - 1) / 2)) for i in range(points)]


def whole_range(*bounds: float) -> list[int]:
    """Python's `range` as a list: `range(32, 129, 32)` is 32, 64, 96, 128; the stop is left out."""
    if not 1 <= len(bounds) <= 3:
        raise TypeError(f"range takes 1 to 3 numbers, got {len(bounds)}")
    numbers = [_whole("range", bound) for bound in bounds]
    if len(numbers) == 3 and numbers[2] == 0:
        raise ValueError("range needs a step other than 0")
    items = range(*numbers)
    # len() itself overflows beyond the machine's word.
    if numbers and (items.stop - items.start) // items.step > MAX_ITEMS:
        raise ValueError(f"range has more than {MAX_ITEMS} items")
    return list(items)


def _extreme(choose: Callable[[Sequence[Any]], Any], name: str) -> Callable[..., Any]:
    def extreme(*values: Any) -> Any:
        items = values[0] if len(values) == 1 and isinstance(values[0], list | tuple) else values
        if not items:
            raise ValueError(f"{name} of an empty list")
        return choose([_operand(item, name) for item in items])

    return extreme


def _numeric(name: str, function: Callable[..., Any], most: int = 1) -> Callable[..., Any]:
    def numeric(*values: Any) -> Any:
        if not 1 <= len(values) <= most:
            raise TypeError(f"{name} takes {most if most == 1 else f'1 to {most}'} numbers, got {len(values)}")
        numbers = [_operand(value, name) for value in values]
        try:
            return function(*numbers)
        except (ValueError, OverflowError) as error:
            raise ValueError(f"{name}({', '.join(f'{number:g}' for number in numbers)}) has no value") from error

    return numeric


FUNCTIONS: Mapping[str, Callable[..., Any]] = {
    "range": whole_range,
    "geom": geom,
    "around": around,
    "log": _numeric("log", math.log),
    "exp": _numeric("exp", math.exp),
    "sqrt": _numeric("sqrt", math.sqrt),
    "min": _extreme(min, "min"),
    "max": _extreme(max, "max"),
    "round": _numeric("round", lambda x, digits=None: round(x, digits), most=2),
    "floor": _numeric("floor", math.floor),
    "ceil": _numeric("ceil", math.ceil),
    "abs": _numeric("abs", abs),
}
"""Every function of the grammar; `log` is natural."""


@dataclass(frozen=True, slots=True, kw_only=True)
class _Compiler:
    text: str
    where: str
    resolve: Callable[[str], str]

    def refused(self, node: ast.AST, reason: str) -> ConfigError:
        column = getattr(node, "col_offset", 0) + 1
        return ConfigError(f"{self.where}: {reason} (character {column} of {_short(self.text)!r})")

    def closure(self, node: ast.expr, depth: int = 0) -> _Closure:
        if depth > MAX_DEPTH:
            raise self.refused(node, f"more than {MAX_DEPTH} forms inside one another; split the expression")
        deeper = depth + 1
        match node:
            case ast.Constant(value=bool() | int() | float() | str() | None as value):
                if isinstance(value, int) and value.bit_length() > MAX_BITS:
                    raise self.refused(node, "a number beyond 1e308")
                return lambda _: value
            case ast.Name() | ast.Attribute():
                return self.name(node)
            case ast.List(elts=items) | ast.Tuple(elts=items):
                parts = [self.closure(item, deeper) for item in items]
                return lambda scope: [part(scope) for part in parts]
            case ast.BinOp(left=left, op=op, right=right) if type(op) in _ARITHMETIC:
                return _applied(_ARITHMETIC[type(op)], self.closure(left, deeper), self.closure(right, deeper))
            case ast.UnaryOp(op=ast.Not(), operand=operand):
                inner = self.closure(operand, deeper)
                return lambda scope: not inner(scope)
            case ast.UnaryOp(op=ast.USub(), operand=operand):
                inner = self.closure(operand, deeper)
                return lambda scope: -_operand(inner(scope), "-")
            case ast.UnaryOp(op=ast.UAdd(), operand=operand):
                inner = self.closure(operand, deeper)
                return lambda scope: _operand(inner(scope), "+")
            case ast.BoolOp(op=op, values=operands):
                parts = [self.closure(operand, deeper) for operand in operands]
                if isinstance(op, ast.And):
                    return lambda scope: all(part(scope) for part in parts)
                return lambda scope: any(part(scope) for part in parts)
            case ast.Compare(left=left, ops=ops, comparators=comparators) if all(type(o) in _COMPARISONS for o in ops):
                first = self.closure(left, deeper)
                rest = [(_COMPARISONS[type(o)], self.closure(c, deeper)) for o, c in zip(ops, comparators, strict=True)]
                return _compared(first, rest)
            case ast.IfExp(test=test, body=body, orelse=orelse):
                decide, yes, no = (self.closure(part, deeper) for part in (test, body, orelse))
                return lambda scope: yes(scope) if decide(scope) else no(scope)
            case ast.Call(func=ast.Name(id=name), args=arguments, keywords=[]):
                if name not in FUNCTIONS:
                    raise self.refused(node, f"no function {name!r}; {did_you_mean(name, FUNCTIONS)}")
                function, parts = FUNCTIONS[name], [self.closure(argument, deeper) for argument in arguments]
                return _called(name, function, parts)
        raise self.refused(node, f"{_short(ast.unparse(node))!r} is not part of the grammar")

    def name(self, node: ast.expr) -> _Closure:
        parts = []
        inner = node
        while isinstance(inner, ast.Attribute):
            parts.append(inner.attr)
            inner = inner.value
        if not isinstance(inner, ast.Name):
            raise self.refused(node, f"{_short(ast.unparse(node))!r} is not part of the grammar")
        name = ".".join([inner.id, *reversed(parts)])
        if name in CONSTANTS:
            value = CONSTANTS[name]
            return lambda _: value
        return operator.itemgetter(self.resolve(name))


_LONE_EQUALS = re.compile(r"(?<![=!<>:])=(?!=)")


def _parse(text: str, where: str) -> ast.expr:
    if len(text) > MAX_TEXT:
        raise ConfigError(f"{where}: an expression of {len(text)} characters; the limit is {MAX_TEXT}")
    if not text.strip():
        raise ConfigError(f"{where}: the expression is empty; give a value")
    try:
        return ast.parse(text.strip(), mode="eval").body
    except SyntaxError as error:
        place = f"character {error.offset} of " if error.offset else ""
        if _LONE_EQUALS.search(text):
            raise ConfigError(f"{where}: '=' compares nothing in {_short(text)!r}; write ==") from error
        raise ConfigError(f"{where}: {error.msg} ({place}{_short(text)!r})") from error
    except (ValueError, RecursionError, MemoryError) as error:
        raise ConfigError(f"{where}: {_short(text)!r} cannot be read; simplify the expression") from error


def _key(node: ast.expr | None) -> str:
    return str(node.value) if isinstance(node, ast.Constant) else ast.unparse(node) if node else ""


def _applied(operation: Callable[[Any, Any], Any], left: _Closure, right: _Closure) -> _Closure:
    return lambda scope: operation(left(scope), right(scope))


def _compared(first: _Closure, rest: list[tuple[Callable[[Any, Any], bool], _Closure]]) -> _Closure:
    if len(rest) == 1:
        compare, second = rest[0]
        return lambda scope: compare(first(scope), second(scope))

    def chain(scope: Scope) -> bool:
        left = first(scope)
        for compare, part in rest:
            right = part(scope)
            if not compare(left, right):
                return False
            left = right
        return True

    return chain


def _called(name: str, function: Callable[..., Any], parts: list[_Closure]) -> _Closure:
    def called(scope: Scope) -> Any:
        values = [part(scope) for part in parts]
        try:
            return function(*values)
        except TypeError as error:
            if name in ("geom", "around") and len(values) != 3:
                raise TypeError(f"{_SIGNATURES[name]} takes 3 numbers, got {len(values)}") from error
            raise

    return called


_SIGNATURES = {"geom": "geom(low, high, count)", "around": "around(centre, factor, count)"}


def _operand(value: Any, operation: str) -> Any:
    # Columns may hold numpy scalars: they are numbers without being int or float.
    if isinstance(value, str | list | tuple) or value is None:
        raise TypeError(f"{operation} needs a number, got {value!r}")
    return value


def _arithmetic(symbol: str, operation: Callable[[Any, Any], Any]) -> Callable[[Any, Any], Any]:
    def apply(left: Any, right: Any) -> Any:
        result = operation(_operand(left, symbol), _operand(right, symbol))
        if isinstance(result, int) and result.bit_length() > MAX_BITS:
            raise OverflowError(f"{symbol} gives a number beyond 1e308")
        return result

    return apply


def _sum(left: Any, right: Any) -> Any:
    if isinstance(left, list | tuple) and isinstance(right, list | tuple):
        if len(left) + len(right) > MAX_ITEMS:
            raise ValueError(f"a list of more than {MAX_ITEMS} items")
        return [*left, *right]
    return _ADD(left, right)


_ADD = _arithmetic("+", operator.add)


def _power(base: Any, exponent: Any) -> Any:
    base, exponent = _operand(base, "**"), _operand(exponent, "**")
    if isinstance(base, int) and isinstance(exponent, int):
        if abs(base) > 1 and abs(exponent) * base.bit_length() > MAX_BITS + base.bit_length():
            raise OverflowError("** gives a number beyond 1e308")
    elif base < 0 and not float(exponent).is_integer():
        raise ValueError(f"a negative number, {base!r}, has no power {exponent!r}")
    try:
        return base**exponent
    except OverflowError as error:
        raise OverflowError("** gives a number beyond 1e308") from error


def _ordered(symbol: str, operation: Callable[[Any, Any], Any]) -> Callable[[Any, Any], bool]:
    def compare(left: Any, right: Any) -> bool:
        if left is None or right is None:
            return False  # a missing value is neither above nor below
        try:
            return bool(operation(left, right))
        except TypeError as error:
            raise TypeError(f"{symbol} cannot compare {left!r} with {right!r}") from error

    return compare


def _contained(item: Any, items: Any) -> bool:
    if isinstance(items, str) and not isinstance(item, str):
        raise TypeError(f"in looks for text in text, got {item!r}")
    if not isinstance(items, str | list | tuple):
        raise TypeError(f"in needs a list on its right, got {items!r}")
    return item in items


_ARITHMETIC: Mapping[type[ast.operator], Callable[[Any, Any], Any]] = {
    ast.Add: _sum,
    ast.Sub: _arithmetic("-", operator.sub),
    ast.Mult: _arithmetic("*", operator.mul),
    ast.Div: _arithmetic("/", operator.truediv),
    ast.FloorDiv: _arithmetic("//", operator.floordiv),
    ast.Mod: _arithmetic("%", operator.mod),
    ast.Pow: _power,
}

_COMPARISONS: Mapping[type[ast.cmpop], Callable[[Any, Any], bool]] = {
    ast.Eq: lambda left, right: bool(left == right),
    ast.NotEq: lambda left, right: bool(left != right),
    ast.Lt: _ordered("<", operator.lt),
    ast.LtE: _ordered("<=", operator.le),
    ast.Gt: _ordered(">", operator.gt),
    ast.GtE: _ordered(">=", operator.ge),
    ast.In: _contained,
    ast.NotIn: lambda item, items: not _contained(item, items),
}


def _rounded(value: float) -> float:
    return float(f"{value:.{GRID_DIGITS}g}")


def _positive(function: str, **values: Any) -> None:
    for name, value in values.items():
        if not _operand(value, function) > 0:
            raise ValueError(f"{function} needs a positive {name}, got {value!r}")


def _whole(function: str, value: Any) -> int:
    number = _operand(value, function)
    if not float(number).is_integer():
        raise ValueError(f"{function} needs whole numbers, got {value!r}")
    return int(number)


def _count(function: str, value: Any, least: int) -> int:
    count = _whole(function, value)
    if not least <= count <= MAX_ITEMS:
        raise ValueError(f"{function} places {least} to {MAX_ITEMS} points, got {count}")
    return count


def _short(text: str) -> str:
    return text if len(text) <= 60 else f"{text[:57]}..."
