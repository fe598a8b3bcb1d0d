//! A linear classifier and its file.
//!
//! The file is a line that names the format, a line of JSON ([`Header`]), and the weights: signed 16-bit numbers, least byte
//! first, a row for each label but the last (whose score is 0), compressed with zstd.

use cupola_artifact::{Context, Error, Result, sha256_hex};
use serde::{Deserialize, Serialize};

use super::features::{Features, Vector};

const MAGIC: &str = "cupola linear classifier 1";
/// The most labels, and the most bits of a feature's number: together 16 million weights.
const MOST_LABELS: usize = 64;
const MOST_BITS: u32 = 24;
const MOST_WEIGHTS: usize = 1 << 26;

/// Scores texts.
#[derive(Clone, Debug, PartialEq)]
pub struct Model {
    pub features: Features,
    /// In alphabetical order, at least two.
    pub labels: Vec<String>,
    /// For each label but the last.
    pub rows: Vec<Row>,
}

/// What speaks for a label against the last one.
#[derive(Clone, Debug, PartialEq)]
pub struct Row {
    pub bias: f32,
    pub weights: Vec<f32>,
}

#[derive(Serialize, Deserialize)]
struct Header {
    labels: Vec<String>,
    features: Features,
    bias: Vec<f32>,
    /// What a weight of 1 means, for each row.
    scales: Vec<f32>,
    /// SHA-256 of what follows this line.
    sha256: String,
}

impl Model {
    /// The probability of each label.
    pub fn probabilities(&self, text: &str) -> Vec<f32> {
        self.probabilities_of(&self.features.of(text))
    }

    /// The same of features that are there already.
    pub fn probabilities_of(&self, vector: &Vector) -> Vec<f32> {
        let mut scores: Vec<f32> = self.rows.iter().map(|row| row.score(vector)).collect();
        scores.push(0.0);
        let most = scores.iter().copied().fold(f32::MIN, f32::max);
        scores.iter_mut().for_each(|score| *score = (*score - most).exp());
        let sum: f32 = scores.iter().sum();
        scores.iter_mut().for_each(|score| *score /= sum);
        scores
    }

    /// The file's content.
    pub fn to_bytes(&self) -> Result<Vec<u8>> {
        let (mut scales, mut numbers) = (Vec::new(), Vec::new());
        for row in &self.rows {
            let largest = row.weights.iter().fold(f32::MIN_POSITIVE, |most, w| most.max(w.abs()));
            let scale = largest / f32::from(i16::MAX);
            scales.push(scale);
            numbers.extend(row.weights.iter().flat_map(|w| ((w / scale).round() as i16).to_le_bytes()));
        }
        let weights = zstd::encode_all(numbers.as_slice(), 9).context(|| "cannot compress a classifier".to_owned())?;
        let header = Header {
            labels: self.labels.clone(),
            features: self.features,
            bias: self.rows.iter().map(|row| row.bias).collect(),
            scales,
            sha256: sha256_hex(&weights),
        };
        let header = serde_json::to_string(&header).context(|| "cannot write a classifier".to_owned())?;
        Ok([format!("{MAGIC}\n{header}\n").as_bytes(), &weights].concat())
    }

    /// Reads a file's content.
    pub fn from_bytes(bytes: &[u8]) -> Result<Self> {
        let broken = |what: &str| Error::failed(format!("not a whole classifier: {what}"));
        let mut parts = bytes.splitn(3, |b| *b == b'\n');
        let (magic, header, weights) = (parts.next(), parts.next(), parts.next());
        if magic != Some(MAGIC.as_bytes()) {
            return Err(broken(&format!("its first line is not `{MAGIC}`"))
                .with_hint("train one anew: only files that this program wrote can be read"));
        }
        let (Some(header), Some(weights)) = (header, weights) else { return Err(broken("it is cut off")) };
        let header: Header =
            serde_json::from_slice(header).context(|| "the classifier's header is broken".to_owned())?;
        if sha256_hex(weights) != header.sha256 {
            return Err(broken("its checksum differs").with_hint("copy or train it again"));
        }
        let rows = header.labels.len().saturating_sub(1);
        let size = 1_usize << header.features.bits.min(MOST_BITS);
        let fits = (1..MOST_LABELS).contains(&rows)
            && (1..=MOST_BITS).contains(&header.features.bits)
            && rows * size <= MOST_WEIGHTS
            && header.bias.len() == rows
            && header.scales.len() == rows;
        if !fits {
            return Err(broken("its header contradicts itself"));
        }
        let numbers =
            zstd::bulk::decompress(weights, rows * size * 2).context(|| "the weights are broken".to_owned())?;
        if numbers.len() != rows * size * 2 {
            return Err(broken("weights are missing"));
        }
        let rows =
            numbers.chunks(size * 2).zip(header.bias.iter().zip(&header.scales)).map(|(row, (bias, scale))| Row {
                bias: *bias,
                weights: row.chunks(2).map(|b| f32::from(i16::from_le_bytes([b[0], b[1]])) * scale).collect(),
            });
        Ok(Self { features: header.features, rows: rows.collect(), labels: header.labels })
    }
}

impl Row {
    fn score(&self, vector: &Vector) -> f32 {
        self.bias + vector.features.iter().map(|(number, x)| self.weights[*number as usize] * x).sum::<f32>()
    }
}

/// Whether so many labels and features make a model that can be kept.
pub fn check_size(labels: usize, features: &Features) -> Result<()> {
    let bits = features.bits;
    if labels < 2 {
        return Err(Error::failed(format!("a classifier needs texts of at least two labels; there are {labels}")));
    }
    if !(8..=MOST_BITS).contains(&bits) || labels > MOST_LABELS || ((labels - 1) << bits) > MOST_WEIGHTS {
        return Err(Error::failed(format!(
            "{labels} labels with features of {bits} bits are too many for a classifier"
        ))
        .with_hint(format!("at most {MOST_LABELS} labels, 8 to {MOST_BITS} bits, and {MOST_WEIGHTS} weights in all")));
    }
    Ok(())
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "a failing test should panic")]
mod tests {
    use super::*;

    fn model() -> Model {
        let features = Features { bits: 8, ..Features::default() };
        let row = |x: f32| Row { bias: x, weights: (0..256).map(|i| x * i as f32 / 255.0).collect() };
        Model { features, labels: ["a", "b", "c"].map(str::to_owned).to_vec(), rows: vec![row(1.0), row(-2.0)] }
    }

    #[test]
    fn a_written_model_reads_as_it_was_within_16_bits() {
        let read = Model::from_bytes(&model().to_bytes().unwrap()).unwrap();
        assert_eq!((read.features, &read.labels), (model().features, &model().labels));
        for (a, b) in read.rows.iter().zip(&model().rows) {
            assert!(a.weights.iter().zip(&b.weights).all(|(a, b)| (a - b).abs() < 1e-4));
        }
        assert_eq!(Model::from_bytes(&read.to_bytes().unwrap()).unwrap(), read);
    }

    #[test]
    fn probabilities_add_up_to_one() {
        let sum: f32 = model().probabilities("some text").iter().sum();
        assert!((sum - 1.0).abs() < 1e-5, "{sum}");
    }

    #[test]
    fn broken_files_are_errors() {
        let good = model().to_bytes().unwrap();
        for bytes in [&good[..good.len() - 1], &good[..40], b"", b"GIF89a\n{}\n", b"cupola linear classifier 1\n{}\n"] {
            assert!(Model::from_bytes(bytes).is_err());
        }
        let mut changed = good.clone();
        *changed.last_mut().unwrap() ^= 1;
        assert!(Model::from_bytes(&changed).is_err_and(|e| e.chain().contains("checksum")));
        let text = String::from_utf8_lossy(&good).replace("\"bits\":8", "\"bits\":99");
        assert!(Model::from_bytes(text.as_bytes()).is_err());
    }
}
