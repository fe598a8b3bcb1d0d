//! Settings: numbers of `config.json` that are metadata.

use cupola_artifact::{Error, Result};
use serde_json::{Map, Value, json};

use super::rows::Heads;
use crate::value::{Metadata, Value as Entry};

/// A setting with a key of its own.
pub struct Setting {
    /// Its names in `config.json`; the first is written.
    config: &'static [&'static str],
    /// Its key after the architecture's name.
    key: &'static str,
    /// What `config.json` means without it; none: it has to be there.
    default: Option<bool>,
    kind: Kind,
}

#[derive(Clone, Copy)]
enum Kind {
    Count,
    Number,
    Flag,
}

/// A whole number that must be there.
pub const fn count(config: &'static [&'static str], key: &'static str) -> Setting {
    Setting { config, key, default: None, kind: Kind::Count }
}

/// A number that must be there.
pub const fn number(config: &'static [&'static str], key: &'static str) -> Setting {
    Setting { config, key, default: None, kind: Kind::Number }
}

/// True or false.
pub const fn flag(config: &'static [&'static str], key: &'static str, default: bool) -> Setting {
    Setting { config, key, default: Some(default), kind: Kind::Flag }
}

/// A setting that llama.cpp takes for granted.
pub struct Fixed {
    /// Its name in `config.json`.
    config: &'static str,
    /// What it may be; the first is written, and meant where it is absent.
    values: &'static [Constant],
}

/// A constant of JSON.
pub enum Constant {
    /// True or false.
    Flag(bool),
    /// A text.
    Text(&'static str),
    /// A whole number.
    Count(u64),
}

/// A setting that llama.cpp takes for granted.
pub const fn fixed(config: &'static str, values: &'static [Constant]) -> Fixed {
    Fixed { config, values }
}

/// The activation of Llama and most that came after.
pub const SILU: Fixed = fixed("hidden_act", &[Constant::Text("silu"), Constant::Text("swish")]);

impl Constant {
    fn json(&self) -> Value {
        match self {
            Self::Flag(flag) => json!(flag),
            Self::Text(text) => json!(text),
            Self::Count(count) => json!(count),
        }
    }
}

impl Setting {
    /// Whether it has to be in a file of the architecture.
    pub fn key_of_required(&self) -> Option<&'static str> {
        self.default.is_none().then_some(self.key)
    }

    /// From `config.json` to metadata.
    pub fn write(&self, export: &mut Export<'_>) -> Result<()> {
        let value = export.get(self.config).cloned().or(self.default.map(Value::Bool));
        let name = self.config.first().copied().unwrap_or_default();
        let value = value.ok_or_else(|| Error::failed(format!("config.json has no `{name}`")))?;
        let wrong = || Error::failed(format!("`{name}` in config.json is {value}"));
        match self.kind {
            Kind::Count => {
                let count = value.as_u64().and_then(|n| u32::try_from(n).ok());
                export.set(self.key, count.ok_or_else(wrong)?);
            }
            Kind::Number => export.set(self.key, value.as_f64().ok_or_else(wrong)? as f32),
            Kind::Flag => export.set(self.key, value.as_bool().ok_or_else(wrong)?),
        }
        Ok(())
    }

    /// From metadata to `config.json`.
    pub fn read(&self, file: &mut Described<'_>) -> Result<()> {
        let key = file.key(self.key);
        let value = match self.kind {
            Kind::Count => file.metadata.size(&key)?.map(|n| json!(n)),
            Kind::Number => file.metadata.number(&key)?.map(plain),
            Kind::Flag => file.metadata.flag(&key)?.map(|flag| json!(flag)),
        };
        let value = file.metadata.required(&key, value.or(self.default.map(Value::Bool)))?;
        let name = self.config.first().copied().unwrap_or_default();
        file.config.insert(name.into(), value);
        Ok(())
    }
}

/// A number that was stored in 32 bits, as short as it was: 1e-5 and not 9.99999974e-6.
pub fn plain(number: f64) -> Value {
    let short: Option<f64> = format!("{}", number as f32).parse().ok();
    json!(short.filter(|short| (*short as f32) == number as f32).unwrap_or(number))
}

impl Fixed {
    /// Refuses what llama.cpp would compute otherwise.
    pub fn check(&self, export: &Export<'_>) -> Result<()> {
        let Some(value) = export.get(&[self.config]) else { return Ok(()) };
        if self.values.iter().any(|fixed| fixed.json() == *value) {
            return Ok(());
        }
        let known: Vec<String> = self.values.iter().map(|v| v.json().to_string()).collect();
        Err(Error::failed(format!(
            "`{}` in config.json is {value}, which llama.cpp cannot compute for `{}`",
            self.config, export.arch
        ))
        .with_hint(format!("it can where this is {}", known.join(" or "))))
    }

    /// Writes what is taken for granted.
    pub fn read(&self, config: &mut Map<String, Value>) {
        if let Some(value) = self.values.first() {
            config.insert(self.config.into(), value.json());
        }
    }
}

/// A model on its way to a file.
pub struct Export<'a> {
    /// `config.json`.
    pub config: &'a Map<String, Value>,
    /// `general.architecture`.
    pub arch: &'static str,
    /// What is being written.
    pub metadata: Metadata,
    /// Tensors that only settings stand behind.
    pub made: Vec<(&'static str, Vec<f32>)>,
    /// The rows of the table of positions before the first.
    pub unused: usize,
}

impl Export<'_> {
    /// The first of several names that is there and not null.
    pub fn get(&self, names: &[&str]) -> Option<&Value> {
        names.iter().find_map(|name| self.config.get(*name)).filter(|v| !v.is_null())
    }

    /// A whole number.
    ///
    /// # Errors
    /// When it is absent.
    pub fn size(&self, names: &[&str]) -> Result<usize> {
        let found = self.get(names).and_then(Value::as_u64).and_then(|n| usize::try_from(n).ok());
        found.filter(|n| (1..1 << 32).contains(n)).ok_or_else(|| {
            Error::failed(format!("config.json has no number `{}`", names.first().copied().unwrap_or_default()))
        })
    }

    /// A whole number, or what it is where it is absent.
    pub fn size_or(&self, names: &[&str], default: usize) -> Result<usize> {
        if self.get(names).is_some() { self.size(names) } else { Ok(default) }
    }

    /// Sets a key of the architecture to a size of the model.
    pub fn set_size(&mut self, key: &str, size: usize) -> Result<()> {
        let size = u32::try_from(size).map_err(|_| Error::failed(format!("config.json has the size {size}")))?;
        self.set(key, size);
        Ok(())
    }

    /// Sets a key of the architecture.
    pub fn set(&mut self, key: &str, value: impl Into<Entry>) {
        self.metadata.set(format!("{}.{key}", self.arch), value);
    }

    /// The heads that the metadata names by now.
    ///
    /// # Errors
    /// Metadata without heads.
    pub fn heads(&self) -> Result<Heads> {
        heads(&self.metadata, self.arch)
    }

    /// No longer contexts than a window: within it all layers reach everything, as llama.cpp lets them.
    pub fn limit_context(&mut self, window: Option<usize>) -> Result<()> {
        let longest = self.metadata.size(&format!("{}.context_length", self.arch))?;
        if let (Some(window), Some(longest)) = (window, longest)
            && window < longest
        {
            self.set("context_length", window as u32);
        }
        Ok(())
    }
}

/// A file on its way to a model.
pub struct Described<'a> {
    /// Its metadata.
    pub metadata: &'a Metadata,
    /// `general.architecture`.
    pub arch: &'static str,
    /// Whether it has a tensor.
    pub has: &'a dyn Fn(&str) -> bool,
    /// `config.json`.
    pub config: Map<String, Value>,
    /// How many numbers of a head can be rotated, if that is not its width.
    pub rotated: Option<usize>,
}

impl Described<'_> {
    /// A key of the architecture.
    pub fn key(&self, key: &str) -> String {
        format!("{}.{key}", self.arch)
    }

    /// A whole number, if it is there.
    pub fn size(&self, key: &str) -> Result<Option<usize>> {
        self.metadata.size(&self.key(key))
    }

    /// A number, if it is there.
    pub fn number(&self, key: &str) -> Result<Option<f64>> {
        self.metadata.number(&self.key(key))
    }

    /// Sets a setting.
    pub fn set(&mut self, name: &str, value: Value) {
        self.config.insert(name.into(), value);
    }
}

/// The heads that metadata names.
pub fn heads(metadata: &Metadata, arch: &str) -> Result<Heads> {
    let key = format!("{arch}.attention.head_count");
    let queries = metadata.required(&key, metadata.size(&key)?)?;
    let of_keys = format!("{arch}.attention.head_count_kv");
    // Some files name them layer by layer: none where there is no attention.
    let keys = match metadata.get(&of_keys) {
        Some(Entry::Array(_)) => {
            let layers = metadata.integers(&of_keys)?.unwrap_or_default();
            layers.into_iter().max().and_then(|n| usize::try_from(n).ok()).unwrap_or(queries)
        }
        _ => metadata.size(&of_keys)?.unwrap_or(queries),
    };
    Ok(Heads { queries, keys })
}
