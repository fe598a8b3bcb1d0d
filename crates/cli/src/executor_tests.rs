//! The executor, with fake stages.

#![allow(clippy::unwrap_used)]

use std::fs;
use std::path::{Path, PathBuf};
use std::time::Instant;

use cupola_artifact::stage::{Silent, Stage};
use cupola_artifact::{Class, Error, Result, RunDir, verify};

use crate::fake::{Fake, Log, all};
use crate::graph::Graph;
use crate::recipe::{Recipe, Section};
use crate::record::{RunRecord, Status};
use crate::run::{Options, execute, output_dir};
use crate::{plan, table};

const RECIPE: &str = r#"
seed = 7
[data.corpus]
sources = ["texts/*.txt"]
[pretrain.base]
data = "corpus"
text = "+base"
[data.other]
text = "other"
[pretrain.big]
data = "corpus"
text = "+big"
[eval.report]
models = ["base", "big"]
"#;

const EVERYTHING: [&str; 5] = ["data.corpus", "pretrain.base", "data.other", "pretrain.big", "eval.report"];

/// A recipe in a folder of its own, and a record of what ran.
struct Bed {
    dir: tempfile::TempDir,
    log: Log,
    stages: Vec<Fake>,
}

#[derive(Default)]
struct Flags<'a> {
    set: &'a [&'a str],
    only: Option<&'a str>,
    from: Option<&'a str>,
    device: Option<&'a str>,
}

impl Bed {
    fn new(recipe: &str) -> Self {
        let log = Log::default();
        let bed = Self { dir: tempfile::tempdir().unwrap(), stages: all(&log), log };
        fs::create_dir(bed.path("texts")).unwrap();
        fs::write(bed.path("texts/a.txt"), "a").unwrap();
        fs::write(bed.path("texts/b.txt"), "b").unwrap();
        bed.write(recipe);
        bed
    }

    fn write(&self, recipe: &str) {
        fs::write(self.path("recipe.toml"), recipe).unwrap();
    }

    fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    fn out(&self) -> PathBuf {
        self.path("out")
    }

    fn stages(&self) -> Vec<&dyn Stage> {
        self.stages.iter().map(|stage| stage as &dyn Stage).collect()
    }

    fn load(&self, set: &[&str]) -> Result<(Recipe, Graph)> {
        let set: Vec<String> = set.iter().map(|s| s.to_string()).collect();
        let recipe = Recipe::load(&self.path("recipe.toml"), &set, &self.stages())?;
        let graph = Graph::build(&recipe, &self.stages())?;
        Ok((recipe, graph))
    }

    fn try_run(&self, flags: &Flags<'_>) -> Result<RunRecord> {
        let (recipe, graph) = self.load(flags.set)?;
        let options = Options {
            out: self.out(),
            device: flags.device.unwrap_or("cpu").into(),
            only: flags.only.map(Into::into),
            from: flags.from.map(Into::into),
        };
        execute(&recipe, &graph, &options, &Silent)
    }

    /// Runs and tells what ran.
    fn run(&self, flags: &Flags<'_>) -> Vec<String> {
        self.try_run(flags).unwrap();
        self.ran()
    }

    fn ran(&self) -> Vec<String> {
        std::mem::take(&mut *self.log.lock().unwrap())
    }

    fn result(&self, stage: &str) -> String {
        fs::read_to_string(self.out().join(stage).join("out.txt")).unwrap()
    }

    fn load_error(&self, recipe: &str) -> Error {
        self.write(recipe);
        let error = self.load(&[]).err().unwrap();
        assert_eq!(error.class(), Class::Usage, "{}", error.chain());
        error
    }
}

#[test]
fn stages_run_in_file_order_and_their_artifacts_verify() {
    let bed = Bed::new(RECIPE);
    assert_eq!(bed.run(&Flags::default()), EVERYTHING);
    assert_eq!(bed.result("eval.report"), "ab+baseab+big");
    let proof = verify(&bed.out().join("eval.report")).unwrap();
    assert!(proof.is_ok(), "{:?}", proof.problems);
    assert_eq!(proof.artifacts.len(), 4);
    assert!(bed.out().join("run.json").exists());
    assert!(!bed.out().join(".work/pretrain.base").exists());
}

#[test]
fn second_run_does_nothing_and_says_so_quickly() {
    let bed = Bed::new(RECIPE);
    bed.run(&Flags::default());
    let clock = Instant::now();
    let record = bed.try_run(&Flags::default()).unwrap();
    assert!(clock.elapsed().as_secs_f64() < 1.0);
    assert!(record.nothing_done() && record.stages.iter().all(|stage| stage.status == Status::Unchanged));
    let text = table::render(&record);
    assert!(text.starts_with("nothing to do: 5 of 5 stages are up to date"), "{text}");
    assert!(text.contains("serve it:  cupola serve") && text.contains("pretrain.big"), "{text}");
    assert_eq!(record.scores.len(), 2);
}

#[test]
fn changed_setting_reruns_exactly_its_dependents() {
    let bed = Bed::new(RECIPE);
    bed.run(&Flags::default());
    bed.ran();
    let set = Flags { set: &["pretrain.big.text=+huge"], ..Flags::default() };
    assert_eq!(bed.run(&set), ["pretrain.big", "eval.report"]);
    assert_eq!(bed.result("eval.report"), "ab+baseab+huge");
    assert_eq!(bed.run(&set), [""; 0]);
    bed.write(&RECIPE.replace("\"other\"", "\"else\""));
    assert_eq!(bed.run(&Flags { set: set.set, ..Flags::default() }), ["data.other"]);
}

#[test]
fn changed_source_file_reruns_what_is_made_from_it() {
    let bed = Bed::new(RECIPE);
    bed.run(&Flags::default());
    fs::write(bed.path("texts/b.txt"), "c").unwrap();
    assert_eq!(bed.run(&Flags::default()), ["data.corpus", "pretrain.base", "pretrain.big", "eval.report"]);
    fs::write(bed.path("texts/d.txt"), "d").unwrap();
    assert_eq!(bed.run(&Flags::default())[0], "data.corpus");
    assert_eq!(bed.result("pretrain.base"), "acd+base");
}

#[test]
fn seed_and_device_count_as_settings() {
    let bed = Bed::new(RECIPE);
    bed.run(&Flags::default());
    // The data stages say that the device does not matter to them.
    let device = Flags { device: Some("vulkan"), ..Flags::default() };
    assert_eq!(bed.run(&device), ["pretrain.base", "pretrain.big", "eval.report"]);
    assert_eq!(bed.run(&Flags { set: &["seed=8"], ..device }).len(), 5);
}

#[test]
fn only_runs_one_stage_and_needs_its_inputs() {
    let bed = Bed::new(RECIPE);
    let base = Flags { only: Some("base"), ..Flags::default() };
    let error = bed.try_run(&base).unwrap_err();
    assert!(error.to_string().contains("needs data.corpus, which is not there yet"), "{error}");
    assert!(error.hint().unwrap().contains("--only data.corpus"));
    assert_eq!(bed.run(&Flags { only: Some("data.corpus"), ..Flags::default() }), ["data.corpus"]);
    assert_eq!(bed.run(&base), ["pretrain.base"]);
    let record = bed.try_run(&base).unwrap();
    assert_eq!(record.stages[0].status, Status::LeftAlone);
    assert_eq!(record.stages[4].status, Status::Missing);
    let error = bed.try_run(&Flags { only: Some("bsae"), ..Flags::default() }).unwrap_err();
    assert_eq!(error.hint(), Some("did you mean `base`?"));
    let error = bed.try_run(&Flags { only: Some("data"), ..Flags::default() }).unwrap_err();
    assert_eq!(error.to_string(), "`data` could be data.corpus or data.other");
}

#[test]
fn from_reruns_a_stage_and_its_dependents() {
    let bed = Bed::new(RECIPE);
    bed.run(&Flags::default());
    assert_eq!(bed.run(&Flags { from: Some("base"), ..Flags::default() }), ["pretrain.base", "eval.report"]);
}

#[test]
fn cut_off_stage_goes_on_and_a_changed_one_starts_clean() {
    let bed = Bed::new(RECIPE);
    fs::write(bed.path("fail"), "pretrain.base").unwrap();
    let error = bed.try_run(&Flags::default()).unwrap_err();
    assert_eq!(error.class(), Class::Failed);
    assert!(error.chain().starts_with("the stage pretrain.base failed: cannot write out.txt"), "{}", error.chain());
    assert!(error.hint().unwrap().contains("disk is full"));
    assert_eq!(bed.ran(), ["data.corpus"], "what was finished before is kept");
    fs::remove_file(bed.path("fail")).unwrap();
    let again = bed.run(&Flags::default());
    assert_eq!(again[..2], ["pretrain.base skips first", "pretrain.base"]);
    fs::write(bed.path("fail"), "pretrain.base").unwrap();
    assert!(bed.try_run(&Flags { set: &["pretrain.base.text=x"], ..Flags::default() }).is_err());
    assert_eq!(bed.result("pretrain.base"), "ab+base", "the old artifact is there until the new one is complete");
    fs::remove_file(bed.path("fail")).unwrap();
    let changed = bed.run(&Flags { set: &["pretrain.base.text=y"], ..Flags::default() });
    assert_eq!(changed, ["pretrain.base", "eval.report"]);
}

#[test]
fn stage_killed_after_sealing_is_only_put_in_place() {
    let bed = Bed::new(RECIPE);
    bed.run(&Flags::default());
    let (home, bench) = (bed.out().join("eval.report"), bed.out().join(".work/eval.report"));
    let key = cupola_artifact::Manifest::read(&home).unwrap().run_key;
    fs::create_dir_all(bench.join("work")).unwrap();
    fs::rename(&home, bench.join("artifact")).unwrap();
    fs::write(bench.join("run_key"), key).unwrap();
    let record = bed.try_run(&Flags::default()).unwrap();
    assert_eq!((record.stages[4].status, bed.ran().len()), (Status::Made, 0));
    assert!(home.exists() && !bench.exists());
}

#[test]
fn damaged_or_incomplete_artifact_is_made_again() {
    let bed = Bed::new(RECIPE);
    bed.run(&Flags::default());
    fs::remove_file(bed.out().join("data.other/out.txt")).unwrap();
    assert_eq!(bed.run(&Flags::default()), ["data.other"]);
    let manifest = bed.out().join("eval.report/manifest.json");
    let text = fs::read_to_string(&manifest).unwrap();
    fs::write(&manifest, text.replace("eval", "evil")).unwrap();
    assert_eq!(bed.run(&Flags::default()), ["eval.report"]);
}

#[test]
fn two_runs_in_the_same_folder_do_not_meet() {
    let bed = Bed::new(RECIPE);
    let lock = RunDir::lock(&bed.out()).unwrap();
    assert!(bed.try_run(&Flags::default()).unwrap_err().to_string().contains("another run is using"));
    drop(lock);
    assert_eq!(bed.run(&Flags::default()).len(), 5);
}

#[test]
fn misspelt_names_are_usage_errors_with_a_suggestion() {
    let bed = Bed::new("");
    for (recipe, message, hint) in [
        ("[pretrian.base]\ndepth = 1", "unknown stage kind `pretrian`", "did you mean `pretrain`?"),
        ("[pretrain.base]\ndpeth = 1", "unknown key `dpeth` in [pretrain.base]", "did you mean `depth`?"),
        ("sead = 1\n[pretrain.base]", "unknown key `sead`", "did you mean `seed`?"),
        ("[pretrain]\ndepth = 1", "[pretrain] has no name", "write [pretrain.NAME]"),
        (
            "[data.corpus]\n[pretrain.base]\ndata = 'corpsu'",
            "`data` in [pretrain.base]: `corpsu`",
            "did you mean `corpus`?",
        ),
        ("[data.corpus]\nsources = ['texts/c.txt']", "`texts/c.txt` is neither", "did you mean `texts/a.txt`?"),
        ("[data.corpus]\nsources = ['text/*.txt']", "matches no file", "relative paths start"),
        ("[pretrain.a]\ndata = 'b'\n[data.b]", "names data.b, which comes later", "move [data.b] above [pretrain.a]"),
        ("[pretrain.a]\ndata = 'a'", "names the stage itself", "earlier stage"),
        ("[pretrain.a]\ndata = 'b'\n[pretrain.b]\ndata = 'a'", "they form a circle", "something else"),
        ("[data.x]\n[pretrain.x]\n[eval.y]\nmodels = ['x']", "could be data.x or pretrain.x", "data.x"),
        ("[data.corpus]\ntext = 3", "`text` in [data.corpus]: invalid type", ""),
        ("[data.'a/b']", "cannot be a name", "letters"),
        ("seed = 'x'\n[data.a]", "`seed` must be a whole number", ""),
        ("name = 1\n[data.a]", "`name` must be a text", ""),
        ("name = 'q'", "has no stages", "[data.corpus]"),
        ("[data.a]\ntext = = 1", "line 2, column", "text = = 1"),
    ] {
        let error = bed.load_error(recipe);
        assert!(error.chain().contains(message), "{recipe}: {}", error.chain());
        assert!(error.hint().unwrap_or_default().contains(hint), "{recipe}: {:?}", error.hint());
    }
    let missing = Recipe::load(Path::new("/nowhere.toml"), &[], &bed.stages()).unwrap_err();
    assert_eq!(missing.class(), Class::Usage);
}

#[test]
fn set_takes_toml_values_and_plain_texts() {
    let bed = Bed::new(RECIPE);
    let value = |set: &str| {
        let (recipe, _) = bed.load(&[set])?;
        let section = recipe.sections.into_iter().find(|s| s.name == "base").unwrap();
        Ok::<_, Error>(section.table)
    };
    assert_eq!(value("pretrain.base.depth=4").unwrap()["depth"].as_integer(), Some(4));
    assert_eq!(value("pretrain.base.text=plain = text").unwrap()["text"].as_str(), Some("plain = text"));
    assert_eq!(value("pretrain.base.text='4'").unwrap()["text"].as_str(), Some("4"));
    assert_eq!(value("pretrain.base.models=['corpus']").unwrap()["models"].as_array().unwrap().len(), 1);
    for (set, message) in [
        ("pretrain.base.depth", "there is no `=`"),
        ("depth=3", "names no setting"),
        ("pretrain.bas.depth=3", "unknown stage `pretrain.bas`"),
        ("pretrain.base.dept=3", "unknown key `dept`"),
        ("pretrain.base.text.more=3", "has no parts"),
    ] {
        let error = value(set).unwrap_err();
        assert!(error.to_string().contains(message) && error.class() == Class::Usage, "{set}: {error}");
    }
}

#[test]
fn stage_alone_takes_settings_without_its_name() {
    let bed = Bed::new("");
    let section = Section { kind: "data".into(), name: "corpus".into(), table: toml::Table::new() };
    let sets = ["text=hello".to_string(), "data.corpus.depth=3".into(), "seed=5".into()];
    let recipe = Recipe::single(section, &sets).unwrap();
    assert_eq!((recipe.seed, recipe.sections[0].table.len()), (5, 2));
    let graph = Graph::build(&recipe, &bed.stages()).unwrap();
    let options = Options { out: bed.out(), device: "cpu".into(), only: None, from: None };
    execute(&recipe, &graph, &options, &Silent).unwrap();
    assert_eq!(bed.result("data.corpus"), "hello");
}

#[test]
fn artifact_of_another_run_is_an_input_by_its_path() {
    let first = Bed::new(RECIPE);
    first.run(&Flags::default());
    let base = first.out().join("pretrain.base");
    let second = Bed::new(&format!("[eval.report]\nmodels = [\"{}\"]", base.display()));
    let record = second.try_run(&Flags::default()).unwrap();
    assert_eq!(record.scores[0].model, "base");
    assert_eq!(second.result("eval.report"), "ab+base");
    assert_eq!(verify(&second.out()).unwrap().artifacts.len(), 3);
}

#[test]
fn plan_hands_facts_on_and_shows_notes() {
    let bed = Bed::new(RECIPE);
    let set = ["data.corpus.depth=2", "pretrain.base.depth=3"];
    let (recipe, graph) = bed.load(&set).unwrap();
    let plans = plan::estimate(&recipe, &graph, &RunDir::look(&bed.out()), 1e11).unwrap();
    assert_eq!(plans[1].facts["parameters"], 5000.0);
    let text = plan::render(&recipe, &graph, &plans, &bed.out(), 1e11);
    for part in ["pretrain.base", "5.0k", "depth 3 as the recipe says", "10 s", "5.0G", "100 GFLOP/s"] {
        assert!(text.contains(part), "{part} is not in\n{text}");
    }
    assert!(!bed.out().exists(), "planning writes nothing");
}

#[test]
fn output_folder_follows_command_line_recipe_and_name() {
    let bed = Bed::new(RECIPE);
    let (mut recipe, _) = bed.load(&[]).unwrap();
    recipe.name = "quick".into();
    assert_eq!(output_dir(&recipe, None), Path::new("runs/quick"));
    recipe.out = Some("there".into());
    assert_eq!(output_dir(&recipe, None), bed.path("there"));
    assert_eq!(output_dir(&recipe, Some(Path::new("here"))), Path::new("here"));
}
