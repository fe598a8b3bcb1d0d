//! Metadata: keys with values of thirteen types.

use cupola_artifact::{Error, Result};

/// Declares the values, the arrays of them, and what goes between bytes and both, from one list of number types.
macro_rules! values {
    ($($kind:ident $type:ident $id:literal),* $(,)?) => {
        /// A value.
        #[expect(missing_docs, reason = "the names say it")]
        #[derive(Clone, Debug, PartialEq)]
        pub enum Value {
            $($kind($type),)*
            Bool(bool),
            String(String),
            Array(Array),
        }

        /// Values of one type, one after the other.
        #[expect(missing_docs, reason = "the names say it")]
        #[derive(Clone, Debug, PartialEq)]
        pub enum Array {
            $($kind(Vec<$type>),)*
            Bool(Vec<bool>),
            String(Vec<String>),
            Array(Vec<Array>),
        }

        $(impl From<$type> for Value {
            fn from(value: $type) -> Self {
                Self::$kind(value)
            }
        }
        impl From<Vec<$type>> for Value {
            fn from(values: Vec<$type>) -> Self {
                Self::Array(Array::$kind(values))
            }
        })*

        impl Value {
            /// The number by which files name its type.
            pub(crate) fn type_id(&self) -> u32 {
                match self {
                    $(Self::$kind(_) => $id,)*
                    Self::Bool(_) => BOOL,
                    Self::String(_) => STRING,
                    Self::Array(_) => ARRAY,
                }
            }

            /// Appends it as files have it.
            pub(crate) fn write(&self, out: &mut Vec<u8>) {
                match self {
                    $(Self::$kind(v) => out.extend(v.to_le_bytes()),)*
                    Self::Bool(v) => out.push(u8::from(*v)),
                    Self::String(v) => write_text(v, out),
                    Self::Array(v) => v.write(out),
                }
            }
        }

        impl Array {
            fn type_id(&self) -> u32 {
                match self {
                    $(Self::$kind(_) => $id,)*
                    Self::Bool(_) => BOOL,
                    Self::String(_) => STRING,
                    Self::Array(_) => ARRAY,
                }
            }

            /// How many values there are.
            pub fn len(&self) -> usize {
                match self {
                    $(Self::$kind(v) => v.len(),)*
                    Self::Bool(v) => v.len(),
                    Self::String(v) => v.len(),
                    Self::Array(v) => v.len(),
                }
            }

            fn write(&self, out: &mut Vec<u8>) {
                out.extend(self.type_id().to_le_bytes());
                out.extend((self.len() as u64).to_le_bytes());
                match self {
                    $(Self::$kind(v) => v.iter().for_each(|v| out.extend(v.to_le_bytes())),)*
                    Self::Bool(v) => out.extend(v.iter().map(|v| u8::from(*v))),
                    Self::String(v) => v.iter().for_each(|v| write_text(v, out)),
                    Self::Array(v) => v.iter().for_each(|v| v.write(out)),
                }
            }
        }

        /// Reads a single number; `None` when the type is none of numbers.
        pub(crate) fn number(id: u32, bytes: &[u8]) -> Option<Value> {
            match id {
                $($id => Some(Value::$kind($type::from_le_bytes(bytes.try_into().ok()?))),)*
                _ => None,
            }
        }

        /// Reads an array of numbers.
        pub(crate) fn numbers(id: u32, bytes: &[u8]) -> Option<Array> {
            match id {
                $($id => Some(Array::$kind(
                    bytes.as_chunks::<{ size_of::<$type>() }>().0.iter().map(|b| $type::from_le_bytes(*b)).collect(),
                )),)*
                _ => None,
            }
        }

        /// The size of a number in bytes.
        pub(crate) fn number_size(id: u32) -> Option<u64> {
            match id {
                $($id => Some(size_of::<$type>() as u64),)*
                _ => None,
            }
        }
    };
}

values! {
    U8 u8 0, I8 i8 1, U16 u16 2, I16 i16 3, U32 u32 4, I32 i32 5, F32 f32 6,
    U64 u64 10, I64 i64 11, F64 f64 12,
}

pub(crate) const BOOL: u32 = 7;
pub(crate) const STRING: u32 = 8;
pub(crate) const ARRAY: u32 = 9;

/// Appends a text with its length before it.
pub(crate) fn write_text(text: &str, out: &mut Vec<u8>) {
    out.extend((text.len() as u64).to_le_bytes());
    out.extend(text.as_bytes());
}

impl From<bool> for Value {
    fn from(value: bool) -> Self {
        Self::Bool(value)
    }
}

impl From<&str> for Value {
    fn from(value: &str) -> Self {
        Self::String(value.into())
    }
}

impl From<String> for Value {
    fn from(value: String) -> Self {
        Self::String(value)
    }
}

impl From<Vec<String>> for Value {
    fn from(values: Vec<String>) -> Self {
        Self::Array(Array::String(values))
    }
}

impl From<Vec<bool>> for Value {
    fn from(values: Vec<bool>) -> Self {
        Self::Array(Array::Bool(values))
    }
}

impl Value {
    /// A whole number of any width.
    pub fn as_i64(&self) -> Option<i64> {
        match *self {
            Self::U8(v) => Some(v.into()),
            Self::I8(v) => Some(v.into()),
            Self::U16(v) => Some(v.into()),
            Self::I16(v) => Some(v.into()),
            Self::U32(v) => Some(v.into()),
            Self::I32(v) => Some(v.into()),
            Self::U64(v) => v.try_into().ok(),
            Self::I64(v) => Some(v),
            _ => None,
        }
    }

    /// A number of any type.
    pub fn as_f64(&self) -> Option<f64> {
        match *self {
            Self::F32(v) => Some(v.into()),
            Self::F64(v) => Some(v),
            _ => self.as_i64().map(|v| v as f64),
        }
    }

    /// What messages call it.
    fn describe(&self) -> String {
        match self {
            Self::String(text) if text.len() > 40 => format!("a text of {} bytes", text.len()),
            Self::String(text) => format!("{text:?}"),
            Self::Array(array) => format!("an array of {}", array.len()),
            other => format!("{other:?}"),
        }
    }
}

/// Numbers and truth values as they are, texts in quotes and cut, lists by their length.
impl std::fmt::Display for Value {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Bool(flag) => write!(f, "{flag}"),
            Self::String(_) | Self::Array(_) => f.write_str(&self.describe()),
            number => match number.as_i64() {
                Some(whole) => write!(f, "{whole}"),
                None => write!(f, "{}", number.as_f64().unwrap_or(f64::NAN) as f32),
            },
        }
    }
}

impl Array {
    /// Whether there is no value.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Whole numbers of any width.
    pub fn as_i64(&self) -> Option<Vec<i64>> {
        Some(match self {
            Self::U8(v) => v.iter().map(|v| i64::from(*v)).collect(),
            Self::I8(v) => v.iter().map(|v| i64::from(*v)).collect(),
            Self::U16(v) => v.iter().map(|v| i64::from(*v)).collect(),
            Self::I16(v) => v.iter().map(|v| i64::from(*v)).collect(),
            Self::U32(v) => v.iter().map(|v| i64::from(*v)).collect(),
            Self::I32(v) => v.iter().map(|v| i64::from(*v)).collect(),
            Self::I64(v) => v.clone(),
            _ => return None,
        })
    }
}

/// Metadata in the order of the file.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Metadata {
    entries: Vec<(String, Value)>,
}

impl Metadata {
    /// Metadata without a value.
    pub fn new() -> Self {
        Self::default()
    }

    /// Sets a value; one that is there already is replaced.
    pub fn set(&mut self, key: impl Into<String>, value: impl Into<Value>) {
        let (key, value) = (key.into(), value.into());
        match self.entries.iter_mut().find(|(name, _)| *name == key) {
            Some(entry) => entry.1 = value,
            None => self.entries.push((key, value)),
        }
    }

    /// Appends a value whose key is known to be new.
    pub(crate) fn push(&mut self, key: String, value: Value) {
        self.entries.push((key, value));
    }

    /// A value.
    pub fn get(&self, key: &str) -> Option<&Value> {
        self.entries.iter().find(|(name, _)| name == key).map(|(_, value)| value)
    }

    /// All of it.
    pub fn iter(&self) -> impl ExactSizeIterator<Item = (&str, &Value)> {
        self.entries.iter().map(|(key, value)| (key.as_str(), value))
    }

    fn typed<'a, T>(&'a self, key: &str, want: &str, read: impl Fn(&'a Value) -> Option<T>) -> Result<Option<T>> {
        let Some(value) = self.get(key) else { return Ok(None) };
        let wrong = || Error::failed(format!("the metadata `{key}` should be {want}, not {}", value.describe()));
        read(value).ok_or_else(wrong).map(Some)
    }

    /// A text.
    pub fn text(&self, key: &str) -> Result<Option<&str>> {
        self.typed(key, "a text", |v| if let Value::String(text) = v { Some(text.as_str()) } else { None })
    }

    /// A number.
    pub fn number(&self, key: &str) -> Result<Option<f64>> {
        self.typed(key, "a number", Value::as_f64)
    }

    /// True or false.
    pub fn flag(&self, key: &str) -> Result<Option<bool>> {
        self.typed(key, "true or false", |v| if let Value::Bool(flag) = v { Some(*flag) } else { None })
    }

    /// A whole number that counts something.
    pub fn size(&self, key: &str) -> Result<Option<usize>> {
        let count = |v: &Value| v.as_i64().filter(|n| (0..=1 << 40).contains(n)).and_then(|n| usize::try_from(n).ok());
        self.typed(key, "a count", count)
    }

    /// A token id. Writers say -1 for none.
    pub fn token(&self, key: &str) -> Result<Option<u32>> {
        let id = |v: &Value| match v.as_i64() {
            Some(-1) => Some(None),
            Some(id) => u32::try_from(id).ok().filter(|id| *id < u32::MAX).map(Some),
            None if matches!(v, Value::U64(u64::MAX)) => Some(None),
            None => None,
        };
        Ok(match self.get(key) {
            Some(Value::U32(u32::MAX)) => None,
            _ => self.typed(key, "a token id", id)?.flatten(),
        })
    }

    /// Texts.
    pub fn texts(&self, key: &str) -> Result<Option<&[String]>> {
        self.typed(key, "an array of texts", |v| match v {
            Value::Array(Array::String(texts)) => Some(texts.as_slice()),
            _ => None,
        })
    }

    /// 32-bit floats.
    pub fn floats(&self, key: &str) -> Result<Option<&[f32]>> {
        self.typed(key, "an array of 32-bit floats", |v| match v {
            Value::Array(Array::F32(floats)) => Some(floats.as_slice()),
            _ => None,
        })
    }

    /// Whole numbers.
    pub fn integers(&self, key: &str) -> Result<Option<Vec<i64>>> {
        let integers = |v: &Value| if let Value::Array(array) = v { array.as_i64() } else { None };
        self.typed(key, "an array of whole numbers", integers)
    }

    /// Turns an absent value into an error.
    pub fn required<T>(&self, key: &str, value: Option<T>) -> Result<T> {
        value.ok_or_else(|| {
            let near = cupola_artifact::nearest(key, self.iter().map(|(key, _)| key));
            let hint = near.map_or_else(|| "the file is incomplete".into(), |near| format!("the nearest is `{near}`"));
            Error::failed(format!("the metadata has no `{key}`")).with_hint(hint)
        })
    }
}
