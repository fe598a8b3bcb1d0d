//! The commands that run or plan stages: parse, build, run, report.

use std::path::{Path, PathBuf};

use cupola_artifact::stage::Stage;
use cupola_artifact::{Error, Result, RunDir, unknown_name};
use toml::{Table, Value};

use crate::args::{CompressArgs, DataArgs, DataCommand, Device, EvalArgs, PlanArgs, RunArgs, StageArgs, TokenizerArgs};
use crate::graph::Graph;
use crate::out::say;
use crate::progress::Display;
use crate::recipe::{Recipe, Section};
use crate::run::{Options, execute, output_dir};
use crate::{browse, plan, table};
use clap::ValueEnum;

/// How long the machine's peak is measured for a plan.
const MEASURE_SECONDS: f64 = 0.3;

/// `cupola run`.
pub fn run(args: &RunArgs, stages: &[&dyn Stage]) -> Result<()> {
    let recipe = Recipe::load(&args.recipe, &args.stage.set, stages)?;
    let out = output_dir(&recipe, args.stage.out.as_deref());
    run_recipe(&recipe, stages, &args.stage, out, (args.only.clone(), args.from.clone()))
}

fn run_recipe(
    recipe: &Recipe,
    stages: &[&dyn Stage],
    args: &StageArgs,
    out: PathBuf,
    (only, from): (Option<String>, Option<String>),
) -> Result<()> {
    let graph = Graph::build(recipe, stages)?;
    let device = choose_device(recipe, args.device)?;
    let record = execute(recipe, &graph, &Options { out, device, only, from }, &Display::new())?;
    say(&if args.json { record.to_json()? } else { table::render(&record) });
    Ok(())
}

/// `cupola plan`.
pub fn plan(args: &PlanArgs, stages: &[&dyn Stage]) -> Result<()> {
    let recipe = Recipe::load(&args.recipe, &args.stage.set, stages)?;
    let graph = Graph::build(&recipe, stages)?;
    choose_device(&recipe, args.stage.device)?;
    let out = output_dir(&recipe, args.stage.out.as_deref());
    let peak = cupola_kernels::measure_peak_flops(MEASURE_SECONDS);
    let plans = plan::estimate(&recipe, &graph, &RunDir::look(&out), peak)?;
    say(&if args.stage.json {
        format!("{:#}", plan::to_json(&graph, &plans, peak))
    } else {
        plan::render(&recipe, &graph, &plans, &out, peak)
    });
    Ok(())
}

/// `cupola eval`.
pub fn eval(args: &EvalArgs, stages: &[&dyn Stage]) -> Result<()> {
    let mut table = Table::new();
    table.insert("models".into(), texts(args.models.iter().map(|model| text(model))));
    if !args.tasks.is_empty() {
        table.insert("tasks".into(), texts(args.tasks.iter().cloned()));
    }
    alone("eval", "report", table, args.models.first(), &args.stage, stages)
}

/// `cupola data`.
pub fn data(args: &DataArgs, stages: &[&dyn Stage]) -> Result<()> {
    if let Some(DataCommand::Browse(args)) = &args.command {
        return browse::browse(args);
    }
    if let [recipe] = args.files.as_slice()
        && recipe.extension().is_some_and(|extension| extension == "toml")
    {
        return run_kind("data", recipe, &args.stage, stages);
    }
    let table = Table::from_iter([("sources".into(), texts(args.files.iter().map(|file| text(file))))]);
    alone("data", "corpus", table, args.files.first(), &args.stage, stages)
}

/// `cupola tokenizer`.
pub fn tokenizer(args: &TokenizerArgs, stages: &[&dyn Stage]) -> Result<()> {
    let table = Table::from_iter([("data".into(), Value::String(text(&args.data)))]);
    alone("tokenizer", "bpe", table, Some(&args.data), &args.stage, stages)
}

/// `cupola compress`.
pub fn compress(args: &CompressArgs, stages: &[&dyn Stage]) -> Result<()> {
    let table = Table::from_iter([("model".into(), Value::String(text(&args.model)))]);
    alone("compress", "int8", table, Some(&args.model), &args.stage, stages)
}

/// Runs a recipe's stages of one kind, in order.
fn run_kind(kind: &str, recipe: &Path, args: &StageArgs, stages: &[&dyn Stage]) -> Result<()> {
    let recipe = Recipe::load(recipe, &args.set, stages)?;
    let out = output_dir(&recipe, args.out.as_deref());
    let names: Vec<String> =
        recipe.sections.iter().filter(|s| s.kind == kind).map(|s| format!("{}.{}", s.kind, s.name)).collect();
    if names.is_empty() {
        return Err(
            Error::usage(format!("the recipe has no {kind} stage")).with_hint(format!("add a section [{kind}.NAME]"))
        );
    }
    names.into_iter().try_for_each(|name| run_recipe(&recipe, stages, args, out.clone(), (Some(name), None)))
}

/// Runs a stage without a recipe.
fn alone(
    kind: &str,
    name: &str,
    table: Table,
    first: Option<&PathBuf>,
    args: &StageArgs,
    stages: &[&dyn Stage],
) -> Result<()> {
    let section = Section { kind: kind.into(), name: name.into(), table };
    let recipe = Recipe::single(section, &args.set)?;
    let subject = first.and_then(|path| path.file_stem()).map_or(String::new(), |stem| {
        let tame = |c: char| if c.is_alphanumeric() || matches!(c, '-' | '_' | '.') { c } else { '_' };
        format!("-{}", stem.to_string_lossy().chars().map(tame).collect::<String>())
    });
    let out = args.out.clone().unwrap_or_else(|| Path::new("runs").join(format!("{kind}{subject}")));
    run_recipe(&recipe, stages, args, out, (None, None))
}

fn text(path: &Path) -> String {
    path.display().to_string()
}

fn texts(values: impl Iterator<Item = String>) -> Value {
    Value::Array(values.map(Value::String).collect())
}

/// The device: what the command line says, else what the recipe says, else the CPU.
fn choose_device(recipe: &Recipe, given: Option<Device>) -> Result<String> {
    let device = match (given, &recipe.device) {
        (Some(device), _) => device,
        (None, None) => Device::Cpu,
        (None, Some(name)) => Device::from_str(name, false).map_err(|_| {
            let known: Vec<&str> = Device::value_variants().iter().map(|device| device.name()).collect();
            unknown_name(&format!("unknown device `{name}`"), name, "device", &known)
        })?,
    };
    if !device.is_built() {
        let name = device.name();
        return Err(Error::usage(format!("this build has no device `{name}`"))
            .with_hint(format!("build it with `cargo build --release --features {name}`, or use --device cpu")));
    }
    Ok(device.name().to_string())
}
