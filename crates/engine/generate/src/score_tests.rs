#![expect(clippy::unwrap_used, reason = "a failing test should panic")]

use cupola_testkit::{TempDir, TinyModel, tiny_llama_dir};

use super::*;

fn tiny(seed: u64) -> (Decoder, Tokenizer, TinyModel, TempDir) {
    let dir = TempDir::new("score");
    let info = tiny_llama_dir(dir.path(), seed);
    let (model, tokenizer) = crate::load_model(dir.path(), &cupola_ops::open("cpu").unwrap()).unwrap();
    (model.decoder().unwrap().clone(), tokenizer, info, dir)
}

/// The plain way: all logits, a log-softmax in double precision, token by token.
fn plain(decoder: &Decoder, item: &ScoreItem) -> f64 {
    let inputs = item.ids[..item.ids.len() - 1].to_vec();
    let logits = cupola_ops::to_vec(&decoder.logits(decoder.hidden(&Batch::causal(inputs, 1))));
    let rows = logits.chunks(decoder.spec().vocab_size).zip(&item.ids[1..]).zip(&item.scored[1..]);
    rows.filter(|(_, scored)| **scored)
        .map(|((row, &id), _)| {
            let sum: f64 = row.iter().map(|l| f64::from(*l).exp()).sum();
            f64::from(row[id as usize]) - sum.ln()
        })
        .sum()
}

#[test]
fn sequences_that_share_a_pass_score_as_if_alone() {
    let (decoder, ..) = tiny(1);
    let items: Vec<ScoreItem> = (1..60_u32)
        .map(|n| {
            let ids: Vec<u32> = (0..n + 3).map(|i| (i * 31 + n * 7) % 256).collect();
            ScoreItem::continuation(&ids[..n as usize / 2 + 1], &ids[n as usize / 2 + 1..])
        })
        .collect();
    let mut seen = Vec::new();
    let scores = log_likelihoods(&decoder, &items, &mut |done| seen.push(done)).unwrap();
    assert!(seen.len() < 5 && seen.last() == Some(&items.len()), "{seen:?}");
    for (score, item) in scores.iter().zip(&items) {
        assert_eq!(score.tokens, item.scored.iter().filter(|s| **s).count());
        let want = plain(&decoder, item);
        assert!(
            (score.log_likelihood - want).abs() < 1e-3 + 1e-5 * want.abs(),
            "{} is not {want}",
            score.log_likelihood
        );
    }
}

#[test]
fn a_sequence_longer_than_the_context_loses_its_beginning() {
    let (decoder, _, info, _dir) = tiny(2);
    let ids: Vec<u32> = (0..info.max_seq_len as u32 + 50).map(|i| i * 13 % 256).collect();
    let (context, continuation) = ids.split_at(ids.len() - 5);
    let item = ScoreItem::continuation(context, continuation);
    let kept = &ids[ids.len() - info.max_seq_len - 1..];
    let short = ScoreItem::continuation(&kept[..kept.len() - 5], continuation);
    let scores = log_likelihoods(&decoder, &[item, short.clone()], &mut |_| {}).unwrap();
    assert_eq!(scores[0].tokens, 5);
    assert!((scores[0].log_likelihood - plain(&decoder, &short)).abs() < 1e-3);
    assert!((scores[0].log_likelihood - scores[1].log_likelihood).abs() < 1e-5);
}

#[test]
fn every_token_of_a_text_counts_exactly_once() {
    let (decoder, tokenizer, info, _dir) = tiny(3);
    let long: String = (0..700).map(|i| char::from(b'a' + (i * i % 26) as u8)).collect();
    let texts = [long.as_str(), "", "é short"];
    let score = score_texts(&decoder, &tokenizer, &texts, &mut |_, _| {}).unwrap();
    // The tiny tokenizer has one token for each byte.
    assert_eq!((score.tokens, score.bytes), (708, 708));
    let stream: Vec<u32> = std::iter::once(info.eos).chain(tokenizer.encode(&long).unwrap()).collect();
    let mut want = 0.0;
    for start in (0..700).step_by(info.max_seq_len) {
        let end = (start + info.max_seq_len).min(700);
        want -= plain(&decoder, &ScoreItem::continuation(&stream[start..=start], &stream[start + 1..=end]));
    }
    want -= plain(&decoder, &ScoreItem::continuation(&[info.eos], &tokenizer.encode("é short").unwrap()));
    assert!((score.nats - want).abs() < 1e-5 * want, "{} is not {want}", score.nats);
    assert!((score.bits_per_byte() - want / std::f64::consts::LN_2 / 708.0).abs() < 1e-4);
    assert!((score.perplexity().ln() - want / 708.0).abs() < 1e-4);
}

#[test]
fn no_text_is_an_error() {
    let (decoder, tokenizer, ..) = tiny(4);
    assert!(score_texts(&decoder, &tokenizer, &["", ""], &mut |_, _| {}).is_err());
}

#[test]
fn white_space_between_context_and_continuation_belongs_to_the_continuation() {
    let (decoder, tokenizer, info, _dir) = tiny(5);
    let bytes = |text: &str| text.bytes().map(u32::from).collect::<Vec<_>>();
    let pair = |context, continuation| encode_pair(&decoder, &tokenizer, context, continuation).unwrap();
    assert_eq!(pair("ab", " c"), ScoreItem::continuation(&bytes("ab"), &bytes(" c")));
    assert_eq!(pair("ab \n", "c"), ScoreItem::continuation(&bytes("ab"), &bytes(" \nc")));
    assert_eq!(pair("", "c"), ScoreItem::continuation(&[info.eos], &bytes("c")));
}

#[test]
fn tokens_that_the_model_does_not_know_are_an_error() {
    let (decoder, ..) = tiny(6);
    let error = log_likelihoods(&decoder, &[ScoreItem::continuation(&[1], &[320])], &mut |_| {}).unwrap_err();
    assert!(error.chain().contains("320"));
}
