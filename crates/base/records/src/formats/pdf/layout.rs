//! From glyphs to text: pieces of lines, columns (recursive cuts through white space; Nagy and Seth 1984), paragraphs.

use std::collections::HashSet;

use super::glyphs::{Glyph, PageGlyphs};

/// A gap between glyphs that is a space, as a share of the font's size: spaces are about 0.25, and justified lines press them.
const WORD_GAP: f64 = 0.15;

/// A gap that parts two pieces of a line: columns, cells.
const PIECE_GAP: f64 = 1.5;

/// How far a glyph may stand above or below its line: indices and powers do.
const OFF_LINE: f64 = 0.45;

/// The least width of the white space between two columns, in sizes of the font.
const GUTTER: f64 = 1.0;

/// Columns of text have at least so many pieces, and so many characters in each on average; those of tables have less.
const MIN_COLUMN_PIECES: usize = 4;
const MIN_COLUMN_CHARACTERS: usize = 15;

/// White space between two blocks, in sizes of the font beyond a line's own height.
const BLOCK_GAP: f64 = 0.9;

/// A piece of a line.
#[derive(Clone, Debug)]
struct Piece {
    text: String,
    left: f64,
    right: f64,
    /// The base line, from the top.
    y: f64,
    size: f64,
}

/// A page's text.
pub(super) fn text(page: PageGlyphs) -> String {
    let (upright, turned): (Vec<Glyph>, Vec<Glyph>) = page.glyphs.into_iter().partition(|glyph| glyph.upright);
    let mut paragraphs = Vec::new();
    cut(pieces(upright), &mut paragraphs, 0);
    // What runs along the margin comes last.
    let margin: String = turned.into_iter().map(|glyph| glyph.text).collect();
    paragraphs.push(margin.trim().to_owned());
    paragraphs.retain(|paragraph| !paragraph.is_empty());
    paragraphs.join("\n\n")
}

/// Joins glyphs as they were drawn for as long as they go on along a line.
fn pieces(glyphs: Vec<Glyph>) -> Vec<Piece> {
    let mut pieces: Vec<Piece> = Vec::new();
    let mut drawn = HashSet::new();
    for glyph in glyphs {
        // Bold type is often drawn twice.
        let place = ((glyph.x * 2.0).round() as i64, (glyph.y * 2.0).round() as i64);
        if !drawn.insert((place, glyph.text.clone())) {
            continue;
        }
        if let Some(piece) = pieces.last_mut() {
            let size = piece.size.max(glyph.size);
            let gap = glyph.x - piece.right;
            if (glyph.y - piece.y).abs() < OFF_LINE * size && gap > -0.5 * size && gap < PIECE_GAP * size {
                if gap > WORD_GAP * size && !piece.text.ends_with(' ') && !glyph.text.starts_with(' ') {
                    piece.text.push(' ');
                }
                piece.text.push_str(&glyph.text);
                piece.right = piece.right.max(glyph.x + glyph.width);
                if glyph.size > piece.size {
                    (piece.size, piece.y) = (glyph.size, glyph.y);
                }
                continue;
            }
        }
        let (left, right) = (glyph.x, glyph.x + glyph.width);
        pieces.push(Piece { text: glyph.text, left, right, y: glyph.y, size: glyph.size });
    }
    pieces.retain(|piece| !piece.text.trim().is_empty());
    pieces
}

/// Cuts a region into columns, else into blocks one above the other, and writes those that are whole.
fn cut(mut pieces: Vec<Piece>, paragraphs: &mut Vec<String>, depth: usize) {
    if pieces.is_empty() {
        return;
    }
    let size = median(pieces.iter().map(|piece| piece.size));
    if depth < 64 {
        if let Some(at) = gutter(&pieces, size) {
            let (left, right) = pieces.into_iter().partition(|piece| piece.right <= at);
            cut(left, paragraphs, depth + 1);
            cut(right, paragraphs, depth + 1);
            return;
        }
        if let Some(at) = band(&pieces, size) {
            let (above, below) = pieces.into_iter().partition(|piece| piece.y <= at);
            cut(above, paragraphs, depth + 1);
            cut(below, paragraphs, depth + 1);
            return;
        }
    }
    pieces.sort_by(|a, b| a.y.total_cmp(&b.y));
    flow(&lines(pieces), paragraphs);
}

/// Where a white stripe runs down between two columns of text; the widest.
fn gutter(pieces: &[Piece], size: f64) -> Option<f64> {
    let spans = merged(pieces.iter().map(|piece| (piece.left, piece.right)));
    let gaps = spans.windows(2).map(|pair| (pair[1].0 - pair[0].1, pair[0].1));
    let wide = gaps.filter(|(width, _)| *width >= GUTTER * size);
    let columns = wide.filter(|(_, at)| {
        let (left, right): (Vec<&Piece>, Vec<&Piece>) = pieces.iter().partition(|piece| piece.right <= *at);
        is_column(&left) && is_column(&right)
    });
    columns.max_by(|a, b| a.0.total_cmp(&b.0)).map(|(_, at)| at)
}

fn is_column(pieces: &[&Piece]) -> bool {
    let characters: usize = pieces.iter().map(|piece| piece.text.chars().count()).sum();
    pieces.len() >= MIN_COLUMN_PIECES && characters >= MIN_COLUMN_CHARACTERS * pieces.len()
}

/// Where a white band runs across between two blocks: the base line above it. The widest.
fn band(pieces: &[Piece], size: f64) -> Option<f64> {
    let spans = merged(pieces.iter().map(|piece| (piece.y - 0.8 * piece.size, piece.y + 0.2 * piece.size)));
    let gaps = spans.windows(2).map(|pair| (pair[1].0 - pair[0].1, (pair[0].1 + pair[1].0) / 2.0));
    gaps.filter(|(height, _)| *height >= BLOCK_GAP * size).max_by(|a, b| a.0.total_cmp(&b.0)).map(|(_, at)| at)
}

/// Intervals that overlap, joined; in order.
fn merged(spans: impl Iterator<Item = (f64, f64)>) -> Vec<(f64, f64)> {
    let mut spans: Vec<(f64, f64)> = spans.collect();
    spans.sort_by(|a, b| a.0.total_cmp(&b.0));
    let mut merged: Vec<(f64, f64)> = Vec::new();
    for (start, end) in spans {
        match merged.last_mut() {
            Some(last) if start <= last.1 => last.1 = last.1.max(end),
            _ => merged.push((start, end)),
        }
    }
    merged
}

/// Brings pieces that stand beside each other, sorted from the top, together into lines.
fn lines(pieces: Vec<Piece>) -> Vec<Piece> {
    let mut rows: Vec<Vec<Piece>> = Vec::new();
    for piece in pieces {
        match rows.last_mut() {
            Some(row) if (piece.y - row[0].y).abs() < OFF_LINE * piece.size.max(row[0].size) => row.push(piece),
            _ => rows.push(vec![piece]),
        }
    }
    let join = |mut row: Vec<Piece>| {
        row.sort_by(|a, b| a.left.total_cmp(&b.left));
        row.into_iter().reduce(|mut line, piece| {
            if piece.left - line.right > WORD_GAP * line.size && !line.text.ends_with(' ') {
                line.text.push(' ');
            }
            line.text.push_str(&piece.text);
            line.right = line.right.max(piece.right);
            line.size = line.size.max(piece.size);
            line
        })
    };
    rows.into_iter().filter_map(join).collect()
}

/// Joins the lines of a block to paragraphs.
fn flow(lines: &[Piece], paragraphs: &mut Vec<String>) {
    let left = lines.iter().map(|line| line.left).fold(f64::INFINITY, f64::min);
    let right = lines.iter().map(|line| line.right).fold(0.0, f64::max);
    let pitch = median(lines.windows(2).map(|pair| pair[1].y - pair[0].y));
    let mut paragraph = String::new();
    for (i, line) in lines.iter().enumerate() {
        let text = line.text.trim();
        if i > 0 {
            let before = &lines[i - 1];
            let far = line.y - before.y > 1.25 * pitch;
            let indented = line.left - left > 0.8 * line.size && line.left - before.left > 0.8 * line.size;
            let ended_short = before.right < left + 0.75 * (right - left);
            let other_type = (line.size - before.size).abs() > 0.15 * before.size;
            if far || indented || ended_short || other_type {
                paragraphs.push(std::mem::take(&mut paragraph));
            }
        }
        append(&mut paragraph, text);
    }
    paragraphs.push(paragraph);
}

/// Adds a line: a word that was divided becomes one again, and scripts without spaces get none.
fn append(paragraph: &mut String, line: &str) {
    let (last, next) = (paragraph.chars().next_back(), line.chars().next());
    let (Some(last), Some(next)) = (last, next) else {
        paragraph.push_str(line);
        return;
    };
    let divided = matches!(last, '-' | '\u{2010}' | '\u{AD}')
        && next.is_lowercase()
        && paragraph.chars().rev().nth(1).is_some_and(char::is_lowercase);
    if divided {
        paragraph.pop();
    } else if !(is_wide(last) && is_wide(next)) {
        paragraph.push(' ');
    }
    paragraph.push_str(line);
}

/// Chinese, Japanese (and their punctuation): written without spaces.
fn is_wide(c: char) -> bool {
    matches!(c, '\u{3000}'..='\u{30FF}' | '\u{3400}'..='\u{4DBF}' | '\u{4E00}'..='\u{9FFF}' | '\u{F900}'..='\u{FAFF}' | '\u{FF00}'..='\u{FFEF}')
}

fn median(values: impl Iterator<Item = f64>) -> f64 {
    let mut values: Vec<f64> = values.collect();
    values.sort_by(f64::total_cmp);
    values.get(values.len() / 2).copied().unwrap_or(0.0)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A line as it would be drawn, in a font of 10 points with glyphs 5 wide.
    fn line(text: &str, x: f64, y: f64) -> Vec<Glyph> {
        let glyph = |(i, c): (usize, char)| Glyph {
            text: c.to_string(),
            x: x + 5.0 * i as f64,
            y,
            size: 10.0,
            width: 5.0,
            upright: true,
        };
        text.chars().enumerate().map(glyph).filter(|glyph| glyph.text != " ").collect()
    }

    fn page(lines: &[(&str, f64, f64)]) -> String {
        text(PageGlyphs { glyphs: lines.iter().flat_map(|(t, x, y)| line(t, *x, *y)).collect(), unknown: 0 })
    }

    #[test]
    fn two_columns_are_read_one_after_the_other_below_a_title() {
        let mut lines = vec![("a title across both of the two columns here", 100.0, 50.0)];
        let left =
            ["the left column has a", "first paragraph that is", "four lines long and then", "comes to its end."];
        let right = ["the right column comes", "after the left one even", "if it was drawn with it", "line by line."];
        for i in 0..4 {
            let y = 100.0 + 12.0 * i as f64;
            lines.push((left[i], 50.0, y));
            lines.push((right[i], 250.0, y));
        }
        let expected = "a title across both of the two columns here\n\n\
            the left column has a first paragraph that is four lines long and then comes to its end.\n\n\
            the right column comes after the left one even if it was drawn with it line by line.";
        assert_eq!(page(&lines), expected);
    }

    #[test]
    fn rows_of_a_table_stay_together() {
        let text = page(&[("a", 50.0, 100.0), ("1", 150.0, 100.0), ("b", 50.0, 112.0), ("2", 150.0, 112.0)]);
        assert_eq!(text, "a 1 b 2");
    }

    #[test]
    fn words_divided_at_the_end_of_a_line_are_joined() {
        assert_eq!(page(&[("a long para-", 50.0, 100.0), ("graph of text", 50.0, 112.0)]), "a long paragraph of text");
    }

    #[test]
    fn what_is_drawn_twice_is_read_once() {
        assert_eq!(page(&[("bold", 50.0, 100.0), ("bold", 50.1, 100.0)]), "bold");
    }
}
