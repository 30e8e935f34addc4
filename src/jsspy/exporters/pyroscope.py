"""Profiles for Pyroscope: its public API, and the older one that agents used.

Source: github.com/grafana/pyroscope, api/push/v1/push.proto and pkg/ingester/pyroscope, at 1.8.
"""

from __future__ import annotations

import base64
import io
import json
import re
import uuid
from collections.abc import Mapping
from urllib.parse import urlencode

from jsspy.formats.pprof import Pprof
from jsspy.model.names import clean
from jsspy.model.profile import Profile

PUSH_PATH = "/push.v1.PusherService/Push"
INGEST_PATH = "/ingest"

_NOT_A_LABEL = re.compile(r"[^a-zA-Z0-9_]")


def label_name(text: str) -> str:
    """Return a name that Prometheus and Pyroscope take for a label."""
    name = _NOT_A_LABEL.sub("_", text)
    return name if name[:1].isalpha() else f"_{name}"


def encode_pprof(profile: Profile) -> bytes:
    """Return a profile as gzipped pprof."""
    out = io.BytesIO()
    Pprof().write(profile, out)
    return out.getvalue()


def encode_push(profiles: list[tuple[Mapping[str, str], Profile]]) -> bytes:
    """Return a PushRequest in JSON.

    Args:
        profiles: Labels and profile of each series; `service_name` must be among the labels.
    """
    series = [
        {
            "labels": [{"name": "__name__", "value": "process_cpu"}]
            + [
                {"name": label_name(name), "value": clean(value)}
                for name, value in sorted(labels.items())
            ],
            "samples": [
                {
                    "ID": str(uuid.uuid4()),
                    "rawProfile": base64.b64encode(encode_pprof(profile)).decode(),
                }
            ],
        }
        for labels, profile in profiles
    ]
    return json.dumps({"series": series}).encode()


def encode_ingest(labels: Mapping[str, str], profile: Profile) -> tuple[str, str, bytes]:
    """Return query, content type and body of a request to /ingest.

    Args:
        labels: `service_name` is the application's name.
        profile: Of one process.
    """
    meta = profile.meta
    rest = ",".join(
        f"{label_name(name)}={re.sub(r'[{},=]', '_', clean(value))}"
        for name, value in sorted(labels.items())
        if name != "service_name"
    )
    start = meta.start_time_unix_ns // 1_000_000_000
    query = urlencode(
        {
            "name": f"{re.sub(r'[{},=]', '_', clean(labels['service_name']))}{{{rest}}}",
            "from": start,
            "until": max((meta.start_time_unix_ns + meta.duration_ns) // 1_000_000_000, start + 1),
            "format": "pprof",
            "spyName": "jsspy",
            "sampleRate": round(1e9 / meta.period_ns) if meta.period_ns else 100,
        }
    )
    boundary = uuid.uuid4().hex
    body = (
        (
            f"--{boundary}\r\n"
            'Content-Disposition: form-data; name="profile"; filename="profile"\r\n'
            "Content-Type: application/octet-stream\r\n\r\n"
        ).encode()
        + encode_pprof(profile)
        + f"\r\n--{boundary}--\r\n".encode()
    )
    return query, f"multipart/form-data; boundary={boundary}", body
