"""What schemathesis does not know by itself: how a policy is sent as TOML."""

import schemathesis


@schemathesis.serializer("application/toml")
def toml(_context, value):
    return value.encode(errors="replace") if isinstance(value, str) else b""
