#![expect(clippy::unwrap_used, reason = "a failing test should panic")]

use cupola_artifact::Class;
use cupola_artifact::stage::{Silent, Stage};
use cupola_testkit::{TempDir, metric, run_stage, tiny_llama_dir};

use super::*;
use crate::stage::TuneStage;

fn run(dir: &TempDir, recipe: &str, out: &str) -> Result<Report> {
    let section = format!("task = 'text'\n{recipe}");
    run_stage(&TuneStage, dir, &section, out, &Silent)
}

/// Documents of one kind: words of a short list.
fn write(dir: &TempDir, name: &str, words: [&str; 3]) {
    let document = |i: usize| {
        let text: Vec<&str> = (0..40).map(|k| words[(i + k * (1 + i % 2)) % 3]).collect();
        json!({"text": format!("{} {i}", text.join(" "))}).to_string() + "\n"
    };
    std::fs::write(dir.join(name), (0..40).map(document).collect::<String>()).unwrap();
}

const RECIPE: &str = "precision = 'f32'\nepochs = 4\nbatch_size = 4\nmax_seq_len = 64\nvalidation_fraction = 0.2\n";

#[test]
fn a_domain_is_learned_and_replay_keeps_the_old_one() {
    let dir = TempDir::new("domain");
    tiny_llama_dir(&dir.join("model"), 1);
    write(&dir, "old.jsonl", ["sun", "rain", "snow"]);
    write(&dir, "new.jsonl", ["QXZ", "ZQX", "XZQ"]);
    let old = run(&dir, &format!("model = 'model'\ndata = 'old.jsonl'\nlr = 3e-3\n{RECIPE}"), "old").unwrap();
    assert!(metric(&old, "validation_loss") < 0.5 * metric(&old, "validation_loss_before"), "{old:?}");
    let learn = |share: &str, out: &str| {
        run(
            &dir,
            &format!(
                "model = 'old'\ndata = 'new.jsonl'\nreplay = 'old.jsonl'\nreplay_share = {share}\nlr = 3e-3\n{RECIPE}"
            ),
            out,
        )
        .unwrap()
    };
    let (without, with) = (learn("0.0", "without"), learn("0.3", "with"));
    for report in [&without, &with] {
        assert!(
            metric(report, "validation_loss_data") < 0.5 * metric(report, "validation_loss_data_before"),
            "{report:?}"
        );
    }
    let forgotten =
        |report: &Report| metric(report, "validation_loss_replay") - metric(report, "validation_loss_replay_before");
    assert!(forgotten(&without) > 0.2, "{}", forgotten(&without));
    assert!(forgotten(&with) < 0.3 * forgotten(&without), "{} against {}", forgotten(&with), forgotten(&without));
    // The share of what is replayed makes the run longer: the domain is seen as often.
    assert!(metric(&with, "steps") > 1.3 * metric(&without, "steps"));
}

#[test]
fn every_token_of_a_document_is_learned_once() {
    let dir = TempDir::new("pieces");
    tiny_llama_dir(&dir.join("model"), 1);
    let tokenizer = Tokenizer::load(&dir.join("model")).unwrap();
    let document = |text: &str| Document::new("id", text, "source");
    let texts = ["abcdefghij", "k", ""];
    let pieces = Domain::pieces(&texts.map(document), &tokenizer, 256, 4).unwrap();
    let learned: String = pieces
        .iter()
        .flat_map(|piece| piece.ids.iter().zip(&piece.learn).filter(|(_, learn)| **learn).map(|(id, _)| *id))
        .map(|id| tokenizer.decode(&[id]).unwrap())
        .collect();
    assert_eq!(learned, "abcdefghijk");
    assert!(pieces.iter().all(|piece| piece.ids.len() <= 5 && piece.learned() > 0));
}

#[test]
fn what_says_nothing_is_refused() {
    for (text, message) in [
        ("replay_share = 0.2", "says nothing without `replay`"),
        ("replay = 'a'\nreplay_share = 1.0", "from 0 to below 1"),
        ("system = 'a'", "`system`"),
        ("format = 'alpaca'", "unknown key `format`"),
    ] {
        let error = TuneStage
            .configure(format!("task = 'text'\nmodel = 'm'\ndata = 'd'\n{text}").parse().unwrap())
            .err()
            .unwrap();
        assert_eq!(error.class(), Class::Usage);
        assert!(error.to_string().contains(message), "{error}");
    }
}
