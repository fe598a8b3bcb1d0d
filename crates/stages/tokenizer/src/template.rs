//! Chat templates, rendered as transformers renders them.

use std::sync::Arc;

use cupola_artifact::{Error, Result};
use minijinja::syntax::SyntaxConfig;
use minijinja::value::Serde;
use minijinja::{Environment, ErrorKind, Value as JinjaValue};
use serde_json::{Map, Value};

use crate::pycompat;

/// Set around the output of `{% generation %}` blocks; characters that Unicode reserves for use inside a program.
const BLOCK_START: char = '\u{fdd1}';
const BLOCK_END: char = '\u{fdd2}';

/// Steps and bytes that one rendering may take: far more than any conversation needs, and over in a few seconds.
const FUEL: u64 = 50_000_000;

/// A compiled chat template.
#[derive(Clone)]
pub struct ChatTemplate {
    source: Arc<str>,
    environment: Arc<Environment<'static>>,
    bos_token: Option<String>,
    eos_token: Option<String>,
}

/// The sources of a tokenizer's chat templates.
#[derive(Clone, Debug, Default)]
pub(crate) struct TemplateSources {
    pub default: Option<String>,
    /// Others by name.
    pub named: Vec<(String, String)>,
}

impl TemplateSources {
    pub(crate) fn set(&mut self, name: &str, source: String) {
        if name == "default" {
            self.default = Some(source);
        } else if let Some((_, old)) = self.named.iter_mut().find(|(n, _)| n == name) {
            *old = source;
        } else {
            self.named.push((name.to_owned(), source));
        }
    }
}

/// What a template is given beside the messages.
#[derive(Clone, Debug, Default)]
pub struct RenderOptions {
    /// Whether the text shall end where the assistant is to go on.
    pub add_generation_prompt: bool,
    /// Descriptions of functions that the assistant may call, as JSON schemas; `Null` for none.
    pub tools: Value,
    /// More variables, e.g. `enable_thinking`.
    pub extra: Map<String, Value>,
}

/// A rendered chat.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Rendered {
    pub text: String,
    /// Byte ranges of `text` that came out of `{% generation %}` blocks.
    pub blocks: Vec<(usize, usize)>,
}

impl ChatTemplate {
    /// Compiles a template; its errors name the line.
    pub fn new(source: String, bos_token: Option<String>, eos_token: Option<String>) -> Result<Self> {
        let mut environment = Environment::new();
        let syntax = SyntaxConfig::builder().trim_blocks(true).lstrip_blocks(true).build();
        environment.set_syntax(syntax.map_err(|e| template_error("cannot set up chat templates", &e))?);
        environment.set_fuel(Some(FUEL));
        environment.set_unknown_method_callback(pycompat::call_method);
        environment.add_filter("tojson", pycompat::tojson);
        environment.add_filter("cupola_generation", |text: &str| format!("{BLOCK_START}{text}{BLOCK_END}"));
        environment.add_function("raise_exception", |text: String| -> Result<JinjaValue, minijinja::Error> {
            Err(minijinja::Error::new(ErrorKind::InvalidOperation, text))
        });
        environment.add_function("strftime_now", |format: &str| pycompat::strftime_now(format));
        environment
            .add_template_owned("chat_template", rewrite_generation_tags(&source))
            .map_err(|e| template_error("the chat template has a mistake", &e))?;
        Ok(Self { source: source.into(), environment: Arc::new(environment), bos_token, eos_token })
    }

    /// The Jinja source.
    pub fn source(&self) -> &str {
        &self.source
    }

    /// Renders messages, each an object with at least `role` and `content`.
    pub fn render(&self, messages: &[Value], options: &RenderOptions) -> Result<String> {
        Ok(self.render_marked(messages, options)?.text)
    }

    /// Renders and tells where the `{% generation %}` blocks are.
    pub(crate) fn render_marked(&self, messages: &[Value], options: &RenderOptions) -> Result<Rendered> {
        let mut variables = options.extra.clone();
        variables.insert("messages".to_owned(), Value::Array(messages.to_vec()));
        variables.insert("tools".to_owned(), options.tools.clone());
        variables.insert("documents".to_owned(), Value::Null);
        variables.insert("add_generation_prompt".to_owned(), Value::Bool(options.add_generation_prompt));
        for (name, token) in [("bos_token", &self.bos_token), ("eos_token", &self.eos_token)] {
            if let Some(token) = token {
                variables.insert(name.to_owned(), Value::String(token.clone()));
            }
        }
        let text = self
            .environment
            .get_template("chat_template")
            .and_then(|t| t.render(JinjaValue::from(Serde(&variables))))
            .map_err(|e| template_error("the chat template refuses these messages", &e))?;
        Ok(take_marks(&text))
    }
}

impl std::fmt::Debug for ChatTemplate {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_tuple("ChatTemplate").field(&self.source).finish()
    }
}

fn template_error(what: &str, error: &minijinja::Error) -> Error {
    let place = error.line().map(|line| format!(" in line {line}")).unwrap_or_default();
    let detail = error.detail().map_or_else(|| error.kind().to_string(), str::to_owned);
    if error.kind() == ErrorKind::OutOfFuel {
        return Error::failed(format!("{what}: it does not come to an end{place}"))
            .with_hint("a loop or a macro in the template runs too long");
    }
    Error::failed(format!("{what}: {detail}{place}"))
}

/// Removes the marks of generation blocks and notes where they were.
fn take_marks(marked: &str) -> Rendered {
    let mut rendered = Rendered { text: String::with_capacity(marked.len()), blocks: Vec::new() };
    let mut open = Vec::new();
    for c in marked.chars() {
        match c {
            BLOCK_START => open.push(rendered.text.len()),
            BLOCK_END => {
                if let Some(start) = open.pop() {
                    rendered.blocks.push((start, rendered.text.len()));
                }
            }
            c => rendered.text.push(c),
        }
    }
    rendered
}

/// Turns transformers' `{% generation %} … {% endgeneration %}`, which marks what the assistant writes, into a block
/// that this engine knows; how the tags strip white space stays.
fn rewrite_generation_tags(source: &str) -> String {
    let mut out = String::with_capacity(source.len());
    let mut rest = source;
    while let Some(start) = rest.find("{%") {
        out.push_str(&rest[..start]);
        rest = &rest[start..];
        let Some(end) = rest.find("%}").map(|e| e + 2) else { break };
        let inside = &rest[2..end - 2];
        let name = inside.trim_start_matches(['-', '+']).trim_end_matches(['-', '+']).trim();
        let new = match name {
            "generation" => "filter cupola_generation",
            "endgeneration" => "endfilter",
            _ => {
                out.push_str("{%");
                rest = &rest[2..];
                continue;
            }
        };
        out.push_str("{%");
        out.push_str(&inside.replacen(name, new, 1));
        out.push_str("%}");
        rest = &rest[end..];
    }
    out.push_str(rest);
    out
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "tests")]
mod tests {
    use serde_json::json;

    use super::*;

    fn render(source: &str) -> Rendered {
        let template = ChatTemplate::new(source.to_owned(), Some("<s>".to_owned()), None).unwrap();
        template.render_marked(&[json!({"role": "user", "content": "Hi"})], &RenderOptions::default()).unwrap()
    }

    #[test]
    fn generation_blocks_are_transparent_and_found() {
        let rendered = render("a {%- generation -%}  b c  {%- endgeneration %}\nd");
        assert_eq!(rendered, Rendered { text: "ab cd".to_owned(), blocks: vec![(1, 4)] });
    }

    #[test]
    fn the_usual_python_methods_work() {
        let text = "{{ ' a,b '.strip().split(',') | join('+') }} {{ 'abc'.startswith(('x', 'ab')) }} \
                    {{ {'a': 1}.get('b', 2) }} {% for k, v in {'z': 1, 'a': 2}.items() %}{{ k }}{{ v }}{% endfor %}";
        assert_eq!(render(text).text, "a+b True 2 z1a2");
    }

    #[test]
    fn json_is_written_as_python_writes_it() {
        assert_eq!(
            render("{{ {'b': 'ü<\\n', 'a': [1, none, true]} | tojson }}").text,
            r#"{"b": "ü<\n", "a": [1, null, true]}"#
        );
        assert_eq!(render("{{ {'a': [1, {}]} | tojson(indent=2) }}").text, "{\n  \"a\": [\n    1,\n    {}\n  ]\n}");
    }

    #[test]
    fn a_mistake_in_a_template_names_its_line() {
        let error = ChatTemplate::new("ok\n{% if %}".to_owned(), None, None).unwrap_err();
        assert!(error.to_string().contains("in line 2"), "{error}");
    }

    #[test]
    fn the_template_can_refuse() {
        let template =
            ChatTemplate::new("{{ raise_exception('roles must alternate') }}".to_owned(), None, None).unwrap();
        let error = template.render(&[], &RenderOptions::default()).unwrap_err();
        assert!(error.to_string().contains("roles must alternate"), "{error}");
    }
}
