"""The one exception a user is meant to read, and what counts as memory that ran out."""

# What allocators say in an error that has no type of its own: that of a CPU, of Metal, of C++.
NO_MEMORY = ("DefaultCPUAllocator", "allocate memory", "out of memory", "bad_alloc")


class EcarError(ValueError):
    """Something the user can put right: one sentence that names the value and the remedy.

    The command line prints it as ``error: <sentence>`` and exits with status 2; in Python it is
    an ordinary ``ValueError``.
    """


def is_out_of_memory(error: BaseException) -> bool:
    """Whether an exception says that there was no memory left, on whatever device.

    Python and NumPy have a type for it, so have GPUs in PyTorch; other allocators say it in words.
    """
    if isinstance(error, MemoryError) or type(error).__name__ == "OutOfMemoryError":
        return True
    return isinstance(error, RuntimeError) and any(words in str(error) for words in NO_MEMORY)


def reason(error: BaseException) -> str:
    """The first line of an error's message, without its full stop, to stand in a sentence of
    ours."""
    lines = str(error).strip().splitlines() or [type(error).__name__]
    return lines[0].strip().rstrip(".:")[:200]
