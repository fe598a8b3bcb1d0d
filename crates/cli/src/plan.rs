//! What a recipe will cost before it runs.

use std::path::Path;

use cupola_artifact::stage::{Input, Plan, PlanInputs};
use cupola_artifact::{Context, Result, RunDir, human_bytes, human_count, human_seconds};
use serde_json::{Value, json};

use crate::graph::{Graph, Target};
use crate::out::flop_rate;
use crate::recipe::Recipe;
use crate::table::Grid;

/// The plans of all stages, in order.
pub fn estimate(recipe: &Recipe, graph: &Graph, out: &RunDir, peak_flops: f64) -> Result<Vec<Plan>> {
    let mut plans: Vec<Plan> = Vec::new();
    for (at, node) in graph.nodes.iter().enumerate() {
        let paths = graph.inputs(at, |node| out.artifact(&node.kind, &node.name));
        let known = |(link, input): (&crate::graph::Link, Input)| match link.target {
            Target::Stage(i) => (input, plans.get(i)),
            Target::Artifact { .. } | Target::Path(_) => (input, None),
        };
        let inputs = PlanInputs {
            inputs: node.links.iter().zip(paths).map(known).collect(),
            recipe_dir: &recipe.dir,
            peak_flops,
        };
        let plan = node.configured.plan(&inputs).context(|| format!("cannot plan {}", node.full_name()))?;
        plans.push(plan);
    }
    Ok(plans)
}

/// The plans as a table with notes.
pub fn render(recipe: &Recipe, graph: &Graph, plans: &[Plan], out: &Path, peak_flops: f64) -> String {
    let mut grid = Grid::new(&["stage", ">parameters", ">FLOPs", ">memory", ">time", ">disk"]);
    let positive = |value: f64, show: fn(f64) -> String| if value > 0.0 { show(value) } else { String::new() };
    for (node, plan) in graph.nodes.iter().zip(plans) {
        grid.row(vec![
            node.full_name(),
            positive(plan.facts.get("parameters").copied().unwrap_or(0.0), human_count),
            positive(plan.flops, human_count),
            positive(plan.memory_bytes, human_bytes),
            positive(plan.seconds, human_seconds),
            positive(plan.disk_bytes, human_bytes),
        ]);
    }
    let total = total(plans);
    grid.row(vec![
        "total".into(),
        String::new(),
        positive(total.flops, human_count),
        positive(total.memory_bytes, human_bytes),
        positive(total.seconds, human_seconds),
        positive(total.disk_bytes, human_bytes),
    ]);
    let mut text = format!("{}: {} stages, artifacts in {}\n\n", recipe.name, graph.nodes.len(), out.display());
    text.push_str(&grid.render());
    for (node, plan) in graph.nodes.iter().zip(plans).filter(|(_, plan)| !plan.notes.is_empty()) {
        text.push_str(&format!("\n{}\n", node.full_name()));
        for note in &plan.notes {
            text.push_str(&format!("  {note}\n"));
        }
    }
    let peak = flop_rate(peak_flops);
    text.push_str(&format!("\nestimates for this machine, whose peak is {peak}; the memory is the largest stage's\n"));
    text
}

/// The plans as JSON.
pub fn to_json(graph: &Graph, plans: &[Plan], peak_flops: f64) -> Value {
    let stage = |name: String, plan: &Plan| {
        json!({
            "stage": name, "facts": plan.facts, "flops": plan.flops, "memory_bytes": plan.memory_bytes,
            "disk_bytes": plan.disk_bytes, "seconds": plan.seconds, "notes": plan.notes,
        })
    };
    let stages: Vec<Value> = graph.nodes.iter().zip(plans).map(|(node, plan)| stage(node.full_name(), plan)).collect();
    json!({ "stages": stages, "total": stage("total".into(), &total(plans)), "peak_flops": peak_flops })
}

/// Everything together: stages run one after the other, so memory is that of the largest.
fn total(plans: &[Plan]) -> Plan {
    Plan {
        flops: plans.iter().map(|plan| plan.flops).sum(),
        memory_bytes: plans.iter().map(|plan| plan.memory_bytes).fold(0.0, f64::max),
        disk_bytes: plans.iter().map(|plan| plan.disk_bytes).sum(),
        seconds: plans.iter().map(|plan| plan.seconds).sum(),
        ..Plan::default()
    }
}
