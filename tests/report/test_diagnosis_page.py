"""The page of a diagnosis: what it says first, what it draws, and that nothing in it is executed."""

import re
from pathlib import Path
from typing import Any

import pytest

from fulldeck.report import write_diagnosis
from tests.report.measurements import advice, diagnosis, inference_diagnosis, verified_diagnosis
from tests.report.run_folders import HOSTILE
from tests.report.test_report import Tags


@pytest.fixture
def written(tmp_path: Path) -> Any:
    def write(result: dict[str, Any]) -> str:
        write_diagnosis(result, tmp_path / "diagnosis.html")
        return (tmp_path / "diagnosis.html").read_text()

    return write


def words(page: str) -> str:
    """What a reader sees, without tags and with plain spaces."""
    body = page.partition("<body>")[2]
    return " ".join(re.sub(r"<[^>]+>", " ", body).replace("\N{NO-BREAK SPACE}", " ").split())


def sections(page: str) -> list[str]:
    return re.findall(r'<section id="(\w+)"', page)


def test_the_bottleneck_comes_first_and_then_what_to_try(written: Any) -> None:
    said = words(written(diagnosis()))
    assert (
        said.index("compute-bound") < said.index("64% of a step is arithmetic") < said.index("To try first")
    )
    assert "To try first: amp_optimizer, predicted step time 0.66×." in said


def test_all_sections_and_a_link_to_each(written: Any) -> None:
    made = written(diagnosis())
    assert sections(made) == [
        *("step", "advice", "roofline", "operators", "memory", "pipeline", "measured"),
    ]
    assert re.findall(r'<li><a href="#(\w+)"', made) == sections(made)
    assert sections(written(inference_diagnosis())) == [
        *("step", "advice", "roofline", "operators", "model", "measured"),
    ]


def test_a_step_in_milliseconds_and_shares(written: Any) -> None:
    said = words(written(diagnosis()))
    assert "backward 66.5 ms 56.2 %" in said
    assert "arithmetic 75.8 ms 64.0 %" in said
    assert "communication" not in said, "what takes no time is no bar"
    assert "activations 310 MB 63.2 %" in said


def test_every_operator_has_its_figures_as_text(written: Any) -> None:
    result = diagnosis()
    said = words(written(result))
    for one in result["operators"]:
        assert f"{one['milliseconds']:.3g} ms" in said
    assert "88.2 GFLOP/s 84 %" in said


def test_advice_by_rank_with_what_blocks_it(written: Any) -> None:
    said = words(written(diagnosis()))
    places = [said.rindex(name) for name in ("amp_optimizer", "train_step_comp", "gradient_check")]
    assert places == sorted(places)
    assert "Cannot be added: it needs repeated blocks" in said
    assert "Measured" not in said


def test_what_eases_the_bottleneck_is_tried_first(written: Any) -> None:
    other = advice("post_training_quantization", 28, 0.26, figure="artifact_bytes", eases=[])
    said = words(written(diagnosis(advice=[other, advice("amp_optimizer", 18, 0.66)])))
    assert "To try first: amp_optimizer" in said


def test_predicted_beside_measured_kept_and_missed(written: Any) -> None:
    made = written(verified_diagnosis())
    said = words(made)
    assert "Measured: with amp_optimizer, step time is 0.64× (0.62× to 0.67×) what it was." in said
    assert "predicts step time 0.66× helps kept" in said
    assert "predicts step time 0.91× no difference the prediction missed" in said
    assert made.count('<path class="before"') == 2
    assert said.index("Predicted and measured") < said.index("all that is kept")


@pytest.mark.parametrize("status", ["finished", "interrupted"])
def test_nothing_that_pays(written: Any, status: str) -> None:
    improvement = {"status": status, "kept": [], "output": None, "metric": "step_time"}
    said = words(written(diagnosis(improvement=improvement)))
    assert "othing of what was advised was shown to pay" in said
    assert ("interrupted" in said) == (status == "interrupted")


def test_what_was_not_measured_is_said(written: Any) -> None:
    item = advice("x", 1, 0.5) | {
        "verified": {"verdict": "not measured", "reason": "no plan", "kept": False, "missed": None}
    }
    said = words(written(diagnosis(advice=[item])))
    assert "not measured" in said
    assert "No plan." in said


def test_no_single_limit_and_no_advice(written: Any) -> None:
    limit = diagnosis()["bottleneck"] | {"clear": False, "missing": "a faster device"}
    said = words(written(diagnosis(bottleneck=limit, advice=[])))
    assert "no single limit" in said
    assert "No instruction here eases that. In the field: a faster device." in said
    assert "No instruction of the catalogue predicts an effect" in said


def test_padding_and_recompilations_are_told(written: Any) -> None:
    beside = [
        {"class": "padding", "share": 0.4, "sentence": "40% is padding.", "remedy": "cut", "missing": "pack"},
        {"class": "recompiles", "share": None, "sentence": "9 times.", "remedy": "shapes", "missing": None},
    ]
    pipeline = {"batches_per_s": 50.0, "padding": 0.4, "padding_in_batch": 0.1}
    said = words(written(diagnosis(beside=beside, pipeline=pipeline)))
    assert "40% is padding. No instruction here eases that. In the field: pack." in said
    assert "9 times. What is done about it: shapes." in said
    assert "10.0 % would be left if each batch were cut" in said


def test_a_model_at_rest(written: Any) -> None:
    said = words(written(inference_diagnosis()))
    assert "1 row at once" in said
    assert "32 rows at once" in said
    assert "features.1.convolution Conv2d 73.7 kB 4.00 % 0.10 % bfloat16" in said
    assert "features.2.convolution Conv2d 111 kB – – unknown" in said
    assert "tensorrt : there is no NVIDIA GPU" in said
    assert "head.0 → head.1" in said
    assert "backward" not in said


def test_without_operators_memory_or_pipeline(written: Any) -> None:
    bare = written(diagnosis(operators=[], memory=None, pipeline=None, advice=[]))
    assert sections(bare) == ["step", "advice", "measured"]


def test_nothing_in_a_diagnosis_is_executed(written: Any) -> None:
    result = inference_diagnosis()
    result |= {"recipe": HOSTILE, "workload": HOSTILE, "device": HOSTILE}
    result["bottleneck"] |= {"sentence": HOSTILE, "class": HOSTILE, "missing": HOSTILE}
    result["operators"][0] |= {"name": HOSTILE, "phase": HOSTILE, "dtype": HOSTILE, "bound": HOSTILE}
    result["layers"][0] |= {"name": HOSTILE, "tolerates": HOSTILE}
    result["chains"][0][0] = HOSTILE
    result["advice"][0] |= {"name": HOSTILE, "reason": HOSTILE, "parameters": {HOSTILE: HOSTILE}}
    made = written(result)
    assert "<script>" not in made
    assert not [name for _, attributes in Tags(made).found for name in attributes if name.startswith("on")]
