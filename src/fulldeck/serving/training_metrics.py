"""A training's figures as Prometheus reads them, from the newest line that the run has written of itself."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from fulldeck.monitoring.recording import SECONDS, bucket
from fulldeck.serving.metrics import device_families
from fulldeck.serving.training_meter import TrainingMeter

if TYPE_CHECKING:
    from prometheus_client.core import Metric


class TrainingExposition:
    """Renders what `meter` knows. Totals stay when the run is over, what was of the moment does not."""

    def __init__(self, meter: TrainingMeter) -> None:
        from prometheus_client import CollectorRegistry

        self._meter = meter
        self._registry = CollectorRegistry()
        self._registry.register(self)

    def render(self) -> tuple[bytes, str]:
        """The page and its content type."""
        from prometheus_client.exposition import CONTENT_TYPE_PLAIN_0_0_4, generate_latest

        return generate_latest(self._registry), CONTENT_TYPE_PLAIN_0_0_4

    def collect(self) -> Iterator[Metric]:
        """What prometheus_client asks for."""
        from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily

        moment = self._meter.last
        if moment is None:
            return
        for name, said, value in (
            ("fulldeck_training_samples", "Samples that the training took.", moment.samples),
            ("fulldeck_training_steps", "Optimizer steps done.", moment.done),
        ):
            total = CounterMetricFamily(name, said, labels=("model",))
            total.add_metric((moment.name,), value)
            yield total
        if moment.buckets:
            duration = HistogramMetricFamily(
                "fulldeck_training_step_duration_seconds", "From one batch to the next.", labels=("model",)
            )
            pairs = zip((*SECONDS, float("inf")), moment.buckets, strict=True)
            duration.add_metric(
                (moment.name,), [(bucket(bound), float(count)) for bound, count in pairs], moment.spent
            )
            yield duration
        if not self._meter.running:
            return
        loss = GaugeMetricFamily(
            "fulldeck_training_loss", "Of the last step that was read.", labels=("model",)
        )
        if moment.loss is not None:
            loss.add_metric((moment.name,), moment.loss)
        yield loss
        validation = GaugeMetricFamily(
            "fulldeck_training_validation",
            "On validation data, at the last epoch's end.",
            labels=("model", "metric"),
        )
        for metric, figure in moment.validation.items():
            validation.add_metric((moment.name, metric), figure)
        yield validation
        yield from device_families(self._meter.devices, moment.name)
