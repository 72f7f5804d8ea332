"""The fingerprint of a record, from its definition in pkg/codec (Fingerprint), not from its code."""

import hashlib
import math
import struct

HASH_ATTRIBUTE = "loadgen.hash"


def kinds(schema):
    """Field name -> kind, from a parsed Avro schema (a JSON object)."""
    out = {}
    for field in schema["fields"]:
        kind = field["type"]
        if isinstance(kind, list):
            kind = next(k for k in kind if k != "null")
        out[field["name"]] = kind["type"] if isinstance(kind, dict) else kind
    return out


def counted(value):
    data = value.encode() if isinstance(value, str) else bytes(value)
    return str(len(data)).encode() + b":" + data


def canonical(kind, value):
    if kind == "boolean":
        return b"t" if value else b"f"
    if kind in ("int", "long"):
        return str(int(value)).encode()
    if kind in ("float", "double"):
        if kind == "float":
            value = struct.unpack(">f", struct.pack(">f", value))[0]
        if math.isnan(value):
            return b"7ff8000000000000"
        return struct.pack(">d", value).hex().encode()
    if kind == "map":
        entries = sorted((k.encode(), v.encode()) for k, v in value.items() if k != HASH_ATTRIBUTE)
        return b"".join(counted(k) + b">" + counted(v) for k, v in entries)
    return counted(value)


def fingerprint(field_kinds, record):
    """record: field name -> value; timestamps as microseconds, a uuid as its text, a map as a dict."""
    digest = hashlib.sha256()
    for name in sorted(field_kinds, key=str.encode):
        value = record.get(name)
        if value is not None:
            digest.update(name.encode() + b"=" + canonical(field_kinds[name], value) + b"\n")
    return digest.digest()[:16].hex()
