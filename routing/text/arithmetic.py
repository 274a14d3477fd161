"""Checks a draft's calculations: computes every equation between plain numbers again, without executing anything."""

import ast
import math
import operator
import re
from collections.abc import Callable, Iterator
from typing import Final

from routing.text.request_body import edges

# Every repeat is bounded and a number starts where no digit precedes it, so that no draft takes quadratic time.
_NUMBER: Final = r"\$?\d{1,15}(?:,\d{3}){0,4}(?:\.\d{1,15})?%?"
_TERM: Final = rf"\({{0,3}}-?{_NUMBER}\){{0,3}}"
_OPERATOR: Final = r" {0,2}[-+*/×÷x] {0,2}"
_EQUATION: Final = re.compile(
    rf"(?<![\d.,])({_TERM}(?:{_OPERATOR}{_TERM}){{1,6}}) {{0,2}}= {{0,2}}(-?{_NUMBER})(?! {{0,2}}[-+*/×÷x(\d])"
)
_MAX_EQUATIONS: Final = 40
_ROUNDING: Final = 0.006  # half a step of the second decimal, with room for a last digit cut off instead of rounded

_OPERATIONS: Final[dict[type[ast.operator], Callable[[float, float], float]]] = {
    ast.Add: operator.add,
    ast.Sub: operator.sub,
    ast.Mult: operator.mul,
    ast.Div: operator.truediv,
}


def _value(node: ast.expr) -> float:
    match node:
        case ast.Constant(value=int() | float() as value):
            return float(value)
        case ast.UnaryOp(op=ast.USub(), operand=operand):
            return -_value(operand)
        case ast.BinOp(left=left, op=op, right=right) if type(op) in _OPERATIONS:
            return _OPERATIONS[type(op)](_value(left), _value(right))
        case _:
            raise ValueError(f"no arithmetic: {type(node).__name__}")


def _plain(expression: str) -> str:
    text = expression.replace("$", "").replace(",", "").replace("%", "/100")
    text = text.replace("×", "*").replace("x", "*").replace("÷", "/")
    return re.sub(r"\b0+(?=\d)", "", text)


def _checks(text: str) -> Iterator[bool]:
    """Whether each equation holds. Those that cannot be read as arithmetic are left out."""
    for count, found in enumerate(_EQUATION.finditer(text)):
        if count == _MAX_EQUATIONS:
            return
        try:
            left = _value(ast.parse(_plain(found[1]).strip(), mode="eval").body)
            right = _value(ast.parse(_plain(found[2]).strip(), mode="eval").body)
        except (SyntaxError, ValueError, ZeroDivisionError, OverflowError):
            continue
        # "20% * 50 = 1000" and "= 10" are both common, so a percent sign on one side is no error.
        scales = (1.0, 100.0, 0.01) if "%" in found[0] else (1.0,)
        yield any(math.isclose(left, right * s, rel_tol=1e-3, abs_tol=_ROUNDING) for s in scales)


def equations(draft: str) -> tuple[int, int]:
    """(equations read, of these wrong) in the first and last 4,096 characters of a draft, at most 40."""
    results = list(_checks(edges(draft)))
    return len(results), results.count(False)
