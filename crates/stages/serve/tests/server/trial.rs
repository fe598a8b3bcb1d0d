//! What the `serve` stage does to try its server out.

use std::sync::Arc;
use std::time::Duration;

use crate::common::{Echo, MODEL};
use cupola_serve::{Secret, ServeConfig, try_out};

#[test]
fn the_trial_is_a_streamed_answer_with_its_speed() {
    for template in [true, false] {
        let mut echo = Echo::new(template);
        echo.delay = Duration::from_millis(20);
        // The key is for others: the trial runs on a port of its own.
        let settings = ServeConfig { port: 1, api_key: Some(Secret::new("sk")), ..ServeConfig::default() };
        let trial = try_out(Arc::new(echo), &settings, MODEL).unwrap();
        assert_eq!(trial.text, "echo: Hello seed=0");
        assert_eq!(trial.completion_tokens, 4);
        assert!(trial.first_token_seconds >= 0.02 && trial.total_seconds >= 0.04, "{trial:?}");
        assert!(trial.tokens_per_second() > 1.0, "{trial:?}");
    }
}
