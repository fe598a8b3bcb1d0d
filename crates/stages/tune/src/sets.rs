//! Learning from examples of one or several data sets.

use cupola_arch::Model;
use cupola_artifact::stage::{Report, StageContext};
use cupola_artifact::{Result, human_count};
use cupola_ops::LossForm;
use cupola_tokenizer::Tokenizer;
use cupola_train::batching::Layout;
use cupola_train::conversation::Example;
use cupola_train::finetune::{FineTune, metrics};
use cupola_train::loader::Steps;
use serde_json::json;

use crate::conversations::LR_SCALE;
use crate::tuning::Tuning;

/// A data set.
pub struct Set {
    /// What its figures are called.
    pub name: String,
    /// Records read.
    pub records: usize,
    /// Records that lost their end.
    pub truncated: usize,
    /// Records of which nothing is left to learn.
    pub dropped: usize,
    /// What is learned from.
    pub train: Vec<Example>,
    /// What is held out.
    pub validation: Vec<Example>,
    /// What it counts beside the others when examples are drawn.
    pub weight: f64,
}

/// What is learned, and how it is laid out.
pub struct Lesson {
    /// The sets; the first is the stage's own data.
    pub sets: Vec<Set>,
    /// What records are called.
    pub things: &'static str,
    /// The loss.
    pub form: LossForm,
    /// The rows.
    pub layout: Layout,
}

/// Learns from the sets, as many steps as see the first one's examples so often as the settings say.
///
/// # Errors
/// As training.
pub fn learn(
    settings: &FineTune,
    context: &StageContext<'_>,
    (mut model, tokenizer): (Model, Tokenizer),
    Lesson { sets, things, form, layout }: Lesson,
) -> Result<Report> {
    let spec = model.decoder()?.spec().clone();
    let trainable = settings.prepare(&mut model, context.seed)?;
    let total: f64 = sets.iter().map(|set| set.weight).sum();
    let share = sets[0].weight / total;
    let steps = settings.steps((sets[0].train.len() as f64 / share).round() as usize);
    let (lr, rule) = settings.peak_lr(LR_SCALE, &spec);
    let count = |of: fn(&Set) -> usize| sets.iter().map(of).sum::<usize>();
    let (records, truncated, dropped) = (count(|s| s.records), count(|s| s.truncated), count(|s| s.dropped));
    let (learned, held_out) = (count(|s| s.train.len()), count(|s| s.validation.len()));
    context.progress.line(&format!(
        "{learned} {things} to learn from, {held_out} held out; {steps} steps; {} of {} parameters; {rule}",
        human_count(trainable as f64),
        human_count(spec.parameters() as f64)
    ));
    if sets.len() > 1 {
        let part =
            |set: &Set| format!("{} {:.0}% ({} {things})", set.name, 100.0 * set.weight / total, set.train.len());
        context.progress.line(&format!("mixture: {}", sets.iter().map(part).collect::<Vec<_>>().join(", ")));
    }
    let parts: Vec<(usize, f64)> = sets.iter().map(|set| (set.train.len(), set.weight)).collect();
    let (mut train, mut validation) = (vec![], vec![]);
    for set in sets {
        train.extend(set.train);
        validation.push((set.name, set.validation));
    }
    let mean_len = train.iter().map(Example::inputs).sum::<usize>() / learned.max(1);
    let mut objective = Tuning {
        steps: Steps::mixed(&parts, context.seed, settings.batch_size, settings.micro_batch),
        train,
        validation,
        form,
        layout,
        pad: spec.pad.or(tokenizer.pad()).unwrap_or(0),
        flops_per_token: settings.training_flops(spec.train_flops_per_token(mean_len)),
        parts: vec![],
    };
    let (before, summary) = settings.run(&mut model, &mut objective, context, steps, lr)?;
    settings.save(&mut model, &tokenizer, context)?;
    let mut metrics = metrics(&before, &summary);
    let counts = [("records", records), ("examples", learned), ("validation_examples", held_out)];
    let lost = [("truncated", truncated), ("dropped", dropped)];
    metrics.extend(counts.into_iter().chain(lost).map(|(name, n)| (name.to_owned(), json!(n))));
    metrics.insert("trainable_parameters".into(), json!(trainable));
    metrics.insert("parameters".into(), json!(spec.parameters()));
    metrics.insert("lr".into(), json!(lr));
    let loss = |figures: &[(String, f64)]| figures.first().map(|(_, loss)| *loss);
    let came_out = match (loss(&before), loss(&summary.evaluation)) {
        (Some(before), Some(after)) => format!("validation loss {before:.3} → {after:.3}"),
        _ => format!("training loss {:.3}", summary.train_loss),
    };
    let went_in = format!("model {}, {records} {things}", context.input("model")?.reference);
    Ok(Report { went_in, came_out, metrics, scores: Vec::new() })
}
