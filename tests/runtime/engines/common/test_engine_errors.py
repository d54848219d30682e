"""A vendor's message becomes one informative line."""

from __future__ import annotations

import pytest

from trisect.runtime.engines.common.engine_errors import vendor_message


@pytest.mark.parametrize(("message", "reason"), [
    ("", "RuntimeError"),
    ("[ONNXRuntimeError] : 9 : NOT_IMPLEMENTED : no kernel for Foo", "no kernel for Foo"),
    ("Exception from a.cpp:1:\nException from b.cpp:2:\n[CPU] MatMul 'z' Check 'k' failed at c.cpp:3:\nsizes differ\n",
     "[CPU] MatMul 'z': sizes differ"),
])  # fmt: skip
def test_the_vendor_message_is_the_informative_line(message, reason):
    assert vendor_message(RuntimeError(message)) == reason
