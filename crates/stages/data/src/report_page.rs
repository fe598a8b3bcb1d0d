//! The data report as a page: one HTML file that needs no other.

use std::collections::BTreeMap;
use std::fmt::Write as _;

use crate::pipeline::Dropped;
use crate::report::{Count, DataReport, NamedStep, Profile};

/// Dropped documents that are shown for each reason.
const EXAMPLES: usize = 3;

/// Characters that are shown of each.
const EXAMPLE_CHARACTERS: usize = 600;

/// Rows of a table of counts.
const ROWS: usize = 25;

const STYLE: &str = "
:root { color-scheme: light dark; --bar: #4a7ab5; --kept: #3d8b5f; --dropped: #b5574a; --line: #8884; }
body { font: 15px/1.5 system-ui, sans-serif; max-width: 70rem; margin: 2rem auto; padding: 0 1rem; }
table { border-collapse: collapse; width: 100%; margin: .5rem 0 1.5rem; }
th, td { text-align: left; padding: .25rem .6rem; border-bottom: 1px solid var(--line); vertical-align: top; }
td.n, th.n { text-align: right; font-variant-numeric: tabular-nums; white-space: nowrap; }
td.bar { width: 40%; } .bar i { display: block; height: .9rem; background: var(--bar); min-width: 1px; border-radius: 2px; }
i.kept { background: var(--kept); } i.dropped { background: var(--dropped); }
pre { white-space: pre-wrap; overflow-wrap: anywhere; background: #8881; padding: .6rem; border-radius: 4px; margin: .3rem 0; }
details { margin: .3rem 0; } summary { cursor: pointer; } .two { display: grid; grid-template-columns: 1fr 1fr; gap: 2rem; }
@media (max-width: 45rem) { .two { grid-template-columns: 1fr; } }
";

/// The page; `dropped` are documents to choose examples from.
pub fn page(name: &str, report: &DataReport, dropped: &[Dropped]) -> String {
    let mut page = Page(String::new());
    page.raw(&format!(
        "<!doctype html><html lang=\"en\"><meta charset=\"utf-8\"><meta name=\"viewport\" content=\"width=device-width\">\
         <title>Data report: {0}</title><style>{STYLE}</style><h1>Data report: {0}</h1>",
        escape(name)
    ));
    page.overview(report);
    page.funnel(report, dropped);
    page.clusters(report);
    page.profiles(&report.before, &report.after);
    page.sources(report);
    page.raw("</html>\n");
    page.0
}

struct Page(String);

impl Page {
    fn raw(&mut self, html: &str) {
        self.0.push_str(html);
    }

    fn overview(&mut self, report: &DataReport) {
        self.raw("<table><tr><th></th><th class=n>documents</th><th class=n>bytes</th><th></th></tr>");
        let most = (report.total.read.documents + report.total.made.documents).max(1);
        let dropped = report.total.dropped.values().fold(Count::default(), |sum, count| Count {
            documents: sum.documents + count.documents,
            bytes: sum.bytes + count.bytes,
        });
        for (name, class, count) in [
            ("read", "", report.total.read),
            ("made", "", report.total.made),
            ("dropped", "dropped", dropped),
            ("kept", "kept", report.total.kept),
            ("written to train on", "kept", report.train),
            ("written to validate", "kept", report.validation),
        ] {
            if name == "made" && count.documents == 0 {
                continue;
            }
            self.row(name, class, count, most);
        }
        self.raw("</table>");
    }

    fn row(&mut self, name: &str, class: &str, count: Count, most: u64) {
        let width = 100.0 * count.documents as f64 / most as f64;
        // Writing to a string cannot fail.
        let _ = write!(
            self.0,
            "<tr><td>{}</td><td class=n>{}</td><td class=n>{}</td>\
             <td class=bar><i class=\"{class}\" style=\"width:{:.2}%\"></i></td></tr>",
            escape(name),
            grouped(count.documents),
            grouped(count.bytes),
            width.min(100.0)
        );
    }

    fn funnel(&mut self, report: &DataReport, dropped: &[Dropped]) {
        self.raw("<h2>What each step dropped</h2>");
        let mut examples: BTreeMap<(&str, &str), Vec<&Dropped>> = BTreeMap::new();
        for document in dropped {
            let of_reason = examples.entry((&document.step, &document.reason)).or_default();
            if of_reason.len() < EXAMPLES {
                of_reason.push(document);
            }
        }
        let read: Vec<(&String, &Count)> = report
            .total
            .dropped
            .iter()
            .filter(|(reason, _)| examples.contains_key(&("read", reason.as_str())))
            .collect();
        if !read.is_empty() {
            self.raw("<h3>reading</h3>");
            for (reason, count) in read {
                self.reason("read", reason, *count, &examples);
            }
        }
        for step in &report.steps {
            self.step(step, &examples);
        }
    }

    fn step(&mut self, step: &NamedStep, examples: &BTreeMap<(&str, &str), Vec<&Dropped>>) {
        let dropped: u64 = step.tally.dropped.values().map(|count| count.documents).sum();
        let _ = write!(
            self.0,
            "<h3>{}</h3><p>{} documents came, {}{} left.</p>",
            escape(step.step),
            grouped(step.tally.came.documents),
            match step.tally.made.documents {
                0 => String::new(),
                made => format!("{} were made of them, ", grouped(made)),
            },
            grouped(step.tally.came.documents + step.tally.made.documents - dropped)
        );
        let mut reasons: Vec<(&String, &Count)> = step.tally.dropped.iter().collect();
        reasons.sort_by_key(|(reason, count)| (std::cmp::Reverse(count.documents), reason.as_str()));
        for (reason, count) in reasons {
            self.reason(step.step, reason, *count, examples);
        }
        if !step.tally.notes.is_empty() {
            self.counts("counted", step.tally.notes.iter().map(|(name, n)| (name.clone(), *n)).collect());
        }
    }

    fn reason(&mut self, step: &str, reason: &str, count: Count, examples: &BTreeMap<(&str, &str), Vec<&Dropped>>) {
        let _ = write!(
            self.0,
            "<details><summary><b>{}</b>: {} documents, {} bytes</summary>",
            escape(reason),
            grouped(count.documents),
            grouped(count.bytes)
        );
        for document in examples.get(&(step, reason)).into_iter().flatten() {
            let _ = write!(self.0, "<div>{} <small>({})</small></div>", escape(&document.id), escape(&document.source));
            self.text(&document.text, EXAMPLE_CHARACTERS);
        }
        self.raw("</details>");
    }

    fn text(&mut self, text: &str, characters: usize) {
        let cut: String = text.chars().take(characters).collect();
        let more = if cut.len() < text.len() { " …" } else { "" };
        let _ = write!(self.0, "<pre>{}{more}</pre>", escape(&cut));
    }

    fn clusters(&mut self, report: &DataReport) {
        let found = report.steps.iter().filter_map(|step| Some((step.step, step.clusters.as_ref()?)));
        for (step, clusters) in found.filter(|(_, clusters)| clusters.count > 0) {
            let _ = write!(
                self.0,
                "<h2>Clusters of {}</h2><p>{} in all; the largest:</p>",
                escape(step),
                grouped(clusters.count)
            );
            for cluster in &clusters.largest {
                let name = cluster.examples.first().map_or("", |(id, _)| id.as_str());
                let _ = write!(
                    self.0,
                    "<details><summary>{} documents like <b>{}</b></summary>",
                    grouped(cluster.documents),
                    escape(name)
                );
                for (id, text) in &cluster.examples {
                    let _ = write!(self.0, "<div>{}</div>", escape(id));
                    self.text(text, EXAMPLE_CHARACTERS);
                }
                self.raw("</details>");
            }
        }
    }

    fn profiles(&mut self, before: &Profile, after: &Profile) {
        for (title, of) in [
            ("Length of texts, bytes", lengths as fn(&Profile) -> Vec<(String, u64)>),
            ("Languages", |profile| largest(&profile.languages)),
            ("Sites", |profile| largest(&profile.sites)),
        ] {
            let (before, after) = (of(before), of(after));
            if before.is_empty() && after.is_empty() {
                continue;
            }
            let _ = write!(self.0, "<h2>{title}</h2><div class=two><div>");
            self.counts("before", before);
            self.raw("</div><div>");
            self.counts("after", after);
            self.raw("</div></div>");
        }
    }

    fn counts(&mut self, title: &str, counts: Vec<(String, u64)>) {
        let most = counts.iter().map(|(_, n)| *n).max().unwrap_or(1).max(1);
        let _ = write!(self.0, "<table><tr><th>{title}</th><th class=n></th><th></th></tr>");
        for (name, n) in counts {
            let _ = write!(
                self.0,
                "<tr><td>{}</td><td class=n>{}</td><td class=bar><i style=\"width:{:.2}%\"></i></td></tr>",
                escape(&name),
                grouped(n),
                100.0 * n as f64 / most as f64
            );
        }
        self.raw("</table>");
    }

    fn sources(&mut self, report: &DataReport) {
        self.raw("<h2>Sources</h2><table><tr><th></th><th class=n>documents kept</th><th class=n>bytes kept</th><th></th></tr>");
        let mut sources: Vec<_> = report.sources.iter().collect();
        sources.sort_by_key(|(name, tally)| (std::cmp::Reverse(tally.read.bytes), name.as_str()));
        let left_out = sources.len().saturating_sub(4 * ROWS);
        for (name, tally) in sources.into_iter().take(4 * ROWS) {
            let all = tally.read.documents + tally.made.documents;
            let named = format!("{name} (of {} documents)", grouped(all));
            self.row(&named, "kept", tally.kept, all.max(1));
        }
        self.raw("</table>");
        if left_out > 0 {
            let _ = write!(self.0, "<p>{} smaller ones are in report.json.</p>", grouped(left_out as u64));
        }
    }
}

fn lengths(profile: &Profile) -> Vec<(String, u64)> {
    profile.lengths.iter().map(|(power, n)| (format!("from {}", grouped(1 << power)), *n)).collect()
}

fn largest(counts: &BTreeMap<String, u64>) -> Vec<(String, u64)> {
    let mut counts: Vec<(String, u64)> = counts.iter().map(|(name, n)| (name.clone(), *n)).collect();
    counts.sort_by(|a, b| b.1.cmp(&a.1).then_with(|| a.0.cmp(&b.0)));
    counts.truncate(ROWS);
    counts
}

/// A number with its thousands apart.
fn grouped(n: u64) -> String {
    let digits = n.to_string();
    let mut out = String::with_capacity(digits.len() + digits.len() / 3);
    for (i, digit) in digits.chars().enumerate() {
        if i > 0 && (digits.len() - i).is_multiple_of(3) {
            out.push(',');
        }
        out.push(digit);
    }
    out
}

fn escape(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for c in text.chars() {
        match c {
            '&' => out.push_str("&amp;"),
            '<' => out.push_str("&lt;"),
            '>' => out.push_str("&gt;"),
            '"' => out.push_str("&quot;"),
            c => out.push(c),
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::report::{PartReport, StepTally};

    #[test]
    fn text_from_documents_is_escaped() {
        let mut all = PartReport::default();
        all.read("a.jsonl", 10);
        all.drop_for("a.jsonl", Some(0), "too_short", 10);
        all.steps.insert(0, StepTally { came: Count { documents: 1, bytes: 10 }, ..all.steps[&0].clone() });
        let report = DataReport::new(all, vec![("length", None)]);
        let text = "<script>alert(\"1\")</script>".to_owned();
        let dropped = Dropped {
            id: "<b>".into(),
            source: "a.jsonl".into(),
            step: "length".into(),
            reason: "too_short".into(),
            text,
            fields: serde_json::Map::new(),
        };
        let page = page("corpus", &report, &[dropped]);
        assert!(page.contains("&lt;script&gt;alert(&quot;1&quot;)") && !page.contains("<script>"));
        assert!(page.contains("&lt;b&gt;") && page.contains("1 documents came, 0 left"));
    }

    #[test]
    fn thousands_are_set_apart() {
        assert_eq!((grouped(0), grouped(999), grouped(1_234_567)), ("0".into(), "999".into(), "1,234,567".into()));
    }
}
