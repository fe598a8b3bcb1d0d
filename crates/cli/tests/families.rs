//! A fresh model of every family learns, is written in its family's layout, and loads.

#![allow(clippy::unwrap_used)]

use std::fs;
use std::process::Command;

use serde_json::Value;

const RECIPE: &str = r#"
seed = 3
[data.corpus]
sources = ["text.txt"]
split = "position"
[tokenizer.bpe]
data = "corpus"
vocab_size = 280
special = { more = ["<mask>"] }
[pretrain.base]
data = "corpus"
tokenizer = "bpe"
family = "FAMILY"
depth = 1
d_model = 32
seq_len = 32
batch_tokens = 256
tokens = 12000
evaluations = 1
samples = 0
"#;

#[test]
fn a_fresh_model_of_every_family_learns_and_loads() {
    let place = tempfile::tempdir().unwrap();
    fs::write(place.path().join("text.txt"), "one and two are three, and two and one are too.\n\n".repeat(400))
        .unwrap();
    for family in cupola_arch::ALL {
        let name = family.model_type();
        fs::write(place.path().join("recipe.toml"), RECIPE.replace("FAMILY", name)).unwrap();
        let run = Command::new(env!("CARGO_BIN_EXE_cupola"))
            .args(["run", "recipe.toml", "--out", name])
            .current_dir(place.path())
            .output()
            .unwrap();
        assert!(run.status.success(), "{name}: {}", String::from_utf8_lossy(&run.stderr));
        let dir = place.path().join(name).join("pretrain.base");
        let config: Value = serde_json::from_slice(&fs::read(dir.join("config.json")).unwrap()).unwrap();
        assert_eq!(config["model_type"], name);
        let model = cupola_arch::Model::load(&dir, &cupola_ops::open("cpu").unwrap()).unwrap();
        assert_eq!(model.family().model_type(), name);
        let text = String::from_utf8_lossy(&run.stdout).into_owned() + &String::from_utf8_lossy(&run.stderr);
        let loss = text.rsplit("validation loss ").next().and_then(|rest| rest.split(',').next());
        let loss: f64 = loss.unwrap().parse().unwrap_or_else(|_| panic!("{name} told no loss: {text}"));
        // An untrained model is at ln(280) = 5.6.
        assert!(loss < 4.0, "{name} ends at a loss of {loss}");
    }
}
