"""Definitions that stop a program as soon as it computes with a number at or beyond 2^53.

jq looks its operators up by name (`+` is `_plus`), nearest definition first, so a prelude can stand guard over them. The program
is stopped by `halt`, because `try`, `?` and `//` cannot catch it; whoever runs it notices by the missing last output.
"""

from __future__ import annotations

from functools import cache

import jq

END = "end"
"""The last output of a guarded program that was not stopped."""

_OPERATORS = {"_plus": "+", "_minus": "-", "_multiply": "*", "_divide": "/", "_mod": "%"}
_FUNCTIONS = {
    0: "floor ceil round trunc rint nearbyint sqrt cbrt fabs exp exp2 exp10 pow10 expm1 log log2 log10 log1p significand logb "
    "sin cos tan asin acos atan sinh cosh tanh asinh acosh atanh gamma lgamma tgamma lgamma_r frexp modf j0 j1 y0 y1 "
    "gmtime localtime todate date",
    1: "strftime strflocaltime",
    2: "pow atan2 fmod ldexp scalb scalbln copysign drem fdim fmax fmin hypot nextafter nexttoward dateadd datesub",
    3: "fma",
}
_BASE = """
def _penstock_small: if type == "number" and (. >= 9007199254740992 or . <= -9007199254740992) then halt else . end;
"""
_SUMS = """
def add: reduce .[] as $x (null; . + $x);
def add(f): reduce f as $x (null; . + $x);
"""


@cache
def prelude() -> str:
    """The definitions, for the functions that this libjq has."""
    known = set(jq.compile("builtins").input_text("null").first())
    parts = [_BASE, *(_operator(name, sign) for name, sign in _OPERATORS.items()), _SUMS]
    for arity, names in _FUNCTIONS.items():
        parts += [_function(name, arity) for name in names.split() if f"{name}/{arity}" in known]
    return "".join(parts)


def _operator(name: str, sign: str) -> str:
    """Both operands are guarded, in jq's order of evaluation: the right one first."""
    return (
        f"def _penstock{name}(a; b): a {sign} b;"
        f"def {name}(a; b): (b | _penstock_small) as $b | (a | _penstock_small) as $a | _penstock{name}($a; $b);\n"
    )


def _function(name: str, arity: int) -> str:
    """Input and arguments are guarded."""
    letters = "abc"[:arity]
    plain = f"({'; '.join(letters)})" if letters else ""
    small = f"({'; '.join(f'{letter} | _penstock_small' for letter in letters)})" if letters else ""
    return f"def _penstock_{name}{plain}: {name}{plain};def {name}{plain}: _penstock_small | _penstock_{name}{small};\n"


def guarded(program: str) -> str:
    """A program whose outputs are those of `program` as JSON text, and `END` last unless it was stopped."""
    return f'{prelude()}(({program})|tojson), "{END}"'
