//! Tables: those with data become Markdown's, those that only arrange become the blocks they contain.

use super::hints::LAYOUT;
use super::markdown::Renderer;
use super::tags::Tag;
use super::tree::Tree;

/// More columns than this are not filled up, so that a small page does not become a large table.
const MAX_COLUMNS: usize = 64;
/// Cells of data are not longer than this on average, in bytes as they are in the source.
const LONG_CELL: usize = 1000;

/// Writes the table at a node.
pub fn write(page: &mut Renderer<'_, '_>, table: usize) {
    if !page.settings.tables {
        return;
    }
    page.writer.block();
    if page.writer.is_flat() || !has_data(page.tree, table) {
        page.children(table);
    } else {
        let rows = rows(page, table);
        let columns = rows.iter().map(Vec::len).max().unwrap_or(0);
        // A box with a sign beside it, or a list.
        if rows.iter().all(|row| row.iter().filter(|cell| !cell.is_empty()).count() < 2) {
            for cell in rows.iter().flatten() {
                page.writer.block();
                page.writer.verbatim(cell);
            }
            return page.writer.block();
        }
        for (i, row) in rows.iter().enumerate() {
            page.writer.line();
            page.writer.verbatim(&line(row, columns));
            if i == 0 {
                page.writer.line();
                page.writer.verbatim(&format!("|{}", " --- |".repeat(columns)));
            }
        }
    }
    page.writer.block();
}

/// Rows and columns of short texts.
fn has_data(tree: &Tree<'_>, table: usize) -> bool {
    use Tag::*;
    if tree.nodes[table].flags & LAYOUT != 0 {
        return false;
    }
    let (mut rows, mut cells, mut columns, mut row_start) = (0, 0, 0, 0);
    for i in tree.inside(table) {
        match tree.nodes[i].tag {
            Table | Pre | Blockquote | Hr | H1 | H2 | H3 | H4 | H5 | H6 | Ul | Ol | Dl | Article | Section | Main
            | Form => {
                return false;
            }
            Tr => {
                rows += 1;
                row_start = cells;
            }
            Td | Th => {
                cells += 1;
                columns = columns.max(cells - row_start);
            }
            _ => {}
        }
    }
    let node = &tree.nodes[table];
    let bytes = tree.nodes.get(node.end as usize - 1).map_or(0, |last| last.stop.saturating_sub(node.stop)) as usize;
    rows > 1 && columns > 1 && bytes / cells.max(1) < LONG_CELL
}

/// The cells' texts; what spans several columns or rows is followed by empty ones.
fn rows(page: &mut Renderer<'_, '_>, table: usize) -> Vec<Vec<String>> {
    let tree = page.tree;
    let mut rows: Vec<Vec<String>> = Vec::new();
    // For how many more rows each column is taken by a cell above.
    let mut taken: Vec<usize> = Vec::new();
    let mut i = table + 1;
    while i < tree.nodes[table].end as usize {
        let node = &tree.nodes[i];
        if page.dropped[i] {
            i = node.end as usize;
            continue;
        }
        match node.tag {
            Tag::Caption => {
                let text = page.flat(i);
                page.writer.verbatim(text.trim());
                page.writer.block();
                i = node.end as usize;
                continue;
            }
            Tag::Tr => rows.push(Vec::new()),
            Tag::Td | Tag::Th => {
                let span = |name| {
                    tree.attribute(node, name).and_then(|n| n.trim().parse().ok()).unwrap_or(1).clamp(1, MAX_COLUMNS)
                };
                let text = page.flat(i).trim().replace('|', "\\|");
                place(&mut rows, &mut taken, text, span("colspan"), span("rowspan"));
                i = node.end as usize;
                continue;
            }
            _ => {}
        }
        i += 1;
    }
    rows.retain(|row| row.iter().any(|cell| !cell.is_empty()));
    rows
}

fn place(rows: &mut Vec<Vec<String>>, taken: &mut Vec<usize>, text: String, columns: usize, height: usize) {
    if rows.is_empty() {
        rows.push(Vec::new());
    }
    let Some(row) = rows.last_mut() else { return };
    while row.len() < MAX_COLUMNS && taken.get(row.len()).is_some_and(|&rows| rows > 0) {
        taken[row.len()] -= 1;
        row.push(String::new());
    }
    for i in 0..columns {
        if row.len() >= MAX_COLUMNS && i > 0 {
            break;
        }
        if row.len() < MAX_COLUMNS {
            taken.resize(taken.len().max(row.len() + 1), 0);
            taken[row.len()] = height - 1;
        }
        row.push(if i == 0 { text.clone() } else { String::new() });
    }
}

fn line(row: &[String], columns: usize) -> String {
    let mut out = String::from("|");
    for i in 0..columns.min(MAX_COLUMNS).max(row.len()) {
        out.push(' ');
        out.push_str(row.get(i).map_or("", String::as_str));
        out.push_str(" |");
    }
    out
}
