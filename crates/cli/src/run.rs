//! Runs the stages of a recipe that are new or changed, in order of need.

use std::path::{Path, PathBuf};
use std::time::{Instant, SystemTime};

use cupola_artifact::stage::{Input, Progress, StageContext};
use cupola_artifact::{
    Bench, Error, Facts, HashCache, InputRecord, Machine, Manifest, Result, RunDir, rfc3339, run_key,
};

use crate::graph::{Graph, Node, Target};
use crate::recipe::Recipe;
use crate::record::{RunRecord, StageRecord, Status};

/// How to run a recipe.
#[derive(Clone, Debug)]
pub struct Options {
    /// The folder for the artifacts.
    pub out: PathBuf,
    /// The device.
    pub device: String,
    /// Run this stage alone.
    pub only: Option<String>,
    /// Run this stage again, and all that depend on it.
    pub from: Option<String>,
}

/// Runs what has to run and tells what every stage has made. Stages finished before a failure stay finished.
pub fn execute(recipe: &Recipe, graph: &Graph, options: &Options, progress: &dyn Progress) -> Result<RunRecord> {
    let only = options.only.as_deref().map(|word| recipe.find(word)).transpose()?;
    let forced = match &options.from {
        Some(word) => graph.dependents(recipe.find(word)?),
        None => vec![false; graph.nodes.len()],
    };
    let started = (SystemTime::now(), Instant::now());
    let dir = RunDir::lock(&options.out)?;
    let cache = HashCache::load(&dir.hash_cache());
    let mut executor = Executor { recipe, graph, options, progress, dir, cache };
    let mut stages = Vec::new();
    for at in 0..graph.nodes.len() {
        let node = &graph.nodes[at];
        executor.dir.recover(&node.kind, &node.name)?;
        if only.is_some_and(|only| only != at) {
            stages.push(executor.untouched(node));
            continue;
        }
        // What was learnt about the source files is kept even if a stage fails.
        let outcome = executor.stage(at, forced[at]);
        let saved = executor.cache.save();
        stages.push(outcome?);
        saved?;
    }
    let record = RunRecord {
        name: recipe.name.clone(),
        out: options.out.clone(),
        recipe_dir: recipe.dir.clone(),
        seed: recipe.seed,
        device: options.device.clone(),
        started: rfc3339(started.0),
        finished: rfc3339(SystemTime::now()),
        seconds: started.1.elapsed().as_secs_f64(),
        machine: Machine::this(),
        scores: RunRecord::merge_scores(&stages),
        serve: RunRecord::serve_command(&stages),
        stages,
    };
    record.save()?;
    Ok(record)
}

struct Executor<'a> {
    recipe: &'a Recipe,
    graph: &'a Graph,
    options: &'a Options,
    progress: &'a dyn Progress,
    dir: RunDir,
    cache: HashCache,
}

impl Executor<'_> {
    /// Brings one stage up to date.
    fn stage(&mut self, at: usize, forced: bool) -> Result<StageRecord> {
        let node = &self.graph.nodes[at];
        let inputs = self.graph.inputs(at, |node| self.dir.artifact(&node.kind, &node.name));
        let records = self.input_records(at, &inputs)?;
        let device = if node.uses_device { self.options.device.as_str() } else { "cpu" };
        let config = node.configured.effective_config();
        let key = run_key(&node.kind, node.format_version, &config, self.recipe.seed, device, &records);
        let settled = !forced && !node.configured.looks_again();
        if settled && let Some(manifest) = self.dir.finished(&node.kind, &node.name).filter(|m| m.run_key == key) {
            // An attempt with other settings that was cut off is of no use any more.
            self.dir.forget(&node.kind, &node.name)?;
            return Ok(self.record(node, &manifest, Status::Unchanged));
        }
        if forced {
            self.dir.forget(&node.kind, &node.name)?;
        }
        let bench = self.dir.begin(&node.kind, &node.name, &key)?;
        let manifest = if bench.complete {
            Manifest::read(&bench.artifact)?
        } else {
            self.make(node, &bench, &inputs, records, device)?
        };
        bench.finish()?;
        Ok(self.record(node, &manifest, Status::Made))
    }

    /// Runs a stage and seals its artifact.
    fn make(
        &self,
        node: &Node,
        bench: &Bench,
        inputs: &[Input],
        records: Vec<InputRecord>,
        device: &str,
    ) -> Result<Manifest> {
        let name = node.full_name();
        self.progress.line(&format!("{name}{}", if bench.resumed { ": goes on where it was cut off" } else { "" }));
        cupola_train::begin_peak();
        let (started, clock) = (SystemTime::now(), Instant::now());
        let context = StageContext {
            name: &node.name,
            dir: &bench.artifact,
            work: &bench.work,
            recipe_dir: &self.recipe.dir,
            inputs,
            device,
            seed: self.recipe.seed,
            progress: self.progress,
        };
        let outcome = node.configured.run(&context);
        self.progress.end();
        let seal = |report| {
            let facts = Facts {
                kind: node.kind.clone(),
                format_version: node.format_version,
                name: node.name.clone(),
                inputs: records,
                config: node.configured.effective_config(),
                seed: self.recipe.seed,
                device: device.into(),
                started,
                seconds: clock.elapsed().as_secs_f64(),
                report,
            };
            Manifest::seal(&bench.artifact, facts)
        };
        outcome.and_then(seal).map_err(|error| {
            let hinted = error.hint().is_some();
            let error = error.wrap(format!("the stage {name} failed"));
            if hinted { error } else { error.with_hint("finished stages are kept: the same command goes on from here") }
        })
    }

    /// The inputs with the hashes of their contents.
    fn input_records(&mut self, at: usize, inputs: &[Input]) -> Result<Vec<InputRecord>> {
        let node = &self.graph.nodes[at];
        let home = self.dir.artifact(&node.kind, &node.name);
        let mut records = Vec::new();
        for (link, input) in node.links.iter().zip(inputs) {
            let hash = match &link.target {
                Target::Stage(i) => self.finished_input(node, &self.graph.nodes[*i])?,
                Target::Artifact { path, .. } => Manifest::read(path)?.content_hash,
                Target::Path(path) => {
                    let what = format!("`{}` of {}", link.key, node.full_name());
                    self.cache.hash_path(path).map_err(|e| e.wrap(format!("cannot use {what}")))?
                }
            };
            records.push(InputRecord::new(input, hash, &home));
        }
        Ok(records)
    }

    fn finished_input(&self, node: &Node, needed: &Node) -> Result<String> {
        let (this, other) = (node.full_name(), needed.full_name());
        let manifest = self.dir.finished(&needed.kind, &needed.name).ok_or_else(|| {
            Error::failed(format!("{this} needs {other}, which is not there yet"))
                .with_hint(format!("run the recipe without --only, or --only {other} first"))
        })?;
        Ok(manifest.content_hash)
    }

    /// What is known about a stage that this run leaves alone.
    fn untouched(&self, node: &Node) -> StageRecord {
        match self.dir.finished(&node.kind, &node.name) {
            Some(manifest) => self.record(node, &manifest, Status::LeftAlone),
            None => StageRecord::missing(&node.kind, &node.name),
        }
    }

    fn record(&self, node: &Node, manifest: &Manifest, status: Status) -> StageRecord {
        StageRecord::new(&self.dir.artifact(&node.kind, &node.name), manifest, status)
    }
}

/// The folder for a recipe's artifacts: what the command line says, else what the recipe says, else `runs/<name>`.
pub fn output_dir(recipe: &Recipe, given: Option<&Path>) -> PathBuf {
    match (given, &recipe.out) {
        (Some(out), _) => out.to_path_buf(),
        (None, Some(out)) => recipe.dir.join(out),
        (None, None) => Path::new("runs").join(&recipe.name),
    }
}
