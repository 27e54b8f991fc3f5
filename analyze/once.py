# SPDX-License-Identifier: GPL-2.0-or-later
"""A property that is made once, whether it succeeds or not: what is not in a dump is not searched for again."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Generic, TypeVar, overload

from ..formats.errors import DumpError

__all__ = ["once"]

T = TypeVar("T")


class once(Generic[T]):  # noqa: N801 - a decorator
    """As `functools.cached_property`, and a DumpError is kept, too.

    Args:
        make: The property's method.
    """

    def __init__(self, make: Callable[[Any], T]) -> None:
        self._make = make
        self.__doc__ = make.__doc__

    def __set_name__(self, owner: type, name: str) -> None:
        self._name = name

    @overload
    def __get__(self, instance: None, owner: type) -> once[T]: ...

    @overload
    def __get__(self, instance: object, owner: type) -> T: ...

    def __get__(self, instance: object | None, owner: type) -> once[T] | T:
        # not called once the value stands in the instance: this is no data descriptor
        if instance is None:
            return self
        failed: dict[str, DumpError] = instance.__dict__.setdefault("_failed", {})
        if self._name in failed:
            raise failed[self._name].with_traceback(None)
        try:
            value = self._make(instance)
        except DumpError as error:
            failed[self._name] = error
            raise
        instance.__dict__[self._name] = value
        return value
