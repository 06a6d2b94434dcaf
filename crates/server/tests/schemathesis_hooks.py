"""What schemathesis does not know by itself: how a policy is sent as TOML."""

import schemathesis


@schemathesis.serializer("application/toml")
def toml(_context, value):
    return str(value).encode(errors="replace")
