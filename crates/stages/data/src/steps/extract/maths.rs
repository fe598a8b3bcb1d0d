//! Formulas as TeX, where the page has them as such: an annotation of MathML, a script of MathJax, a picture's text.

use super::entities::decode;
use super::tags::Tag;
use super::tree::{Node, Tree};

/// A formula.
pub struct Formula {
    pub tex: String,
    /// Stands in a line of its own.
    pub display: bool,
}

/// The formula of a `math` or `script` element.
pub fn of_element(tree: &Tree<'_>, i: usize) -> Option<Formula> {
    let node = &tree.nodes[i];
    if node.tag == Tag::Script {
        let kind = tree.attribute(node, "type")?.trim();
        let display = kind.strip_prefix("math/tex")?.contains("mode=display");
        // A script's content is as it stands, without references.
        let text = tree.inside(i).next().map(|text| tree.raw(&tree.nodes[text]).to_owned())?;
        return formula(&text, display);
    }
    let display = tree.attribute(node, "display").is_some_and(|display| display.eq_ignore_ascii_case("block"));
    let annotation = tree.inside(i).find(|&i| {
        let node = &tree.nodes[i];
        node.tag == Tag::Annotation
            && tree.attribute(node, "encoding").is_some_and(|e| e.contains("tex") || e.contains("TeX"))
    });
    let annotation = annotation.map(|i| {
        let texts = tree.inside(i).filter(|&i| tree.nodes[i].tag == Tag::Text);
        decode(&texts.map(|i| tree.raw(&tree.nodes[i])).collect::<String>(), false)
    });
    let tex = annotation.or_else(|| Some(decode(tree.attribute(node, "alttext")?, true)))?;
    formula(&tex, display)
}

/// The formula of a picture that is named as one. Pages hide such pictures from screen readers, so hidden ones count too.
pub fn of_picture(tree: &Tree<'_>, node: &Node) -> Option<Formula> {
    let display = tree.attribute(node, "class").is_some_and(|class| class.contains("display"));
    formula(&decode(tree.attribute(node, "alt")?, true), display)
}

/// Without what only sets the size, and in one line.
fn formula(tex: &str, display: bool) -> Option<Formula> {
    let mut tex = tex.split_whitespace().collect::<Vec<_>>().join(" ");
    for style in ["{\\displaystyle ", "{\\textstyle "] {
        if let Some(inner) = tex.strip_prefix(style).and_then(|rest| rest.strip_suffix('}')) {
            tex = inner.trim().to_owned();
        }
    }
    let bare = tex.trim_matches('$').trim();
    (!bare.is_empty()).then(|| Formula { tex: bare.to_owned(), display })
}
