//! A stored HTTP response: status, headers, and the body as the page's author wrote it.

use std::io::Read;

use crate::MAX_RECORD_BYTES;

/// A response.
pub(super) struct Response<'a> {
    pub status: u16,
    headers: Vec<(String, String)>,
    raw: &'a [u8],
}

/// Takes a response apart.
pub(super) fn parse(block: &[u8]) -> Result<Response<'_>, String> {
    let first = block.split(|b| *b == b'\n').next().unwrap_or_default();
    let status_line = String::from_utf8_lossy(&first[..first.len().min(200)]);
    let status = status(&status_line).ok_or_else(|| {
        let start: String = status_line.trim_end().chars().take(40).collect();
        format!("`{}` is no HTTP status line", start.escape_debug())
    })?;
    let (head, body) = split_head(block).ok_or("the HTTP header has no end")?;
    let head = String::from_utf8_lossy(head);
    Ok(Response { status, headers: headers(head.lines().skip(1)), raw: body })
}

/// `HTTP/1.1 200 OK`: 200.
fn status(line: &str) -> Option<u16> {
    let mut words = line.split_ascii_whitespace();
    let version = words.next()?.strip_prefix("HTTP/")?;
    let known = !version.is_empty() && version.bytes().all(|b| b.is_ascii_digit() || b == b'.');
    let code = words.next()?;
    let status = code.parse().ok().filter(|status| code.len() == 3 && (100..600).contains(status));
    status.filter(|_| known)
}

/// Header lines, names in lower case; a line that begins with white space goes on with the one before.
pub(super) fn headers<'a>(lines: impl Iterator<Item = &'a str>) -> Vec<(String, String)> {
    let mut headers: Vec<(String, String)> = Vec::new();
    for line in lines {
        match (line.split_once(':'), headers.last_mut()) {
            (_, Some((_, value))) if line.starts_with([' ', '\t']) => {
                value.push(' ');
                value.push_str(line.trim());
            }
            (Some((name, value)), _) => headers.push((name.trim().to_ascii_lowercase(), value.trim().to_owned())),
            (None, _) => {}
        }
    }
    headers
}

/// What stands before the first empty line, and what after it.
pub(super) fn split_head(bytes: &[u8]) -> Option<(&[u8], &[u8])> {
    let mut from = 0;
    while let Some(at) = bytes[from..].iter().position(|b| *b == b'\n') {
        let end = from + at + 1;
        let rest = &bytes[end..];
        if let Some(body) = rest.strip_prefix(b"\r\n").or_else(|| rest.strip_prefix(b"\n")) {
            return Some((&bytes[..end], body));
        }
        from = end;
    }
    None
}

impl Response<'_> {
    /// A header by its lower-case name.
    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers.iter().find(|(other, _)| other == name).map(|(_, value)| value.as_str())
    }

    /// The body without chunks and compression; the inner error is a compression that is not known.
    pub fn body(&self) -> Result<Result<Vec<u8>, String>, String> {
        let chunked = self.header("transfer-encoding").is_some_and(|v| v.eq_ignore_ascii_case("chunked"));
        // Many archives keep the header but store the body in one piece.
        let body = if chunked { dechunk(self.raw).unwrap_or_else(|| self.raw.to_vec()) } else { self.raw.to_vec() };
        let encoding = self.header("content-encoding").unwrap_or_default().trim().to_ascii_lowercase();
        match encoding.as_str() {
            "" | "identity" => Ok(Ok(body)),
            "gzip" | "x-gzip" if body.starts_with(&[0x1F, 0x8B]) => {
                unpack(flate2::read::MultiGzDecoder::new(body.as_slice())).map(Ok)
            }
            "deflate" if body.first() == Some(&0x78) => unpack(flate2::read::ZlibDecoder::new(body.as_slice())).map(Ok),
            "zstd" if body.starts_with(&[0x28, 0xB5, 0x2F, 0xFD]) => {
                let decoder = zstd::stream::read::Decoder::new(body.as_slice()).map_err(|e| e.to_string())?;
                unpack(decoder).map(Ok)
            }
            // Stored unpacked in spite of the header, as Common Crawl does.
            _ if std::str::from_utf8(&body[..body.len().min(64)]).is_ok() => Ok(Ok(body)),
            _ => Ok(Err(encoding)),
        }
    }
}

fn unpack(decoder: impl Read) -> Result<Vec<u8>, String> {
    let mut body = Vec::new();
    decoder
        .take(MAX_RECORD_BYTES as u64 + 1)
        .read_to_end(&mut body)
        .map_err(|e| format!("the body does not unpack: {e}"))?;
    match body.len() > MAX_RECORD_BYTES {
        true => Err(format!("the body unpacks to more than {} MiB", MAX_RECORD_BYTES >> 20)),
        false => Ok(body),
    }
}

/// Joins chunks (RFC 9112, 7.1); `None` where these are none.
fn dechunk(mut rest: &[u8]) -> Option<Vec<u8>> {
    let mut body = Vec::with_capacity(rest.len());
    loop {
        let end = rest.iter().take(64).position(|b| *b == b'\n')?;
        let size = std::str::from_utf8(&rest[..end]).ok()?.split(';').next()?.trim();
        let size = usize::from_str_radix(size, 16).ok()?;
        rest = &rest[end + 1..];
        if size == 0 {
            return Some(body);
        }
        // A cut-off last chunk keeps what is there.
        let chunk = &rest[..size.min(rest.len())];
        body.extend_from_slice(chunk);
        rest = &rest[chunk.len()..];
        rest = rest.strip_prefix(b"\r\n").or_else(|| rest.strip_prefix(b"\n")).unwrap_or(rest);
        if rest.is_empty() {
            return Some(body);
        }
    }
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "a failing test should panic")]
mod tests {
    use super::*;

    #[test]
    fn chunks_are_joined_and_a_body_that_has_none_is_left() {
        let chunked =
            b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n6;x=1\r\n world\r\n0\r\n\r\n";
        assert_eq!(parse(chunked).unwrap().body().unwrap().unwrap(), b"hello world");
        let plain = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n<html>no chunks</html>";
        assert_eq!(parse(plain).unwrap().body().unwrap().unwrap(), b"<html>no chunks</html>");
    }

    #[test]
    fn a_compressed_body_is_unpacked() {
        let mut encoder = flate2::read::GzEncoder::new(&b"page"[..], flate2::Compression::fast());
        let mut block = b"HTTP/1.1 200 OK\nContent-Encoding: gzip\n\n".to_vec();
        encoder.read_to_end(&mut block).unwrap();
        assert_eq!(parse(&block).unwrap().body().unwrap().unwrap(), b"page");
    }

    #[test]
    fn a_status_line_must_be_one() {
        for wrong in ["HTTP 200", "HTTP/1.1 20", "HTTP/1.1 abc OK", "GET / HTTP/1.1", ""] {
            assert_eq!(status(wrong), None, "{wrong}");
        }
        assert_eq!(status("HTTP/2 404"), Some(404));
    }
}
