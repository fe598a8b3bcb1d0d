//! What a model is asked: a template with the document as its context.

use cupola_artifact::{Error, Result, nearest};
use cupola_records::Document;
use minijinja::{Environment, Error as JinjaError, ErrorKind, UndefinedBehavior, context, value::Serde};

/// Steps of the template engine that a document may take.
const FUEL: u64 = 1_000_000;

/// The names that a template may use.
const NAMES: [&str; 6] = ["text", "id", "source", "fields", "n", "rubric"];

const TEMPLATE: &str = "prompt";

/// A compiled template.
#[derive(Debug)]
pub struct Prompt {
    environment: Environment<'static>,
}

impl Prompt {
    /// Compiles a template; its errors name the line, not what stands there.
    pub fn new(source: &str) -> Result<Self> {
        let mut environment = Environment::new();
        environment.set_fuel(Some(FUEL));
        environment.set_undefined_behavior(UndefinedBehavior::SemiStrict);
        environment.add_template_owned(TEMPLATE, source.to_owned()).map_err(|e| {
            Error::usage(format!("the `prompt` of `synthesize` has a mistake{}: {}", place(&e), e.kind()))
        })?;
        let globals: Vec<String> = environment.globals().map(|(name, _)| name.to_owned()).collect();
        let template = environment.get_template(TEMPLATE).map_err(|e| Error::failed(e.kind().to_string()))?;
        let mut unknown: Vec<String> = template
            .undeclared_variables(false)
            .into_iter()
            .filter(|name| !NAMES.contains(&name.as_str()) && !globals.contains(name))
            .collect();
        unknown.sort_unstable();
        drop(template);
        if let Some(name) = unknown.first() {
            let error = Error::usage(format!("the `prompt` of `synthesize` uses `{name}`, which it is not given"));
            return Err(match nearest(name, NAMES) {
                Some(near) => error.with_hint(format!("did you mean `{near}`?")),
                None => error.with_hint(format!(
                    "it is given {}; what else is known of a document is in `fields`",
                    NAMES.join(", ")
                )),
            });
        }
        Ok(Self { environment })
    }

    /// The question about a document, whose text is given as far as it may go.
    pub fn render(&self, document: &Document, text: &str, n: usize, rubric: &str) -> Result<String, String> {
        let (id, source, fields) = (&document.id, &document.source, Serde(&document.fields));
        let context = context! { text, id, source, fields, n, rubric };
        self.environment
            .get_template(TEMPLATE)
            .and_then(|template| template.render(context))
            .map_err(|e| format!("the prompt cannot be made of this document{}: {}", place(&e), e.kind()))
    }
}

fn place(error: &JinjaError) -> String {
    let what = if error.kind() == ErrorKind::OutOfFuel { ", it does not come to an end" } else { "" };
    error.line().map_or(String::new(), |line| format!(" in line {line}{what}"))
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "a failing test should panic")]
mod tests {
    use serde_json::json;

    use super::*;

    fn document() -> Document {
        let mut document = Document::new("d1", "the whole text", "a.jsonl");
        document.fields.insert("language".into(), json!("en"));
        document
    }

    #[test]
    fn the_document_is_the_context() {
        let prompt = Prompt::new("{{ n }} of {{ id }} ({{ fields.language }}, {{ source }}): {{ text }}").unwrap();
        assert_eq!(prompt.render(&document(), "the", 2, "").unwrap(), "2 of d1 (en, a.jsonl): the");
        let prompt =
            Prompt::new("{% if fields.title %}{{ fields.title }}{% endif %}{% for i in range(2) %}{{ i }}{% endfor %}");
        assert_eq!(prompt.unwrap().render(&document(), "", 1, "").unwrap(), "01");
    }

    #[test]
    fn mistakes_are_told_without_the_prompt() {
        let error = Prompt::new("secret\n{{ txet }}").unwrap_err();
        assert!(error.chain().contains("`txet`") && error.hint().unwrap().contains("`text`"), "{error:?}");
        let error = Prompt::new("secret\n{% if %}").unwrap_err().chain();
        assert!(error.contains("line 2") && !error.contains("secret"), "{error}");
        let error = Prompt::new("secret {{ fields.title }}").unwrap().render(&document(), "", 1, "").unwrap_err();
        assert!(error.contains("line 1") && !error.contains("secret"), "{error}");
        let endless = "{% for a in range(9999) %}{% for b in range(9999) %}{% endfor %}{% endfor %}";
        let error = Prompt::new(endless).unwrap().render(&document(), "", 1, "").unwrap_err();
        assert!(error.contains("does not come to an end"), "{error}");
    }
}
