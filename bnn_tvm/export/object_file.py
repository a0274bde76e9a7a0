"""What the compiler reads and writes in the section headers of ELF object files.

64-bit, little endian (ELF-64 Object File Format, version 1.5, chapter 3); files of another kind
are left as they are.
"""

from __future__ import annotations

import struct

_KIND = b"\x7fELF\x02\x01"
_ALLOC, _EXECUTABLE = 2, 4  # sh_flags
_FLAGS, _SIZE, _ALIGNMENT = 8, 32, 48  # where fields of 8 bytes stand in a header
#: Bytes of a cache line, of which the decoded instructions are cached too.
LINE = 64


def loaded_bytes(code: bytes) -> int:
    """Bytes of an object file that end up in memory: code and its constants.

    Those of another kind count whole.
    """
    if not code.startswith(_KIND):
        return len(code)
    return sum(
        _field(code, at, _SIZE) for at in _headers(code) if _field(code, at, _FLAGS) & _ALLOC
    )


def align_code(code: bytes) -> bytes:
    """The object file with its code at the beginning of a cache line.

    LLVM asks for 16 bytes. Then how loops lie in the lines depends on the kernels before, and so
    does their time: on Zen 5 a float convolution took 17 % more at the other place.
    """
    if not code.startswith(_KIND):
        return code
    changed = bytearray(code)
    for at in _headers(code):
        if _field(code, at, _FLAGS) & _EXECUTABLE:
            aligned = max(_field(code, at, _ALIGNMENT), LINE)
            struct.pack_into("<Q", changed, at + _ALIGNMENT, aligned)
    return bytes(changed)


def _headers(code: bytes) -> range:
    """Where the section headers begin."""
    (table,) = struct.unpack_from("<Q", code, 0x28)
    entry, count = struct.unpack_from("<HH", code, 0x3A)
    return range(table, table + entry * count, entry)


def _field(code: bytes, header: int, field: int) -> int:
    (value,) = struct.unpack_from("<Q", code, header + field)
    return int(value)
