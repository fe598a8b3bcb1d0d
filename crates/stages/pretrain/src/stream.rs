//! The stream of training tokens: documents one after another, cut into rows.

use std::sync::Arc;

use cupola_artifact::{Error, Result};
use cupola_nn::Rng;
use cupola_records::Document;
use cupola_tokenizer::Tokenizer;
use cupola_train::loader::Shuffle;
use serde_json::{Value, json};

use crate::rows::{Drawn, Rows, position_of};

/// All documents as one stream of tokens, each behind the token that begins a document.
pub struct Stream {
    ids: Vec<u32>,
    /// The document that each token belongs to.
    documents: Vec<u32>,
}

impl Stream {
    /// A stream of one document.
    #[cfg(test)]
    pub fn of(ids: Vec<u32>) -> Self {
        Self { documents: vec![0; ids.len()], ids }
    }

    /// Encodes documents; long ones in pieces at line ends, so that several cores take part.
    ///
    /// # Errors
    /// When the tokenizer fails.
    pub fn encode(documents: &[Document], tokenizer: &Tokenizer, start: u32) -> Result<Self> {
        let pieces: Vec<(usize, &str)> =
            documents.iter().enumerate().flat_map(|(i, d)| pieces(&d.text).into_iter().map(move |p| (i, p))).collect();
        let texts: Vec<&str> = pieces.iter().map(|(_, text)| *text).collect();
        let encoded = tokenizer.encode_batch(&texts)?;
        let tokens = documents.len() + encoded.iter().map(Vec::len).sum::<usize>();
        let mut stream = Self { ids: Vec::with_capacity(tokens), documents: Vec::with_capacity(tokens) };
        let mut last = None;
        for ((document, _), ids) in pieces.iter().zip(encoded) {
            if last != Some(*document) {
                stream.push(start, *document);
                last = Some(*document);
            }
            for id in ids {
                stream.push(id, *document);
            }
        }
        Ok(stream)
    }

    /// A stream of documents that are tokens already.
    pub fn of_documents(documents: &[Vec<u32>]) -> Self {
        let mut stream = Self { ids: Vec::new(), documents: Vec::new() };
        for (number, ids) in documents.iter().enumerate() {
            ids.iter().for_each(|id| stream.push(*id, number));
        }
        stream
    }

    fn push(&mut self, id: u32, document: usize) {
        self.ids.push(id);
        self.documents.push(document as u32);
    }

    /// Rows of `seq` tokens from the beginning on, with the numbers of their documents; of a shorter stream all of it.
    pub fn rows(&self, seq: usize) -> impl Iterator<Item = (&[u32], &[u32])> {
        let seq = seq.min(self.ids.len()).max(1);
        self.ids.chunks_exact(seq).zip(self.documents.chunks_exact(seq))
    }

    /// Tokens.
    pub fn len(&self) -> usize {
        self.ids.len()
    }
}

/// How much text a piece holds, bytes: encoding takes some hundred bytes of memory for each.
const PIECE: usize = 1 << 14;

/// Cuts a text after line ends where a new word begins anyway.
fn pieces(text: &str) -> Vec<&str> {
    let mut out = Vec::new();
    let mut rest = text;
    while rest.len() > PIECE {
        let from = (PIECE / 2..=PIECE).rev().find(|i| rest.is_char_boundary(*i)).unwrap_or(rest.len());
        let cut = rest[..from].rfind('\n').map_or(from, |i| i + 1);
        let (piece, next) = rest.split_at(if cut == 0 { from } else { cut });
        out.push(piece);
        rest = next;
    }
    out.push(rest);
    out
}

/// Rows of `seq_len` tokens with their successors, in random order; each round cuts the stream elsewhere.
pub struct StreamRows {
    stream: Arc<Stream>,
    seq_len: usize,
    seed: u64,
    shuffle: Shuffle,
}

impl StreamRows {
    /// The rows of a stream.
    ///
    /// # Errors
    /// A stream that does not fill two rows.
    pub fn new(stream: Arc<Stream>, seq_len: usize, seed: u64) -> Result<Self> {
        let rows = stream.len().saturating_sub(1 + seq_len) / seq_len;
        if rows == 0 {
            let message = format!("the corpus has {} tokens, too few for sequences of {seq_len}", stream.len());
            return Err(Error::failed(message).with_hint("lower `seq_len` in [pretrain], or give more text"));
        }
        Ok(Self { stream, seq_len, seed, shuffle: Shuffle::new(rows, seed) })
    }

    /// Where the next row begins in the stream.
    fn next(&mut self) -> usize {
        let row = self.shuffle.draw();
        let offset = Rng::new(self.seed, &format!("offset {}", self.shuffle.position().epoch)).below(self.seq_len);
        offset + row * self.seq_len
    }
}

impl Rows for StreamRows {
    fn draw(&mut self, count: usize) -> Result<Drawn> {
        let mut drawn = Drawn::default();
        for _ in 0..count {
            let at = self.next();
            let span = at..at + self.seq_len;
            drawn.ids.extend_from_slice(&self.stream.ids[span.clone()]);
            drawn.segments.extend_from_slice(&self.stream.documents[span.clone()]);
            drawn.targets.extend(self.stream.ids[span.start + 1..span.end + 1].iter().map(|id| *id as i32));
        }
        Ok(drawn)
    }

    fn position(&self) -> Value {
        json!(self.shuffle.position())
    }

    fn restore(&mut self, position: &Value) -> Result<()> {
        self.shuffle.go_to(position_of(position)?);
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;

    #[test]
    fn pieces_add_up_to_the_text_and_end_at_line_ends() {
        let text = "a line of text\n".repeat(20_000);
        let parts = pieces(&text);
        assert!(parts.len() > 2);
        assert_eq!(parts.concat(), text);
        assert!(parts.iter().all(|p| p.ends_with('\n')));
        let unbroken = "é".repeat(PIECE);
        assert_eq!(pieces(&unbroken).concat(), unbroken);
    }

    #[test]
    fn each_target_is_the_token_after_its_row_position() {
        let stream = Stream { ids: (0..1000).collect(), documents: (0..1000).map(|i| i / 300).collect() };
        let mut rows = StreamRows::new(Arc::new(stream), 16, 5).unwrap();
        for _ in 0..200 {
            let (batch, targets) = rows.draw(3).unwrap().batch(0..3, 3);
            assert!(batch.ids.iter().zip(targets.iter()).all(|(id, t)| *id as i32 + 1 == *t));
            for (i, lo) in batch.mask.lo.iter().enumerate() {
                let row = i / 16 * 16;
                assert_eq!(batch.ids[i] / 300, batch.ids[row + *lo as usize] / 300, "attention crosses documents");
            }
        }
    }

    #[test]
    fn rows_go_on_from_their_position() {
        let stream = Arc::new(Stream { ids: (0..500).collect(), documents: vec![0; 500] });
        let mut rows = StreamRows::new(Arc::clone(&stream), 8, 1).unwrap();
        rows.draw(100).unwrap();
        let mut resumed = StreamRows::new(stream, 8, 1).unwrap();
        resumed.restore(&rows.position()).unwrap();
        for _ in 0..10 {
            assert_eq!(rows.draw(7).unwrap(), resumed.draw(7).unwrap());
        }
    }
}
