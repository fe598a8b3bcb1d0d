#![expect(clippy::unwrap_used, reason = "a failing test should panic")]

use std::time::Duration;

use cupola_artifact::Class;
use cupola_nn::Module;
use cupola_nn::adapters::{self, AdapterConfig};
use cupola_testkit::{TempDir, tiny_llama_dir};

use super::*;

fn engine_with(seed: u64, options: &EngineOptions) -> Engine {
    let dir = TempDir::new("engine");
    tiny_llama_dir(dir.path(), seed);
    Engine::load(dir.path(), "cpu", options).unwrap()
}

fn engine(seed: u64) -> Engine {
    engine_with(seed, &EngineOptions::default())
}

fn greedy(prompt: &str, max_tokens: usize) -> Request {
    let params = SamplingParams { temperature: 0.0, max_tokens, ignore_eos: true, ..Default::default() };
    Request { prompt: prompt.bytes().map(u32::from).collect(), params }
}

#[test]
fn an_answer_is_the_same_alone_and_in_company() {
    let engine = engine_with(1, &EngineOptions { max_batch: 3, prefill_chunk: 4, ..Default::default() });
    let prompts = ["a", "hello there", "x y z", "the quick brown fox jumps over the lazy dog", "?", "12345678"];
    let mut requests: Vec<Request> = prompts.iter().map(|p| greedy(p, 24)).collect();
    // Sampled ones are as repeatable as greedy ones.
    let sampled = SamplingParams { temperature: 0.8, top_p: 0.9, seed: Some(5), ..requests[0].params.clone() };
    requests.extend(prompts.iter().map(|p| Request { params: sampled.clone(), ..greedy(p, 24) }));
    let alone: Vec<_> = requests.iter().map(|r| engine.generate(r.clone()).unwrap()).collect();
    let mut progress = Vec::new();
    let together = engine.generate_many(requests, &mut |n| progress.push(n)).unwrap();
    assert_eq!(progress, (1..=12).collect::<Vec<_>>());
    for (one, many) in alone.iter().zip(&together) {
        assert_eq!((&one.0, one.1), (&many.text, many.reason));
        assert_eq!(many.usage.completion_tokens, 24);
        assert_eq!(many.reason, FinishReason::Length);
    }
}

#[test]
fn requests_choose_their_adapters_and_write_at_once() {
    let dir = TempDir::new("adapters");
    tiny_llama_dir(dir.path(), 1);
    let (model, tokenizer) = crate::load_model(dir.path(), &burn::tensor::Device::flex()).unwrap();
    let with = |kind: &str, settings: serde_json::Value, seed: u64| {
        let settings = settings.as_object().unwrap().clone();
        let config = AdapterConfig::new(adapters::kind(kind).unwrap(), settings).unwrap();
        let mut model = model.clone();
        model.adapt(&config, seed).unwrap();
        let names = model.adapter_names();
        for mut param in model.params_mut().into_iter().filter(|p| names.iter().any(|name| name == p.name())) {
            param
                .update(|numbers| numbers.iter_mut().enumerate().for_each(|(i, x)| *x += (i as f32 * 1.7).sin() * 0.3));
        }
        model
    };
    let named = [
        ("low".to_string(), with("lora", serde_json::json!({"r": 2}), 1)),
        ("before".to_string(), with("prompt_tuning", serde_json::json!({"tokens": 3}), 2)),
    ];
    let engine = Engine::with_adapters(model.clone(), &named, tokenizer.clone(), &EngineOptions::default()).unwrap();
    assert_eq!(engine.adapters(), ["low", "before"]);
    let request = |adapter: Option<&str>, prompt: &str| {
        let mut request = greedy(prompt, 12);
        request.params.adapter = adapter.map(String::from);
        request
    };
    let asked: Vec<(Option<&str>, &str)> =
        [None, Some("low"), Some("before")].into_iter().flat_map(|a| [(a, "hello"), (a, "xy")]).collect();
    let requests = asked.iter().map(|(adapter, prompt)| request(*adapter, prompt)).collect();
    let together = engine.generate_many(requests, &mut |_| {}).unwrap();
    for ((adapter, prompt), got) in asked.iter().zip(&together) {
        let own = named.iter().find(|(name, _)| Some(name.as_str()) == *adapter).map_or(&model, |(_, model)| model);
        let alone = Engine::new(own.clone(), tokenizer.clone(), &EngineOptions::default()).unwrap();
        assert_eq!(got.text, alone.generate(greedy(prompt, 12)).unwrap().0, "{adapter:?}");
    }
    assert!(together[0].text != together[2].text && together[2].text != together[4].text);
    let error = engine.generate(request(Some("lo"), "x")).unwrap_err();
    assert!(error.to_string().contains("no adapter called `lo`") && error.hint().unwrap().contains("`low`"), "{error}");
    let twice = [named[0].clone(), named[0].clone()];
    assert!(Engine::with_adapters(model, &twice, tokenizer, &EngineOptions::default()).is_err());
}

/// Requests whose settings all differ.
fn motley() -> Vec<Request> {
    let base = || SamplingParams { seed: Some(5), max_tokens: 24, ignore_eos: true, ..Default::default() };
    let all = [
        SamplingParams { temperature: 0.7, ..base() },
        SamplingParams { top_k: 7, temperature: 1.5, ..base() },
        SamplingParams { top_p: 0.8, min_p: 0.01, ..base() },
        SamplingParams { typical_p: 0.7, ..base() },
        SamplingParams { top_h: 0.6, ..base() },
        SamplingParams { epsilon_cutoff: 0.003, eta_cutoff: 0.01, ..base() },
        SamplingParams { repetition_penalty: 1.5, ..base() },
        SamplingParams { frequency_penalty: 1.0, presence_penalty: -0.5, ..base() },
        SamplingParams { no_repeat_ngram_size: 2, temperature: 0.0, ..base() },
        SamplingParams { logit_bias: [(65, 8.0), (66, -100.0)].into(), ..base() },
        SamplingParams { bad_words_ids: (0..128).map(|id| vec![id]).collect(), ..base() },
        SamplingParams { forced_first_token: Some(90), forced_last_token: Some(91), ..base() },
        SamplingParams { min_tokens: 20, ignore_eos: false, temperature: 3.0, ..base() },
    ];
    all.into_iter().enumerate().map(|(i, params)| Request { params, ..greedy(&"ABCDE"[..1 + i % 5], 24) }).collect()
}

#[test]
fn a_seed_gives_the_same_tokens_whatever_the_settings_of_the_others() {
    let engine = engine_with(13, &EngineOptions { max_batch: 20, prefill_chunk: 3, ..Default::default() });
    let requests = motley();
    let alone: Vec<_> = requests.iter().map(|r| engine.generate_ids(r.clone()).unwrap().0).collect();
    // Each with all others at once, in two orders, and twice the same side by side.
    for (reversed, again) in [(false, 1), (true, 1), (false, 2)] {
        let mut order: Vec<usize> = (0..requests.len()).flat_map(|i| std::iter::repeat_n(i, again)).collect();
        if reversed {
            order.reverse();
        }
        let threads: Vec<_> = order
            .into_iter()
            .map(|i| {
                let (engine, request) = (engine.clone(), requests[i].clone());
                (i, std::thread::spawn(move || engine.generate_ids(request).unwrap().0))
            })
            .collect();
        for (i, thread) in threads {
            assert_eq!(thread.join().unwrap(), alone[i], "{:?}", requests[i].params);
        }
    }
}

#[test]
fn every_setting_reaches_the_choice_of_tokens() {
    let engine = engine(13);
    let ids = |request: &Request| engine.generate_ids(request.clone()).unwrap().0;
    for request in motley() {
        let SamplingParams { temperature, max_tokens, ignore_eos, seed, .. } = request.params;
        let params = SamplingParams { temperature, max_tokens, ignore_eos, seed, ..Default::default() };
        let plain = ids(&Request { params: params.clone(), prompt: request.prompt.clone() });
        assert!(request.params == params || ids(&request) != plain, "{:?} changes nothing", request.params);
    }
    let forced = ids(&motley()[11]);
    assert_eq!((forced[0], forced[23]), (90, 91));
    assert!(ids(&motley()[10]).iter().all(|id| *id >= 128));
}

#[test]
fn one_beam_is_the_greedy_answer_beside_which_it_is_searched() {
    let engine = engine(15);
    let running = engine.clone();
    let thread = std::thread::spawn(move || running.generate_ids(greedy("abc", 60)).unwrap().0);
    let params = SamplingParams { max_tokens: 60, ignore_eos: true, ..Default::default() };
    let options = BeamOptions { beams: 1, params: params.clone(), ..Default::default() };
    let found = engine.beam_search(&[vec![97, 98, 99]], &options).unwrap();
    assert_eq!(found[0][0].ids, thread.join().unwrap());
    let wide = BeamOptions { beams: 4, returned: 4, ..options.clone() };
    let found = engine.beam_search(&[vec![97, 98, 99], vec![100]], &wide).unwrap();
    assert!(found.iter().all(|beams| beams.len() == 4 && beams.is_sorted_by(|a, b| a.score >= b.score)));
    // The context bounds it, and the model's own end tokens end it.
    let found = engine.beam_search(&[vec![97; 250]], &options).unwrap();
    assert_eq!(found[0][0].ids.len(), 6);
    let ending = SamplingParams { ignore_eos: false, logit_bias: [(258, 100.0)].into(), ..params };
    let found = engine.beam_search(&[vec![97]], &BeamOptions { params: ending, ..wide }).unwrap();
    assert!(found[0].iter().all(|beam| beam.ids.iter().position(|id| *id == 258) == Some(beam.ids.len() - 1)));
    let error = engine.beam_search(&[vec![97; 256]], &options).unwrap_err();
    assert!(error.class() == Class::Usage && error.chain().contains("256 tokens"));
}

#[test]
fn log_probabilities_are_the_models_own_and_come_before_their_text() {
    let engine = engine(14);
    let run = |temperature: f32, logprobs| {
        let (sender, events) = channel();
        let mut request = greedy("abc", 6);
        request.params = SamplingParams { temperature, logprobs, top_k: 2, seed: Some(1), ..request.params };
        engine.submit(request, Box::new(move |event| sender.send(event).is_ok())).unwrap();
        events.iter().collect::<Vec<_>>()
    };
    let told = |events: &[Event]| -> Vec<crate::TokenLogprob> {
        events.iter().filter_map(|e| if let Event::Token(told) = e { Some(told.clone()) } else { None }).collect()
    };
    assert!(told(&run(0.0, None)).is_empty());
    let events = run(0.0, Some(3));
    assert!(matches!(events[0], Event::Token(_)), "{:?}", events[0]);
    assert_eq!(told(&events).len(), 6);
    for token in told(&events) {
        // The chosen one is the likeliest, and three of many do not hold all probability.
        assert_eq!(token.top[0], (token.token, token.logprob));
        let sum: f32 = token.top.iter().map(|(_, l)| l.exp()).sum();
        assert!(token.top.len() == 3 && token.top.is_sorted_by(|a, b| a.1 >= b.1) && sum < 1.0);
    }
    // Temperature and top_k change the choice and not what is told.
    assert_eq!(told(&run(5.0, Some(3)))[0].top, told(&events)[0].top);
}

#[test]
fn the_text_is_that_of_the_tokens() {
    let engine = engine(2);
    let (ids, reason, usage) = engine.generate_ids(greedy("ab", 40)).unwrap();
    let (text, ..) = engine.generate(greedy("ab", 40)).unwrap();
    assert_eq!((ids.len(), usage.completion_tokens, usage.prompt_tokens), (40, 40, 2));
    assert_eq!(reason, FinishReason::Length);
    assert_eq!(engine.tokenizer().decode(&ids).unwrap(), text);
    assert!(usage.first_token_seconds > 0.0 && usage.total_seconds >= usage.first_token_seconds);
}

#[test]
fn a_stop_string_ends_the_text_before_it() {
    let engine = engine(3);
    let (text, ..) = engine.generate(greedy("abc", 60)).unwrap();
    let chars: Vec<(usize, char)> = text.char_indices().collect();
    let (at, end) = (chars[5].0, chars[8].0);
    let stop = text[at..end].to_owned();
    let first = text.find(&stop).unwrap();
    let mut request = greedy("abc", 60);
    request.params.stop = vec!["never seen".into(), stop];
    let (cut, reason, usage) = engine.generate(request).unwrap();
    assert_eq!((cut.as_str(), reason), (&text[..first], FinishReason::Stop));
    assert!(usage.completion_tokens < 60);
}

#[test]
fn an_end_token_ends_the_text_unless_ignored() {
    // Every id the tiny model can choose is likely at a high temperature, the end tokens included.
    let engine = engine(4);
    let params = SamplingParams { temperature: 3.0, max_tokens: 240, seed: Some(1), ..Default::default() };
    let request = Request { prompt: vec![65], params };
    let (ids, reason, _) = engine.generate_ids(request.clone()).unwrap();
    assert_eq!(reason, FinishReason::Stop);
    let (last, before) = ids.split_last().unwrap();
    assert!([256, 258].contains(last) && !before.iter().any(|id| [256, 258].contains(id)));
    let ignoring = Request { params: SamplingParams { ignore_eos: true, ..request.params }, ..request };
    let (more, reason, _) = engine.generate_ids(ignoring).unwrap();
    assert_eq!((more.len(), reason), (240, FinishReason::Length));
    assert_eq!(more[..ids.len()], ids);
}

#[test]
fn the_context_ends_a_sequence() {
    let engine = engine(5);
    let (ids, reason, _) = engine.generate_ids(greedy(&"a".repeat(250), 100)).unwrap();
    assert_eq!((ids.len(), reason), (6, FinishReason::Length));
}

#[test]
fn what_cannot_be_generated_is_a_usage_error() {
    let engine = engine(6);
    let with = |params| Request { params, ..greedy("a", 1) };
    for (request, word) in [
        (greedy("", 1), "empty"),
        (greedy(&"a".repeat(256), 1), "256 tokens"),
        (Request { prompt: vec![320], ..greedy("", 1) }, "320"),
        (with(SamplingParams { temperature: f32::NAN, ..Default::default() }), "temperature"),
        (with(SamplingParams { top_p: 1.5, ..Default::default() }), "top_p"),
    ] {
        let error = engine.generate(request).unwrap_err();
        assert_eq!(error.class(), Class::Usage);
        assert!(error.chain().contains(word), "{}", error.chain());
    }
    assert_eq!(engine.generate(greedy("a", 0)).unwrap().1, FinishReason::Length);
}

#[test]
fn a_full_queue_refuses_and_then_takes_again() {
    let engine = engine_with(7, &EngineOptions { max_batch: 1, max_waiting: 1, ..Default::default() });
    // The first sequence stands still until the gate opens.
    let (open, gate) = channel::<()>();
    let (sender, events) = channel();
    let first = sender.clone();
    let hold = Box::new(move |event| {
        if matches!(event, Event::Text(_)) {
            let _ = gate.recv();
        }
        first.send(event).is_ok()
    });
    engine.submit(greedy("a", 5), hold).unwrap();
    engine.submit(greedy("b", 5), Box::new(move |event| sender.send(event).is_ok())).unwrap();
    let error = engine.submit(greedy("c", 5), Box::new(|_| true)).unwrap_err();
    assert_eq!(error.class(), Class::Failed);
    assert!(error.chain().contains("queue is full") && error.hint().is_some());
    drop(open);
    let done = events.iter().filter(|e| matches!(e, Event::Done(..))).count();
    assert_eq!(done, 2);
    engine.generate(greedy("c", 5)).unwrap();
    let stats = engine.stats();
    assert_eq!((stats.running, stats.waiting, stats.finished), (0, 0, 3));
    assert_eq!((stats.prompt_tokens, stats.generated_tokens, stats.cache_bytes), (3, 15, 0));
    assert!(stats.busy_seconds > 0.0);
}

#[test]
fn a_caller_who_goes_away_cancels_only_his_own() {
    let engine = engine(8);
    let (sender, events) = channel();
    let mut texts = 0;
    let fickle = Box::new(move |event| {
        texts += usize::from(matches!(event, Event::Text(_)));
        let _ = sender.send(event);
        texts < 2
    });
    engine.submit(greedy("abc", 200), fickle).unwrap();
    // A sink that panics is one that went away.
    engine.submit(greedy("abc", 200), Box::new(|_| panic!("a broken sink"))).unwrap();
    assert_eq!(engine.generate(greedy("xyz", 20)).unwrap().2.completion_tokens, 20);
    let last = events.iter().last().unwrap();
    assert!(matches!(last, Event::Done(FinishReason::Cancelled, usage) if usage.completion_tokens < 200), "{last:?}");
    engine.generate(greedy("a", 1)).unwrap();
    assert_eq!(engine.stats().running, 0);
}

#[test]
fn a_long_prompt_does_not_hold_up_a_short_one() {
    let engine = engine_with(9, &EngineOptions { prefill_chunk: 8, ..Default::default() });
    let (sender, events) = channel();
    let submit = |name: &'static str, prompt: &str| {
        let sender = sender.clone();
        engine.submit(greedy(prompt, 2), Box::new(move |event| sender.send((name, event)).is_ok())).unwrap();
    };
    submit("long", &"a".repeat(240));
    submit("short", "b");
    drop(sender);
    let order: Vec<&str> = events.iter().filter(|(_, e)| matches!(e, Event::Done(..))).map(|(name, _)| name).collect();
    assert_eq!(order, ["short", "long"]);
}

#[test]
fn the_last_handle_ends_the_thread_and_nobody_waits_for_ever() {
    let engine = engine(10);
    let (sender, events) = channel();
    // Slow enough to be under way when the handle goes.
    let slow = Box::new(move |event| {
        std::thread::sleep(Duration::from_millis(2));
        sender.send(event).is_ok()
    });
    engine.submit(greedy("abc", 250), slow).unwrap();
    let copy = engine.clone();
    drop(engine);
    copy.generate(greedy("a", 1)).unwrap();
    drop(copy);
    let last = events.iter().last().unwrap();
    assert!(matches!(&last, Event::Failed(message) if message.contains("shut down")), "{last:?}");
}

#[test]
fn a_sink_may_hold_the_last_handle() {
    let engine = engine(11);
    let (sender, events) = channel();
    let own = engine.clone();
    let mut held = Some(own);
    engine
        .submit(
            greedy("abc", 3),
            Box::new(move |event| {
                if matches!(event, Event::Done(..)) {
                    held.take();
                }
                sender.send(event).is_ok()
            }),
        )
        .unwrap();
    drop(engine);
    assert!(events.iter().any(|e| matches!(e, Event::Done(..))));
}

#[test]
fn a_failure_of_the_model_fails_what_it_hit_and_the_engine_lives_on() {
    let engine = engine(12);
    let (sender, events) = channel();
    // Past the check, a token that the model does not know makes it panic.
    let request = Request { prompt: vec![100_000], ..greedy("a", 3) };
    let sink = Box::new(move |event| sender.send(event).is_ok());
    let submission = Submission { request, sink, ids: None, seed: 0, submitted: Instant::now() };
    engine.handle.inbox.lock().waiting.push_back(submission);
    engine.handle.inbox.wake();
    let all: Vec<Event> = events.iter().collect();
    assert!(matches!(&all[..], [Event::Failed(message)] if message.contains("the model failed")), "{all:?}");
    assert_eq!(engine.generate(greedy("a", 3)).unwrap().2.completion_tokens, 3);
}
