//! `cupola inspect` and `cupola verify`.

use std::path::Path;

use cupola_arch::is_gguf;
use cupola_artifact::{Context, Error, Manifest, Result, human_bytes, human_count, inspect, is_artifact, verify};
use cupola_gguf::{Gguf, TensorInfo};
use serde_json::json;

use crate::args::PathArgs;
use crate::out::say;
use crate::rules;

/// `cupola inspect`.
pub fn run_inspect(args: &PathArgs) -> Result<()> {
    if args.json && is_artifact(&args.path) {
        let manifest = Manifest::read(&args.path)?;
        say(&serde_json::to_string_pretty(&manifest).context(|| "cannot write the manifest as JSON".into())?);
        return Ok(());
    }
    if args.json {
        return Err(Error::usage(format!("{} is no artifact: only its summary as text is there", args.path.display())));
    }
    match is_gguf(&args.path) {
        true => say(&inspect_gguf(&args.path)?),
        false => say(&inspect(&args.path)?),
    }
    if let Some(rules) = rules::told(&args.path)? {
        say(&rules);
    }
    Ok(())
}

/// Sums up a GGUF file: its metadata, long lists by their length, and every tensor.
fn inspect_gguf(path: &Path) -> Result<String> {
    let file = Gguf::open(path)?;
    let bytes: u64 = file.tensors().iter().map(|tensor| tensor.bytes).sum();
    let elements: f64 = file.tensors().iter().map(|tensor| tensor.shape.iter().product::<usize>() as f64).sum();
    let mut lines = vec![format!(
        "{}: GGUF version {}, {} tensors, {} parameters, {}",
        path.display(),
        file.version(),
        file.tensors().len(),
        human_count(elements),
        human_bytes(bytes as f64)
    )];
    lines.extend(file.metadata().iter().map(|(key, value)| format!("  {key} = {value}")));
    let tensor = |tensor: &TensorInfo| format!("  {} {} {:?}", tensor.name, tensor.format.name, tensor.shape);
    lines.extend(file.tensors().iter().map(tensor));
    Ok(lines.join("\n"))
}

/// `cupola verify`: an error (exit status 1) if anything is not as it should be.
pub fn run_verify(args: &PathArgs) -> Result<()> {
    let outcome = verify(&args.path)?;
    if args.json {
        let problems: Vec<_> = outcome
            .problems
            .iter()
            .map(|p| json!({ "file": p.file, "expected": p.expected, "found": p.found }))
            .collect();
        let record = json!({
            "ok": outcome.is_ok(), "artifacts": outcome.artifacts, "files": outcome.files, "bytes": outcome.bytes,
            "problems": problems,
        });
        say(&format!("{record:#}"));
    } else {
        for artifact in &outcome.artifacts {
            say(&format!("checked  {}", artifact.display()));
        }
        for problem in &outcome.problems {
            say(&format!("WRONG    {}", problem.file.display()));
            say(&format!("         expected {}", problem.expected));
            say(&format!("         found    {}", problem.found));
        }
    }
    match outcome.problems.as_slice() {
        [] if args.json => Ok(()),
        [] => {
            let (artifacts, files) = (outcome.artifacts.len(), outcome.files);
            say(&format!(
                "all {files} files of {artifacts} artifacts are unchanged ({})",
                human_bytes(outcome.bytes as f64)
            ));
            Ok(())
        }
        [first, ..] => {
            let count = outcome.problems.len();
            let things = if count == 1 { "1 thing is".into() } else { format!("{count} things are") };
            Err(Error::failed(format!("{things} not as the manifests say, first {}", first.file.display()))
                .with_hint("restore the files, or run the recipe again with --from the first stage concerned"))
        }
    }
}
