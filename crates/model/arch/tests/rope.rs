//! Rotary scalings against transformers: the golden frequencies that `make_rope.py` wrote.
#![allow(clippy::unwrap_used)]

use cupola_arch::ConfigJson;
use cupola_nn::Angles;
use cupola_testkit::{assert_close, fixture};
use serde_json::Value;

#[test]
fn every_rotary_scaling_equals_transformers() {
    let text = std::fs::read(fixture("rope").join("golden.json")).unwrap();
    let cases: Vec<Value> = serde_json::from_slice(&text).unwrap();
    assert!(cases.len() > 10);
    for case in &cases {
        let (name, len) = (case["name"].as_str().unwrap(), case["len"].as_u64().unwrap() as usize);
        let config = ConfigJson { values: case["config"].as_object().unwrap() };
        let rope = config.rope(case["d_head"].as_u64().unwrap() as usize).unwrap();
        let angles = Angles::new(rope);
        // A longer sequence before does not change what a shorter one gets.
        angles.upto(200);
        let angles = angles.upto(len);
        let frequencies = case["frequencies"].as_array().unwrap();
        let (half, factor) = (frequencies.len(), case["factor"].as_f64().unwrap());
        assert_eq!(angles.rotary_dim, 2 * half, "{name}");
        let at = len - 1;
        let angle = |f: &Value| f.as_f64().unwrap() * at as f64;
        let cos: Vec<f32> = frequencies.iter().map(|f| (angle(f).cos() * factor) as f32).collect();
        let sin: Vec<f32> = frequencies.iter().map(|f| (angle(f).sin() * factor) as f32).collect();
        assert_close(&format!("cosines of {name} at {at}"), &angles.cos[at * half..][..half], &cos, 1e-4, 1e-5);
        assert_close(&format!("sines of {name} at {at}"), &angles.sin[at * half..][..half], &sin, 1e-4, 1e-5);
    }
}
