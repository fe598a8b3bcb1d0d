//! What a run tells at its end.

use cupola_artifact::{human_bytes, human_seconds};
use serde_json::Value;

use crate::record::{RunRecord, ScoreRow, StageRecord, Status};

/// Columns aligned with spaces: texts to the left, figures to the right.
#[derive(Default)]
pub struct Grid {
    rows: Vec<Vec<String>>,
    right: Vec<bool>,
}

impl Grid {
    /// A grid with these column titles; a title that begins with `>` is that of a column of figures.
    pub fn new(titles: &[&str]) -> Self {
        Self {
            right: titles.iter().map(|title| title.starts_with('>')).collect(),
            rows: vec![titles.iter().map(|title| title.trim_start_matches('>').to_string()).collect()],
        }
    }

    /// Adds a row.
    pub fn row(&mut self, cells: Vec<String>) {
        self.rows.push(cells);
    }

    /// The grid as text. Columns in which no row says anything are left out.
    pub fn render(&self) -> String {
        let columns: Vec<usize> =
            (0..self.right.len()).filter(|c| self.rows.iter().skip(1).any(|row| !row[*c].is_empty())).collect();
        let width = |c: usize| self.rows.iter().map(|row| row[c].chars().count()).max().unwrap_or(0);
        let mut text = String::new();
        for (number, row) in self.rows.iter().enumerate() {
            let cells: Vec<String> = columns
                .iter()
                .map(|c| {
                    let space = " ".repeat(width(*c) - row[*c].chars().count());
                    if self.right[*c] { space + &row[*c] } else { row[*c].clone() + &space }
                })
                .collect();
            text.push_str(cells.join("  ").trim_end());
            text.push('\n');
            if number == 0 {
                let total: usize =
                    columns.iter().map(|c| width(*c)).sum::<usize>() + 2 * columns.len().saturating_sub(1);
                text.push_str(&"-".repeat(total));
                text.push('\n');
            }
        }
        text
    }
}

/// The whole report: stages, scores, how to serve.
pub fn render(record: &RunRecord) -> String {
    let mut text = String::new();
    if record.nothing_done() {
        let count = record.stages.iter().filter(|stage| stage.status == Status::Unchanged).count();
        text.push_str(&format!(
            "nothing to do: {count} of {} stages are up to date in {} ({})\n\n",
            record.stages.len(),
            record.out.display(),
            human_seconds(record.seconds)
        ));
    }
    text.push_str(&stages(&record.stages));
    if !record.scores.is_empty() {
        text.push_str(&format!("\n{}", scores(&record.scores)));
    }
    if !record.nothing_done() {
        let made = record.stages.iter().filter(|stage| stage.status == Status::Made).count();
        text.push_str(&format!(
            "\n{made} of {} stages ran in {}; artifacts in {}\n",
            record.stages.len(),
            human_seconds(record.seconds),
            record.out.display()
        ));
    }
    if let Some(serve) = &record.serve {
        text.push_str(&format!("serve it:  {serve}\n"));
    }
    text
}

fn stages(stages: &[StageRecord]) -> String {
    let titles =
        ["stage", "", "went in", "came out", ">time", ">loss", ">perplexity", ">bits/byte", ">tokens/s", ">size"];
    let mut grid = Grid::new(&titles);
    for stage in stages {
        let name = format!("{}.{}", stage.kind, stage.name);
        if stage.status == Status::Missing {
            let mut cells = vec![name, "not there".to_string()];
            cells.resize(titles.len(), String::new());
            grid.row(cells);
            continue;
        }
        let note = match stage.status {
            Status::Unchanged => "unchanged",
            Status::LeftAlone => "left alone",
            Status::Made | Status::Missing => "",
        };
        grid.row(vec![
            name,
            note.into(),
            stage.report.went_in.clone(),
            stage.report.came_out.clone(),
            human_seconds(stage.seconds),
            figure(stage, &["validation_loss", "loss"], 3),
            perplexity(stage),
            figure(stage, &["bits_per_byte", "validation_bits_per_byte"], 3),
            figure(stage, &["tokens_per_second"], 0),
            human_bytes(stage.bytes as f64),
        ]);
    }
    grid.render()
}

/// The first of these metrics that a stage has given.
fn metric(stage: &StageRecord, names: &[&str]) -> Option<f64> {
    names.iter().find_map(|name| stage.report.metrics.get(*name)?.as_f64())
}

fn figure(stage: &StageRecord, names: &[&str], digits: usize) -> String {
    metric(stage, names).map(|value| format!("{value:.digits$}")).unwrap_or_default()
}

/// The perplexity, which is the exponential of the loss of a language model.
fn perplexity(stage: &StageRecord) -> String {
    let given = metric(stage, &["perplexity", "validation_perplexity"]);
    let derived = || match stage.kind.as_str() {
        "pretrain" | "tune" => metric(stage, &["validation_loss"]).map(f64::exp),
        _ => None,
    };
    given.or_else(derived).map(|value| format!("{value:.2}")).unwrap_or_default()
}

/// The models side by side.
fn scores(rows: &[ScoreRow]) -> String {
    let mut measures: Vec<&str> = Vec::new();
    for measure in rows.iter().flat_map(|row| row.scores.keys()) {
        if !measures.contains(&measure.as_str()) {
            measures.push(measure);
        }
    }
    let titles: Vec<String> = measures.iter().map(|measure| format!(">{measure}")).collect();
    let titles: Vec<&str> = std::iter::once("model").chain(titles.iter().map(String::as_str)).collect();
    let mut grid = Grid::new(&titles);
    for row in rows {
        let cells = measures.iter().map(|measure| row.scores.get(*measure).map(cell).unwrap_or_default());
        grid.row(std::iter::once(row.model.clone()).chain(cells).collect());
    }
    grid.render()
}

fn cell(value: &Value) -> String {
    match value {
        Value::Number(number) if number.is_f64() => {
            let value = number.as_f64().unwrap_or(f64::NAN);
            let digits = if value.abs() >= 1000.0 { 0 } else { 3 };
            format!("{value:.digits$}")
        }
        Value::String(text) => text.clone(),
        Value::Null => String::new(),
        other => other.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use cupola_artifact::stage::Report;
    use serde_json::{Map, json};

    #[test]
    fn grid_aligns_figures_right_and_leaves_out_empty_columns() {
        let mut grid = Grid::new(&["stage", "note", ">size"]);
        grid.row(vec!["a".into(), String::new(), "10 MB".into()]);
        grid.row(vec!["longer".into(), String::new(), "1 B".into()]);
        assert_eq!(grid.render(), "stage    size\n-------------\na       10 MB\nlonger    1 B\n");
    }

    #[test]
    fn scores_of_a_model_from_several_stages_stand_in_one_row() {
        let scores = |text: Value| match text {
            Value::Object(map) => map,
            _ => Map::new(),
        };
        let mut stage = StageRecord::missing("eval", "report");
        stage.status = Status::Made;
        stage.report = Report {
            scores: vec![("base".into(), scores(json!({"acc": 0.25}))), ("chat".into(), scores(json!({"acc": 0.5})))],
            ..Report::default()
        };
        let mut compress = StageRecord::missing("compress", "int8");
        compress.report.scores = vec![("chat".into(), scores(json!({"bytes": 12})))];
        let rows = RunRecord::merge_scores(&[stage, compress]);
        assert_eq!(rows.len(), 2);
        assert_eq!(rows[1].scores.len(), 2);
        let text = self::scores(&rows);
        assert!(text.contains("0.250") && text.lines().count() == 4, "{text}");
    }

    #[test]
    fn perplexity_follows_from_the_loss_of_a_language_model() {
        let mut stage = StageRecord::missing("pretrain", "base");
        stage.report.metrics.insert("validation_loss".into(), json!(0.0));
        assert_eq!(
            (perplexity(&stage), figure(&stage, &["loss", "validation_loss"], 2)),
            ("1.00".into(), "0.00".into())
        );
        stage.kind = "align".into();
        assert_eq!(perplexity(&stage), "");
    }
}
