import gc
import weakref

import pytest

from larq_ensemble.keras import lq, tf
from larq_ensemble.training.memory import registered_gradients, temporary_graphs


def test_tensorflow_keeps_its_gradients_where_they_are_removed():
    assert "Conv2D" in registered_gradients(), (
        f"TensorFlow {tf.__version__} has moved its registry of gradients "
        "(tensorflow.python.framework.ops.gradient_registry._registry): "
        "larq_ensemble.training.memory no longer frees the graphs of trainings."
    )


def graph_of_a_quantizer():
    """A weak reference to the graph that a training step with a custom gradient was traced to."""

    @tf.function
    def step(x):
        with tf.GradientTape() as tape:
            tape.watch(x)
            y = tf.reduce_sum(lq.quantizers.SteSign()(x))
        return tape.gradient(y, x)

    assert step(tf.constant([0.5, 2.0])).numpy().tolist() == [1, 0]
    return weakref.ref(step.get_concrete_function(tf.TensorSpec([2])).graph)


def test_a_graph_is_freed_with_its_function():
    before = set(registered_gradients())
    with temporary_graphs():
        graph = graph_of_a_quantizer()
        added = registered_gradients().keys() - before
        assert added
        assert all(name.startswith("CustomGradient-") for name in added)
    assert set(registered_gradients()) == before
    gc.collect()
    assert graph() is None


def test_without_it_the_graph_stays():
    """If this fails, TensorFlow frees graphs by itself and `temporary_graphs` can go."""
    with temporary_graphs():  # only to leave nothing behind
        graph = graph_of_a_quantizer()
        gc.collect()
        assert graph() is not None


def test_gradients_are_removed_after_an_error_too():
    before = set(registered_gradients())

    @temporary_graphs()
    def interrupted():
        graph_of_a_quantizer()
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        interrupted()
    assert set(registered_gradients()) == before


def test_another_version_of_tensorflow_only_costs_memory(monkeypatch):
    from tensorflow.python.framework import ops

    monkeypatch.delattr(ops, "gradient_registry")
    assert registered_gradients() == {}
    with temporary_graphs():
        pass
