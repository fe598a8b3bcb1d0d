//! The wire format of protocol buffers, as far as a sentencepiece model needs it.

use cupola_artifact::{Error, Result};

/// The value of a field.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) enum Field<'b> {
    /// A whole number, a truth value or a place in an enumeration.
    Number(u64),
    /// Four bytes, little-endian.
    Fixed32([u8; 4]),
    /// Eight bytes; nothing here uses them.
    Fixed64,
    /// A text, bytes, or another message.
    Bytes(&'b [u8]),
}

impl<'b> Field<'b> {
    pub(super) fn number(self) -> Result<u64> {
        if let Field::Number(number) = self { Ok(number) } else { Err(damaged("a number is of another type")) }
    }

    /// A number of 32 bits with a sign, written as one of 64 bits.
    pub(super) fn int32(self) -> Result<i32> {
        Ok(self.number()? as i32)
    }

    pub(super) fn flag(self) -> Result<bool> {
        Ok(self.number()? != 0)
    }

    pub(super) fn f32(self) -> Result<f32> {
        if let Field::Fixed32(bytes) = self {
            Ok(f32::from_le_bytes(bytes))
        } else {
            Err(damaged("a score is no number"))
        }
    }

    pub(super) fn bytes(self) -> Result<&'b [u8]> {
        if let Field::Bytes(bytes) = self { Ok(bytes) } else { Err(damaged("a text is of another type")) }
    }

    pub(super) fn text(self) -> Result<&'b str> {
        std::str::from_utf8(self.bytes()?).map_err(|e| damaged("a piece is no UTF-8").with_source(e))
    }
}

/// The fields of a message, in the order of the file: number and value.
pub(super) struct Fields<'b> {
    rest: &'b [u8],
    length: usize,
}

impl<'b> Fields<'b> {
    pub(super) fn new(message: &'b [u8]) -> Self {
        Self { rest: message, length: message.len() }
    }

    fn take(&mut self, count: usize) -> Result<&'b [u8]> {
        let at = self.length - self.rest.len();
        let Some((taken, rest)) = self.rest.split_at_checked(count) else {
            return Err(damaged(&format!("it ends {} bytes too early, behind byte {at}", count - self.rest.len())));
        };
        self.rest = rest;
        Ok(taken)
    }

    fn varint(&mut self) -> Result<u64> {
        let mut value = 0;
        for shift in (0..64).step_by(7) {
            let byte = u64::from(self.take(1)?[0]);
            value |= (byte & 0x7f) << shift;
            if byte < 0x80 {
                return Ok(value);
            }
        }
        Err(damaged("a number is longer than 64 bits"))
    }

    fn field(&mut self) -> Result<(u64, Field<'b>)> {
        let key = self.varint()?;
        let value = match key & 7 {
            0 => Field::Number(self.varint()?),
            1 => self.take(8).map(|_| Field::Fixed64)?,
            2 => {
                let length = usize::try_from(self.varint()?).unwrap_or(usize::MAX);
                Field::Bytes(self.take(length)?)
            }
            5 => {
                let bytes = self.take(4)?;
                Field::Fixed32([bytes[0], bytes[1], bytes[2], bytes[3]])
            }
            other => return Err(damaged(&format!("a field has the wire type {other}"))),
        };
        Ok((key >> 3, value))
    }
}

impl<'b> Iterator for Fields<'b> {
    type Item = Result<(u64, Field<'b>)>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.rest.is_empty() {
            return None;
        }
        let field = self.field();
        if field.is_err() {
            self.rest = &[];
        }
        Some(field)
    }
}

fn damaged(cause: &str) -> Error {
    Error::failed(format!("it is no sentencepiece model: {cause}"))
        .with_hint("the file is cut off, damaged, or of another format")
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "tests")]
mod tests {
    use super::*;

    #[test]
    fn fields_of_each_type_are_read() {
        let message = [0x08, 0x96, 0x01, 0x12, 0x02, b'h', b'i', 0x1d, 0, 0, 0x80, 0x3f, 0x21, 1, 2, 3, 4, 5, 6, 7, 8];
        let fields: Vec<_> = Fields::new(&message).map(Result::unwrap).collect();
        assert_eq!(fields[0], (1, Field::Number(150)));
        assert_eq!((fields[1].0, fields[1].1.text().unwrap()), (2, "hi"));
        assert_eq!(fields[2].1.f32().unwrap(), 1.0);
        assert_eq!(fields[3], (4, Field::Fixed64));
    }

    #[test]
    fn negative_numbers_have_ten_bytes() {
        let message = [0x08, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0x01];
        assert_eq!(Fields::new(&message).next().unwrap().unwrap().1.int32().unwrap(), -1);
    }

    #[test]
    fn a_message_that_ends_early_is_an_error() {
        for message in
            [&[0x08][..], &[0x12, 0x05, b'h'], &[0x1d, 0], &[0xff; 12], &[0x13], &[0x0a, 0xff, 0xff, 0xff, 0xff, 0x7f]]
        {
            let last = Fields::new(message).last().unwrap();
            assert!(last.unwrap_err().hint().is_some(), "{message:?}");
        }
    }
}
