"""Counters: they begin at nothing, and no two processes' worth share any."""

from __future__ import annotations

from ktlsgate.metrics import Metrics


def test_counters_begin_at_zero():
    metrics = Metrics()
    assert (metrics.accepted, metrics.held) == (0, 0)
    counters = [metrics.outcomes, metrics.handoffs, metrics.relays, metrics.failures]
    assert not any(counters)


def test_labels_that_never_happened_count_zero():
    assert Metrics().relays["no_ulp"] == 0


def test_counters_are_kept_by_label():
    metrics = Metrics()
    metrics.handoffs["TLSv1.3", "TLS_AES_128_GCM_SHA256", "both"] += 1
    metrics.handoffs["TLSv1.3", "TLS_AES_128_GCM_SHA256", "both"] += 1
    assert metrics.handoffs == {("TLSv1.3", "TLS_AES_128_GCM_SHA256", "both"): 2}


def test_each_metrics_counts_for_itself():
    one, other = Metrics(), Metrics()
    one.failures["not_tls"] += 1
    assert not other.failures
