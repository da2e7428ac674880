"""What the sampler proposes: new, possible, and learnt from what was tried."""

from fulldeck.pipeline.run import situation
from fulldeck.recipe.reader import read_recipe
from fulldeck.recipe.recipe import Recipe
from fulldeck.tuning.course import Course
from fulldeck.tuning.goal import Aim, aim
from fulldeck.tuning.history import History
from fulldeck.tuning.space import Space, Values, search_space


def course(objective: str, search: dict[str, object] | None = None) -> tuple[Course, Space, Aim]:
    from dataclasses import replace

    recipe: Recipe = replace(read_recipe("digits"), search=search)
    wanted = aim(objective, (), None)
    space = search_space(recipe, situation(recipe), wanted.objective.figure)
    history = History()
    history.tell(rungs=[1 / 3, 1])

    def key(values: Values) -> str:
        return str(sorted((k, v) for k, v in values.items() if k not in space.after_training))

    made = Course(space, history, wanted, key)
    made.begin()
    return made, space, wanted


def run(made: Course, worth: object, jobs: int) -> None:
    for _ in range(jobs):
        job = made.next(())
        if job is None:
            return
        history = made.history
        figure = made.aim.objective.figure
        while history.level(job.trial.key) <= job.rung:
            history.reached(job.trial.key, {figure: worth(job.trial.values)})  # type: ignore[operator]
        if job.last:
            history.finish(job.trial.number, {figure: worth(job.trial.values)}, 1.0)  # type: ignore[operator]


def test_it_finds_the_better_half_of_a_range() -> None:
    search = {"train.learning_rate": {"low": 1e-4, "high": 1e-1, "log": True}}
    made, _, _ = course("maximize accuracy", search)
    run(made, lambda values: -abs(values["train.learning_rate"] - 0.02), 60)
    rates = [trial.values["train.learning_rate"] for trial in made.history.trials]
    near = [0.005 < rate < 0.05 for rate in rates]
    assert sum(near[-10:]) > sum(near[1:11]), "the last ones are nearer than the first ones"
    assert len(set(rates)) == len(rates)


def test_every_combination_is_tried_once_and_then_it_ends() -> None:
    made, _, _ = course(
        "maximize accuracy", {"weight_averaging": True, "lr_scheduler.kind": ["cosine", "one_cycle"]}
    )
    run(made, lambda values: float(values["weight_averaging"]), 50)
    assert made.exhausted
    tried = [tuple(sorted(trial.values.items())) for trial in made.history.trials]
    assert len(tried) == len(set(tried)) == 4


def test_what_comes_after_a_training_is_tried_on_one_that_is_there() -> None:
    search = {
        "train.learning_rate": {"low": 1e-4, "high": 1e-1, "log": True},
        "post_training_quantization.method": ["minmax", "entropy", "percentile"],
    }
    made, _, _ = course("maximize accuracy", search)
    run(made, lambda values: values["train.learning_rate"], 30)
    keys = [trial.key for trial in made.history.trials]
    assert len(set(keys)) < len(keys)


def test_the_planner_throws_out_what_cannot_be() -> None:
    search = {"quantization_aware_training": True, "post_training_quantization": True}
    made, space, _ = course("minimize artifact_bytes", search)
    run(made, lambda values: float(values["post_training_quantization"]), 20)
    both = {"quantization_aware_training": True, "post_training_quantization": True}
    assert both not in [trial.values for trial in made.history.trials]
    assert made.exhausted
    assert space.build(both), "it is the planner that refuses it"


def test_importance_tells_what_matters() -> None:
    search = {
        "train.learning_rate": {"low": 1e-4, "high": 1e-1, "log": True},
        "train.batch_size": {"low": 16.0, "high": 256.0},
    }
    made, _, _ = course("maximize accuracy", search)
    # batch_size takes whole numbers, so no recipe is built here.
    made.proposals._check = lambda values: None  # type: ignore[method-assign]
    run(made, lambda values: values["train.learning_rate"], 60)
    found = made.proposals.importances()
    assert next(iter(found)) == "train.learning_rate"


def test_a_proposal_that_shares_a_stopped_training_does_not_end_the_search() -> None:
    """Few trainings, many things to do with each: most proposals are about a training that has stopped."""
    found, _, _ = course(
        "maximize accuracy",
        {
            "train.batch_size": [16, 32, 64, 128],
            "onnx_export": True,
            "post_training_quantization": True,
            "post_training_quantization.mode": ["dynamic", "static", "weights"],
            "post_training_quantization.calibration_samples": [64, 128, 256],
        },
    )
    run(found, lambda values: 1 / values["train.batch_size"], 200)
    assert found.exhausted
    ended = [trial for trial in found.history.finished if trial.values["train.batch_size"] == 16]
    assert len(ended) > 5, "everything that can be done with the best training"
