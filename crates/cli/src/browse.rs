//! `cupola data browse`: kept and dropped documents, one after the other.

use std::io::{BufRead, IsTerminal};

use cupola_artifact::{Error, Result};
use cupola_data::{Seen, Wanted};

use crate::args::BrowseArgs;
use crate::out::say;

/// Documents shown before a reader is asked whether to go on.
const PAGE: usize = 5;

/// Documents shown where nobody can be asked.
const UNASKED: usize = 100;

/// Shows the documents; on a terminal a page at a time.
pub fn browse(args: &BrowseArgs) -> Result<()> {
    let wanted = Wanted {
        kept: if args.kept { Some(true) } else { args.dropped.then_some(false) },
        step: args.step.clone(),
        reason: args.reason.clone(),
        source: args.source.clone(),
        find: args.find.clone(),
    };
    let asks = std::io::stdin().is_terminal() && std::io::stdout().is_terminal();
    let limit = args.limit.unwrap_or(if asks { usize::MAX } else { UNASKED });
    let mut documents = cupola_data::browse(&args.artifact, &wanted)?;
    let mut shown = 0;
    while shown < limit {
        let Some(document) = documents.next() else {
            say(&match shown {
                0 => "no document fits".to_owned(),
                n => format!("\n{n} documents in all"),
            });
            return Ok(());
        };
        if asks && shown > 0 && shown.is_multiple_of(PAGE) && !goes_on()? {
            return Ok(());
        }
        say(&text(&document?, args.characters));
        shown += 1;
    }
    if documents.next().is_some() {
        say(&format!("\nthere are more than {limit}: raise --limit"));
    }
    Ok(())
}

fn text(seen: &Seen, characters: usize) -> String {
    let cut: String =
        seen.text.chars().filter(|c| *c == '\n' || *c == '\t' || !c.is_control()).take(characters).collect();
    let more = if cut.len() < seen.text.len() { " …" } else { "" };
    format!("── {} ({}) ── {}\n{cut}{more}\n", seen.id, seen.source, seen.verdict)
}

fn goes_on() -> Result<bool> {
    say("[Enter: more, q: stop]");
    let mut line = String::new();
    let read = std::io::stdin().lock().read_line(&mut line);
    read.map_err(|e| Error::failed("cannot read the keyboard").with_source(e))?;
    Ok(!line.is_empty() && !line.trim().eq_ignore_ascii_case("q"))
}
