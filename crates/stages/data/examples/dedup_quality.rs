//! Measures near-duplicate detection on documents with known copies: what it finds, and how fast it signs and compares.
//!
//!     cargo run --release -p cupola-data --example dedup_quality -- docs.jsonl.zst truth.csv ["preset = 'edited'"]
//!     cargo run --release -p cupola-data --example dedup_quality -- --edit text.txt ["preset = 'edited'"]
//!
//! `truth.csv` has the columns `id` (the copy), `original_id`, `kind`, `edit_rate`, `jaccard_word5`. With `--edit` the documents are
//! pieces of a text of 300 words, or of 600 characters where it has few spaces, and copies of them with 2, 5 and 10 percent of
//! those changed: half replaced by others of the text, a quarter removed, a quarter with one put in before.

use std::collections::{BTreeMap, HashMap};
use std::io::Write as _;
use std::path::Path;
use std::time::Instant;

use cupola_artifact::{Context, Error, Result, read_text};
use cupola_data::{Across, Decision, Key, Keys, Place, STEPS, Setting, Sketches, Work, by_name};
use cupola_records::{Document, read_records};

fn main() -> Result<()> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let [first, second, rest @ ..] = arguments.as_slice() else {
        return Err(Error::usage("two arguments are needed: the documents and the table of their copies"));
    };
    let (documents, copies) = if first == "--edit" {
        edited(&read_text(Path::new(second))?)
    } else {
        (read(Path::new(first))?, table(&read_text(Path::new(second))?))
    };
    let settings = rest.first().map_or("", String::as_str);
    let settings = settings.parse::<toml::Table>().context(|| format!("`{settings}` is no TOML"))?;
    let mut step = by_name(STEPS, "near_duplicates")?.configure(settings)?;
    step.prepare(&Setting { recipe_dir: Path::new("."), seed: 0 }, &std::env::temp_dir())?;
    let Work::Across(across) = &step.work else { return Err(Error::failed("the step compares nothing")) };
    let megabytes = documents.iter().map(|document| document.text.len()).sum::<usize>() as f64 / 1e6;
    let start = Instant::now();
    let (keys, sketches) = sign(&**across, &documents);
    let signed = start.elapsed().as_secs_f64();
    let start = Instant::now();
    let (decisions, looked_up) = judge(&**across, keys, sketches)?;
    let judged = start.elapsed().as_secs_f64();
    let mut out = std::io::stdout().lock();
    let text = format!(
        "{}\n{megabytes:.1} MB in {} documents; signing {:.1} MB/s, comparing {looked_up} sketches {:.1} MB/s, one thread\n{}",
        step.settings,
        documents.len(),
        megabytes / signed,
        megabytes / judged,
        report(&documents, &copies, &decisions)
    );
    writeln!(out, "{text}").context(|| "cannot write".to_owned())
}

/// A copy, its original, and what kind of copy it is.
struct Copy {
    id: String,
    original: String,
    kind: String,
    alike: bool,
}

fn read(path: &Path) -> Result<Vec<Document>> {
    let document = |record: cupola_records::Record| {
        let text = |field: &str| record.value[field].as_str().unwrap_or_default();
        Document::new(text("id"), text("text"), "")
    };
    read_records(path)?.map(|record| record.map(document)).collect()
}

fn table(text: &str) -> Vec<Copy> {
    let copy = |line: &str| {
        let [id, original, kind, rate, jaccard] = line.split(',').collect::<Vec<&str>>()[..] else { return None };
        let alike = kind != "exact" && jaccard.parse::<f64>().is_ok_and(|jaccard| jaccard >= 0.8);
        Some(Copy { id: id.into(), original: original.into(), kind: format!("{kind} {rate}"), alike })
    };
    text.lines().skip(1).filter_map(copy).collect()
}

fn sign(across: &dyn Across, documents: &[Document]) -> (Vec<Key>, Memory) {
    let (mut keys, mut sketches) = (Vec::new(), Vec::new());
    for (place, document) in documents.iter().enumerate() {
        let mut found = Keys::default();
        across.keys(document, place as Place, &mut found);
        keys.extend_from_slice(found.keys());
        sketches.push(std::mem::take(found.sketch()));
    }
    (keys, Memory { sketches, asked: 0.into() })
}

fn judge(across: &dyn Across, mut keys: Vec<Key>, sketches: Memory) -> Result<(Vec<Decision>, usize)> {
    keys.sort_unstable();
    let mut decisions = Vec::new();
    for group in keys.chunk_by(|a, b| a.hash == b.hash && a.check == b.check).filter(|group| group.len() > 1) {
        across.group(group, &sketches, &mut decisions)?;
    }
    Ok((across.finish(decisions), sketches.asked.into_inner()))
}

struct Memory {
    sketches: Vec<Vec<u8>>,
    asked: std::sync::atomic::AtomicUsize,
}

impl Sketches for Memory {
    fn sketch(&self, place: Place) -> Result<Vec<u8>> {
        self.asked.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
        Ok(self.sketches[place as usize].clone())
    }
}

/// Found copies by kind, and what was joined without a reason.
fn report(documents: &[Document], copies: &[Copy], decisions: &[Decision]) -> String {
    let position: HashMap<&str, usize> = documents.iter().enumerate().map(|(i, d)| (d.id.as_str(), i)).collect();
    let mut first: Vec<usize> = (0..documents.len()).collect();
    for decision in decisions {
        first[decision.place as usize] = decision.other as usize;
    }
    let mut kinds: BTreeMap<&str, (usize, usize)> = BTreeMap::new();
    let mut explained = 0;
    for copy in copies {
        let place = |id: &String| position.get(id.as_str()).map(|i| first[*i]);
        let together = usize::from(place(&copy.id).is_some_and(|a| Some(a) == place(&copy.original)));
        explained += together;
        for kind in [Some(copy.kind.as_str()), copy.alike.then_some("near, Jaccard 0.8 or more")].into_iter().flatten()
        {
            let entry = kinds.entry(kind).or_default();
            *entry = (entry.0 + together, entry.1 + 1);
        }
    }
    let rows: Vec<String> = kinds
        .iter()
        .map(|(kind, (found, all))| format!("{kind}: {found} of {all}, recall {:.3}", *found as f64 / *all as f64))
        .collect();
    let dropped = decisions.len();
    let precision = explained as f64 / dropped.max(1) as f64;
    format!("{}\ndropped {dropped}, of them copies {explained}, precision {precision:.3}", rows.join("\n"))
}

/// Pieces of a text and edited copies of them.
fn edited(text: &str) -> (Vec<Document>, Vec<Copy>) {
    let spaces = text.chars().filter(|c| *c == ' ').count();
    let by_word = spaces * 20 > text.chars().count();
    let units: Vec<String> = match by_word {
        true => text.split_whitespace().map(|word| format!("{word} ")).collect(),
        false => text.chars().filter(|c| !c.is_whitespace()).map(String::from).collect(),
    };
    let (mut documents, mut copies, mut random) = (Vec::new(), Vec::new(), Random(1));
    for (number, piece) in units.chunks_exact(if by_word { 300 } else { 600 }).enumerate() {
        let (original, rate) = (format!("o{number}"), [0.02, 0.05, 0.1][number % 3]);
        documents.push(Document::new(&original, piece.concat(), ""));
        let changed: String = piece.iter().map(|unit| edit(unit, rate, &units, &mut random)).collect();
        documents.push(Document::new(format!("c{number}"), changed, ""));
        let kind = format!("{} with {rate} changed", if by_word { "words" } else { "characters" });
        copies.push(Copy { id: format!("c{number}"), original, kind, alike: false });
    }
    (documents, copies)
}

fn edit(unit: &str, rate: f64, units: &[String], random: &mut Random) -> String {
    if random.below(1 << 20) as f64 >= rate * (1 << 20) as f64 {
        return unit.to_owned();
    }
    let other = &units[random.below(units.len())];
    match random.below(4) {
        0 => String::new(),
        1 => format!("{other}{unit}"),
        _ => other.clone(),
    }
}

/// `SplitMix64` (Steele et al. 2014).
struct Random(u64);

impl Random {
    fn below(&mut self, n: usize) -> usize {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let z = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        let z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        (z ^ (z >> 31)) as usize % n
    }
}
