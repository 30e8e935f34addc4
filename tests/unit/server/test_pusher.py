"""What is pushed says what was sampled, in the words of each server."""

from __future__ import annotations

import base64
import email.parser
import email.policy
import io
import json
import random
from pathlib import Path
from urllib.parse import parse_qs, urlsplit

import pytest
from opentelemetry.proto.collector.profiles.v1development.profiles_service_pb2 import (
    ExportProfilesServiceRequest,
)
from opentelemetry.proto.profiles.v1development.profiles_pb2 import ProfilesDictionary

from jsspy.exporters.push import Spool, Uploader
from jsspy.formats import read_profile
from jsspy.model.names import function_name
from jsspy.model.profile import Profile, ThreadInfo
from jsspy.model.units import Pid, Tid
from jsspy.server.pusher import Pusher, PushKind, encode_uploads
from jsspy.server.ring import Block
from jsspy.target.cgroup import Place
from profiles import HOT, MAIN, MAIN_THREAD, NODE, deep, empty, hostile, profile_of, small
from receiver import receiving

OTHER = ThreadInfo(Pid(77), Tid(77), "main", "other")


def two_processes() -> Profile:
    return profile_of((MAIN, HOT), (MAIN,), (MAIN, HOT), threads=(MAIN_THREAD, OTHER))


def test_pyroscope_gets_a_series_for_each_process() -> None:
    (one,) = encode_uploads(PushKind.PYROSCOPE, two_processes(), None, {"zone": 'a"b', "1.x": ""})
    assert one.path == "/push.v1.PusherService/Push"
    assert one.content_type == "application/json"
    series = json.loads(one.body)["series"]
    labels = [{pair["name"]: pair["value"] for pair in each["labels"]} for each in series]
    assert [(each["service_name"], each["pid"]) for each in labels] == [
        ("node", "4242"),
        ("other", "77"),
    ]
    assert all(each["__name__"] == "process_cpu" for each in labels)
    assert labels[0]["zone"] == 'a"b'
    assert "_1_x" in labels[0]
    weights = []
    for each in series:
        (sample,) = each["samples"]
        raw = base64.b64decode(sample["rawProfile"], validate=True)
        weights.append(read_profile(io.BytesIO(raw), "x.pb.gz").total_weight())
    assert sum(weights) == two_processes().total_weight()


def test_container_pod_and_service_are_labels() -> None:
    places = {4242: Place("c" * 64, "7e2f"), 77: Place(service="shop")}
    (one,) = encode_uploads(PushKind.PYROSCOPE, two_processes(), None, {}, places)
    series = json.loads(one.body)["series"]
    labels = [{pair["name"]: pair["value"] for pair in each["labels"]} for each in series]
    assert labels[0]["container_id"] == "c" * 64
    assert labels[0]["pod_uid"] == "7e2f"
    assert "service" not in labels[0]
    assert (labels[1]["service_name"], labels[1]["service"]) == ("shop", "shop")
    (one,) = encode_uploads(PushKind.OTLP, two_processes(), "mine", {}, places)
    request = ExportProfilesServiceRequest()
    request.ParseFromString(one.body)
    attributes = [
        {each.key: each.value.string_value for each in resource.resource.attributes}
        for resource in request.resource_profiles
    ]
    assert attributes[0]["container.id"] == "c" * 64
    assert attributes[0]["k8s.pod.uid"] == "7e2f"
    assert "container.id" not in attributes[1]
    assert attributes[1]["service.name"] == "mine"


def test_pyroscopes_older_api() -> None:
    uploads = encode_uploads(PushKind.PYROSCOPE_INGEST, two_processes(), "my,app", {"a": "b=c"})
    assert len(uploads) == 2
    for upload, pid in zip(uploads, (4242, 77), strict=True):
        url = urlsplit(upload.path)
        query = {name: values[0] for name, values in parse_qs(url.query).items()}
        assert url.path == "/ingest"
        assert query["name"].startswith("my_app{a=b_c,hostname=")
        assert f"pid={pid}" in query["name"]
        assert int(query["from"]) == 1_795_172_267
        assert int(query["until"]) > int(query["from"])
        assert (query["spyName"], query["format"], query["sampleRate"]) == ("jsspy", "pprof", "100")
        head = f"Content-Type: {upload.content_type}\r\n\r\n".encode()
        message = email.parser.BytesParser(policy=email.policy.HTTP).parsebytes(head + upload.body)
        (part,) = message.iter_parts()
        assert part.get_param("name", header="content-disposition") == "profile"
        raw = part.get_payload(decode=True)
        assert isinstance(raw, bytes)
        assert read_profile(io.BytesIO(raw), "x.pb.gz").total_weight() > 0


def decode(body: bytes) -> ExportProfilesServiceRequest:
    request = ExportProfilesServiceRequest()
    request.ParseFromString(body)
    return request


def folded(request: ExportProfilesServiceRequest) -> dict[tuple[str, ...], int]:
    """Return weights by names, leaf first, checking every index on the way."""
    tables = request.dictionary
    for table in ("mapping", "location", "function", "link", "attribute", "stack"):
        none = getattr(tables, f"{table}_table")[0]
        assert none == type(none)(), table
    assert tables.string_table[0] == ""
    assert len(set(tables.string_table)) == len(tables.string_table)
    weights: dict[tuple[str, ...], int] = {}
    for resource in request.resource_profiles:
        for scope in resource.scope_profiles:
            for profile in scope.profiles:
                assert len(profile.profile_id) == 16
                for sample in profile.samples:
                    names = tuple(names_of(tables, sample.stack_index))
                    weights[names] = weights.get(names, 0) + sum(sample.values)
                    for index in sample.attribute_indices:
                        assert 0 < index < len(tables.attribute_table)
    return weights


def names_of(tables: ProfilesDictionary, stack: int) -> list[str]:
    assert stack > 0
    names = []
    for index in tables.stack_table[stack].location_indices:
        assert index > 0
        location = tables.location_table[index]
        assert location.mapping_index < len(tables.mapping_table)
        for line in location.lines:
            assert line.function_index > 0
            names.append(
                tables.string_table[tables.function_table[line.function_index].name_strindex]
            )
    return names


def expected(profile: Profile) -> dict[tuple[str, ...], int]:
    weights: dict[tuple[str, ...], int] = {}
    for row, weight in zip(profile.stack, profile.weight, strict=True):
        frames = [one for one in profile.iter_frames(row) if one.kind.value != "vm-frame"]
        names = tuple(map(function_name, frames)) or ("(no stack)",)
        weights[names] = weights.get(names, 0) + weight
    return weights


@pytest.mark.parametrize("make", [small, hostile, two_processes, deep])
def test_opentelemetrys_own_classes_read_what_we_send(make: type[Profile]) -> None:
    profile = make()
    (one,) = encode_uploads(PushKind.OTLP, profile, "shop", {"k8s.pod.uid": "1-2"})
    assert one.path == "/v1development/profiles"
    assert one.content_type == "application/x-protobuf"
    request = decode(one.body)
    assert folded(request) == expected(profile)
    assert decode(one.body).SerializeToString(deterministic=True) == request.SerializeToString(
        deterministic=True
    )
    resource = request.resource_profiles[0].resource
    attributes = {
        each.key: each.value.int_value or each.value.string_value for each in resource.attributes
    }
    assert attributes["service.name"] == "shop"
    assert attributes["process.pid"] == 4242
    assert attributes["k8s.pod.uid"] == "1-2"


def test_opentelemetry_gets_types_places_and_threads() -> None:
    profile = small()
    (one,) = encode_uploads(PushKind.OTLP, profile, None, {})
    request = decode(one.body)
    tables = request.dictionary
    strings = tables.string_table
    (each,) = request.resource_profiles[0].scope_profiles[0].profiles
    assert strings[each.sample_type.type_strindex] == "cpu"
    assert strings[each.sample_type.unit_strindex] == "nanoseconds"
    assert each.period == profile.meta.period_ns
    assert each.time_unix_nano == profile.meta.start_time_unix_ns
    assert each.duration_nano == profile.meta.duration_ns
    attributes = {
        (strings[one.key_strindex], one.value.string_value or one.value.int_value)
        for one in tables.attribute_table[1:]
    }
    assert {("thread.name", "worker 1"), ("thread.id", 4250)} <= attributes
    assert {("profile.frame.type", kind) for kind in ("v8js", "native", "kernel")} <= attributes
    assert ("process.executable.build_id.gnu", NODE.build_id) in attributes
    files = {strings[one.filename_strindex] for one in tables.mapping_table[1:]}
    assert NODE.path in files
    hot = next(one for one in tables.function_table[1:] if strings[one.name_strindex] == "hot")
    assert (strings[hot.filename_strindex], hot.start_line) == ("/app/lib/hot.js", 10)
    assert any(len(one.lines) == 2 for one in tables.location_table)


@pytest.mark.parametrize("kind", PushKind)
def test_nothing_sampled_is_nothing_sent(kind: PushKind) -> None:
    assert encode_uploads(kind, empty(), None, {}) == []


def test_batches_cover_an_interval_and_lose_nothing(tmp_path: Path) -> None:
    with receiving() as receiver:
        uploader = Uploader(receiver.url, Spool(tmp_path / "spool"))
        pusher = Pusher([(PushKind.PYROSCOPE, uploader)], interval_s=10)
        total = 0
        for second in range(25):
            profile = profile_of(*[(MAIN, HOT)] * random.randint(1, 5))
            total += profile.total_weight()
            start = second * 1_000_000_000
            pusher(Block(start, start + 1_000_000_000, b""), profile)
        pusher.close()
    weights = [
        read_profile(io.BytesIO(base64.b64decode(series["samples"][0]["rawProfile"])), "x.pb.gz")
        .total_weight()
        for one in receiver.accepted
        for series in json.loads(one.body)["series"]
    ]  # fmt: skip
    assert len(weights) == 3
    assert sum(weights) == total
