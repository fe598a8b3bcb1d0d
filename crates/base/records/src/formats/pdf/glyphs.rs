//! The glyphs of a PDF's pages: what they mean and where they stand.

use std::panic::resume_unwind;
use std::time::Instant;

use hayro_interpret::font::{Glyph as FontGlyph, GlyphRun};
use hayro_interpret::hayro_cmap::BfString;
use hayro_interpret::hayro_syntax::Pdf;
use hayro_interpret::hayro_syntax::page::Page;
use hayro_interpret::kurbo::{Affine, BezPath, Point, Rect};
use hayro_interpret::{
    BlendMode, ClipPath, Context, Device, DrawMode, DrawProps, Image, ImageDrawProps, InterpreterCache,
    InterpreterSettings, SoftMask, TransformExt, interpret_page,
};

/// A glyph: its text, where its base line begins (points from the page's upper left corner), and its size.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Glyph {
    pub text: String,
    pub x: f64,
    pub y: f64,
    /// The height of a line in this font, points.
    pub size: f64,
    /// How far to the right the next glyph belongs, points.
    pub width: f64,
    /// The line runs across the page and not up or down.
    pub upright: bool,
}

/// A page's glyphs in the order in which they are drawn.
#[derive(Default)]
pub(super) struct PageGlyphs {
    pub glyphs: Vec<Glyph>,
    /// Glyphs of which the font does not say what they mean.
    pub unknown: usize,
}

/// Thrown to get out of the interpreter.
pub(super) struct Abandoned(&'static str);

impl Abandoned {
    pub fn why(&self) -> &'static str {
        self.0
    }
}

/// Page after page, in order.
pub(super) fn pages(pdf: &Pdf, deadline: Instant, max_glyphs: usize) -> impl Iterator<Item = PageGlyphs> {
    let cache = InterpreterCache::new();
    pdf.pages().iter().map(move |page| {
        let (width, height) = page.render_dimensions();
        let bounds = Rect::new(0.0, 0.0, f64::from(width), f64::from(height));
        let upright = page.initial_transform(true).to_kurbo();
        let settings = InterpreterSettings::default();
        let mut context = Context::new(upright, bounds, &cache, pdf.xref(), settings);
        let mut reader = Reader { page: PageGlyphs::default(), bounds, deadline, max_glyphs };
        reader.interpret(page, &mut context);
        reader.page
    })
}

struct Reader {
    page: PageGlyphs,
    bounds: Rect,
    deadline: Instant,
    max_glyphs: usize,
}

impl Reader {
    fn interpret<'a>(&mut self, page: &Page<'a>, context: &mut Context<'a>) {
        self.check();
        interpret_page(page, context, self);
    }

    /// Gets out when it takes too long. Not a panic that is reported: the caller catches it.
    fn check(&self) {
        if Instant::now() > self.deadline {
            resume_unwind(Box::new(Abandoned("reading the PDF took longer than a minute")));
        }
        if self.page.glyphs.len() > self.max_glyphs {
            resume_unwind(Box::new(Abandoned("a page of the PDF has more than a million glyphs")));
        }
    }
}

/// In thousandths of the font's size.
fn advance(glyph: &FontGlyph<'_>) -> Option<f32> {
    match glyph {
        FontGlyph::Outline(outline) => outline.advance_width(),
        FontGlyph::Type3(drawn) => drawn.advance_width(),
    }
}

impl Device<'_> for Reader {
    fn draw_path(&mut self, _: &BezPath, _: DrawProps<'_>, _: &DrawMode) {
        self.check();
    }

    fn push_clip_path(&mut self, _: &ClipPath) {}

    fn push_transparency_group(&mut self, _: f32, _: Option<SoftMask<'_>>, _: BlendMode) {}

    fn draw_glyph_run(&mut self, run: &GlyphRun<'_, '_>, props: DrawProps<'_>, _: &DrawMode) {
        self.check();
        for glyph in run.glyphs() {
            let place: Affine = props.transform * glyph.transform();
            let at = place * Point::ZERO;
            let along = place * Point::new(0.0, 1000.0);
            let text = match glyph.as_unicode() {
                Some(BfString::Char(c)) => c.to_string(),
                Some(BfString::String(text)) => text,
                None => {
                    self.page.unknown += 1;
                    continue;
                }
            };
            let size = (along - at).hypot();
            if !at.x.is_finite() || !at.y.is_finite() || !self.bounds.inflate(size, size).contains(at) {
                continue;
            }
            let right = place * Point::new(1000.0, 0.0) - at;
            let width =
                advance(glyph).map_or(0.5 * size, |thousandths| right.hypot() * f64::from(thousandths) / 1000.0);
            let upright = right.x >= right.y.abs();
            self.page.glyphs.push(Glyph { text, x: at.x, y: at.y, size, width, upright });
        }
    }

    fn draw_image(&mut self, _: Image<'_, '_>, _: ImageDrawProps<'_>) {}

    fn pop_clip(&mut self) {}

    fn pop_transparency_group(&mut self) {}
}
