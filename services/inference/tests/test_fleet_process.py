"""Tests of one inference process with several engines from a file, on real Kafka and a folder of blobs."""

from pathlib import Path

import orjson
import pytest

from penstock.contracts.messages import ChatMessage, Image, InferenceCompleted, InferenceRequested, Lane
from penstock.contracts.topics import INFERENCE_COMPLETED, INFERENCE_REQUESTED
from penstock.runtime.blobs import Blobs
from penstock.testkit.process import deployment_environ, service_process, topics
from services.inference.tests.test_images import PNG
from services.inference.tests.test_process import a_request
from services.local.fixtures import SharedStack

pytestmark = pytest.mark.stack

ENGINES = """
- {name: first, kind: simulated, models: [a], options: {speed: 100}}
- {name: second, kind: simulated, models: [b], options: {speed: 100, model: smollm2-135m, hardware: l4}}
"""


async def an_image(store: str, content: bytes) -> Image:
    reference = await Blobs(store).put(content, "default", "image/png")
    return Image(blob=f"sha256:{reference.digest}", bytes=reference.size_bytes, media_type="image/png")


async def test_each_model_is_answered_by_its_engine_and_what_cannot_be_asked_by_none(
    stack: SharedStack, tmp_path: Path
) -> None:
    # given one process with two engines
    deployment = await stack.new_deployment()
    pool, store = deployment.pools[0], (tmp_path / "blobs").as_uri()
    (tmp_path / "blobs").mkdir()
    (tmp_path / "engines.yaml").write_text(ENGINES)
    environ = {
        **deployment_environ(deployment),
        "PENSTOCK_INFERENCE_POOL": pool,
        "PENSTOCK_INFERENCE_ENGINES": str(tmp_path / "engines.yaml"),
        "PENSTOCK_BLOB_URL": store,
    }
    lane, run_id = INFERENCE_REQUESTED.named(pool=pool, lane=Lane.STANDARD), stack.new_name("run")

    def asks(name: str, **changes: object) -> InferenceRequested:
        return a_request(f"{run_id}-{name}", pool, Lane.STANDARD).model_copy(update=changes)

    def seeing(image: Image) -> list[ChatMessage]:
        return [ChatMessage(role="user", content="What is this?", images=[image])]

    async with (
        topics(stack.bootstrap_servers, [INFERENCE_COMPLETED.name]) as log,
        service_process("inference", stack.bootstrap_servers, environ) as inference,
    ):
        await inference.logged("partitions.assigned")
        assert {"engine first", "engine second"} <= (await inference.ready())["parts"].keys()

        # when both models are asked, one with an image, and between them come requests that cannot be asked
        shown, none = await an_image(store, PNG), await an_image(store, b"<svg/>")
        await log.say(lane, asks("a", model="a", messages=seeing(shown)).to_json())
        nan = asks("nan", model="a").to_json()[:-1] + b',"temperature":NaN}'
        await log.say(lane, nan)
        await log.say(lane, asks("long", model="b", max_tokens=8192).to_json())
        await log.say(lane, asks("none", model="a", messages=seeing(none)).to_json())
        await log.say(lane, asks("b", model="b", choices=["yes", "no"]).to_json())

        # then each has its engine, or the name of what was wrong with it
        said = {}
        for record in await log.hear(INFERENCE_COMPLETED.name, 5, run_id.encode()):
            completed = InferenceCompleted.model_validate(orjson.loads(record.value))
            failure = completed.engine if completed.error is None else completed.error.code
            said[completed.run_id.removeprefix(f"{run_id}-")] = failure
        assert said == {
            "a": "first",
            "nan": "bad_request",
            "long": "max_tokens_beyond_room",
            "none": "image_invalid",
            "b": "second",
        }
        assert await inference.stop() == 0
