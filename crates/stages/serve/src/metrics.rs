//! What `/metrics` tells: requests, tokens, queue, latencies, cache.

use std::sync::atomic::{AtomicU64, Ordering};

use cupola_generate::{Stats, Usage};
use prometheus_client::encoding::{EncodeLabelSet, text};
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::histogram::Histogram;
use prometheus_client::registry::{Registry, Unit};

/// The content type of the exposition format that [`Metrics::render`] writes.
pub const CONTENT_TYPE: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";

const SECONDS: [f64; 14] = [0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 120.0];

#[derive(Clone, Debug, Hash, PartialEq, Eq, EncodeLabelSet)]
struct RequestLabels {
    route: &'static str,
    status: u16,
}

/// The server's counters; the engine's are read when somebody asks.
pub struct Metrics {
    registry: Registry,
    requests: Family<RequestLabels, Counter>,
    first_token: Histogram,
    total: Histogram,
    prompt_tokens: Counter,
    generated_tokens: Counter,
    sequences: Counter,
    running: Gauge,
    waiting: Gauge,
    cache_bytes: Gauge,
    busy: Counter<f64, AtomicU64>,
}

impl Default for Metrics {
    fn default() -> Self {
        let mut metrics = Self {
            registry: Registry::with_prefix("cupola"),
            requests: Family::default(),
            first_token: Histogram::new(SECONDS),
            total: Histogram::new(SECONDS),
            prompt_tokens: Counter::default(),
            generated_tokens: Counter::default(),
            sequences: Counter::default(),
            running: Gauge::default(),
            waiting: Gauge::default(),
            cache_bytes: Gauge::default(),
            busy: Counter::default(),
        };
        metrics.register();
        metrics
    }
}

impl Metrics {
    fn register(&mut self) {
        let r = &mut self.registry;
        r.register("requests", "HTTP requests by route and status", self.requests.clone());
        r.register("prompt_tokens", "Prompt tokens processed", self.prompt_tokens.clone());
        r.register("generated_tokens", "Tokens generated", self.generated_tokens.clone());
        r.register("sequences", "Sequences ended", self.sequences.clone());
        r.register("sequences_running", "Sequences being generated", self.running.clone());
        r.register("sequences_waiting", "Sequences waiting", self.waiting.clone());
        let bytes = self.cache_bytes.clone();
        r.register_with_unit("key_value_cache", "Key-value cache in use", Unit::Bytes, bytes);
        r.register_with_unit("model_busy", "Time spent in the model", Unit::Seconds, self.busy.clone());
        let first = self.first_token.clone();
        r.register_with_unit("time_to_first_token", "From submission to the first token", Unit::Seconds, first);
        let total = self.total.clone();
        r.register_with_unit("sequence_duration", "From submission to the end of a sequence", Unit::Seconds, total);
    }

    /// Counts an answered request.
    pub fn observe_request(&self, route: &'static str, status: u16) {
        self.requests.get_or_create(&RequestLabels { route, status }).inc();
    }

    /// Records the latencies of a sequence that ended.
    pub fn observe_sequence(&self, usage: &Usage) {
        self.first_token.observe(usage.first_token_seconds);
        self.total.observe(usage.total_seconds);
    }

    /// The exposition text.
    pub fn render(&self, stats: &Stats) -> Result<String, std::fmt::Error> {
        let gauge = |gauge: &Gauge, value: usize| gauge.set(i64::try_from(value).unwrap_or(i64::MAX));
        gauge(&self.running, stats.running);
        gauge(&self.waiting, stats.waiting);
        gauge(&self.cache_bytes, stats.cache_bytes);
        // The engine's own counters never fall, so these do not either.
        self.prompt_tokens.inner().store(stats.prompt_tokens, Ordering::Relaxed);
        self.generated_tokens.inner().store(stats.generated_tokens, Ordering::Relaxed);
        self.sequences.inner().store(stats.finished, Ordering::Relaxed);
        self.busy.inner().store(stats.busy_seconds.to_bits(), Ordering::Relaxed);
        let mut text = String::new();
        text::encode(&mut text, &self.registry)?;
        Ok(text)
    }
}
