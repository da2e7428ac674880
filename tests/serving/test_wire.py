import numpy as np
import pytest

from fulldeck.serving.wire import LARGE, LENGTHS, SharedMemory, pack, unpack


def sent(parts, writer, **facts):
    frame = pack(parts, writer, **facts)
    header_size, payload_size = LENGTHS.unpack_from(frame)
    assert len(frame) == LENGTHS.size + header_size + payload_size
    middle = LENGTHS.size + header_size
    return payload_size, unpack(frame[LENGTHS.size : middle], frame[middle:], SharedMemory(writer.descriptor))


@pytest.mark.parametrize("rows", [1, 1000])
def test_tensors_arrive_as_sent_inline_or_through_shared_memory(rows: int) -> None:
    random = np.random.default_rng(0)
    memory = SharedMemory.create()
    parts = {
        "image": [random.normal(size=(rows, 3, 5)).astype(np.float32) for _ in range(3)],
        "mask": [random.normal(size=(rows, 7)) > 0 for _ in range(3)],
        "wide": [random.normal(size=(2 * rows, 3))[::2].astype(np.float64) for _ in range(3)],
    }
    payload, (facts, tensors) = sent(parts, memory, note="kept")
    assert facts == {"note": "kept"}
    assert (payload == 0) == (rows == 1000)
    for name, arrays in parts.items():
        joined = np.concatenate(arrays)
        assert tensors[name].dtype == joined.dtype
        np.testing.assert_array_equal(tensors[name], joined)


def test_shared_memory_grows_and_stays_readable() -> None:
    memory = SharedMemory.create()
    reader = SharedMemory(memory.descriptor)
    for size in (LARGE, 10 * LARGE, LARGE):
        content = np.arange(size, dtype=np.uint8)
        frame = pack({"x": [content]}, memory)
        header_size, _ = LENGTHS.unpack_from(frame)
        _, tensors = unpack(frame[LENGTHS.size : LENGTHS.size + header_size], b"", reader)
        np.testing.assert_array_equal(tensors["x"], content)


def test_an_empty_tensor_and_an_error_without_tensors() -> None:
    memory = SharedMemory.create()
    _, (_, tensors) = sent({"x": [np.empty((0, 4), np.float16)]}, memory)
    assert tensors["x"].shape == (0, 4)
    _, (facts, tensors) = sent({}, memory, error="no")
    assert (facts, tensors) == ({"error": "no"}, {})
