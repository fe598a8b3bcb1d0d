//! What fuzzing calls: any bytes, read in any format.

use crate::{formats, packings, read_bytes};

/// Records of a content that are read at most: a table of empty columns has as many rows as it says.
const MOST_RECORDS: usize = 10_000;

/// How reading came to its end.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Ended {
    /// Records.
    pub records: usize,
    /// Errors.
    pub errors: usize,
}

/// The names that a first byte chooses among: every extension of every format, plain and in every packing, and a name that
/// promises nothing.
fn names() -> impl Iterator<Item = String> {
    let extensions = || formats::ALL.iter().flat_map(|format| format.extensions);
    let packed = packings::ALL.iter().flat_map(|packing| ["jsonl", "csv", "txt", "warc", "tar"].map(|e| (e, packing)));
    let plain = extensions().map(|extension| format!("fuzz.{extension}"));
    plain.chain(packed.map(|(e, packing)| format!("fuzz.{e}.{}", packing.extension))).chain(["fuzz".to_owned()])
}

/// Reads all but the first byte, which says under which name: so one target reaches every reader. It ends, in records or
/// errors, with little memory, and does not panic.
pub fn read_named_by_first_byte(data: &[u8]) -> Ended {
    let Some((first, bytes)) = data.split_first() else { return Ended::default() };
    let names: Vec<String> = names().collect();
    let name = &names[usize::from(*first) % names.len()];
    let mut ended = Ended::default();
    match read_bytes(name, bytes.to_vec()) {
        Err(_) => ended.errors = 1,
        Ok(records) => {
            for record in records.take(MOST_RECORDS) {
                match record {
                    Ok(_) => ended.records += 1,
                    Err(_) => ended.errors += 1,
                }
            }
        }
    }
    ended
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_byte_is_enough_for_all_names() {
        let names: Vec<String> = names().collect();
        assert!(names.len() <= 256, "{}", names.len());
        for format in formats::ALL {
            assert!(format.extensions.iter().all(|extension| names.contains(&format!("fuzz.{extension}"))));
        }
    }

    #[test]
    fn the_first_byte_chooses_the_reader() {
        let read = |name: &str, content: &str| {
            let first = names().position(|known| known == name).map_or(0, |at| at as u8);
            read_named_by_first_byte(&[&[first], content.as_bytes()].concat())
        };
        assert_eq!(read("fuzz.jsonl", "{\"text\": 1}\n{broken\n{}\n"), Ended { records: 2, errors: 1 });
        assert_eq!(read("fuzz.csv", "a,b\n1,2\n"), Ended { records: 1, errors: 0 });
        assert_eq!(read("fuzz.parquet", "text"), Ended { records: 0, errors: 1 });
        assert_eq!(read_named_by_first_byte(&[]), Ended::default());
    }
}
