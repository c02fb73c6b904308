"""A cache for functions of texts from outside: a long text is not kept."""

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache, wraps
from typing import ParamSpec, TypeVar

P = ParamSpec("P")
R = TypeVar("R")

MAX_CACHED_LENGTH = 500
"""Characters of an argument; with longer ones the function is called each time."""


def cache_short_texts(maxsize: int) -> Callable[[Callable[P, R]], Callable[P, R]]:
    """Cache the results of the last `maxsize` different arguments, unless one of them is a long text.

    The function takes only texts.
    """

    def decorate(function: Callable[P, R]) -> Callable[P, R]:
        cached = lru_cache(maxsize)(function)

        @wraps(function)
        def call(*args: P.args, **kwargs: P.kwargs) -> R:
            texts = args + tuple(kwargs.values()) if kwargs else args
            if max(map(len, texts)) > MAX_CACHED_LENGTH:  # type: ignore[arg-type]
                return function(*args, **kwargs)
            return cached(*args, **kwargs)  # type: ignore[arg-type]

        return call

    return decorate
