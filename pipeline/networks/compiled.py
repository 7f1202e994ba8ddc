"""Functions compiled by Numba, and kept for the next process."""

from __future__ import annotations

import os
from collections.abc import Callable
from contextlib import suppress
from typing import Any, TypeVar, cast

import numba
from numba.core.caching import FunctionCache

Function = TypeVar("Function", bound=Callable[..., Any])

if getattr(numba.config, "DISABLE_JIT", False):
    raise ImportError("NUMBA_DISABLE_JIT is set")


class _Kept(FunctionCache):
    """Numba's, for which a file that is damaged, or cannot be written, is the end of all runs."""

    def load_overload(self, sig: Any, target_context: Any) -> Any:
        try:
            found = super().load_overload(sig, target_context)
        except Exception:  # whatever a damaged pickle raises
            return None
        # Two processes that write at once may swap what is for float32 and for bfloat16.
        return found if found and tuple(found.signature.args) == tuple(sig) else None

    def save_overload(self, sig: Any, data: Any) -> None:
        with suppress(OSError):  # no room
            try:
                super().save_overload(sig, data)
            except OSError:
                raise
            except Exception:  # the index is damaged
                self.flush()
                super().save_overload(sig, data)


def compiled(function: Function) -> Function:
    """``function``, for the processor at hand; without the GIL, and arithmetic as it is written.

    But a product and a sum may be one instruction, and -0 be 0. It is kept beside its module, or
    else where NUMBA_CACHE_DIR says or below the user's cache; and if there is no such place,
    compiled in each process.
    """
    made = numba.njit(function, nogil=True, error_model="numpy", fastmath={"contract", "nsz"})
    # Without a home Numba would take a folder of the current one, which may be anybody's.
    if os.environ.get("NUMBA_CACHE_DIR") or os.path.isabs(os.path.expanduser("~")):
        with suppress(RuntimeError):  # there is no such place
            made._cache = _Kept(function)
    return cast(Function, made)
